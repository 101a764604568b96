//! Retention: backups are deleted, pinned, labelled and pruned; what the rest needs stays, and what nothing
//! needs any more goes from the disk, counted to the byte.

mod pins;
mod prune;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vectorkeep::model::record::Record;

use super::exported;
use crate::harness::{Answer, Collection, Service, eventually, files_below, numbered, text};

/// What nothing needs is removed at once.
async fn without_grace() -> Service {
    Service::with(|config| {
        config.repository.grace_ms = 0;
        config.repository.pack_bytes = 65_536;
    })
    .await
}

/// A collection with enough records for several small packs, and these.
async fn loaded(service: &Service) -> (Collection, Vec<Record>) {
    let records = numbered("w", 1_000);
    let words = service.create("words").await;
    words.add(&records).await;
    (words, records)
}

/// Updates, inserts and deletes about one record in a hundred.
async fn change(words: &Collection, records: &[Record], round: usize) {
    let mut changed: Vec<Record> = records.iter().skip(round).step_by(200).cloned().collect();
    for record in &mut changed {
        record.document = Some(format!("changed in round {round}"));
    }
    words.upsert(&changed).await;
    words.add(&numbered(&format!("new-{round}"), 3)).await;
    let gone = records.iter().skip(round + 50).step_by(300);
    let gone: Vec<_> = gone.map(|record| &record.id).collect();
    assert_eq!(words.delete(json!({"ids": gone})).await, 4);
}

async fn back_up(service: &Service, body: Value) -> String {
    text(&service.backup(body).await["id"])
}

/// Full backups that have no pack in common, oldest first.
async fn full_backups(service: &Service, count: usize) -> Vec<String> {
    let words = service.create("words").await;
    let mut made = Vec::new();
    for round in 0..count {
        words.add(&numbered(&format!("round-{round}"), 40)).await;
        made.push(back_up(service, json!({"kind": "full"})).await);
    }
    made
}

/// Ids in the list, newest first.
async fn ids(service: &Service) -> Vec<String> {
    let listed = service.get("/backups").await.ok(200);
    let listed = listed["backups"].as_array().unwrap();
    listed.iter().map(|backup| text(&backup["id"])).collect()
}

async fn verify(service: &Service, id: &str) -> Answer {
    let path = format!("/backups/{id}/verify?wait=true");
    service.post(&path, json!({"level": "records"})).await
}

/// Every record of "words" is there and hashed, by the service and by its export.
async fn assert_sound(service: &Service, id: &str, expected: &[Record]) {
    let job = verify(service, id).await.ok(200);
    assert_eq!(job["result"]["ok"], true, "{job}");
    assert_eq!(exported(service, id, "").await["words"], expected, "{id}");
}

async fn delete(service: &Service, id: &str) -> Answer {
    service
        .send("DELETE", &format!("/backups/{id}"), None)
        .await
}

/// Deletes a backup; the bytes that were freed, and those that are pending.
async fn deleted(service: &Service, id: &str) -> (u64, u64) {
    let answer = delete(service, id).await.ok(200);
    assert_eq!(answer["deleted"], id);
    bytes(&answer)
}

fn bytes(freed: &Value) -> (u64, u64) {
    let number = |member: &str| freed[member].as_u64().unwrap();
    (number("freed_bytes"), number("pending_bytes"))
}

async fn patch(service: &Service, id: &str, body: Value) -> Answer {
    service
        .send("PATCH", &format!("/backups/{id}"), Some(&body))
        .await
}

fn manifest_of(service: &Service, id: &str) -> PathBuf {
    service.repository_dir().join(format!("backups/{id}.json"))
}

/// The packs on the disk, and their sizes.
fn packs(service: &Service) -> BTreeMap<PathBuf, u64> {
    let directory = service.repository_dir().join("packs");
    if !directory.exists() {
        return BTreeMap::new();
    }
    files_below(&directory)
        .into_iter()
        .map(|pack| {
            let size = pack.metadata().unwrap().len();
            (pack, size)
        })
        .collect()
}

/// Bytes of the packs that are there no more.
fn vanished(before: &BTreeMap<PathBuf, u64>, after: &BTreeMap<PathBuf, u64>) -> u64 {
    let gone = before.iter().filter(|(pack, _)| !after.contains_key(*pack));
    gone.map(|(_, size)| size).sum()
}

/// Bytes of the packs that no manifest names.
async fn unneeded(service: &Service) -> u64 {
    let manifests: Vec<String> = ids(service)
        .await
        .iter()
        .map(|id| fs::read_to_string(manifest_of(service, id)).unwrap())
        .collect();
    let needed = |pack: &Path| {
        let hash = pack.file_stem().unwrap().to_str().unwrap();
        manifests.iter().any(|manifest| manifest.contains(hash))
    };
    let packs = packs(service);
    let unneeded = packs.iter().filter(|(pack, _)| !needed(pack));
    unneeded.map(|(_, size)| size).sum()
}

/// Every file of the repository, apart from its locks.
fn files(service: &Service) -> BTreeMap<PathBuf, Vec<u8>> {
    let locks = service.repository_dir().join("locks");
    files_below(&service.repository_dir())
        .into_iter()
        .filter(|path| !path.starts_with(&locks))
        .map(|path| {
            let content = fs::read(&path).unwrap();
            (path, content)
        })
        .collect()
}

/// A pack that nothing refers to, as a crash leaves it.
fn stray(service: &Service) -> PathBuf {
    let name = format!("packs/ab/{}.arrow", "ab".repeat(32));
    let path = service.repository_dir().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"left behind").unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_backup_outlives_the_full_one_it_started_from() {
    let service = without_grace().await;
    let (words, records) = loaded(&service).await;
    let full = back_up(&service, json!({})).await;
    change(&words, &records, 0).await;
    let expected = words.records().await;
    let incremental = service.backup(json!({"kind": "incremental"})).await;
    assert_eq!(incremental["parent"], full);
    let incremental = text(&incremental["id"]);
    let digests = async || {
        let path = format!("/backups/{incremental}/export");
        service.get(&path).await.ok(200)["collections"][0]["digest"].clone()
    };
    let digest = digests().await;

    let before = packs(&service);
    let (freed, pending) = deleted(&service, &full).await;
    assert_eq!((freed, pending), (vanished(&before, &packs(&service)), 0));
    assert_eq!(unneeded(&service).await, 0);
    assert_eq!(ids(&service).await, [&*incremental]);
    for path in [
        format!("/backups/{full}"),
        format!("/backups/{full}/export"),
    ] {
        service.get(&path).await.problem(404);
    }
    delete(&service, &full).await.problem(404);

    assert_sound(&service, &incremental, &expected).await;
    assert_eq!(digests().await, digest);
    let body = json!({"backup": incremental, "on_conflict": "rename"});
    service.post("/restore?wait=true", body).await.ok(200);
    let copy = service.open("words-restored-1").await;
    assert_eq!(copy.records().await, expected);

    let all: u64 = packs(&service).values().sum();
    assert!(all > 0, "the incremental backup has packs");
    assert_eq!(deleted(&service, &incremental).await, (all, 0));
    assert_eq!(packs(&service), BTreeMap::new());
    assert!(ids(&service).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_go_in_any_order_and_the_others_stay_whole() {
    for order in [
        [0, 1, 2, 3],
        [3, 2, 1, 0],
        [1, 3, 0, 2],
        [2, 0, 3, 1],
        [1, 2, 0, 3],
    ] {
        let service = without_grace().await;
        let (words, records) = loaded(&service).await;
        let mut left = BTreeMap::new();
        for round in 0..4 {
            let kind = if round == 0 { "full" } else { "incremental" };
            let id = back_up(&service, json!({"kind": kind})).await;
            left.insert(round, (id, words.records().await));
            change(&words, &records, round).await;
        }
        for gone in order {
            let (id, _) = left.remove(&gone).unwrap();
            let before = packs(&service);
            let (freed, pending) = deleted(&service, &id).await;
            let after = packs(&service);
            assert_eq!(
                (freed, pending),
                (vanished(&before, &after), 0),
                "{order:?}"
            );
            assert_eq!(unneeded(&service).await, 0, "{order:?}");
            for (id, expected) in left.values() {
                assert_sound(&service, id, expected).await;
            }
        }
        assert_eq!(packs(&service), BTreeMap::new(), "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_backup_is_whole_whichever_was_deleted_before() {
    for gone in [0, 1] {
        let service = without_grace().await;
        let (words, records) = loaded(&service).await;
        let mut made = Vec::new();
        for round in 0..2 {
            made.push(back_up(&service, json!({})).await);
            change(&words, &records, round).await;
        }
        deleted(&service, &made[gone]).await;
        let next = back_up(&service, json!({})).await;
        assert_sound(&service, &next, &words.records().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_while_a_backup_is_made_from_it_takes_nothing_from_the_new_one() {
    let service = without_grace().await;
    let (words, records) = loaded(&service).await;
    let mut newest = back_up(&service, json!({})).await;
    for round in 0..5 {
        change(&words, &records, round).await;
        let (next, _) = tokio::join!(back_up(&service, json!({})), deleted(&service, &newest));
        assert_sound(&service, &next, &words.records().await).await;
        newest = next;
    }
    assert_eq!(ids(&service).await, [newest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_stay_for_the_grace_period_and_are_pending_meanwhile() {
    let service = Service::start().await;
    let (words, records) = loaded(&service).await;
    let full = back_up(&service, json!({})).await;
    let of_full = packs(&service);
    change(&words, &records, 0).await;
    let incremental = back_up(&service, json!({"kind": "incremental"})).await;
    let all = packs(&service);

    // First what only the incremental one needs, then everything: earlier deletions count.
    let (freed, pending) = deleted(&service, &incremental).await;
    assert_eq!((freed, pending), (0, vanished(&all, &of_full)));
    assert_eq!(pending, unneeded(&service).await);
    assert!(pending > 0);
    assert_sound(&service, &full, &records).await;
    let total: u64 = all.values().sum();
    assert_eq!(deleted(&service, &full).await, (0, total));
    assert_eq!(packs(&service), all);
}

async fn vanish(packs: &BTreeMap<PathBuf, u64>) {
    eventually("unneeded packs to vanish", async || {
        packs.keys().all(|pack| !pack.exists()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_period_packs_vanish_by_themselves() {
    let service = Service::with(|config| {
        config.repository.grace_ms = 1;
        config.repository.sweep_interval_ms = 20;
    })
    .await;
    let (words, records) = loaded(&service).await;
    let full = back_up(&service, json!({})).await;
    let of_full = packs(&service);
    change(&words, &records, 0).await;
    let incremental = back_up(&service, json!({"kind": "incremental"})).await;
    let mut of_incremental = packs(&service);
    of_incremental.retain(|pack, _| !of_full.contains_key(pack));
    assert!(!of_full.is_empty() && !of_incremental.is_empty());

    deleted(&service, &incremental).await;
    vanish(&of_incremental).await;
    assert_sound(&service, &full, &records).await;
    deleted(&service, &full).await;
    vanish(&of_full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_pack_that_is_needed_again_stays() {
    let mut service = Service::start().await;
    let (_, records) = loaded(&service).await;
    let first = back_up(&service, json!({"kind": "full"})).await;
    let before = packs(&service);
    let (_, pending) = deleted(&service, &first).await;
    assert!(pending > 0);
    // The same records give the same packs.
    let second = back_up(&service, json!({"kind": "full"})).await;
    assert_eq!(packs(&service), before);

    service.stop().await;
    service.config.repository.grace_ms = 0;
    service.resume().await;
    let third = back_up(&service, json!({})).await;
    assert_eq!(deleted(&service, &third).await, (0, 0));
    assert_sound(&service, &second, &records).await;
}
