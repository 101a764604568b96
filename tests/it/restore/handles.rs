//! Clients that hold a collection's id go on when other content takes its place under it.

use serde_json::json;

use super::policies::{assert_exact, assert_gone, outcome};
use crate::harness::{DEFAULT_NAMESPACE, Service, numbered, text};

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_the_id_goes_on_after_merges_replacements_and_restarts() {
    let mut service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("kept", 20)).await;
    let backup = text(&service.backup(json!({})).await["id"]);
    let mut contents = vec![service.content(&words.id)];
    for (round, options) in [
        json!({"on_conflict": "merge"}),
        json!({"on_conflict": "replace", "keep_id": true}),
        json!({"on_conflict": "merge", "merge_winner": "live"}),
    ]
    .into_iter()
    .enumerate()
    {
        let context = format!("round {round}: {options}");
        let held = words.at(&service);
        held.delete(json!({"ids": ["kept-00003"]})).await;
        held.add(&numbered(&format!("round-{round}"), 3)).await;
        let mut body = options.clone();
        body["backup"] = json!(backup);
        outcome(&service, body).await;
        let content = service.content(&words.id);
        assert!(
            !contents.contains(&content),
            "{context}: it is other content"
        );
        contents.push(content);
        assert_eq!(service.open("words").await.id, words.id, "{context}");

        // Every verb, by the id that was there at the beginning.
        let found = held.records().await;
        assert!(
            found.iter().any(|record| record.id == "kept-00003"),
            "{context}"
        );
        held.upsert(&numbered("written", 2)).await;
        let update = json!({"ids": ["written-00001"], "documents": [context]});
        held.post("update", update).await.expect(200);
        assert_eq!(held.delete(json!({"ids": ["written-00000"]})).await, 1);
        let vector = numbered("written", 2)[1].embedding.clone();
        let query = json!({"query_embeddings": [vector], "ids": ["written-00001"]});
        let nearest = held.nearest(query).await;
        assert_eq!(nearest[0][0].0, "written-00001", "{context}");
        let path = format!("{DEFAULT_NAMESPACE}/collections/{}", words.id);
        for name in ["other", "words"] {
            let body = json!({ "new_name": name });
            service.send("PUT", &path, Some(&body)).await.expect(200);
            assert_eq!(service.open(name).await.id, words.id, "{context}");
        }
        let by_id = format!("{DEFAULT_NAMESPACE}/collections/by-id/{}", words.id);
        assert_eq!(
            service.get(&by_id).await.ok(200)["name"],
            "words",
            "{context}"
        );
        let listed = service.get("/collections").await.ok(200);
        assert_eq!(listed["collections"][0]["id"], words.id, "{context}");
        let made = service.backup(json!({})).await;
        assert_eq!(made["collections"][0]["id"], words.id, "{context}");

        let before = held.records().await;
        service.restart().await;
        assert_exact(
            &words.at(&service),
            &before,
            &format!("{context}, after a restart"),
        )
        .await;
    }
    // Without it, the id goes, as before.
    let body = json!({"backup": backup, "on_conflict": "replace"});
    outcome(&service, body).await;
    assert_gone(&service, &words.at(&service)).await;
    assert_ne!(service.open("words").await.id, words.id);
    service.restart().await;
    assert_gone(&service, &words.at(&service)).await;
    let live = service.open("words").await.id;
    service.holds_only(&[live].into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forks_are_counted_by_the_id_that_stays() {
    let service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("kept", 5)).await;
    service.backup(json!({})).await;
    let fork = |name: &str| json!({ "new_name": name });
    words.post("fork", fork("before")).await.expect(200);
    outcome(
        &service,
        json!({"backup": "latest", "on_conflict": "merge", "collections": [{"name": "words"}]}),
    )
    .await;
    words.post("fork", fork("after")).await.expect(200);
    let counted = service.get(&words.path("fork_count")).await.ok(200);
    assert_eq!(counted, json!({"count": 2}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_merges_into_a_collection_leaves_its_id() {
    let service = Service::start().await;
    let (from, into) = (service.create("from").await, service.create("into").await);
    from.add(&numbered("new", 7)).await;
    into.add(&numbered("old", 5)).await;
    let body = json!({"source": {"collection": "from"}, "target": {"collection": "into"}, "on_conflict": "merge"});
    let job = service.post("/migrate?wait=true", body).await.ok(200);
    assert_eq!(job["result"]["action"], "merged", "{job}");
    assert_eq!(into.count().await, 12);
    assert_eq!(service.open("into").await.id, into.id);
}
