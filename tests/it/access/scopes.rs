//! Keys that are limited to a tenant, or to some of its databases.

use serde_json::{Value, json};
use vectorkeep::access::Role;

use super::{Guarded, made};
use crate::harness::text;

/// Two tenants with a collection of the same name each, and keys for one of them.
async fn two_tenants() -> (Guarded, [String; 3]) {
    let guarded = Guarded::with(vec![
        ("acme", made("acme", Role::Writer, Some("acme"), None)),
        (
            "acme-prod",
            made("acme-prod", Role::Writer, Some("acme"), Some(&["prod"])),
        ),
        (
            "acme-reads",
            made("acme-reads", Role::Reader, Some("acme"), None),
        ),
    ])
    .await;
    let mut ids = Vec::new();
    for (tenant, database) in [("acme", "prod"), ("acme", "test"), ("other", "prod")] {
        let made = guarded
            .post("admin", "/api/v2/tenants", json!({"name": tenant}))
            .await;
        assert!([200, 409].contains(&made.status));
        let databases = format!("/api/v2/tenants/{tenant}/databases");
        guarded
            .post("admin", &databases, json!({"name": database}))
            .await
            .expect(200);
        let collections = format!("{databases}/{database}/collections");
        let made = guarded
            .post("admin", &collections, json!({"name": "words"}))
            .await
            .ok(200);
        let id = text(&made["id"]);
        let add = format!("{collections}/{id}/add");
        let body = json!({"ids": ["a"], "embeddings": [[1, 2]], "documents": [format!("{tenant} {database}")]});
        guarded.post("admin", &add, body).await.expect(201);
        ids.push(id);
    }
    (guarded, ids.try_into().unwrap())
}

fn collections(tenant: &str, database: &str) -> String {
    format!("/api/v2/tenants/{tenant}/databases/{database}/collections")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_reaches_its_tenant_and_nothing_else() {
    let (guarded, [prod, test, other]) = two_tenants().await;
    let all = json!({});
    for (key, tenant, database, id, status) in [
        ("acme", "acme", "prod", &prod, 200),
        ("acme", "acme", "test", &test, 200),
        ("acme", "other", "prod", &other, 403),
        // A good path with the id of someone else's collection.
        ("acme", "acme", "prod", &other, 404),
        ("acme", "acme", "prod", &test, 404),
        ("acme-prod", "acme", "prod", &prod, 200),
        ("acme-prod", "acme", "test", &test, 403),
        ("acme-prod", "acme", "prod", &test, 404),
        ("acme-reads", "acme", "test", &test, 200),
        // Without a limit, an id is good under its own path alone.
        ("admin", "other", "prod", &other, 200),
        ("admin", "acme", "prod", &other, 404),
        ("reader", "default_tenant", "default_database", &prod, 404),
    ] {
        let path = format!("{}/{id}", collections(tenant, database));
        for (verb, body) in [
            ("get", all.clone()),
            (
                "query",
                json!({"query_embeddings": [[1, 2]], "n_results": 1}),
            ),
        ] {
            let answer = guarded.post(key, &format!("{path}/{verb}"), body).await;
            assert_eq!(
                answer.status,
                status,
                "{key} {verb} {path}: {}",
                answer.text()
            );
        }
        for rest in ["count", "fork_count", "indexing_status"] {
            let answer = guarded.get(key, &format!("{path}/{rest}")).await;
            assert_eq!(
                answer.status,
                status,
                "{key} {rest} {path}: {}",
                answer.text()
            );
        }
        let by_id = format!("{}/by-id/{id}", collections(tenant, database));
        let answer = guarded.get(key, &by_id).await;
        assert_eq!(answer.status, status, "{key} {by_id}: {}", answer.text());
    }
    // Nothing is changed under a foreign path either, by whatever verb.
    let foreign = format!("{}/{other}", collections("acme", "prod"));
    for verb in ["add", "upsert", "update", "delete", "fork"] {
        let body = json!({"ids": ["a"], "embeddings": [[9, 9]], "new_name": "taken"});
        let answer = guarded
            .post("acme", &format!("{foreign}/{verb}"), body)
            .await;
        assert_eq!(answer.status, 404, "{verb}: {}", answer.text());
    }
    let rename = json!({"new_name": "mine"});
    let renamed = guarded
        .send(Some("acme"), "PUT", &foreign, Some(&rename))
        .await;
    renamed.expect(404);
    let get = format!("{}/{other}/get", collections("other", "prod"));
    let found = guarded
        .post(
            "admin",
            &get,
            json!({"include": ["embeddings", "documents"]}),
        )
        .await
        .ok(200);
    assert_eq!(
        (&found["embeddings"], &found["documents"]),
        (&json!([[1.0, 2.0]]), &json!(["other prod"]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_lists_and_aliases_stay_within_the_limit() {
    let (guarded, _) = two_tenants().await;
    let names = |answer: Value| -> Vec<String> {
        let list = answer.as_array().unwrap();
        list.iter().map(|found| text(&found["name"])).collect()
    };
    let databases = "/api/v2/tenants/acme/databases";
    assert_eq!(
        names(guarded.get("acme", databases).await.ok(200)),
        ["prod", "test"]
    );
    assert_eq!(
        names(guarded.get("acme-prod", databases).await.ok(200)),
        ["prod"]
    );
    guarded
        .get("acme", "/api/v2/tenants/other/databases")
        .await
        .expect(403);
    guarded
        .get("acme", "/api/v2/tenants/acme")
        .await
        .expect(200);
    guarded
        .get("acme", "/api/v2/tenants/other")
        .await
        .expect(403);

    for (key, crn, status) in [
        ("acme", "acme:prod:words", 200),
        ("acme", "other:prod:words", 404),
        ("acme-prod", "acme:test:words", 404),
        ("admin", "other:prod:words", 200),
    ] {
        let answer = guarded
            .get(key, &format!("/api/v2/collections/{crn}"))
            .await;
        assert_eq!(answer.status, status, "{key} {crn}");
    }
    // An alias would lead others' requests elsewhere: it is not theirs to give.
    let alias = json!({"resource_name": "other"});
    let path = "/api/v2/tenants/acme";
    guarded
        .send(Some("acme"), "PATCH", path, Some(&alias))
        .await
        .expect(403);
    guarded
        .send(Some("writer"), "PATCH", path, Some(&alias))
        .await
        .expect(403);
    guarded
        .send(Some("operator"), "PATCH", path, Some(&alias))
        .await
        .expect(200);
    guarded
        .get("acme", "/api/v2/collections/other:prod:words")
        .await
        .expect(200);

    for (key, status) in [("acme-reads", 403), ("acme-prod", 403), ("acme", 200)] {
        let name = json!({"name": format!("made-by-{key}")});
        let answer = guarded.post(key, databases, name).await;
        assert_eq!(answer.status, status, "{key}: {}", answer.text());
    }
    guarded
        .post("acme", "/api/v2/tenants", json!({"name": "third"}))
        .await
        .expect(403);
    let drop = format!("{databases}/test");
    guarded
        .send(Some("acme-prod"), "DELETE", &drop, None)
        .await
        .expect(403);
    guarded
        .send(Some("acme"), "DELETE", &drop, None)
        .await
        .expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reaches_the_whole_store_is_not_for_a_limited_key() {
    let (guarded, _) = two_tenants().await;
    for path in [
        "/health/collections",
        "/health/storage",
        "/health/embeddings",
        "/metrics",
    ] {
        let answer = guarded.get("acme", path).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.text());
        assert!(answer.text().contains("limited to the tenant"), "{path}");
    }
    for path in ["/backups", "/jobs", "/environments", "/keys"] {
        guarded.get("acme", path).await.expect(403);
    }
    // Others' collections are not in what a limited key sees of all of them, nor of the health.
    let listed = guarded.get("acme", "/collections").await.ok(200);
    let listed = listed["collections"].as_array().unwrap();
    assert!(
        !listed.is_empty() && listed.iter().all(|found| found["tenant"] == "acme"),
        "{listed:?}"
    );
    let health = guarded.get("acme", "/health").await.ok(200);
    assert_eq!(health, json!({"status": "pass"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_identity_is_the_keys() {
    let (guarded, _) = two_tenants().await;
    for (key, tenant, databases) in [
        ("acme", "acme", json!(["*"])),
        ("acme-prod", "acme", json!(["prod"])),
        ("reader", "default_tenant", json!(["default_database"])),
    ] {
        let identity = guarded.get(key, "/api/v2/auth/identity").await.ok(200);
        let expected = json!({"user_id": key, "tenant": tenant, "databases": databases});
        assert_eq!(identity, expected);
    }
}
