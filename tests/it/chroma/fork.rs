//! Forks, what is counted of them, and the indexing status.

use serde_json::{Value, json};

use crate::harness::{Collection, DEFAULT_NAMESPACE, Service, numbered};

async fn fork(service: &Service, source: &Collection, name: &str) -> Collection {
    let made = source.post("fork", json!({"new_name": name})).await.ok(200);
    assert_eq!(made["name"], name);
    assert_ne!(made["id"], source.id);
    service.open(name).await
}

async fn count(service: &Service, collection: &Collection) -> Value {
    service.get(&collection.path("fork_count")).await.ok(200)["count"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_is_the_same_and_goes_its_own_way() {
    let mut service = Service::start().await;
    let body = json!({"name": "origin", "metadata": {"owner": "us"}, "configuration": {"hnsw": {"space": "cosine"}}});
    let origin = service.create_in(DEFAULT_NAMESPACE, body).await;
    origin.add(&numbered("a", 700)).await;
    origin
        .delete(json!({"ids": ["a-00003"], "where": null}))
        .await;
    origin.upsert(&numbered("b", 20)).await;
    let content = origin.dump().await;
    assert_eq!(count(&service, &origin).await, 0);
    let first = fork(&service, &origin, "first-fork").await;
    assert_eq!(first.dump().await, content);
    let mut definitions = [origin.definition().await, first.definition().await];
    for definition in &mut definitions {
        definition.as_object_mut().unwrap().remove("name");
    }
    assert_eq!(definitions[0], definitions[1]);

    // From now on they have nothing in common.
    first.add(&numbered("only-here", 5)).await;
    origin.delete(json!({"ids": ["b-00001"]})).await;
    let forked = first.dump().await;
    let second = fork(&service, &first, "fork-of-a-fork").await;
    assert_eq!(second.dump().await, forked);
    for restarted in [false, true] {
        if restarted {
            service.restart().await;
        }
        let at = |collection: &Collection| collection.at(&service);
        for collection in [&origin, &first, &second] {
            assert_eq!(
                count(&service, &at(collection)).await,
                2,
                "{}",
                collection.name
            );
        }
        assert_eq!(at(&first).dump().await, forked);
        assert_eq!(at(&second).dump().await, forked);
        assert_eq!(at(&origin).count().await, 718);
    }
    service.drop_collection("first-fork").await;
    assert_eq!(count(&service, &second.at(&service)).await, 1);
    assert_eq!(second.at(&service).dump().await, forked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_that_cannot_be_changes_nothing() {
    let service = Service::start().await;
    let origin = service.create("origin").await;
    service.create("taken").await;
    let before = service.names().await;
    let nobody = "11111111-1111-4111-8111-111111111111";
    let path = |id: &str| format!("{DEFAULT_NAMESPACE}/collections/{id}/fork");
    for (id, body, status) in [
        (origin.id.as_str(), json!({"new_name": "taken"}), 409),
        (&origin.id, json!({"new_name": "origin"}), 409),
        (&origin.id, json!({"new_name": "x"}), 400),
        (&origin.id, json!({"new_name": 7}), 422),
        (&origin.id, json!({}), 422),
        (nobody, json!({"new_name": "fork"}), 404),
        ("no-uuid", json!({"new_name": "fork"}), 400),
    ] {
        let answer = service.post(&path(id), body.clone()).await.ok(status);
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{body}: {answer}"
        );
    }
    for verb in ["fork_count", "indexing_status"] {
        let path = format!("{DEFAULT_NAMESPACE}/collections/{nobody}/{verb}");
        service.get(&path).await.expect(404);
    }
    assert_eq!(service.names().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn forks_under_writes_are_one_state_and_everything_acknowledged_is_indexed() {
    let service = Service::start().await;
    let origin = service.create("origin").await;
    // Batches of 10: a state is whole when it holds a multiple of that.
    let writer = {
        let origin = origin.clone();
        tokio::spawn(async move {
            for round in 0..60 {
                origin.add(&numbered(&format!("r{round}-"), 10)).await;
            }
        })
    };
    let mut sizes = Vec::new();
    for number in 0..6 {
        let made = fork(&service, &origin, &format!("fork-{number}")).await;
        sizes.push(made.count().await);
    }
    writer.await.unwrap();
    assert!(
        sizes.iter().all(|size| size.is_multiple_of(10)) && sizes.is_sorted(),
        "{sizes:?}"
    );
    let status = service.get(&origin.path("indexing_status")).await.ok(200);
    assert_eq!(
        status,
        json!({"num_indexed_ops": 600, "num_unindexed_ops": 0, "total_ops": 600, "op_indexing_progress": 1.0})
    );
}
