//! Writes to a local source while it goes to another service: they are in the copy, or they came after its moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use vectorkeep::model::metadata::MetadataValue;
use vectorkeep::model::record::Record;

use super::proxy::Fate;
use super::{CHROMA, LOCAL, SECOND, World, assert_same, checked_result, request};
use crate::harness::{Collection, columns, digest, eventually, numbered, text};

const RECORDS: usize = 2_400;
/// Deleted before anything is asked for.
const GONE: usize = 30;

fn records() -> Vec<Record> {
    let mut records = numbered("r", RECORDS);
    for record in &mut records {
        let extra = MetadataValue::Str("first".to_owned());
        record.metadata.insert("extra".to_owned(), extra);
    }
    records
}

/// A collection of all but the first records, which were in it once.
async fn source(world: &World) -> Collection {
    let source = world.local.create("source").await;
    for batch in records().chunks(800) {
        source.add(batch).await;
    }
    let gone: Vec<_> = (0..GONE).map(|number| format!("r-{number:05}")).collect();
    source.delete(json!({ "ids": gone })).await;
    source
}

/// One write.
enum Write {
    Upsert(Record),
    Delete(String),
    Add(Record),
    /// Takes a key of a record's metadata away.
    Unset(String),
    /// Sets it.
    Set(String, String),
}

impl Write {
    /// An update, a deletion, what was deleted again with less, a key less, a key more, something new.
    fn number(turn: usize, records: &[Record]) -> Self {
        let (round, stamp) = (turn / 6, format!("turn {turn}"));
        let pick = |at: usize| records[GONE + at % (records.len() - GONE)].clone();
        let mut record = pick(round * 37);
        match turn % 6 {
            0 => {
                record.embedding[0] = turn as f32;
                record.document = Some(stamp);
                Self::Upsert(record)
            }
            1 => Self::Delete(record.id),
            2 => {
                record.uri = Some(format!("file:///{turn}"));
                record.document = None;
                Self::Add(record)
            }
            3 => Self::Unset(record.id),
            4 => Self::Set(pick(round * 53 + 11).id, stamp),
            _ => {
                record.id = format!("new-{turn:05}");
                Self::Upsert(record)
            }
        }
    }

    async fn send(self, source: &Collection) {
        let set = |id: String, value: Option<String>| json!({"ids": [id], "metadatas": [{"extra": value}]});
        let (verb, body) = match self {
            Self::Upsert(record) => ("upsert", columns(&[record])),
            Self::Delete(id) => ("delete", json!({ "ids": [id] })),
            Self::Add(record) => ("add", columns(&[record])),
            Self::Unset(id) => ("update", set(id, None)),
            Self::Set(id, value) => ("update", set(id, Some(value))),
        };
        let answer = source.post(verb, body).await;
        assert!(answer.status < 300, "{verb}: {}", answer.text());
    }

    /// What it makes of records, as the protocol has it.
    fn apply(self, state: &mut BTreeMap<String, Record>) {
        match self {
            Self::Upsert(record) => match state.get_mut(&record.id) {
                Some(there) => {
                    there.embedding = record.embedding;
                    there.document = record.document.or(there.document.take());
                    there.uri = record.uri.or(there.uri.take());
                    there.metadata.extend(record.metadata);
                }
                None => {
                    state.insert(record.id.clone(), record);
                }
            },
            Self::Delete(id) => {
                state.remove(&id);
            }
            Self::Add(record) => {
                state.entry(record.id.clone()).or_insert(record);
            }
            Self::Unset(id) => {
                if let Some(record) = state.get_mut(&id) {
                    record.metadata.remove("extra");
                }
            }
            Self::Set(id, value) => {
                if let Some(record) = state.get_mut(&id) {
                    let value = MetadataValue::Str(value);
                    record.metadata.insert("extra".to_owned(), value);
                }
            }
        }
    }
}

/// Holds one batch of records in the middle, which nothing goes by without.
fn hold_a_batch(world: &World) {
    let upserts = AtomicUsize::new(0);
    world.proxy.rule(move |passing| {
        let is_it = passing.is("upsert") && upserts.fetch_add(1, Ordering::SeqCst) == 5;
        if is_it { Fate::Held } else { Fate::Passes }
    });
}

fn assert_no_id_twice_and_none_of_the_deleted(found: &[Record]) {
    let ids: BTreeSet<_> = found.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(ids.len(), found.len(), "an id twice");
    for number in 0..GONE {
        let id = format!("r-{number:05}");
        assert!(!ids.contains(id.as_str()), "{id} was deleted before");
    }
}

/// The writer stops while the migration is in the middle: in the end both are equal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_before_the_end_is_in_the_copy() {
    for place in [SECOND, CHROMA] {
        let world = World::with(
            |config| {
                config.repository.max_last_round = 2;
                config.repository.max_rounds = 30;
            },
            |_| (),
        )
        .await;
        let (source, records) = (source(&world).await, records());
        hold_a_batch(&world);
        let options = json!({"batch_size": 100});
        let body = request((LOCAL, "source"), (place, "target"), options);
        let job = world.local.post("/migrate", body).await.ok(202);
        world.proxy.holds_one().await;
        for turn in 0..180 {
            Write::number(turn, &records).send(&source).await;
        }
        world.proxy.let_go();
        let job = world.local.finished(&text(&job["id"])).await;
        let result = checked_result(job);
        let expected = source.records().await;
        let found = world.other.open("target").await.records().await;
        assert_no_id_twice_and_none_of_the_deleted(&found);
        assert_same(&found, &expected, place);
        for end in ["source_digest", "target_digest"] {
            assert_eq!(result[end], digest(&expected), "{place}: {end}");
        }
        assert_eq!(result["inserted"], expected.len(), "{place}");
        let read = result["read"].as_u64().unwrap();
        assert!(read > expected.len() as u64, "{place}: {read} read");
        world.assert_tidy().await;
    }
}

/// Writes until it is told to stop; how often.
async fn keep_writing(source: Collection, stop: Arc<AtomicBool>, turns: Arc<AtomicUsize>) -> usize {
    let records = records();
    loop {
        let turn = turns.load(Ordering::SeqCst);
        if stop.load(Ordering::SeqCst) {
            return turn;
        }
        Write::number(turn, &records).send(&source).await;
        turns.store(turn + 1, Ordering::SeqCst);
    }
}

/// The writer never stops: the copy is the source as it was at one moment, and says so itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_never_rests_is_copied_as_of_one_moment() {
    for place in [SECOND, CHROMA] {
        let world = World::start().await;
        let source = source(&world).await;
        let stop = Arc::new(AtomicBool::new(false));
        let turns = Arc::new(AtomicUsize::new(0));
        let writer = keep_writing(source, Arc::clone(&stop), Arc::clone(&turns));
        let writer = tokio::spawn(writer);
        let written = async |more: usize| {
            let enough = turns.load(Ordering::SeqCst) + more;
            eventually("the writer to get on", async || {
                (turns.load(Ordering::SeqCst) >= enough).then_some(())
            })
            .await;
        };
        written(12).await;
        hold_a_batch(&world);
        let options = json!({"batch_size": 100});
        let body = request((LOCAL, "source"), (place, "target"), options);
        let job = world.local.post("/migrate", body).await.ok(202);
        world.proxy.holds_one().await;
        written(60).await;
        let known = turns.load(Ordering::SeqCst);
        world.proxy.let_go();
        let job = world.local.finished(&text(&job["id"])).await;
        let result = checked_result(job);
        written(6).await;
        stop.store(true, Ordering::SeqCst);
        let last = writer.await.unwrap();

        let found = world.other.open("target").await.records().await;
        assert_no_id_twice_and_none_of_the_deleted(&found);
        for end in ["source_digest", "target_digest"] {
            assert_eq!(result[end], digest(&found), "{place}: {end}");
        }
        let moment = moment_of(&found, last);
        assert!(
            moment.is_some_and(|moment| moment >= known),
            "{place}: it is the source after {moment:?} of {last} turns, {known} were done before the end"
        );
        world.assert_tidy().await;
    }
}

/// After how many turns the source had these records.
fn moment_of(found: &[Record], last: usize) -> Option<usize> {
    let by_id = |records: &[Record]| -> BTreeMap<String, Record> {
        let pairs = records
            .iter()
            .map(|record| (record.id.clone(), record.clone()));
        pairs.collect()
    };
    let (records, found) = (records(), by_id(found));
    let mut state = by_id(&records[GONE..]);
    for turn in 0..last {
        if state == found {
            return Some(turn);
        }
        Write::number(turn, &records).apply(&mut state);
    }
    (state == found).then_some(last)
}
