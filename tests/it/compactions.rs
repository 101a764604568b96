//! Compaction: gives space back while serving, loses nothing, and leaves the store alone when it cannot.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;

use crate::harness::{Service, copy_directory, eventually, files_below, numbered};

/// Names of the store's directories.
fn store_directories(data_dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(data_dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn bytes_below(data_dir: &Path) -> u64 {
    files_below(data_dir)
        .iter()
        .map(|file| file.metadata().unwrap().len())
        .sum()
}

/// Loads and deletes often enough that most of the files is dead.
async fn churn(service: &Service) {
    let scratch = service.create("scratch").await;
    let mut records = numbered("s", 400);
    for record in &mut records {
        record.document = Some("x".repeat(4_000));
    }
    for _ in 0..12 {
        scratch.upsert(&records).await;
        for record in &mut records {
            record.document.as_mut().unwrap().push('y');
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn space_comes_back_while_writes_go_on_and_nothing_is_lost() {
    let mut service = Service::start().await;
    let kept = service.create("kept").await;
    let records = numbered("k", 300);
    kept.add(&records).await;
    let gone = service.create("gone").await;
    gone.add(&numbered("g", 50)).await;
    kept.add(&numbered("deleted", 40)).await;
    kept.delete(
        json!({"ids": numbered("deleted", 40).iter().map(|r| r.id.clone()).collect::<Vec<_>>()}),
    )
    .await;
    churn(&service).await;
    let content = kept.dump().await;

    // Writers that go on during the compaction; each acknowledged write is counted.
    let busy = service.create("busy").await;
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (busy, stop, written) = (busy.clone(), Arc::clone(&stop), Arc::clone(&written));
            tokio::spawn(async move {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    busy.upsert(&numbered(&format!("w{writer}-{round}-"), 5))
                        .await;
                    written.fetch_add(5, Ordering::Relaxed);
                    round += 1;
                }
            })
        })
        .collect();
    let before = bytes_below(service.data_dir());
    for round in 0..3 {
        let already = written.load(Ordering::Relaxed);
        eventually("writes", async || {
            (written.load(Ordering::Relaxed) > already).then_some(())
        })
        .await;
        let job = service
            .post("/compactions?wait=true", json!({}))
            .await
            .ok(200);
        assert_eq!(job["kind"], "compaction");
        let result = &job["result"];
        assert!(result["live_bytes"].as_u64().unwrap() > 0, "{result}");
        assert!(result["after_bytes"].as_u64().unwrap() > 0, "{result}");
        if round == 0 {
            let (old, new) = (&result["before_bytes"], &result["after_bytes"]);
            assert!(
                old.as_u64().unwrap() > 3 * new.as_u64().unwrap(),
                "{result}"
            );
        }
        assert_eq!(job["progress"]["unit"], "records");
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let written = written.load(Ordering::Relaxed);
    eventually("the old files to go", async || {
        (store_directories(service.data_dir()).len() == 1).then_some(())
    })
    .await;
    assert_eq!(store_directories(service.data_dir()), ["store-4"]);
    assert!(bytes_below(service.data_dir()) < before / 2);

    for restarted in [false, true] {
        if restarted {
            service.restart().await;
            assert_eq!(store_directories(service.data_dir()), ["store-4"]);
        }
        let kept = service.open("kept").await;
        assert_eq!(kept.dump().await, content);
        assert_eq!(kept.records().await.len(), records.len());
        assert_eq!(service.open("busy").await.count().await, written);
        assert_eq!(service.open("gone").await.count().await, 50);
        let health = service.get("/health/collections?deep=true").await.ok(200);
        assert_eq!(health["status"], "pass", "{health}");
    }
    // A dropped collection's records do not come back either.
    service.drop_collection("gone").await;
    service
        .post("/compactions?wait=true", json!({}))
        .await
        .ok(200);
    service.restart().await;
    let names = service.names().await;
    assert!(!names.contains("gone"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_starts_by_itself_past_the_ratio() {
    let service = Service::with(|config| {
        config.compaction.ratio = 2.0;
        // Far more than what lives in the end, so the first compaction that is due gives space back.
        config.compaction.min_bytes = 12 << 20;
        config.compaction.check_interval_ms = 50;
    })
    .await;
    service.create("kept").await.add(&numbered("k", 20)).await;
    churn(&service).await;
    service.drop_collection("scratch").await;
    eventually("a compaction by itself that gives space back", async || {
        let found = service
            .get("/jobs?kind=compaction&state=succeeded")
            .await
            .ok(200);
        let jobs = found["jobs"].as_array().unwrap();
        let bytes = |job: &serde_json::Value, member: &str| job["result"][member].as_u64().unwrap();
        let smaller = |job: &&_| bytes(job, "after_bytes") < bytes(job, "before_bytes");
        jobs.iter().find(smaller).map(|_| ())
    })
    .await;
    assert_eq!(service.open("kept").await.count().await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_that_cannot_be_leaves_the_store_alone() {
    let mut service = Service::start().await;
    let kept = service.create("kept").await;
    kept.add(&numbered("k", 50)).await;
    service
        .post("/compactions", json!({"level": 3}))
        .await
        .problem(422);
    service.post("/compactions", json!([])).await.problem(422);
    // Where the copy would go stands a file.
    let obstacle = service.data_dir().join("store-2");
    std::fs::write(&obstacle, "in the way").unwrap();
    service
        .post("/compactions?wait=true", json!({}))
        .await
        .ok(200);
    assert!(service.data_dir().join("store-3").is_dir());
    assert_eq!(kept.count().await, 50);
    kept.add(&numbered("more", 5)).await;
    service.restart().await;
    assert_eq!(service.open("kept").await.count().await, 55);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_compaction_left_is_swept_and_a_lost_pointer_is_refused_where_it_matters() {
    let mut service = Service::start().await;
    service.create("kept").await.add(&numbered("k", 50)).await;
    service
        .post("/compactions?wait=true", json!({}))
        .await
        .ok(200);
    let content = service.open("kept").await.dump().await;
    service.stop().await;
    let data_dir = service.data_dir().to_owned();
    let pointer = data_dir.join("vectorkeep.json");
    let text = std::fs::read_to_string(&pointer).unwrap();
    assert!(text.contains("\"store-2\""), "{text}");

    // A copy that did not come to its end, and files that were replaced.
    for left in ["store", "store-3"] {
        copy_directory(&data_dir.join("store-2"), &data_dir.join(left));
    }
    // Without the file nobody knows which of them is the store.
    std::fs::remove_file(&pointer).unwrap();
    let error = service.try_resume().await.unwrap_err();
    assert!(error.message().contains("vectorkeep.json"), "{error}");
    assert_eq!(
        store_directories(&data_dir),
        ["store", "store-2", "store-3"]
    );

    std::fs::write(&pointer, &text).unwrap();
    service.resume().await;
    assert_eq!(store_directories(&data_dir), ["store-2"]);
    assert_eq!(service.open("kept").await.dump().await, content);

    // With one directory there is no doubt.
    service.stop().await;
    std::fs::remove_file(&pointer).unwrap();
    service.resume().await;
    assert_eq!(service.open("kept").await.dump().await, content);

    // One that points to nothing is a loss, and touches nothing.
    service.stop().await;
    std::fs::write(&pointer, text.replace("store-2", "store-7")).unwrap();
    let error = service.try_resume().await.unwrap_err();
    assert!(error.message().contains("missing or empty"), "{error}");
    assert!(error.message().contains("store-2"), "{error}");
    // Accepting a loss does not pass over data that lies elsewhere.
    service.config.storage.accept_data_loss = true;
    service.try_resume().await.unwrap_err();
    assert_eq!(store_directories(&data_dir), ["store-2"]);
}
