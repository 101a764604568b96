//! Imports: an export comes back in every bit, in either form; what is not a whole and sound document makes
//! no backup, and the upload never stays behind.

mod packed;
mod refusals;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use reqwest::Body;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use vectorkeep::model::record::Record;

use super::{BACKUP, exported};
use crate::harness::{
    Answer, Collection, DEFAULT_NAMESPACE, Http, Service, assert_members, eventually, files_below,
    numbered, parse_record, text, wordnet_50,
};

const JSON: &str = "application/json";
const JSON_LINES: &str = "application/x-ndjson";
const ELSEWHERE: &str = "/api/v2/tenants/tenant/databases/database";

/// Sends a document to a path below `/backups/import`.
async fn send(service: &Service, query: &str, media_type: &str, body: impl Into<Body>) -> Answer {
    let request = service
        .request("POST", &format!("/backups/import{query}"))
        .header("content-type", media_type)
        .body(body);
    Http::try_send(request).await.unwrap()
}

/// Imports; the backup that came of it.
async fn imported(service: &Service, media_type: &str, body: impl Into<Body>) -> Value {
    let mut job = send(service, "?wait=true", media_type, body).await.ok(201);
    assert_eq!(
        (&job["kind"], &job["state"], &job["problem"]),
        (&json!("import"), &json!("succeeded"), &Value::Null)
    );
    let backup = job["result"].take();
    assert_members(&backup, &BACKUP);
    assert_eq!(
        (&backup["kind"], &backup["parent"]),
        (&json!("full"), &Value::Null)
    );
    let shown = format!("/backups/{}", text(&backup["id"]));
    assert_eq!(backup, service.get(&shown).await.ok(200));
    nothing_left(service).await;
    backup
}

/// Sends what must make no backup; the detail of the refusal.
async fn refused(service: &Service, media_type: &str, body: impl Into<Body>) -> String {
    let last_job = async || {
        let jobs = service.get("/jobs?kind=import&limit=1").await.ok(200);
        jobs["jobs"][0].clone()
    };
    let before = (last_job().await, service.get("/backups").await.ok(200));
    let answer = send(service, "?wait=true", media_type, body).await;
    let problem = answer.problem(422);
    let job = last_job().await;
    assert_ne!(job["id"], before.0["id"], "{problem}");
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(job["problem"]["detail"], problem["detail"]);
    assert_eq!(service.get("/backups").await.ok(200), before.1);
    nothing_left(service).await;
    text(&problem["detail"])
}

/// Documents that are kept to be imported.
fn uploads(service: &Service) -> Vec<PathBuf> {
    let directory = service.data_dir().join("imports");
    if !directory.exists() {
        return Vec::new();
    }
    files_below(&directory)
}

async fn nothing_left(service: &Service) {
    eventually("the upload to be removed", async || {
        uploads(service).is_empty().then_some(())
    })
    .await;
}

async fn export(service: &Service, backup: &Value, format: &str) -> Bytes {
    let path = format!("/backups/{}/export?format={format}", text(&backup["id"]));
    service.get(&path).await.expect(200).bytes
}

/// A document with nothing but what it must have.
fn minimal(count: usize) -> Value {
    let record = |n: usize| json!({"id": format!("r-{n:05}"), "embedding": [n, 0.5, -1]});
    let records: Vec<Value> = (0..count).map(record).collect();
    json!({"format": "vectorkeep-export", "version": 1,
        "collections": [{"name": "words", "records": records}]})
}

/// The same document as JSON Lines.
fn as_lines(document: &Value) -> String {
    let line = |kind: &str, members: &Value, but: &[&str]| {
        let mut line = json!({"type": kind});
        for (name, value) in members.as_object().unwrap() {
            if !but.contains(&&**name) {
                line[name] = value.clone();
            }
        }
        format!("{line}\n")
    };
    let mut lines = line("export", document, &["collections"]);
    for collection in document["collections"].as_array().unwrap() {
        lines += &line("collection", collection, &["records"]);
        for record in collection["records"].as_array().unwrap() {
            lines += &line("record", record, &[]);
        }
        lines += &line("collection_end", &json!({}), &[]);
    }
    lines + &line("end", &json!({}), &[])
}

/// Records of four components with whatever is hard to keep.
fn special() -> Vec<Record> {
    let metadata = json!({"flag": false, "lowest": i64::MIN, "highest": i64::MAX, "big": 9_007_199_254_740_993_i64,
        "int": 2, "float": 2.0, "zero": -0.0, "tiny": 5e-324, "huge": 1.7976931348623157e308, "text": "",
        "control": "\u{0}\u{1f}", "päge": "ü", "flags": [true, false], "ints": [2, i64::MAX], "floats": [2.0, -0.0, 0.1],
        "texts": ["a", "", "ü"]});
    [
        json!({"id": "typed", "embedding": [-0.0, 1e-45, 0.1, 3.402_823_5e38], "document": "d", "metadata": metadata}),
        json!({"id": "bare", "embedding": [0, 0, 0, 0]}),
        json!({"id": "empty texts", "embedding": [1e-39, -1e-45, 16_777_216.0, -3.402_823_5e38], "document": "", "uri": ""}),
        json!({"id": "𝕏 é e\u{301} \"\\/%2F\n", "embedding": [1, 2, 3, 4], "document": null, "uri": "file:///ü\u{1}\"\\"}),
        json!({"id": "\u{0}\u{1f}", "embedding": [1, 2, 3, 4], "document": "\u{0}\u{2028}\r\nключ"}),
    ]
    .iter()
    .map(parse_record)
    .collect()
}

/// Collections of every kind, each with the database it is in.
async fn with_everything() -> (Service, Vec<(&'static str, Collection)>) {
    let service = Service::with(|config| config.repository.pack_bytes = 65_536).await;
    let tenant = json!({"name": "tenant"});
    service.post("/api/v2/tenants", tenant).await.expect(200);
    let database = json!({"name": "database"});
    let path = "/api/v2/tenants/tenant/databases";
    service.post(path, database).await.expect(200);

    let body = json!({"name": "words", "metadata": {"text": "ü", "int": 1, "float": 2.0, "flag": true},
        "configuration": {"hnsw": {"space": "ip"}}});
    let words = service.create_in(DEFAULT_NAMESPACE, body).await;
    words.add(&wordnet_50()).await;
    words.delete(json!({"where": {"pos": "adverb"}})).await;
    words.upsert(&wordnet_50()).await;
    let body = json!({"name": "exact",
        "configuration": {"hnsw": {"space": "cosine", "ef_search": 33, "max_neighbors": 7, "sync_threshold": 500},
            "embedding_function": {"type": "known", "name": "mine", "config": {"z": [1.5, {"x": null}], "a": 2.0}}}});
    let exact = service.create_in(DEFAULT_NAMESPACE, body).await;
    exact.add(&special()).await;
    let many = service.create_in(ELSEWHERE, json!({"name": "many"})).await;
    many.add(&numbered("m", 2_500)).await;
    many.delete(json!({"where": {"n": {"$lt": 20}}})).await;
    many.add(&numbered("m", 20)).await;
    let empty = service.create("empty").await;
    let emptied = service.create("emptied").await;
    emptied.add(&numbered("e", 5)).await;
    emptied.delete(json!({"where": {"n": {"$gte": 0}}})).await;
    let collections = [words, exact, empty, emptied].map(|here| (DEFAULT_NAMESPACE, here));
    let collections = collections.into_iter().chain([(ELSEWHERE, many)]);
    (service, collections.collect())
}

/// What a backup holds, apart from ids and moments.
fn held(backup: &Value) -> BTreeMap<String, Value> {
    let collections = backup["collections"].as_array().unwrap().iter();
    collections
        .map(|collection| {
            let of = |members: &[&str]| -> Vec<Value> {
                members
                    .iter()
                    .map(|member| collection[*member].clone())
                    .collect()
            };
            let name = json!(of(&["tenant", "database", "name"])).to_string();
            (
                name,
                json!(of(&["records", "dimension", "space", "digest"])),
            )
        })
        .collect()
}

/// The text of an export: its collections, and its other members but the backup.
fn as_it_stands(document: &[u8]) -> (BTreeSet<String>, BTreeMap<String, String>) {
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(document).unwrap();
    members.remove("backup").unwrap();
    let collections = members.remove("collections").unwrap();
    let collections: Vec<Box<RawValue>> = serde_json::from_str(collections.get()).unwrap();
    let collections = collections.iter().map(|raw| raw.get().to_owned());
    let others = members.iter();
    let others = others.map(|(name, raw)| (name.clone(), raw.get().to_owned()));
    (collections.collect(), others.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_comes_back_in_every_bit_in_either_form() {
    let (service, collections) = with_everything().await;
    let original = service.backup(json!({})).await;
    let document = as_it_stands(&export(&service, &original, "json").await);
    assert_eq!(document.0.len(), collections.len());
    let mut made = Vec::new();
    for (format, media_type) in [("json", JSON), ("jsonl", JSON_LINES)] {
        let body = export(&service, &original, format).await;
        let backup = imported(&service, media_type, body).await;
        let id = text(&backup["id"]);
        assert_ne!(backup["id"], original["id"]);
        assert_eq!(backup["records"], original["records"]);
        assert_eq!(held(&backup), held(&original), "{format}");
        exported(&service, &id, "").await;
        let again = as_it_stands(&export(&service, &backup, "json").await);
        assert!(again == document, "another export after {format}");
        let verify = format!("/backups/{id}/verify?wait=true");
        service.post(&verify, json!({})).await.ok(200);
        made.push(backup);
    }

    for (round, backup) in (1..).zip(&made) {
        let body = json!({"backup": backup["id"], "on_conflict": "rename"});
        service.post("/restore?wait=true", body).await.ok(200);
        for (namespace, original) in &collections {
            let name = format!("{}-restored-{round}", original.name);
            let copy = service.open_in(namespace, &name).await;
            assert!(copy.dump().await == original.dump().await, "{name}");
            let mut definition = copy.definition().await;
            definition["name"] = json!(original.name);
            assert_eq!(
                definition.to_string(),
                original.definition().await.to_string()
            );
        }
    }
    let body = json!({"backup": made[1]["id"], "on_conflict": "replace",
        "collections": [{"name": "exact"}]});
    service.post("/restore?wait=true", body).await.ok(200);
    let replaced = service.open("exact").await;
    assert_ne!(replaced.id, collections[1].1.id);
    let found: Vec<_> = replaced.records().await;
    let bits = |records: &[Record]| -> Vec<Vec<u32>> {
        let embeddings = records.iter().map(|record| record.embedding.iter());
        embeddings
            .map(|row| row.map(|x| x.to_bits()).collect())
            .collect()
    };
    assert_eq!((&found, bits(&found)), (&special(), bits(&special())));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_backup_of_the_store_starts_from_an_import() {
    let service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("w", 300)).await;
    let first = service.backup(json!({})).await;
    words.delete(json!({"where": {"n": {"$lt": 100}}})).await;
    let import = imported(&service, JSON, export(&service, &first, "json").await).await;
    words.add(&numbered("later", 5)).await;
    let next = service.backup(json!({})).await;
    assert_ne!(next["parent"], import["id"]);
    let found = exported(&service, &text(&next["id"]), "").await;
    assert_eq!(found["words"], words.records().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_lines_say_the_same_as_the_json() {
    let (service, _) = with_everything().await;
    let backup = service.backup(json!({})).await;
    let id = text(&backup["id"]);
    let path = format!("/backups/{id}/export?format=jsonl");
    let answer = service.get(&path).await.expect(200);
    assert_eq!(answer.header("content-type"), Some(JSON_LINES));
    let disposition = format!("attachment; filename=\"{id}.jsonl\"");
    assert_eq!(answer.header("content-disposition"), Some(&*disposition));
    assert!(answer.text().ends_with('\n'));
    let lines = answer.text();
    let parsed = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let mut lines: Vec<Value> = parsed.collect();

    let head = lines.remove(0);
    assert_eq!(
        (&head["type"], &head["format"], &head["version"]),
        (&json!("export"), &json!("vectorkeep-export"), &json!(1))
    );
    assert_eq!(head["backup"], backup);
    assert_eq!(lines.pop().unwrap()["type"], "end");
    let mut collections: Vec<Value> = Vec::new();
    let mut open: Option<Value> = None;
    for mut line in lines {
        let kind = line.as_object_mut().unwrap().remove("type").unwrap();
        match &*text(&kind) {
            "collection" => {
                line["records"] = json!([]);
                assert!(open.replace(line).is_none(), "one in another");
            }
            "record" => {
                let records = open.as_mut().unwrap()["records"].as_array_mut();
                records.unwrap().push(line);
            }
            "collection_end" => {
                let mut collection = open.take().unwrap();
                collection["digest"] = line["digest"].take();
                collections.push(collection);
            }
            other => panic!("{other}"),
        }
    }
    assert!(open.is_none());
    let path = format!("/backups/{id}/export?format=json");
    let document = service.get(&path).await.ok(200);
    assert_eq!(document["collections"], json!(collections));

    let path = format!("/backups/{id}/export?format=jsonl&collection=words");
    let one = service.get(&path).await.expect(200).text();
    let of_kind = |kind: &str| {
        let start = format!("{{\"type\":\"{kind}\"");
        one.lines().filter(|line| line.starts_with(&start)).count()
    };
    let counts = ["export", "collection", "record", "collection_end", "end"].map(of_kind);
    assert_eq!(counts, [1, 1, 50, 1, 1]);
    let path = format!("/backups/{id}/export?format=xml");
    service.get(&path).await.problem(422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_written_by_hand_needs_only_names_ids_and_embeddings() {
    let service = Service::start().await;
    let mut document = minimal(3);
    let mut far = document["collections"][0].clone();
    far["tenant"] = json!("tenant");
    far["database"] = json!("database");
    document["collections"].as_array_mut().unwrap().push(far);
    let plain = service.create("plain").await;
    let records: Vec<Record> = document["collections"][0]["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(parse_record)
        .collect();
    plain.add(&records).await;
    for (media_type, body) in [
        (JSON, document.to_string()),
        (JSON, serde_json::to_string_pretty(&document).unwrap()),
        (JSON_LINES, as_lines(&document)),
    ] {
        let backup = imported(&service, media_type, body).await;
        assert_eq!(backup["records"], 6);
        assert_eq!(
            (&backup["labels"], &backup["pinned"]),
            (&json!({}), &json!(false))
        );
        let body = json!({"backup": backup["id"], "on_conflict": "replace"});
        service.post("/restore?wait=true", body).await.ok(200);
        for namespace in [DEFAULT_NAMESPACE, ELSEWHERE] {
            let words = service.open_in(namespace, "words").await;
            assert_eq!(words.records().await, records);
            let (found, expected) = (words.definition().await, plain.definition().await);
            for member in ["configuration_json", "metadata", "dimension"] {
                assert_eq!(found[member], expected[member], "{member}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_wait_an_import_is_a_job_like_any_other() {
    let service = Service::start().await;
    let answer = send(&service, "", JSON, minimal(3).to_string()).await;
    let answer = answer.expect(202);
    let id = text(&answer.json()["id"]);
    let location = format!("/jobs/{id}");
    assert_eq!(answer.header("location"), Some(&*location));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let job = service.finished(&id).await;
    assert_eq!(
        (&job["kind"], &job["state"]),
        (&json!("import"), &json!("succeeded"))
    );
    let listed = service.get("/backups").await.ok(200);
    assert_eq!(listed["backups"], json!([job["result"]]));
    nothing_left(&service).await;
}
