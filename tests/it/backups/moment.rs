//! A backup is of one moment, whatever is written while it is made.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;
use vectorkeep::model::record::Record;

use super::exported;
use crate::harness::{Collection, Http, Service, columns, numbered, text};

/// What two collections show while a mover takes from one and gives to the other, one after the other.
const TOTAL: i64 = 40;
const TOKENS: usize = 4;

/// Moves a counter and tokens between two collections until it is told to stop. A token is deleted here
/// and inserted there under its old id, with the number of that insertion.
async fn move_things(
    mover: usize,
    ends: [Collection; 2],
    stop: Arc<AtomicBool>,
    moves: Arc<AtomicU64>,
) {
    let (mut share, mut from) = ([TOTAL, 0], 0);
    let counter = format!("counter-{mover}");
    let token_of = |number: usize, stamp: u64| {
        let mut token = numbered(&format!("token-{mover}"), TOKENS).remove(number);
        token.embedding.extend([stamp as f32; 8]);
        token.metadata.insert(
            "stamp".to_owned(),
            serde_json::from_value(json!(stamp)).unwrap(),
        );
        token
    };
    let mut at = [0; TOKENS];
    for stamp in TOKENS as u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if share[from] == 0 {
            from = 1 - from;
        }
        for (end, change) in [(from, -1), (1 - from, 1)] {
            share[end] += change;
            let body = json!({"ids": [counter], "metadatas": [{"n": share[end]}]});
            ends[end].post("update", body).await.expect(200);
        }
        let number = (stamp % TOKENS as u64) as usize;
        let token = token_of(number, stamp);
        assert_eq!(
            ends[at[number]]
                .delete(json!({"ids": [token.id], "where": {"stamp": {"$gte": 0}}}))
                .await,
            1
        );
        at[number] = 1 - at[number];
        ends[at[number]].add(std::slice::from_ref(&token)).await;
        moves.fetch_add(1, Ordering::Relaxed);
    }
}

fn number(record: &Record, key: &str) -> i64 {
    serde_json::to_value(&record.metadata).unwrap()[key]
        .as_i64()
        .unwrap()
}

/// What is true at every moment, and so in every backup.
fn check_moment(left: &[Record], right: &[Record], movers: usize) {
    for mover in 0..movers {
        let counter = |records: &[Record]| {
            number(
                records
                    .iter()
                    .find(|r| r.id == format!("counter-{mover}"))
                    .unwrap(),
                "n",
            )
        };
        let sum = counter(left) + counter(right);
        assert!(
            (TOTAL - 1..=TOTAL).contains(&sum),
            "mover {mover}: {sum} of {TOTAL}"
        );
        let prefix = format!("token-{mover}-");
        let tokens = |records: &[Record]| -> Vec<(String, i64)> {
            let mine = records
                .iter()
                .filter(|record| record.id.starts_with(&prefix));
            mine.map(|record| (record.id.clone(), number(record, "stamp")))
                .collect()
        };
        let (left, right) = (tokens(left), tokens(right));
        let ids: BTreeSet<_> = left.iter().chain(&right).map(|(id, _)| id).collect();
        assert_eq!(
            ids.len(),
            left.len() + right.len(),
            "a token in two places: {left:?} {right:?}"
        );
        assert!(
            ids.len() >= TOKENS - 1,
            "two tokens on the way: {left:?} {right:?}"
        );
        for side in [&left, &right] {
            assert!(
                side.is_sorted_by_key(|(_, stamp)| stamp),
                "not by insertion: {side:?}"
            );
        }
        // Everything older than the newest move had arrived.
        let newest = left
            .iter()
            .chain(&right)
            .map(|(_, stamp)| *stamp)
            .max()
            .unwrap();
        let oldest = left
            .iter()
            .chain(&right)
            .map(|(_, stamp)| *stamp)
            .min()
            .unwrap();
        assert!(
            newest - oldest <= TOKENS as i64,
            "moments apart: {left:?} {right:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_backup_under_writes_is_of_one_moment() {
    const MOVERS: usize = 3;
    let service = Service::with(|config| {
        config.storage.max_tombstones = 1;
        config.repository.max_last_round = 2;
        config.repository.max_rounds = 30;
        config.repository.pack_bytes = 65_536;
    })
    .await;
    let ends = [service.create("left").await, service.create("right").await];
    let (stop, moves) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    for (number, end) in ends.iter().enumerate() {
        // Enough that writes fall between the copying of one and of the other.
        for batch in numbered("ballast", 4_000).chunks(1_000) {
            let mut batch = batch.to_vec();
            batch
                .iter_mut()
                .for_each(|record| record.embedding.extend([0.5; 8]));
            end.add(&batch).await;
        }
        for mover in 0..MOVERS {
            let n = if number == 0 { TOTAL } else { 0 };
            let counter = json!({"ids": [format!("counter-{mover}")], "embeddings": [vec![0; 16]], "metadatas": [{"n": n}]});
            end.post("add", counter).await.expect(201);
        }
    }
    let mut tasks = Vec::new();
    for mover in 0..MOVERS {
        let mut tokens = columns(&numbered(&format!("token-{mover}"), TOKENS));
        tokens["embeddings"] = json!(vec![vec![1; 16]; TOKENS]);
        tokens["metadatas"] = (0..TOKENS).map(|stamp| json!({"stamp": stamp})).collect();
        ends[0].post("add", tokens).await.expect(201);
        tasks.push(tokio::spawn(move_things(
            mover,
            ends.clone(),
            Arc::clone(&stop),
            Arc::clone(&moves),
        )));
    }
    let (mut backups, mut under_writes) = (Vec::new(), 0);
    // Each is copied in many rounds under writers that never rest: seconds. Hundreds of them are the soak's.
    while backups.len() < 15 || under_writes < 10 {
        assert!(
            backups.len() < 100,
            "writes went on during {under_writes} of 100 backups only"
        );
        let before = moves.load(Ordering::Relaxed);
        backups.push(service.backup(json!({})).await);
        under_writes += usize::from(moves.load(Ordering::Relaxed) > before);
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    for backup in &backups {
        let found = exported(&service, &text(&backup["id"]), "").await;
        check_moment(&found["left"], &found["right"], MOVERS);
        for name in ["left", "right"] {
            let ballast: Vec<_> = found[name]
                .iter()
                .take(4_000)
                .map(|record| &record.id)
                .collect();
            assert!(
                ballast.iter().all(|id| id.starts_with("ballast")) && ballast.is_sorted(),
                "{name}"
            );
        }
    }
    // The last one restores to just what it exports.
    let last = text(&backups.last().unwrap()["id"]);
    let selection = json!([{"name": "left", "to": {"name": "left-again"}}]);
    let restored = service
        .post(
            "/restore?wait=true",
            json!({"backup": last, "collections": selection}),
        )
        .await
        .ok(200);
    assert_eq!(restored["result"]["backup"], last);
    let again = service.open("left-again").await.records().await;
    assert_eq!(
        again,
        exported(&service, &last, "?collection=left").await["left"]
    );
}

/// A backup of everything is of what there is at its moment: what is dropped while it runs is not missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_that_come_and_go_do_not_fail_a_backup_of_everything() {
    let service = Service::start().await;
    let staying = service.create("staying").await;
    staying.add(&numbered("s", 300)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let passing: Vec<_> = (0..3)
        .map(|number| {
            let (http, stop) = (Http::clone(&service), Arc::clone(&stop));
            tokio::spawn(async move {
                for round in 0.. {
                    let name = format!("passing-{number}-{round}");
                    http.create(&name).await.add(&numbered("p", 5)).await;
                    http.drop_collection(&name).await;
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        })
        .collect();
    let (mut backups, mut failed) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        let answer = service.post("/backups?wait=true", json!({})).await;
        match answer.status {
            201 => backups.push(text(&answer.json()["result"]["id"])),
            status => failed.push(format!("{status}: {}", answer.json()["problem"]["detail"])),
        }
    }
    stop.store(true, Ordering::Relaxed);
    for task in passing {
        task.await.unwrap();
    }
    assert!(
        failed.is_empty(),
        "{} of 60 failed, the first with {}",
        failed.len(),
        failed[0]
    );
    let mut passed_by = 0;
    for id in backups {
        let found = exported(&service, &id, "").await;
        assert_eq!(found["staying"], numbered("s", 300));
        for (name, records) in found
            .iter()
            .filter(|(name, _)| name.starts_with("passing-"))
        {
            assert!(
                [0, 5].contains(&records.len()),
                "half a batch in {name}: {}",
                records.len()
            );
            passed_by += 1;
        }
    }
    assert!(
        passed_by > 0,
        "no backup fell into the life of a passing collection"
    );
}
