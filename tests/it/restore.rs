//! Restoring: every policy, every bit, and nothing at all when the backup is damaged.

mod damage;
mod handles;
mod hostile;
mod merging;
mod namespaces;
mod policies;
mod round_trip;
mod selection;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use vectorkeep::model::record::Record;

use crate::harness::{
    Answer, Collection, DEFAULT_NAMESPACE, Http, Service, assert_members, digest, numbered,
    parse_record, strings, text, visible, wordnet_50,
};

const RESULT: [&str; 3] = ["backup", "collections", "duration_ms"];
const RESTORED: [&str; 11] = [
    "name",
    "to",
    "action",
    "records",
    "inserted",
    "updated",
    "unchanged",
    "skipped",
    "deleted",
    "digest",
    "verified",
];

async fn restore(http: &Http, body: Value) -> Answer {
    http.post("/restore?wait=true", body).await
}

/// The result of a restore that succeeds, its members checked.
async fn restored(http: &Http, body: Value) -> Value {
    let answer = restore(http, body).await.expect(200);
    let mut job = answer.json();
    assert_eq!(
        (&job["kind"], &job["state"], &job["problem"]),
        (&json!("restore"), &json!("succeeded"), &Value::Null)
    );
    assert_eq!(
        answer.header("location").unwrap(),
        format!("/jobs/{}", text(&job["id"]))
    );
    let result = job["result"].take();
    assert_members(&result, &RESULT);
    for collection in result["collections"].as_array().unwrap() {
        assert_members(collection, &RESTORED);
        assert_eq!(collection["verified"], true);
        let counts = ["inserted", "updated", "unchanged"].map(|count| &collection[count]);
        let sum: u64 = counts.into_iter().filter_map(Value::as_u64).sum();
        assert_eq!(collection["records"], sum);
    }
    result
}

async fn assert_equal(found: &Collection, expected: &[Record]) {
    assert_eq!(found.records().await, expected);
    assert_eq!(found.count().await, expected.len() as u64);
}

/// A service with one backup of "words" (50 records, some moved and changed) and "small".
async fn with_backup() -> (Service, Collection, Vec<Record>, String) {
    let service = Service::start().await;
    let words = service.create("words").await;
    words.add(&wordnet_50()).await;
    words.delete(json!({"where": {"pos": "adverb"}})).await;
    words.upsert(&wordnet_50()).await;
    service.create("small").await.add(&numbered("s", 20)).await;
    let records = words.records().await;
    let id = text(&service.backup(json!({})).await["id"]);
    (service, words, records, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_name_is_taken_nothing_changes_under_fail() {
    let (service, words, _, backup) = with_backup().await;
    words.delete(json!({"where": {"pos": "noun"}})).await;
    let before = visible(&service).await;
    for body in [
        json!({"backup": backup}),
        json!({"backup": "latest", "on_conflict": "fail"}),
        json!({"backup": backup, "collections": [{"name": "words"}]}),
    ] {
        let problem = restore(&service, body).await.problem(409);
        assert!(
            text(&problem["type"]).ends_with("/name-conflict"),
            "{problem}"
        );
        let detail = text(&problem["detail"]);
        assert!(
            detail.contains("words") || detail.contains("small"),
            "{detail}"
        );
        assert_eq!(visible(&service).await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rename_finds_the_next_free_name() {
    let (service, words, records, backup) = with_backup().await;
    words.delete(json!({"where": {"pos": "noun"}})).await;
    let before = visible(&service).await;
    for number in 1..=2 {
        let result = restored(&service, json!({"backup": backup, "on_conflict": "rename"})).await;
        assert_eq!(result["backup"], backup);
        let done = result["collections"].as_array().unwrap();
        let done = done
            .iter()
            .find(|collection| collection["name"] == "words")
            .unwrap();
        let name = format!("words-restored-{number}");
        assert_eq!(
            (&done["action"], &done["to"]["name"]),
            (&json!("renamed"), &json!(name))
        );
        assert_eq!(
            (&done["records"], &done["digest"]),
            (&json!(50), &json!(digest(&records)))
        );
        assert_equal(&service.open(&name).await, &records).await;
    }
    let expected = [
        "small",
        "small-restored-1",
        "small-restored-2",
        "words",
        "words-restored-1",
        "words-restored-2",
    ];
    assert_eq!(service.names().await, expected.map(str::to_owned).into());
    let now: Vec<_> = visible(&service).await;
    assert!(
        before.iter().all(|collection| now.contains(collection)),
        "the originals are untouched"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replace_swaps_the_collection_and_its_id() {
    let (mut service, words, records, backup) = with_backup().await;
    words.delete(json!({"where": {"pos": "noun"}})).await;
    words
        .add(&[parse_record(
            &json!({"id": "stray", "embedding": vec![0.5; 384]}),
        )])
        .await;
    let small = service.open("small").await;
    let untouched = small.dump().await;

    let body =
        json!({"backup": "latest", "collections": [{"name": "words"}], "on_conflict": "replace"});
    let result = restored(&service, body).await;
    assert_eq!(result["backup"], backup);
    assert_eq!(result["collections"][0]["action"], "replaced");
    assert_eq!(result["collections"].as_array().unwrap().len(), 1);
    let new = service.open("words").await;
    assert_ne!(new.id, words.id);
    words.post("get", json!({})).await.expect(404);
    words
        .post("add", json!({"ids": ["x"], "embeddings": [vec![0.1; 384]]}))
        .await
        .expect(404);
    assert_equal(&new, &records).await;
    assert_eq!(
        service.names().await,
        ["small", "words"].map(str::to_owned).into()
    );
    assert_eq!(
        (small.dump().await, small.id),
        (untouched, service.open("small").await.id)
    );

    // It goes on like any other: new records behind the restored ones, another backup, a restart.
    let later = parse_record(&json!({"id": "later", "embedding": vec![0.25; 384]}));
    new.add(std::slice::from_ref(&later)).await;
    let expected = [records, vec![later]].concat();
    assert_equal(&new, &expected).await;
    let second = service
        .backup(json!({"collections": [{"name": "words"}]}))
        .await;
    assert_eq!(second["collections"][0]["digest"], digest(&expected));
    service.restart().await;
    assert_equal(&new.at(&service), &expected).await;
    let live = visible(&service)
        .await
        .into_iter()
        .map(|(id, ..)| id)
        .collect();
    service.holds_only(&live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_database_or_tenant_is_made_where_it_is_missing() {
    let (service, _, records, backup) = with_backup().await;
    for (to, namespace, name) in [
        (json!({"name": "elsewhere"}), DEFAULT_NAMESPACE, "elsewhere"),
        (
            json!({"database": "new-database"}),
            "/api/v2/tenants/default_tenant/databases/new-database",
            "words",
        ),
        (
            json!({"tenant": "new tenant", "database": "its-own", "name": "again"}),
            "/api/v2/tenants/new%20tenant/databases/its-own",
            "again",
        ),
    ] {
        let body = json!({"backup": backup, "collections": [{"name": "words", "to": to}]});
        let result = restored(&service, body).await;
        assert_eq!(result["collections"][0]["action"], "created");
        assert_equal(&service.open_in(namespace, name).await, &records).await;
    }
    let tenant = service.get("/api/v2/tenants/new%20tenant").await.ok(200);
    assert_eq!(tenant["name"], "new tenant");
    let databases = service
        .get("/api/v2/tenants/new%20tenant/databases")
        .await
        .ok(200);
    assert_eq!(databases.as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_data_directory_gets_everything_back() {
    let (mut service, words, records, backup) = with_backup().await;
    let definition = words.definition().await;
    service.stop().await;
    let repository = service.config.repository.url.clone();
    let mut fresh = Service::with(|config| config.repository.url = repository).await;
    assert!(fresh.names().await.is_empty());
    assert_eq!(
        fresh.get(&format!("/backups/{backup}")).await.ok(200)["records"],
        70
    );
    restored(&fresh, json!({"backup": "latest"})).await;
    for _ in 0..2 {
        assert_eq!(
            fresh.names().await,
            ["small", "words"].map(str::to_owned).into()
        );
        assert_equal(&fresh.open("words").await, &records).await;
        assert_equal(&fresh.open("small").await, &numbered("s", 20)).await;
        assert_eq!(fresh.open("words").await.definition().await, definition);
        fresh.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_conflict_among_several_changes_none() {
    let (mut service, ..) = with_backup().await;
    service.drop_collection("words").await;
    let before = visible(&service).await;
    // "words" is free, "small" is not.
    restore(&service, json!({"backup": "latest"}))
        .await
        .problem(409);
    assert_eq!(visible(&service).await, before);
    // Two into one place.
    for policy in ["fail", "rename", "replace"] {
        let both = json!([{"name": "words", "to": {"name": "target"}}, {"name": "small", "to": {"name": "target"}}]);
        restore(
            &service,
            json!({"backup": "latest", "collections": both, "on_conflict": policy}),
        )
        .await
        .problem(422);
    }
    // One that the backup does not hold.
    let unknown = json!([{"name": "words"}, {"name": "nobody"}]);
    restore(
        &service,
        json!({"backup": "latest", "collections": unknown}),
    )
    .await
    .problem(404);
    restore(&service, json!({"backup": "backup_2026-11-23_10-30-00"}))
        .await
        .problem(404);
    restore(&service, json!({"backup": "latest", "collections": []}))
        .await
        .problem(422);
    restore(
        &service,
        json!({"backup": "latest", "collections": [{"name": "words", "to": {"name": "a b"}}]}),
    )
    .await
    .problem(422);
    assert_eq!(visible(&service).await, before);
    let live = before.iter().map(|(id, ..)| id.clone()).collect();
    service.holds_only(&live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_exactly() {
    let service = Service::start().await;
    let exact = service
        .create_in(DEFAULT_NAMESPACE, json!({"name": "exact", "metadata": {"text": "ü", "int": 1, "float": 2.0, "flag": true},
            "configuration": {"hnsw": {"space": "cosine", "ef_search": 33, "max_neighbors": 7, "sync_threshold": 500},
                "embedding_function": {"type": "known", "name": "mine", "config": {"deep": [1.5, {"x": null}]}}}}))
        .await;
    let schema = json!({"defaults": {"string": {"string_inverted_index": {"enabled": false, "config": {}}}},
        "keys": {"tag": {"string": {"string_inverted_index": {"enabled": true, "config": {}}}}}});
    let schemed = service
        .create_in(
            DEFAULT_NAMESPACE,
            json!({"name": "schemed", "schema": schema}),
        )
        .await;
    let empty = service.create("empty").await;
    let emptied = service.create("emptied").await;
    emptied.add(&numbered("e", 5)).await;
    emptied.delete(json!({"where": {"n": {"$gte": 0}}})).await;

    let metadata = json!({"bool": false, "int": i64::MIN, "big": 9007199254740993_i64, "float": -0.0, "whole": 3.0, "tiny": 5e-324,
        "huge": 1.7976931348623157e308, "text": "", "control": "\u{0}\u{1f}", "bools": [true], "ints": [1, i64::MAX], "floats": [1.0, 0.1], "texts": ["a", "", "ü"]});
    let embedding = [-0.0, 1e-45, 0.1, 3.402_823_5e38];
    let rows = [
        json!({"id": "typed", "embedding": embedding, "document": "d", "uri": "u", "metadata": metadata}),
        json!({"id": "bare", "embedding": [0, 0, 0, 0]}),
        json!({"id": "empty texts", "embedding": [1, 2, 3, 4], "document": "", "uri": ""}),
        json!({"id": "\u{0}\u{1f}", "embedding": [1, 2, 3, 4], "document": "\u{0}"}),
        json!({"id": "𝕏 é e\u{301} /%2F", "embedding": [1, 2, 3, 4], "document": "ключ".repeat(20_000)}),
        json!({"id": "long", "embedding": [1, 2, 3, 4], "document": "x".repeat(300_000), "metadata": {"long": "y".repeat(50_000)}}),
    ];
    let records: Vec<_> = rows.iter().map(parse_record).collect();
    exact.add(&records).await;
    exact.add(&numbered("filler", 0)).await;
    exact.delete(json!({"ids": ["bare"]})).await;
    exact.add(&records[1..2]).await;
    schemed
        .post(
            "add",
            json!({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"tag": "x", "other": "y"}]}),
        )
        .await
        .expect(201);

    service.backup(json!({})).await;
    restored(
        &service,
        json!({"backup": "latest", "on_conflict": "rename"}),
    )
    .await;
    for original in [&exact, &schemed, &empty, &emptied] {
        let copy = service.open(&format!("{}-restored-1", original.name)).await;
        assert_ne!(copy.id, original.id);
        let mut definition = copy.definition().await;
        definition["name"] = json!(original.name);
        assert_eq!(
            definition.to_string(),
            original.definition().await.to_string()
        );
        assert_eq!(
            copy.dump().await,
            original.dump().await,
            "{}",
            original.name
        );
    }
    let order = [
        "typed",
        "empty texts",
        "\u{0}\u{1f}",
        "𝕏 é e\u{301} /%2F",
        "long",
        "bare",
    ];
    let copy = service.open("exact-restored-1").await;
    assert_eq!(copy.ids(json!({})).await, order);
    let got = copy.records().await;
    assert_eq!(
        got[0]
            .embedding
            .iter()
            .map(|x| x.to_bits())
            .collect::<Vec<_>>(),
        embedding.map(f32::to_bits)
    );
    assert_eq!(
        serde_json::to_string(&got[0].metadata).unwrap(),
        serde_json::to_string(&records[0].metadata).unwrap()
    );
    // The restored schema rules, not only shows.
    let copy = service.open("schemed-restored-1").await;
    assert_eq!(copy.ids(json!({"where": {"tag": "x"}})).await, ["a"]);
    copy.post("get", json!({"where": {"other": "y"}}))
        .await
        .expect(400);
    // A dimension that outlived all records still holds.
    let copy = service.open("emptied-restored-1").await;
    copy.post("add", json!({"ids": ["x"], "embeddings": [[1, 2]]}))
        .await
        .expect(400);
}

/// Two collections are swapped together, again and again, between two states.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_the_old_or_the_new_state_and_never_a_mixture() {
    let service = Service::start().await;
    let mut states = Vec::new();
    for prefix in ["old", "new"] {
        for name in ["left", "right"] {
            let collection = service.create(name).await;
            collection
                .add(&numbered(&format!("{prefix}-{name}"), 400))
                .await;
        }
        states.push(text(&service.backup(json!({})).await["id"]));
        service.post("/api/v2/reset", json!(null)).await.expect(200);
    }
    restored(&service, json!({"backup": states[0]})).await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> =
        (0..3)
            .map(|_| {
                let (http, stop) = (Http::clone(&service), Arc::clone(&stop));
                tokio::spawn(async move {
                    let (mut pairs, mut whole) = (BTreeSet::new(), 0);
                    while !stop.load(Ordering::Relaxed) {
                        let listed = http
                            .get(&format!("{DEFAULT_NAMESPACE}/collections"))
                            .await
                            .ok(200);
                        let id = |name: &str| {
                            let found = listed
                                .as_array()
                                .unwrap()
                                .iter()
                                .find(|found| found["name"] == name);
                            text(
                                &found.unwrap_or_else(|| panic!("{name} was not there: {listed}"))
                                    ["id"],
                            )
                        };
                        pairs.insert((id("left"), id("right")));
                        let left = http.open("left").await;
                        let got = left.post("get", json!({"include": []})).await;
                        if got.status == 404 {
                            continue; // swapped out since it was looked up
                        }
                        let ids = strings(&got.ok(200)["ids"]);
                        let state = ids[0].split_at(3).0.to_owned();
                        let expected: Vec<_> = numbered(&format!("{state}-left"), 400)
                            .into_iter()
                            .map(|r| r.id)
                            .collect();
                        assert_eq!(ids, expected);
                        whole += 1;
                    }
                    (pairs, whole)
                })
            })
            .collect();
    for round in 1..=12 {
        restored(
            &service,
            json!({"backup": states[round % 2], "on_conflict": "replace"}),
        )
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut pairs, mut whole) = (BTreeSet::new(), 0);
    for reader in readers {
        let (seen, read) = reader.await.unwrap();
        pairs.extend(seen);
        whole += read;
    }
    let lefts: BTreeSet<_> = pairs.iter().map(|(left, _)| left).collect();
    let rights: BTreeSet<_> = pairs.iter().map(|(_, right)| right).collect();
    assert!(
        lefts.len() == pairs.len() && rights.len() == pairs.len(),
        "one swapped without the other: {pairs:?}"
    );
    assert!(
        pairs.len() > 3 && whole > 3,
        "too little was read: {} states, {whole} reads",
        pairs.len()
    );
}
