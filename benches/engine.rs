//! The engine without HTTP: durable writes, and exact search over vectors in memory.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use uuid::Uuid;
use vectorkeep::engine::{
    Durability, Engine, EngineOptions, NewCollection, OpenOptions, QueryRequest, RecordPatch,
    WriteMode,
};
use vectorkeep::model::collection::CollectionDefinition;
use vectorkeep::model::names::{CollectionName, DEFAULT_DATABASE, DEFAULT_TENANT};
use vectorkeep::model::schema;

const DIMENSION: usize = 384;
const BATCH: usize = 500;

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

fn patches(range: std::ops::Range<u64>) -> Vec<RecordPatch> {
    range
        .map(|number| RecordPatch {
            id: format!("record-{number}"),
            embedding: Some(vector(number)),
            document: Some(format!("the text of record {number}")),
            ..RecordPatch::default()
        })
        .collect()
}

fn engine(directory: &std::path::Path) -> (Engine, Uuid) {
    let engine = Engine::open(EngineOptions {
        store: OpenOptions {
            data_dir: directory.to_owned(),
            cache_bytes: 64 << 20,
            accept_data_loss: false,
            min_free_bytes: 0,
            sync_timeout: std::time::Duration::from_secs(60),
        },
        durability: Durability::Always,
        max_tombstones: 100_000,
        max_delete_step: 1_000,
        max_write_delay: std::time::Duration::from_millis(500),
    })
    .expect("a fresh directory opens");
    let (configuration, schema) =
        schema::reconcile(&BTreeMap::new(), None, None, 1).expect("the defaults are allowed");
    let new = NewCollection {
        name: CollectionName::new(DEFAULT_TENANT, DEFAULT_DATABASE, "bench"),
        definition: CollectionDefinition {
            metadata: BTreeMap::new(),
            configuration,
            schema,
            dimension: None,
        },
    };
    let info = engine
        .create_collection(new, false)
        .expect("the name is free");
    (engine, info.descriptor.id)
}

fn writes(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (engine, id) = engine(directory.path());
    let mut next = 0;
    let mut group = criterion.benchmark_group("durable writes");
    group.sample_size(20);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("upsert 500 new records", |bencher| {
        bencher.iter_batched(
            || {
                next += BATCH as u64;
                patches(next - BATCH as u64..next)
            },
            |patches| {
                engine
                    .write(id, WriteMode::Upsert, patches)
                    .expect("a healthy store")
            },
            criterion::BatchSize::LargeInput,
        );
    });
    group.finish();
    engine.close().expect("a healthy store");
}

fn search(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (engine, id) = engine(directory.path());
    for start in (0..20_000).step_by(BATCH) {
        engine
            .write(id, WriteMode::Add, patches(start..start + BATCH as u64))
            .expect("a healthy store");
    }
    let request = QueryRequest {
        embeddings: vec![vector(u64::MAX)],
        n_results: 10,
        ..QueryRequest::default()
    };
    criterion.bench_function("top 10 of 20,000 × 384, exact", |bencher| {
        bencher.iter(|| black_box(engine.query(id, &request).expect("a healthy store")));
    });
    engine.close().expect("a healthy store");
}

criterion_group!(benches, writes, search);
criterion_main!(benches);
