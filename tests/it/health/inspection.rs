//! The deep check of collections: exact under writes, and each kind of damage found by the check that is for it,
//! named by id, without a word against the other collections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};
use uuid::Uuid;
use vectorkeep::config::DurabilityMode;
use vectorkeep::engine::{DeleteRequest, Engine, InspectionLimits, RecordPatch, WriteMode};
use vectorkeep::model::record::Record;
use vectorkeep::progress::Progress;

use super::{by_collection, report};
use crate::harness::{Service, digest, eventually, numbered, text, wordnet_50};

const LIMITS: InspectionLimits = InspectionLimits { max_findings: 20 };
const RECORDS: usize = 3_000;

fn patches(records: &[Record]) -> Vec<RecordPatch> {
    let patch = |record: &Record| RecordPatch {
        id: record.id.clone(),
        embedding: Some(record.embedding.clone()),
        document: record.document.clone(),
        ..RecordPatch::default()
    };
    records.iter().map(patch).collect()
}

/// Changes records all over the collection, deletes some, adds new ones and those that were deleted again; counts
/// what was acknowledged.
fn write(engine: &Engine, id: Uuid, writer: usize, stop: &AtomicBool, acknowledged: &AtomicU64) {
    let all = numbered("r", RECORDS);
    for round in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // Each writer has its own records; a stride that is prime to their number comes by all of them.
        let mine = |step: usize| ((round * 7 + step) * 613 * 3 + writer) % RECORDS;
        let mut changed: Vec<Record> = (0..4).map(|step| all[mine(step)].clone()).collect();
        for record in &mut changed {
            record.document = Some(format!("{} by {writer} in {round}", record.id));
            record.embedding[0] = round as f32;
        }
        engine
            .write(id, WriteMode::Upsert, patches(&changed))
            .unwrap();
        let gone = DeleteRequest {
            ids: Some(vec![changed[0].id.clone(), changed[1].id.clone()]),
            ..DeleteRequest::default()
        };
        engine.delete(id, &gone).unwrap();
        // Nothing is there to go, and nothing may come of it.
        assert_eq!(engine.delete(id, &gone).unwrap(), 0);
        let back = patches(&changed[..1]);
        engine.write(id, WriteMode::Add, back).unwrap();
        let new = numbered(&format!("w{writer}-{round}"), 2);
        engine.write(id, WriteMode::Add, patches(&new)).unwrap();
        acknowledged.fetch_add(4, Ordering::Relaxed);
        // Hundreds of writes a second are enough; more only take the core that the inspection needs.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inspection_is_exact_while_others_write_and_does_not_stop_them() {
    inspect_while_others_write(DurabilityMode::Interval).await;
}

/// Here writers wait for the disk, without the lock, in the middle of what they do.
#[tokio::test(flavor = "multi_thread")]
async fn an_inspection_is_exact_while_others_write_and_wait_for_the_disk() {
    inspect_while_others_write(DurabilityMode::Always).await;
}

async fn inspect_while_others_write(durability: DurabilityMode) {
    let service = Service::with(|config| config.storage.durability = durability).await;
    let words = service.create("words").await;
    words.add(&numbered("r", RECORDS)).await;
    let id: Uuid = words.id.parse().unwrap();
    let engine = service.app().engine().clone();
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (engine, stop) = (engine.clone(), Arc::clone(&stop));
            let acknowledged = Arc::clone(&acknowledged);
            std::thread::spawn(move || write(&engine, id, writer, &stop, &acknowledged))
        })
        .collect();
    let inspecting = tokio::task::spawn_blocking(move || {
        let mut digests = Vec::new();
        let mut during = 0;
        // As long as it takes until many writes fell into inspections.
        for number in 0..500 {
            let before = acknowledged.load(Ordering::Relaxed);
            let found = engine.inspect(id, LIMITS, &Progress::default()).unwrap();
            during += acknowledged.load(Ordering::Relaxed) - before;
            assert!(found.is_sound(), "inspection {number}: {found:?}");
            assert!(found.checked_records > 0 && found.findings.is_empty());
            digests.push(found.digest);
            if number >= 15 && during >= 200 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        (digests, during)
    });
    let (mut digests, during) = inspecting.await.unwrap();
    for writer in writers {
        writer.join().unwrap();
    }
    assert!(during >= 200, "only {during} writes came in between");
    digests.dedup();
    assert!(
        digests.len() > 10,
        "the digest did not change: nothing was shown"
    );
    let records = words.records().await;
    let found = report(service.get("/health/collections/words").await, 200, "pass");
    let observed =
        &by_collection(&found, "collections:integrity")["default_tenant/default_database/words"];
    for member in [
        "count",
        "recomputed_count",
        "checked_records",
        "checked_ids",
    ] {
        assert_eq!(observed[member], records.len(), "{member}");
    }
    assert_eq!(observed["recomputed_digest"], digest(&records));
}

/// What is dropped or replaced while it is looked at is no damage, and hides none of the others.
#[tokio::test(flavor = "multi_thread")]
async fn collections_may_come_and_go_while_they_are_checked() {
    let service = Service::start().await;
    let stays = service.create("stays").await;
    stays.add(&numbered("s", 300)).await;
    service
        .create("goes")
        .await
        .add(&numbered("g", 1_000))
        .await;
    service.backup(json!({})).await;
    for round in 0..12 {
        let restored = json!({
            "backup": "latest", "on_conflict": "replace", "collections": [{"name": "goes"}],
        });
        let (all, one, replaced) = tokio::join!(
            service.get("/health/collections"),
            service.get("/health/collections/goes"),
            async {
                service.drop_collection("goes").await;
                service.post("/restore?wait=true", restored).await
            },
        );
        replaced.expect(200);
        let found = report(all, 200, "pass");
        let judged = statuses_of(&found);
        let pass = ("stays".to_owned(), "pass".to_owned());
        assert!(judged.contains(&pass), "round {round}: {judged:?}");
        match one.status {
            404 => {}
            status => assert_eq!(status, 200, "round {round}: {}", one.text()),
        }
    }
}

/// The statuses of the integrity check by collection.
fn statuses_of(report: &Value) -> Vec<(String, String)> {
    let observations = report["checks"]["collections:integrity"]
        .as_array()
        .unwrap();
    observations
        .iter()
        .map(|found| {
            let name = text(&found["observed_value"]["collection"]);
            let name = name.rsplit('/').next().unwrap().to_owned();
            (name, text(&found["status"]))
        })
        .collect()
}

/// All collections are checked: `words` alone fails, and what it says names the id.
async fn assert_only_words_fails(service: &Service, id: &str, member: &str) -> Value {
    let found = report(service.get("/health/collections").await, 503, "fail");
    let mut judged = statuses_of(&found);
    judged.sort();
    let expected = [("other", "pass"), ("words", "fail")];
    assert_eq!(
        judged,
        expected.map(|(name, status)| (name.to_owned(), status.to_owned()))
    );
    let all = found["checks"]["collections:integrity"].as_array().unwrap();
    let failed = all.iter().find(|check| check["status"] == "fail").unwrap();
    let output = text(&failed["output"]);
    assert!(output.contains(id), "{id} is not named: {output}");
    assert!(
        failed["observed_value"][member].as_u64() > Some(0),
        "{failed}"
    );
    report(service.get("/health/collections/other").await, 200, "pass");
    let one = report(service.get("/health/collections/words").await, 503, "fail");
    assert_eq!(statuses_of(&one), [("words".to_owned(), "fail".to_owned())]);
    failed.clone()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(debug_assertions)]
async fn a_vector_that_changed_in_memory_is_found_and_named() {
    let service = Service::start().await;
    let words = service.create("words").await;
    words.add(&wordnet_50()).await;
    service.create("other").await.add(&numbered("o", 300)).await;
    let id = wordnet_50()[23].id.clone();
    let engine = service.app().engine().clone();
    vectorkeep::engine::damage::damage_vector(&engine, words.id.parse().unwrap(), &id).unwrap();

    let failed = assert_only_words_fails(&service, &id, "memory_differences").await;
    assert_eq!(failed["observed_value"]["memory_differences"], 1);
    assert_eq!(failed["observed_value"]["damaged"], 0);
    // What is stored is sound: a restart would help as little as it harms, so no probe asks for one.
    let overview = report(service.get("/health").await, 200, "fail");
    let last = overview["checks"]["collections:integrity"]
        .as_array()
        .unwrap();
    assert!(
        last.iter()
            .any(|check| { check["status"] == "fail" && text(&check["output"]).contains(&id) })
    );
    report(service.get("/health/storage").await, 200, "pass");
    report(service.get("/health/embeddings").await, 200, "pass");

    // What was found of a collection counts for as long as that is there.
    service.drop_collection("words").await;
    report(service.get("/health").await, 200, "pass");
    report(service.get("/health/collections").await, 200, "pass");
}

/// Opens the stopped service's store below the engine and changes a tree of it.
async fn below(service: &Service, tree: &str, change: impl Fn(&sled::Tree)) {
    let directory = service.data_dir().join("store");
    let settings = std::fs::read(directory.join("conf")).unwrap();
    let settings = String::from_utf8_lossy(&settings).into_owned();
    let mut lines = settings.lines();
    let segment = lines.find_map(|line| line.strip_prefix("segment_size: "));
    let config = sled::Config::new()
        .path(directory)
        .segment_size(segment.unwrap().trim().parse().unwrap());
    let db = eventually("the store's file to be free", async || config.open().ok()).await;
    change(&db.open_tree(tree).unwrap());
    db.flush().unwrap();
}

fn id_key(collection: &str, id: &str) -> Vec<u8> {
    let collection: Uuid = collection.parse().unwrap();
    [collection.as_bytes(), &[0][..], id.as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_changed_below_the_engine_is_found_and_named() {
    for damage in ["entry removed", "entry damaged", "record removed"] {
        let mut service = Service::start().await;
        let words = service.create("words").await;
        words.add(&wordnet_50()).await;
        service.create("other").await.add(&numbered("o", 300)).await;
        let id = wordnet_50()[23].id.clone();
        service.stop().await;
        let key = id_key(&words.id, &id);
        match damage {
            "entry removed" => {
                below(&service, "ids", |tree| {
                    assert!(tree.remove(&key).unwrap().is_some());
                })
                .await;
            }
            "entry damaged" => {
                below(&service, "ids", |tree| {
                    let mut value = tree.get(&key).unwrap().unwrap().to_vec();
                    value[1] ^= 1;
                    tree.insert(&key, value).unwrap();
                })
                .await;
            }
            _ => {
                let collection: Uuid = words.id.parse().unwrap();
                let key = [collection.as_bytes(), &23_u64.to_be_bytes()[..]].concat();
                below(&service, "records", |tree| {
                    assert!(tree.remove(&key).unwrap().is_some());
                })
                .await;
            }
        }
        service.resume().await;
        let failed = assert_only_words_fails(&service, &id, "orphans").await;
        let observed = &failed["observed_value"];
        if damage == "record removed" {
            assert_eq!(
                (&observed["count"], &observed["recomputed_count"]),
                (&json!(50), &json!(49))
            );
            assert_ne!(observed["digest"], observed["recomputed_digest"]);
        } else {
            assert_eq!(observed["recomputed_count"], 50, "{damage}");
            assert_eq!(
                observed["digest"], observed["recomputed_digest"],
                "{damage}"
            );
        }
    }
}
