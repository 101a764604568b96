//! Drills: a restore rehearsed. What it says is what was looked at, damage is found, and nobody sees anything of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use vectorkeep::model::record::Record;

use crate::harness::{
    Collection, DEFAULT_NAMESPACE, Http, Service, assert_members, files_below, numbered, text,
    visible, wordnet_50,
};

const RESULT: [&str; 8] = [
    "backup",
    "ok",
    "collections",
    "checked_records",
    "queries",
    "restore_ms",
    "first_query_ms",
    "problems",
];

/// A drill's job, its result checked; `status` is what the request is answered with.
async fn drilled(http: &Http, body: Option<Value>, status: u16) -> Value {
    let path = "/drills?wait=true";
    let answer = http.send("POST", path, body.as_ref()).await;
    let job = match status {
        200 => answer.ok(200),
        _ => answer.problem(status)["job"].take(),
    };
    assert_eq!(job["kind"], "drill", "{job}");
    let ok = status == 200;
    let state = if ok { "succeeded" } else { "failed" };
    assert_eq!(job["state"], state, "{job}");
    let result = &job["result"];
    assert_members(result, &RESULT);
    assert_eq!(result["ok"], ok, "{job}");
    let problems = result["problems"].as_array().unwrap();
    assert_eq!(problems.is_empty(), ok, "{job}");
    // It stands under its id as it was answered.
    let path = format!("/jobs/{}", text(&job["id"]));
    assert_eq!(http.get(&path).await.ok(200)["result"], *result);
    job
}

async fn backup_of(http: &Http, id: &str) -> Value {
    http.get(&format!("/backups/{id}")).await.ok(200)
}

/// A service with a collection of each space, one of them in another database, and one that is empty of late.
struct Scene {
    service: Service,
    /// Records in the newest backup.
    records: u64,
    backup: String,
}

async fn in_space(
    service: &Service,
    namespace: &str,
    space: &str,
    records: &[Record],
) -> Collection {
    let body = json!({"name": format!("space-{space}"), "metadata": {"a": 1},
        "configuration": {"hnsw": {"space": space}}});
    let collection = service.create_in(namespace, body).await;
    collection.add(records).await;
    collection
}

/// A full backup, and an incremental one with updates, deletions and records that came again.
async fn scene() -> Scene {
    let service = Service::with(|config| config.repository.pack_bytes = 65_536).await;
    let words = in_space(&service, DEFAULT_NAMESPACE, "cosine", &wordnet_50()).await;
    let mut strange = numbered("s", 700);
    strange[3].embedding.fill(0.0);
    strange[4].embedding.fill(1e-45);
    strange[5].embedding.fill(3e38);
    in_space(&service, DEFAULT_NAMESPACE, "l2", &strange).await;
    let databases = "/api/v2/tenants/default_tenant/databases";
    let database = json!({"name": "its-own"});
    service.post(databases, database).await.expect(200);
    let namespace = format!("{databases}/its-own");
    let other = in_space(&service, &namespace, "ip", &numbered("o", 300)).await;
    let emptied = service.create("emptied").await;
    emptied.add(&numbered("e", 5)).await;
    service.backup(json!({})).await;

    words.delete(json!({"where": {"pos": "adverb"}})).await;
    words.add(&wordnet_50()[..10]).await;
    let mut changed = numbered("o", 7);
    for record in &mut changed {
        record.embedding[0] = 9.0;
    }
    other.upsert(&changed).await;
    other.delete(json!({"ids": ["o-00100", "o-00200"]})).await;
    other.add(&numbered("o", 101)[100..]).await;
    emptied.delete(json!({"where": {"n": {"$gte": 0}}})).await;
    let backup = service.backup(json!({})).await;
    assert_eq!(backup["kind"], "incremental");
    Scene {
        records: words.count().await + 700 + 299,
        backup: text(&backup["id"]),
        service,
    }
}

async fn assert_nothing_left(
    service: &mut Service,
    before: &[(String, Value, Vec<u8>)],
    other: &str,
) {
    assert!(
        visible(service).await == *before,
        "a drill changed something"
    );
    let ids = before.iter().map(|(id, ..)| id.clone());
    let ids: BTreeSet<_> = ids.chain([other.to_owned()]).collect();
    service.holds_only(&ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_backup_is_restored_compared_and_asked_and_nobody_sees_it() {
    let Scene {
        mut service,
        records,
        backup,
    } = scene().await;
    let shown = backup_of(&service, &backup).await;
    assert_eq!(shown["verification"], Value::Null);
    assert_eq!(shown["records"], records);
    let before = visible(&service).await;
    let namespace = "/api/v2/tenants/default_tenant/databases/its-own";
    let other = service.open_in(namespace, "space-ip").await;
    let other_dump = other.dump().await;
    for body in [
        None,
        Some(json!({})),
        Some(json!({"backup": "latest"})),
        Some(json!({ "backup": backup })),
    ] {
        let job = drilled(&service, body, 200).await;
        let result = &job["result"];
        assert_eq!(result["backup"], backup);
        assert_eq!(result["collections"], 4);
        assert_eq!(result["checked_records"], records);
        assert!(result["queries"].as_u64().unwrap() >= 3, "{result}");
        assert!(result["restore_ms"].is_u64(), "{result}");
        assert!(result["first_query_ms"].is_u64(), "{result}");
        let listed = service.get("/jobs?kind=drill&limit=1").await.ok(200);
        assert_eq!(listed["jobs"][0]["id"], job["id"]);
    }
    let verification = &backup_of(&service, &backup).await["verification"];
    assert_members(
        verification,
        &["level", "at", "ok", "checked_records", "checked_bytes"],
    );
    assert_eq!(
        (
            &verification["level"],
            &verification["ok"],
            &verification["checked_records"]
        ),
        (&json!("drill"), &json!(true), &json!(records))
    );
    assert!(verification["checked_bytes"].as_u64().unwrap() > 0);
    assert_eq!(other.dump().await, other_dump);
    assert_nothing_left(&mut service, &before, &other.id).await;
    // A look from further away does not replace it, and it is there after a restart.
    let path = format!("/backups/{backup}/verify?wait=true");
    service
        .post(&path, json!({"level": "records"}))
        .await
        .expect(200);
    service.restart().await;
    let verification = &backup_of(&service, &backup).await["verification"];
    assert_eq!(verification["level"], "drill");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_is_rehearsed_as_it_was() {
    let scene = scene().await;
    let service = &scene.service;
    let listed = service.get("/backups").await.ok(200);
    let oldest = text(&listed["backups"][1]["id"]);
    assert_ne!(oldest, scene.backup);
    let body = json!({ "backup": oldest });
    let job = drilled(service, Some(body), 200).await;
    assert_eq!(job["result"]["backup"], oldest);
    assert_eq!(job["result"]["checked_records"], 50 + 700 + 300 + 5);
    let shown = backup_of(service, &scene.backup).await;
    assert_eq!(shown["verification"], Value::Null, "it was the other one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_asked_rightly_is_refused_at_once() {
    let service = Service::start().await;
    let empty = service.post("/drills?wait=true", json!({})).await;
    empty.problem(404);
    service.create("words").await.add(&numbered("w", 5)).await;
    let backup = text(&service.backup(json!({})).await["id"]);
    let jobs = service.get("/jobs").await.ok(200);
    for (body, status) in [
        (json!({"backup": "backup_2001-01-01_00-00-00"}), 404),
        (json!({"backup": "../../etc/passwd"}), 404),
        (json!({"backup": ""}), 404),
        (json!({"backup": null}), 422),
        (json!({"backup": 5}), 422),
        (json!({"backups": "latest"}), 422),
        (json!({"collections": []}), 422),
    ] {
        let shown = body.to_string();
        let answer = service.post("/drills?wait=true", body).await;
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
        answer.problem(status);
    }
    // A drill is no level of verification that could be asked for.
    let path = format!("/backups/{backup}/verify?wait=true");
    let problem = service.post(&path, json!({"level": "drill"})).await;
    let detail = text(&problem.problem(422)["detail"]);
    assert!(detail.contains("level"), "{detail}");
    assert_eq!(service.get("/jobs").await.ok(200), jobs);
    let shown = backup_of(&service, &backup).await;
    assert_eq!(shown["verification"], Value::Null);
}

fn manifest_path(service: &Service, id: &str) -> PathBuf {
    service.repository_dir().join(format!("backups/{id}.json"))
}

fn manifest(service: &Service, id: &str) -> Value {
    let envelope: Value =
        serde_json::from_slice(&fs::read(manifest_path(service, id)).unwrap()).unwrap();
    envelope["manifest"].clone()
}

/// Names of the collections that need a pack.
fn needed_by(manifest: &Value, pack: &str) -> Vec<String> {
    let collections = manifest["collections"].as_array().unwrap();
    let needs = |collection: &&Value| collection["layers"].to_string().contains(pack);
    let needed = collections.iter().filter(needs);
    needed.map(|collection| text(&collection["name"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_damaged_pack_fails_it_and_is_named_with_its_collection() {
    let Scene {
        mut service,
        backup,
        ..
    } = scene().await;
    let before = visible(&service).await;
    let manifest = manifest(&service, &backup);
    let mut damaged = 0;
    for pack in files_below(&service.repository_dir().join("packs")) {
        let name = pack.file_stem().unwrap().to_str().unwrap().to_owned();
        let collections = needed_by(&manifest, &name);
        if collections.is_empty() {
            continue;
        }
        let whole = fs::read(&pack).unwrap();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x10;
        fs::write(&pack, flipped).unwrap();
        let job = drilled(&service, Some(json!({ "backup": backup })), 422).await;
        fs::write(&pack, whole).unwrap();
        let problem = &job["problem"];
        assert!(text(&problem["type"]).ends_with("/backup-corrupt"), "{job}");
        for said in [
            problem["detail"].to_string(),
            job["result"]["problems"].to_string(),
        ] {
            assert!(said.contains(&name), "{name}: {said}");
            let named = collections
                .iter()
                .any(|collection| said.contains(collection));
            assert!(named, "{collections:?}: {said}");
        }
        // What is sound beside it was still restored and counted.
        let others = job["result"]["collections"].as_u64().unwrap();
        assert_eq!(others, 4 - collections.len() as u64, "{job}");
        let verification = &backup_of(&service, &backup).await["verification"];
        assert_eq!(
            (&verification["level"], &verification["ok"]),
            (&json!("drill"), &json!(false))
        );
        damaged += 1;
    }
    assert!(damaged >= 4, "only {damaged} packs are needed");
    // Mended, it goes well again; until that is known `latest` does not mean it.
    let rehearsal = json!({ "backup": backup });
    drilled(&service, Some(rehearsal), 200).await;
    drilled(&service, None, 200).await;
    let verification = &backup_of(&service, &backup).await["verification"];
    assert_eq!(verification["ok"], true);
    let namespace = "/api/v2/tenants/default_tenant/databases/its-own";
    let other = service.open_in(namespace, "space-ip").await.id;
    assert_nothing_left(&mut service, &before, &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_no_drill_at_all() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 5)).await;
    let backup = text(&service.backup(json!({})).await["id"]);
    let path = manifest_path(&service, &backup);
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.replacen("\"records\":5", "\"records\":6", 1)).unwrap();
    let body = json!({ "backup": backup });
    let problem = service.post("/drills?wait=true", body).await.problem(422);
    assert!(
        text(&problem["type"]).ends_with("/backup-corrupt"),
        "{problem}"
    );
    // It is passed over where the newest restorable one is asked for.
    let problem = service.post("/drills?wait=true", json!({})).await;
    let detail = text(&problem.problem(404)["detail"]);
    assert!(detail.contains("1 are damaged"), "{detail}");
}

/// A manifest that says something else, with the right hash for it.
fn forge(service: &Service, id: &str, change: impl FnOnce(&mut Value)) {
    let path = manifest_path(service, id);
    let envelope: Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut inner = envelope["manifest"].clone();
    change(&mut inner["collections"][0]);
    let inner = inner.to_string();
    let hash = blake3::hash(inner.as_bytes()).to_hex().to_string();
    fs::write(
        path,
        format!("{{\"manifest\":{inner},\"blake3\":\"{hash}\"}}"),
    )
    .unwrap();
}

/// What was backed up is not what the manifest says, though every byte is as it was written.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_not_what_the_manifest_says_fails_it() {
    let mut service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("w", 40)).await;
    let backup = text(&service.backup(json!({})).await["id"]);
    let path = manifest_path(&service, &backup);
    let whole = fs::read(&path).unwrap();
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 3] = [
        ("records", |found| found["records"] = json!(41)),
        ("digest", |found| found["digest"] = json!("0".repeat(64))),
        ("definition", |found| {
            found["definition"]["metadata"] = json!({"another": 1});
        }),
    ];
    for (what, change) in changes {
        forge(&service, &backup, change);
        let rehearsal = json!({ "backup": backup });
        let job = drilled(&service, Some(rehearsal), 422).await;
        let problems = job["result"]["problems"].to_string();
        assert!(problems.contains("words"), "{what}: {problems}");
        fs::write(&path, &whole).unwrap();
    }
    drilled(&service, Some(json!({ "backup": backup })), 200).await;
    service.holds_only(&[words.id].into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_the_largest_collection_it_does_not_begin() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 5)).await;
    let backup = text(&service.backup(json!({})).await["id"]);
    let path = manifest_path(&service, &backup);
    let whole = fs::read(&path).unwrap();
    forge(&service, &backup, |found| {
        found["raw_bytes"] = json!(u64::MAX / 8);
    });
    let jobs = service.get("/jobs").await.ok(200);
    let problem = service
        .post("/drills?wait=true", json!({}))
        .await
        .problem(507);
    assert!(
        text(&problem["type"]).ends_with("/insufficient-storage"),
        "{problem}"
    );
    let bytes = |member: &str| problem[member].as_u64().unwrap();
    assert!(
        bytes("needed_bytes") > bytes("available_bytes"),
        "{problem}"
    );
    assert_eq!(service.get("/jobs").await.ok(200), jobs);
    fs::write(&path, whole).unwrap();
    drilled(&service, None, 200).await;
}

/// A restore of nothing shows nothing, and says nothing against the backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_without_records_cannot_be_rehearsed_and_is_not_damaged_by_the_attempt() {
    let service = Service::start().await;
    service.create("words").await;
    let backup = service.backup(json!({})).await;
    let verify = format!("/backups/{}/verify?wait=true", text(&backup["id"]));
    service.post(&verify, json!({})).await.problem(422);
    let before = service.get("/backups").await.ok(200);
    let refused = service
        .post("/drills?wait=true", json!({"backup": "latest"}))
        .await;
    assert!(
        refused
            .problem(422)
            .to_string()
            .contains("nothing to rehearse")
    );
    assert_eq!(service.get("/backups").await.ok(200), before);
}
