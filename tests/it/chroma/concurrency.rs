//! Several clients at once: nothing is lost, doubled, torn or half read.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use serde_json::json;
use vectorkeep::model::record::Record;

use crate::harness::{Collection, DEFAULT_NAMESPACE, Service, numbered, strings, text};

/// One of several concurrent writers, with ids of its own: batches, single records, upserts, deletes.
/// What it leaves behind.
async fn write_and_delete(collection: Collection, writer: usize) -> BTreeMap<String, Record> {
    let mut kept = BTreeMap::new();
    for batch in 0..12 {
        let count = if batch % 2 == 0 { 20 } else { 1 };
        let mut records = numbered(&format!("w{writer}-{batch}"), count);
        collection.add(&records).await;
        if batch % 3 == 1 {
            records
                .iter_mut()
                .for_each(|record| record.document = Some("changed".to_owned()));
            collection.upsert(&records).await;
        }
        kept.extend(
            records
                .iter()
                .map(|record| (record.id.clone(), record.clone())),
        );
        if batch % 3 == 2 {
            collection.delete(json!({"ids": [records[0].id]})).await;
            kept.remove(&records[0].id);
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_on_several_collections_lose_nothing() {
    let mut service = Service::start().await;
    let mut collections = Vec::new();
    for name in ["first", "second", "third"] {
        collections.push(service.create(name).await);
    }
    let writers = collections.iter().enumerate().map(|(number, collection)| {
        let tasks =
            (0..4).map(move |writer| write_and_delete(collection.clone(), number * 10 + writer));
        join_all(tasks)
    });
    let kept = join_all(writers).await;
    for round in 0..2 {
        for (collection, kept) in collections.iter().zip(&kept) {
            let collection = collection.at(&service);
            let expected: BTreeMap<_, _> = kept.iter().flatten().collect();
            let found = collection.records().await;
            assert_eq!(
                collection.count().await,
                expected.len() as u64,
                "round {round}"
            );
            let by_id: BTreeMap<_, _> = found.iter().map(|record| (&record.id, record)).collect();
            assert_eq!(by_id.len(), found.len(), "an id twice");
            assert_eq!(by_id, expected, "round {round}");
        }
        service.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_the_same_ids_leave_one_whole_record_each() {
    let service = Service::start().await;
    let added = service.create("added").await;
    let upserted = service.create("upserted").await;
    let version = |writer: usize| {
        let mut records = numbered("shared", 60);
        for record in &mut records {
            record.document = Some(format!("writer {writer}"));
            record.embedding[0] = writer as f32;
        }
        records
    };
    let versions: Vec<_> = (0..6).map(version).collect();
    for _ in 0..3 {
        join_all(versions.iter().map(|records| added.add(records))).await;
        join_all(versions.iter().map(|records| upserted.upsert(records))).await;
    }
    for collection in [&added, &upserted] {
        let found = collection.records().await;
        assert_eq!(collection.count().await, 60);
        // A batch is one step: all records are of the same writer.
        assert!(
            versions.contains(&found),
            "a mixture of batches in {}",
            collection.name
        );
    }
    let request = json!({"where": {"n": {"$gte": 0}}});
    let deleted = join_all((0..6).map(|_| added.delete(request.clone()))).await;
    assert_eq!(
        deleted.iter().sum::<u64>(),
        60,
        "a record was deleted twice: {deleted:?}"
    );
    assert_eq!(added.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_create_the_same_collection_get_one() {
    let service = Service::start().await;
    let path = format!("{DEFAULT_NAMESPACE}/collections");
    for round in 0..5 {
        let body = json!({"name": format!("common-{round}"), "get_or_create": true});
        let answers = join_all((0..8).map(|_| service.post(&path, body.clone()))).await;
        let ids: BTreeSet<_> = answers
            .into_iter()
            .map(|answer| text(&answer.ok(200)["id"]))
            .collect();
        assert_eq!(ids.len(), 1);
        let body = json!({"name": format!("contested-{round}")});
        let answers = join_all((0..8).map(|_| service.post(&path, body.clone()))).await;
        let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409, 409, 409, 409, 409, 409, 409]);
    }
}

/// Reads one collection again and again until it is gone. Reads that were whole, and those that were not.
async fn read_until_gone(
    doomed: Collection,
    reader: usize,
    expected: Vec<String>,
) -> (usize, Vec<String>) {
    let (mut whole, mut torn) = (0, Vec::new());
    loop {
        let answer = match reader % 3 {
            0 => doomed.post("get", json!({"include": []})).await,
            1 => {
                doomed
                    .post("get", json!({"where": {"n": {"$gte": 0}}, "include": []}))
                    .await
            }
            _ => {
                let body =
                    json!({"query_embeddings": [vec![0; 8]], "n_results": 3_000, "include": []});
                doomed.post("query", body).await
            }
        };
        if answer.status == 404 {
            return (whole, torn);
        }
        let request = answer.request.clone();
        let body = answer.ok(200);
        let ids = if body["ids"][0].is_array() {
            &body["ids"][0]
        } else {
            &body["ids"]
        };
        let mut found = strings(ids);
        found.sort_unstable();
        if found == expected {
            whole += 1;
        } else {
            torn.push(format!("{request}: {} of {}", found.len(), expected.len()));
        }
    }
}

/// What was dropped is removed in the background; a read that began before sees all of it or a 404.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_meets_the_end_of_its_collection_is_whole_or_refused() {
    let service = Service::start().await;
    let records = numbered("r", 3_000);
    let ids: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
    let (mut whole, mut torn) = (0, Vec::new());
    for round in 0..20 {
        let doomed = service.create(&format!("doomed-{round}")).await;
        doomed.add(&records).await;
        let readers =
            (0..3).map(|reader| tokio::spawn(read_until_gone(doomed.clone(), reader, ids.clone())));
        let readers: Vec<_> = readers.collect();
        // One read more than nothing: the others are under way.
        doomed.post("get", json!({"include": []})).await.expect(200);
        service.drop_collection(&doomed.name).await;
        for reader in readers {
            let (read, broken) = reader.await.unwrap();
            whole += read;
            torn.extend(broken);
        }
    }
    assert!(
        torn.is_empty(),
        "{whole} whole reads, {} torn: {torn:#?}",
        torn.len()
    );
    assert!(whole > 0, "no read began before the end");
}
