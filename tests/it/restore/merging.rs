//! Merges while others write: which side an id has in the end, and that no acknowledged write is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};
use uuid::Uuid;
use vectorkeep::app::App;
use vectorkeep::model::metadata::MetadataValue;
use vectorkeep::model::record::Record;

use super::policies::{RESTORED_COUNTS, assert_exact, counts, digest_of_new_backup, outcome};
use super::{restore, visible};
use crate::harness::{Collection, Service, columns, digest, eventually, numbered, text};

const NAME: &str = "words";
const WRITERS: usize = 3;
/// Records in the backup, and records that only the live collection has.
const KEPT: usize = 1_500;
const BALLAST: usize = 6_000;
/// Ids that each writer writes to: of the backup, and others.
const SHARED: usize = 150;
const OWN: usize = 120;
/// Rounds of every test, and how many more it may take until writers met every part of a merge.
const ROUNDS: usize = 3;
const MAX_ROUNDS: usize = 30;

/// What writers and the merging side tell each other.
#[derive(Default)]
struct Signals {
    asked: AtomicBool,
    stop: AtomicBool,
    /// Acknowledged writes of each writer, and those of them that were sent after the merge was visible.
    written: [AtomicU64; WRITERS],
    written_after: [AtomicU64; WRITERS],
}

/// An acknowledged write to one id.
#[derive(Debug)]
struct Write {
    id: String,
    /// `None`: deleted.
    content: Option<Record>,
    /// The content that the collection had before and after it, where that is one.
    under: Option<Uuid>,
    /// Whether the merge had been asked for when the request was sent.
    asked: bool,
}

struct Writer {
    number: usize,
    signals: Arc<Signals>,
    /// Records of the backup that only this writer writes to, and others.
    kept: Vec<Record>,
    own: Vec<Record>,
    /// Ids that are there, as far as this writer knows.
    there: BTreeSet<String>,
    collection: Collection,
    app: App,
    old: Uuid,
    writes: Vec<Write>,
}

/// The content that a collection has at this moment; its id stays when a merge is made visible.
fn content(app: &App, collection: &Collection) -> Uuid {
    let id = collection.id.parse().unwrap();
    app.engine().addressed(id).unwrap().descriptor.id
}

impl Writer {
    async fn new(
        service: &Service,
        number: usize,
        signals: &Arc<Signals>,
        live: &[Record],
    ) -> Self {
        let collection = service.open(NAME).await;
        let app = service.app().clone();
        let kept = numbered("kept", KEPT).into_iter().skip(number);
        Self {
            number,
            signals: Arc::clone(signals),
            kept: kept.step_by(WRITERS).take(SHARED).collect(),
            own: numbered(&format!("own-{number}"), OWN),
            there: live.iter().map(|record| record.id.clone()).collect(),
            old: content(&app, &collection),
            app,
            collection,
            writes: Vec::new(),
        }
    }

    /// Writes until it is told to stop: updates and inserts, and deletions of what is there.
    async fn run(mut self, round: usize) -> Vec<Write> {
        for turn in 0.. {
            if self.signals.stop.load(Ordering::SeqCst) {
                break;
            }
            let (kept, own) = (picked(&self.kept, turn), picked(&self.own, turn));
            match turn % 4 {
                0 | 1 => {
                    let stamp = format!("write {turn} of {} in round {round}", self.number);
                    let records = [kept, own].map(|record| stamped(record, turn, &stamp));
                    let body = columns(&records);
                    let changes = records.map(|record| (record.id.clone(), Some(record)));
                    self.send("upsert", body, changes.into()).await;
                }
                // Deleting what is not there says nothing about when it went.
                2 if self.there.contains(&kept.id) => self.delete(kept.id).await,
                3 if self.there.contains(&own.id) => self.delete(own.id).await,
                _ => {}
            }
        }
        self.writes
    }

    async fn delete(&mut self, id: String) {
        let body = json!({ "ids": [id] });
        self.send("delete", body, vec![(id, None)]).await;
    }

    /// Sends; the handle that the writer has is never refused.
    async fn send(&mut self, verb: &str, body: Value, changes: Vec<(String, Option<Record>)>) {
        let asked = self.signals.asked.load(Ordering::SeqCst);
        let before = content(&self.app, &self.collection);
        self.collection.post(verb, body).await.expect(200);
        let after = content(&self.app, &self.collection);
        let under = (before == after).then_some(after);
        for (id, content) in changes {
            match content {
                Some(_) => self.there.insert(id.clone()),
                None => self.there.remove(&id),
            };
            self.writes.push(Write {
                id,
                content,
                under,
                asked,
            });
        }
        self.signals.written[self.number].fetch_add(1, Ordering::SeqCst);
        if before != self.old {
            self.signals.written_after[self.number].fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Every kind of turn comes by every record.
fn picked(records: &[Record], turn: usize) -> Record {
    records[(turn * 7 + turn / 4) % records.len()].clone()
}

/// Every part that can differ does, so that half of one write and half of another is none of them. Nothing is
/// left out, so that what was there before does not shine through.
fn stamped(mut record: Record, turn: usize, stamp: &str) -> Record {
    record.embedding[0] = turn as f32;
    record.document = Some(stamp.to_owned());
    let value = MetadataValue::Str(stamp.to_owned());
    record.metadata.insert("stamp".to_owned(), value);
    record
}

/// What an id may hold in the end.
fn allowed<'a>(
    winner: &str,
    before: Option<&'a Record>,
    backup: Option<&'a Record>,
    writes: &[&'a Write],
    old: Uuid,
) -> Vec<Option<&'a Record>> {
    let last = writes.last().map(|write| (*write, write.content.as_ref()));
    match (last, backup) {
        // It came after the flip: the last write is all there is to say.
        (Some((write, content)), _) if write.under.is_some_and(|under| under != old) => {
            vec![content]
        }
        // The flip was while it was under way: it may have come before or after.
        (Some((write, content)), Some(_)) if write.under.is_none() => vec![content, backup],
        // The merge is not about this id.
        (Some((_, content)), None) => vec![content],
        (None, None) => vec![before],
        // What was written up to the flip, the backup's record takes the place of.
        (_, Some(_)) if winner == "backup" => vec![backup],
        (None, Some(_)) => vec![before.or(backup)],
        (Some((_, Some(content))), Some(_)) => vec![Some(content)],
        // The flip decides: what is not live then is in the backup alone.
        (Some((_, None)), Some(_)) => vec![backup],
    }
}

/// One merge with writers before, meanwhile and afterwards.
async fn round(
    service: &Service,
    backup: (&str, &[Record]),
    winner: &str,
    number: usize,
    met: &mut usize,
) {
    let collection = service.open(NAME).await;
    let gone: Vec<_> = (0..10)
        .map(|at| format!("kept-{:05}", (at * 149 + number) % KEPT))
        .collect();
    collection.delete(json!({ "ids": gone })).await;
    let before = collection.records().await;
    let signals = Arc::new(Signals::default());
    let old = content(service.app(), &collection);
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let writer = Writer::new(service, writer, &signals, &before).await;
        writers.push(tokio::spawn(writer.run(number)));
    }
    all_reach(&signals.written, 8).await;

    signals.asked.store(true, Ordering::SeqCst);
    let body = json!({"backup": backup.0, "on_conflict": "merge", "merge_winner": winner});
    let job = service.post("/restore", body).await.ok(202);
    let path = format!("/jobs/{}", text(&job["id"]));
    let job = eventually("the end of the merge", async || {
        let job = service.get(&path).await.ok(200);
        (job["state"] != "queued" && job["state"] != "running").then_some(job)
    })
    .await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let done = &job["result"]["collections"][0];
    assert_eq!(
        (&done["action"], &done["verified"]),
        (&json!("merged"), &json!(true))
    );
    all_reach(&signals.written_after, 8).await;

    signals.stop.store(true, Ordering::SeqCst);
    let mut writes = Vec::new();
    for writer in writers {
        writes.extend(writer.await.unwrap());
    }
    let merged = service.open(NAME).await;
    assert_eq!(merged.id, collection.id, "clients that hold the id go on");
    let found = collection.records().await;
    assert_eq!(merged.count().await, found.len() as u64);
    let under_way = |write: &&Write| write.asked && write.under == Some(old);
    *met += writes.iter().filter(under_way).count();
    check(&before, backup.1, &found, &writes, winner, old);
}

async fn all_reach(counters: &[AtomicU64; WRITERS], least: u64) {
    eventually("every writer to get on", async || {
        let counters = counters.iter();
        let mut reached = counters.map(|counter| counter.load(Ordering::SeqCst) >= least);
        reached.all(|reached| reached).then_some(())
    })
    .await;
}

fn by_id(records: &[Record]) -> BTreeMap<&str, &Record> {
    let by_id = records.iter().map(|record| (record.id.as_str(), record));
    by_id.collect()
}

/// Holds every id against what its writer knows.
fn check(
    before: &[Record],
    backup: &[Record],
    found: &[Record],
    writes: &[Write],
    winner: &str,
    old: Uuid,
) {
    let mut of_id: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
    for write in writes {
        of_id.entry(&write.id).or_default().push(write);
    }
    let (was, kept, is) = (by_id(before), by_id(backup), by_id(found));
    assert_eq!(is.len(), found.len(), "an id twice");
    let ids = [&was, &kept, &is].into_iter().flat_map(BTreeMap::keys);
    let ids: BTreeSet<&str> = ids.chain(of_id.keys()).copied().collect();
    let no_writes = Vec::new();
    for id in ids {
        let writes = of_id.get(id).unwrap_or(&no_writes);
        let (before, kept) = (was.get(id).copied(), kept.get(id).copied());
        let (allowed, found) = (
            allowed(winner, before, kept, writes, old),
            is.get(id).copied(),
        );
        assert!(
            allowed.contains(&found),
            "{winner} wins, {id} was {before:?} and is {found:?}, expected one of {allowed:?}; its last \
             write: {:?}",
            writes.last()
        );
    }
    // Ids that nobody wrote to: those that were live in their order, then those that were not in the backup's.
    let untouched = |record: &&Record| !of_id.contains_key(record.id.as_str());
    let missing = backup.iter().filter(|r| !was.contains_key(r.id.as_str()));
    let expected = before.iter().chain(missing).filter(untouched);
    let order = found.iter().filter(untouched).map(|record| &record.id);
    assert!(order.eq(expected.map(|record| &record.id)), "order");
}

/// Rounds of merges under writers, then one with nobody else there.
async fn merge_under_writes(winner: &str) {
    let mut service = Service::with(|config| {
        config.storage.max_tombstones = 1;
        config.repository.max_last_round = 2;
        config.repository.max_rounds = 30;
    })
    .await;
    let collection = service.create(NAME).await;
    collection.add(&numbered("kept", KEPT)).await;
    let kept = collection.records().await;
    let backup = text(&service.backup(json!({})).await["id"]);
    for batch in numbered("ballast", BALLAST).chunks(1_500) {
        collection.add(batch).await;
    }
    let (mut met, mut rounds) = (0, 0);
    while rounds < ROUNDS || met == 0 {
        assert!(
            rounds < MAX_ROUNDS,
            "no write fell into a merge in {rounds} rounds"
        );
        round(
            &service,
            (backup.as_str(), kept.as_slice()),
            winner,
            rounds,
            &mut met,
        )
        .await;
        rounds += 1;
    }

    let body = json!({"backup": backup, "on_conflict": "merge", "merge_winner": winner});
    let done = outcome(&service, body).await["collections"][0].take();
    let merged = service.open(NAME).await;
    let records = merged.records().await;
    assert_eq!(done["records"], records.len());
    assert_eq!(
        counts(&done, RESTORED_COUNTS).iter().sum::<u64>(),
        KEPT as u64
    );
    assert_eq!(done["digest"], digest(&records));
    assert_eq!(digest_of_new_backup(&service, NAME).await, done["digest"]);
    let ids = by_id(&records);
    assert!(kept.iter().all(|record| match winner {
        "backup" => ids[record.id.as_str()] == record,
        _ => ids.contains_key(record.id.as_str()),
    }));
    service
        .holds_only(&BTreeSet::from([merged.id.clone()]))
        .await;
    assert_exact(&merged.at(&service), &records, "after a restart").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merges_that_the_backup_wins_lose_no_write_to_other_ids_and_none_after_the_flip() {
    merge_under_writes("backup").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merges_that_the_live_side_wins_lose_no_write() {
    merge_under_writes("live").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_of_another_dimension_is_refused_at_once() {
    let mut service = Service::start().await;
    for name in ["other", "words"] {
        service.create(name).await.add(&numbered("r", 5)).await;
    }
    let backup = text(&service.backup(json!({})).await["id"]);
    service.open("other").await.add(&numbered("new", 1)).await;
    service.drop_collection("words").await;
    let words = service.create("words").await;
    let record = json!({"ids": ["r-00001"], "embeddings": [[1, 2, 3, 4]]});
    words.post("add", record).await.expect(201);
    let before = (visible(&service).await, service.get("/jobs").await.ok(200));
    for winner in ["backup", "live"] {
        for dry_run in [true, false] {
            let body = json!({"backup": backup, "on_conflict": "merge", "merge_winner": winner,
                "dry_run": dry_run});
            let problem = restore(&service, body).await.problem(422);
            assert!(text(&problem["detail"]).contains("dimension"), "{problem}");
        }
    }
    let after = (visible(&service).await, service.get("/jobs").await.ok(200));
    assert!(after == before, "a refused merge changed something");
    let live: BTreeSet<_> = before.0.into_iter().map(|(id, ..)| id).collect();
    service.holds_only(&live).await;
}
