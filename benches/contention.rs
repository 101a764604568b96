//! Who waits for whom in the engine: writers beside searches, small writes beside large ones, reads beside a deletion
//! by filter. Prints one line per figure; `cargo bench --bench contention`.

#![expect(clippy::print_stdout, reason = "figures for a person")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;
use vectorkeep::engine::{
    DeleteRequest, Durability, Engine, EngineOptions, GetRequest, NewCollection, OpenOptions,
    Projection, QueryRequest, RecordPatch, WriteMode,
};
use vectorkeep::model::collection::CollectionDefinition;
use vectorkeep::model::filter::{Filter, Limits};
use vectorkeep::model::metadata::MetadataValue;
use vectorkeep::model::names::{CollectionName, DEFAULT_DATABASE, DEFAULT_TENANT};
use vectorkeep::model::schema;

const DIMENSION: usize = 384;
const BATCH: u64 = 500;
const RECORDS: u64 = 100_000;
const SEARCHERS: usize = 4;
const SMALL_RECORDS: u64 = 1_000;
const SPAN: Duration = Duration::from_secs(5);

/// A cheap deterministic stream of components in -1..1 (splitmix64).
fn vector(seed: u64) -> Vec<f32> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(DIMENSION)
    .collect()
}

fn patches(range: std::ops::Range<u64>, version: u64) -> Vec<RecordPatch> {
    let patch = |number: u64| RecordPatch {
        id: format!("record-{number}"),
        embedding: Some(vector(number.wrapping_mul(31).wrapping_add(version))),
        document: Some(format!("the text of record {number}")),
        metadata: vec![("number".to_owned(), Some(MetadataValue::Int(number as i64)))],
        ..RecordPatch::default()
    };
    range.map(patch).collect()
}

fn open(directory: &Path) -> Engine {
    Engine::open(EngineOptions {
        store: OpenOptions {
            data_dir: directory.to_owned(),
            cache_bytes: 64 << 20,
            accept_data_loss: false,
            min_free_bytes: 0,
            sync_timeout: Duration::from_secs(60),
        },
        durability: Durability::Always,
        max_tombstones: 200_000,
        max_delete_step: 1_000,
        max_write_delay: Duration::from_millis(500),
    })
    .expect("a fresh directory opens")
}

fn collection(engine: &Engine, name: &str) -> Uuid {
    let (configuration, schema) =
        schema::reconcile(&BTreeMap::new(), None, None, 1).expect("the defaults are allowed");
    let new = NewCollection {
        name: CollectionName::new(DEFAULT_TENANT, DEFAULT_DATABASE, name),
        definition: CollectionDefinition {
            metadata: BTreeMap::new(),
            configuration,
            schema,
            dimension: None,
        },
    };
    let info = engine.create_collection(new, false);
    info.expect("the name is free").descriptor.id
}

fn upsert(engine: &Engine, id: Uuid, range: std::ops::Range<u64>, version: u64) {
    let patches = patches(range, version);
    let written = engine.write(id, WriteMode::Upsert, patches);
    written.expect("a healthy store");
}

/// Times of one call after another until `stop`. Where calls are due every so often, one that waits makes those behind it
/// late, and they count from when they were due.
fn times(stop: &AtomicBool, every: Duration, mut call: impl FnMut(u64)) -> Vec<Duration> {
    let (mut times, mut due) = (Vec::new(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        due = if every.is_zero() {
            Instant::now()
        } else {
            due + every
        };
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        call(times.len() as u64);
        times.push(due.elapsed());
    }
    times
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| {
        let place = (times.len() as f64 * part) as usize;
        let time = times.get(place.min(times.len().saturating_sub(1)));
        time.map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    format!(
        "p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms, {} calls",
        at(0.5),
        at(0.99),
        at(1.0),
        times.len()
    )
}

/// Upserts of 500 beside so many searches, of new records or of records that are there, alone or beside small writes.
fn upserts(
    engine: &Engine,
    large: Uuid,
    small: Option<Uuid>,
    searchers: usize,
    fresh: bool,
    from: u64,
) {
    let stop = AtomicBool::new(false);
    let mut next = from;
    std::thread::scope(|scope| {
        let search = |at: usize| {
            let stop = &stop;
            move || {
                times(stop, Duration::ZERO, |number| {
                    let request = QueryRequest {
                        embeddings: vec![vector(number.wrapping_mul(977).wrapping_add(at as u64))],
                        n_results: 10,
                        ..QueryRequest::default()
                    };
                    let found = engine.query(large, &request).expect("a healthy store");
                    assert_eq!(found.first().map(Vec::len), Some(10));
                })
            }
        };
        let searching: Vec<_> = (0..searchers).map(|at| scope.spawn(search(at))).collect();
        let small_writes = |small: Uuid| {
            let stop = &stop;
            move || {
                times(stop, Duration::from_millis(5), |number| {
                    let at = number % SMALL_RECORDS;
                    upsert(engine, small, at..at + 1, number);
                })
            }
        };
        let writing = small.map(|small| scope.spawn(small_writes(small)));
        let began = Instant::now();
        let mut written = 0;
        while began.elapsed() < SPAN {
            // Records that are there lie all over the collection.
            let start = if fresh {
                next
            } else {
                (next * 7) % (RECORDS - BATCH)
            };
            upsert(engine, large, start..start + BATCH, next);
            next += BATCH;
            written += BATCH;
        }
        let rate = written as f64 / began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let kind = if fresh { "new" } else { "changed" };
        let beside = if small.is_some() {
            " and small writes"
        } else {
            ""
        };
        println!("{kind} records beside {searchers} searches{beside}: {rate:.0} upserts/s");
        if let Some(writing) = writing {
            let times = writing.join().expect("the writer ends");
            println!("  a small write meanwhile: {}", shown(times));
        }
        let found = searching.into_iter();
        let found = found.flat_map(|thread| thread.join().expect("the searcher ends"));
        let found: Vec<Duration> = found.collect();
        if searchers > 0 {
            println!("  a search meanwhile: {}", shown(found));
        }
    });
}

fn deletion(engine: &Engine, large: Uuid, small: Uuid) {
    let limits = Limits {
        max_depth: 8,
        max_nodes: 64,
        max_regex_bytes: 1 << 16,
    };
    let filter = Filter::parse_where(&json!({"number": {"$gte": 0}}), &limits);
    let request = DeleteRequest {
        filter: filter.expect("a filter"),
        ..DeleteRequest::default()
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            times(&stop, Duration::from_millis(1), |number| {
                let request = GetRequest {
                    ids: Some(vec![format!("record-{}", number % SMALL_RECORDS)]),
                    ..GetRequest::default()
                };
                let all = Projection {
                    embedding: true,
                    document: true,
                    uri: true,
                    metadata: true,
                };
                let found = engine.get(small, &request, all).expect("a healthy store");
                assert_eq!(found.len(), 1);
            })
        });
        let writing = scope.spawn(|| {
            times(&stop, Duration::from_millis(5), |number| {
                upsert(
                    engine,
                    small,
                    number % SMALL_RECORDS..number % SMALL_RECORDS + 1,
                    number + 1,
                );
            })
        });
        let began = Instant::now();
        let deleted = engine.delete(large, &request).expect("a healthy store");
        let took = began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        println!("a deletion by filter of {deleted} records: {took:.2} s");
        let read = reading.join().expect("the reader ends");
        println!("  a get in another collection meanwhile: {}", shown(read));
        let written = writing.join().expect("the writer ends");
        println!("  a small write there meanwhile: {}", shown(written));
    });
}

fn main() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let engine = open(directory.path());
    let (large, small) = (collection(&engine, "large"), collection(&engine, "small"));
    for start in (0..RECORDS).step_by(BATCH as usize) {
        upsert(&engine, large, start..start + BATCH, 0);
    }
    upsert(&engine, small, 0..SMALL_RECORDS, 0);
    for (turn, (searchers, beside)) in (1..).zip([
        (0, None),
        (SEARCHERS, None),
        (0, Some(small)),
        (SEARCHERS, Some(small)),
    ]) {
        upserts(&engine, large, beside, searchers, false, turn);
        upserts(&engine, large, beside, searchers, true, turn * 10 * RECORDS);
    }
    // As many as at the beginning.
    let left = GetRequest {
        offset: RECORDS as usize,
        ..GetRequest::default()
    };
    let left = engine.get(large, &left, Projection::default());
    let ids: Vec<String> = left
        .expect("a healthy store")
        .into_iter()
        .map(|record| record.id)
        .collect();
    for ids in ids.chunks(5_000) {
        let request = DeleteRequest {
            ids: Some(ids.to_vec()),
            ..DeleteRequest::default()
        };
        engine.delete(large, &request).expect("a healthy store");
    }
    deletion(&engine, large, small);
    engine.close().expect("a healthy store");
}
