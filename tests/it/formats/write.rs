//! Writes a store and a repository with everything in them that is stored.

use std::path::PathBuf;

use serde_json::{Value, json};
use vectorkeep::model::metadata::{Metadata, MetadataValue};
use vectorkeep::model::record::Record;

use super::Fixture;
use super::kept::assert_kept;
use crate::environments::with_broken_off_migration;
use crate::harness::{DEFAULT_NAMESPACE, Http, Service, files_below, numbered, text};

const ACME: &str = "/api/v2/tenants/acme/databases/prod";
/// Keys of ids are hashed from 257 bytes on.
const LONG_ID: usize = 300;
/// Values are split from 32 KiB on.
const LONG_DOCUMENT: usize = 100_000;
const SMALL: usize = 12;

/// Metadata of every type, at the ends of their ranges.
fn every_type() -> Metadata {
    let entries = [
        ("bool", MetadataValue::Bool(true)),
        ("int", MetadataValue::Int(i64::MIN)),
        ("float", MetadataValue::Float(5.68e-227)),
        ("whole", MetadataValue::Float(2.0)),
        (
            "str",
            MetadataValue::Str("\u{1f}\"ünï\u{10ffff}".to_owned()),
        ),
        ("bools", MetadataValue::BoolList(vec![true, false])),
        ("ints", MetadataValue::IntList(vec![i64::MAX, -1])),
        ("floats", MetadataValue::FloatList(vec![0.1, -2.0])),
        (
            "strs",
            MetadataValue::StrList(vec![String::new(), "a".to_owned()]),
        ),
    ];
    entries.map(|(key, value)| (key.to_owned(), value)).into()
}

fn odd_records() -> Vec<Record> {
    let record = |id: String, document: Option<String>, metadata: Metadata| Record {
        id,
        embedding: vec![
            -0.0,
            f32::MIN_POSITIVE / 2.0,
            1.5e19,
            -1.0,
            0.1,
            3.0,
            1e-20,
            7.0,
        ],
        document,
        uri: Some("s3://bucket/ü".to_owned()),
        metadata,
    };
    vec![
        record("types".to_owned(), None, every_type()),
        record("i".repeat(LONG_ID), Some(String::new()), Metadata::new()),
        record(
            "long".to_owned(),
            Some("long ".repeat(LONG_DOCUMENT / 5)),
            every_type(),
        ),
    ]
}

/// Fills the store, makes backups in between and changes both afterwards.
async fn fill(service: &Service) {
    for (name, space) in [("cosine", "cosine"), ("l2-space", "l2"), ("ip-space", "ip")] {
        let body = json!({"name": name, "metadata": {"text": "ünï", "int": 9_007_199_254_740_993_i64, "float": 0.1,
            "flag": true}, "configuration": {"hnsw": {"space": space, "ef_search": 55}}});
        let made = service.create_in(DEFAULT_NAMESPACE, body).await;
        made.add(&numbered(name, 25)).await;
        made.add(&odd_records()).await;
    }
    service.create("empty").await;
    let off = json!({"string_inverted_index": {"enabled": false, "config": {}}});
    let schema = json!({"defaults": {"string": off}, "keys": {"text": {"string": {"string_inverted_index":
        {"enabled": true, "config": {}}}}}});
    let schemed = json!({"name": "schemed", "schema": schema});
    let schemed = service.create_in(DEFAULT_NAMESPACE, schemed).await;
    schemed.add(&numbered("s", 5)).await;
    service
        .post("/api/v2/tenants", json!({"name": "acme"}))
        .await
        .expect(200);
    let databases = "/api/v2/tenants/acme/databases";
    service
        .post(databases, json!({"name": "prod"}))
        .await
        .expect(200);
    let elsewhere = service.create_in(ACME, json!({"name": "elsewhere"})).await;
    elsewhere.add(&numbered("e", 12)).await;
    let cosine = service.open("cosine").await;
    cosine
        .post("fork", json!({"new_name": "forked"}))
        .await
        .expect(200);

    let full = json!({"kind": "full", "labels": {"reason": "fixture"}, "pinned": true});
    let full = text(&service.backup(full).await["id"]);
    verify(service, &full, "records").await;

    // Updates, deletions, and an id that is given again.
    let mut changed = numbered("cosine", 8);
    for record in &mut changed {
        record.embedding[0] += 1.0;
        record.metadata = every_type();
    }
    cosine.upsert(&changed).await;
    cosine
        .delete(json!({"ids": ["cosine-00003", "cosine-00020", "types"]}))
        .await;
    cosine.add(&numbered("cosine", 4)[3..]).await;
    service.drop_collection("schemed").await;
    // So many that their manifest has parts; one whose content changed beneath its id; a database without a collection.
    for number in 0..SMALL {
        let small = service.create(&format!("small-{number}")).await;
        small.add(&numbered("s", 1 + number % 2)).await;
    }
    let kept = json!({"backup": full, "collections": [{"name": "l2-space"}], "on_conflict": "replace", "keep_id": true});
    service.post("/restore?wait=true", kept).await.expect(200);
    service
        .post(databases, json!({"name": "bare"}))
        .await
        .expect(200);
    let incremental = service.backup(json!({"labels": {"a": "b"}})).await;
    assert_eq!(incremental["kind"], "incremental");
    let incremental = text(&incremental["id"]);
    let labels = json!({"labels": {"changed": "since"}, "pinned": true});
    service
        .send("PATCH", &format!("/backups/{incremental}"), Some(&labels))
        .await
        .expect(200);
    service
        .post("/drills?wait=true", json!({"backup": incremental}))
        .await
        .expect(200);

    // Packs that nothing needs, and jobs that succeeded and failed.
    service
        .open("ip-space")
        .await
        .upsert(&numbered("other", 9))
        .await;
    let gone = json!({"kind": "full", "collections": [{"name": "ip-space"}]});
    let gone = text(&service.backup(gone).await["id"]);
    service
        .send("DELETE", &format!("/backups/{gone}"), None)
        .await
        .expect(200);
    let restored =
        json!({"backup": full, "collections": [{"name": "l2-space"}], "on_conflict": "rename"});
    service
        .post("/restore?wait=true", restored)
        .await
        .expect(200);
    cosine.delete(json!({"ids": ["cosine-00001"]})).await;
}

async fn verify(service: &Service, backup: &str, level: &str) {
    let path = format!("/backups/{backup}/verify?wait=true");
    service
        .post(&path, json!({"level": level}))
        .await
        .expect(200);
}

/// What a service shows of all that it stores.
pub(super) async fn shown(service: &Service) -> Value {
    let mut collections = Vec::new();
    for namespace in [DEFAULT_NAMESPACE, ACME] {
        let listed = service
            .get(&format!("{namespace}/collections"))
            .await
            .ok(200);
        for described in listed.as_array().unwrap() {
            let name = text(&described["name"]);
            let collection = service.open_in(namespace, &name).await;
            let records: Value = serde_json::from_slice(&collection.dump().await).unwrap();
            collections
                .push(json!({"namespace": namespace, "definition": described, "records": records}));
        }
    }
    let mut backups = Vec::new();
    let listed = service.get("/backups").await.ok(200);
    for backup in listed["backups"].as_array().unwrap() {
        let id = text(&backup["id"]);
        let export = service.get(&format!("/backups/{id}/export")).await.ok(200);
        backups.push(json!({"backup": backup, "collections": export["collections"]}));
    }
    json!({"collections": collections, "backups": backups, "jobs": jobs(service).await})
}

async fn jobs(service: &Http) -> Vec<Value> {
    let listed = service.get("/jobs?limit=100").await.ok(200);
    let jobs = listed["jobs"].as_array().unwrap();
    let members = [
        "id",
        "kind",
        "state",
        "created_at",
        "finished_at",
        "request",
        "result",
    ];
    let shown = |job: &Value| members.map(|name| (name.to_owned(), job[name].clone()));
    jobs.iter()
        .map(|job| Value::Object(shown(job).into_iter().collect()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn todays_store_and_repository_are_what_the_next_version_will_read() {
    let mut service = with_broken_off_migration().await;
    fill(&service).await;
    // As it looks after a start: compact, and with nothing under way.
    service.restart().await;
    let expected = shown(&service).await;
    service.stop().await;
    // Room and nothing else.
    std::fs::remove_file(service.repository_dir().join("reserve")).unwrap();
    let asked = std::env::var_os("FIXTURE").map(PathBuf::from);
    let root = asked.unwrap_or_else(|| service.scratch("fixture"));
    let fixture = Fixture::pack(&root, &service, &expected);
    let size: u64 = files_below(&root)
        .iter()
        .map(|file| file.metadata().unwrap().len())
        .sum();
    assert!(size < 300_000, "{size} bytes are too many for a fixture");
    assert_kept(&fixture).await;
}
