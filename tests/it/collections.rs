//! `GET /collections`: all of them, in order, with what they hold now.

use serde_json::json;

use crate::harness::{Service, numbered, text};

#[tokio::test(flavor = "multi_thread")]
async fn they_are_listed_in_order_with_the_digests_of_a_backup_and_walked() {
    let service = Service::start().await;
    let empty = service.get("/collections").await.ok(200);
    assert_eq!(empty, json!({"collections": [], "next_cursor": null}));
    for (number, name) in ["words", "articles", "notes", "words-2"].iter().enumerate() {
        let records = numbered("r", number + 1);
        service.create(name).await.add(&records).await;
    }
    service
        .post("/api/v2/tenants", json!({"name": "acme"}))
        .await
        .expect(200);
    service
        .post("/api/v2/tenants/acme/databases", json!({"name": "prod"}))
        .await
        .expect(200);
    let path = "/api/v2/tenants/acme/databases/prod/collections";
    service
        .post(path, json!({"name": "words"}))
        .await
        .expect(200);

    let all = service.get("/collections").await.ok(200);
    let names: Vec<String> = all["collections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| format!("{}/{}", text(&found["tenant"]), text(&found["name"])))
        .collect();
    let expected = [
        "acme/words",
        "default_tenant/articles",
        "default_tenant/notes",
    ];
    assert_eq!(names[..3], expected);
    assert_eq!(names.len(), 5);
    // A backup has, of each, what is listed; in whatever order.
    let mut backed_up = service.backup(json!({})).await["collections"].take();
    backed_up
        .as_array_mut()
        .unwrap()
        .sort_by_key(|found| (text(&found["tenant"]), text(&found["name"])));
    assert_eq!(backed_up, all["collections"]);

    for limit in [1, 2, 4, 5, 100] {
        let (mut walked, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = service
                .get(&format!("/collections?limit={limit}{cursor}"))
                .await
                .ok(200);
            walked.extend(page["collections"].as_array().unwrap().clone());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
            // Where a page ended stays a place when that collection goes.
            assert!(walked.len() < 5, "{walked:?}");
        }
        assert_eq!(json!(walked), all["collections"], "pages of {limit}");
    }
    let first = service.get("/collections?limit=2").await.ok(200);
    service.drop_collection("articles").await;
    let rest = service
        .get(&format!(
            "/collections?cursor={}",
            text(&first["next_cursor"])
        ))
        .await
        .ok(200);
    assert_eq!(rest["collections"].as_array().unwrap().len(), 3);

    for bad in ["?limit=0", "?limit=1001", "?cursor=nowhere", "?name=words"] {
        service
            .get(&format!("/collections{bad}"))
            .await
            .problem(422);
    }
}
