//! Backups: what they answer, what they hold, and that they hold one moment while writes go on.

mod export;
mod ids;
mod import;
mod incremental;
mod locks;
mod lost_header;
mod many;
mod moment;
mod order;
mod retention;
mod standing;
mod vanished;
mod verify;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::{Value, json};
use vectorkeep::model::record::Record;

use crate::harness::{
    DEFAULT_NAMESPACE, Http, Service, assert_members, digest, files_below, numbered, parse_record,
    text, wordnet_50,
};

const JOB: [&str; 12] = [
    "id",
    "kind",
    "state",
    "phase",
    "progress",
    "cancellable",
    "created_at",
    "started_at",
    "finished_at",
    "request",
    "result",
    "problem",
];
const BACKUP: [&str; 22] = [
    "restorable",
    "damaged_packs",
    "damaged_collections",
    "id",
    "as_of",
    "requested_at",
    "kind",
    "parent",
    "created_at",
    "duration_ms",
    "records",
    "new_records",
    "tombstones",
    "raw_bytes",
    "new_bytes",
    "stored_bytes",
    "compression",
    "encrypted",
    "labels",
    "pinned",
    "collections",
    "verification",
];
const BACKUP_COLLECTION: [&str; 9] = [
    "tenant",
    "database",
    "name",
    "id",
    "records",
    "dimension",
    "space",
    "sequence",
    "digest",
];

fn time(value: &Value) -> DateTime<Utc> {
    let text = text(value);
    assert!(text.ends_with('Z'), "not UTC: {text}");
    text.parse().unwrap()
}

fn export_record(record: &Value) -> Record {
    assert_members(record, &["id", "embedding", "document", "uri", "metadata"]);
    parse_record(record)
}

/// The records of each exported collection by its name, held against count and digest of the export.
async fn exported(http: &Http, id: &str, query: &str) -> BTreeMap<String, Vec<Record>> {
    let document = http
        .get(&format!("/backups/{id}/export{query}"))
        .await
        .ok(200);
    assert_members(&document, &["format", "version", "backup", "collections"]);
    assert_eq!(document["format"], "vectorkeep-export");
    assert_eq!(document["version"], 1);
    assert_eq!(
        document["backup"],
        http.get(&format!("/backups/{id}")).await.ok(200)
    );
    let mut by_name = BTreeMap::new();
    for collection in document["collections"].as_array().unwrap() {
        let members = [
            "tenant",
            "database",
            "name",
            "metadata",
            "configuration",
            "dimension",
            "records",
            "digest",
        ];
        assert_members(collection, &members);
        let records: Vec<_> = collection["records"]
            .as_array()
            .unwrap()
            .iter()
            .map(export_record)
            .collect();
        let listed = document["backup"]["collections"].as_array().unwrap();
        let listed = listed
            .iter()
            .find(|listed| listed["name"] == collection["name"])
            .unwrap();
        assert_eq!(listed["records"], records.len());
        assert_eq!(listed["digest"], collection["digest"]);
        assert_eq!(
            collection["digest"],
            digest(&records),
            "{}",
            collection["name"]
        );
        by_name.insert(text(&collection["name"]), records);
    }
    by_name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_says_what_it_holds() {
    let service = Service::start().await;
    let words = service
        .create_in(
            DEFAULT_NAMESPACE,
            json!({"name": "words", "configuration": {"hnsw": {"space": "ip"}}}),
        )
        .await;
    words.add(&wordnet_50()).await;
    words.delete(json!({"where": {"pos": "verb"}})).await;
    let small = service.create("small").await;
    small.add(&numbered("s", 3)).await;
    service.create("empty").await;
    let began = Utc::now();

    let request =
        json!({"labels": {"reason": "test", "päge": "ü"}, "pinned": true, "kind": "full"});
    let answer = service
        .post("/backups?wait=true", request.clone())
        .await
        .expect(201);
    let job = answer.json();
    assert_members(&job, &JOB);
    assert_eq!(
        answer.header("location").unwrap(),
        format!("/jobs/{}", text(&job["id"]))
    );
    assert_eq!(
        (&job["kind"], &job["state"], &job["problem"]),
        (&json!("backup"), &json!("succeeded"), &Value::Null)
    );
    assert_eq!(job["cancellable"], false);
    assert_eq!(job["request"]["labels"], request["labels"]);
    assert_members(&job["progress"], &["done", "total", "unit", "bytes_done"]);
    let times = [
        time(&job["created_at"]),
        time(&job["started_at"]),
        time(&job["finished_at"]),
    ];
    assert!(
        times.is_sorted() && times[0] >= began && times[2] <= Utc::now(),
        "{times:?}"
    );
    assert_eq!(
        service
            .get(&format!("/jobs/{}", text(&job["id"])))
            .await
            .ok(200)["result"],
        job["result"]
    );

    let backup = &job["result"];
    assert_members(backup, &BACKUP);
    let id = text(&backup["id"]);
    assert_eq!(
        *backup,
        service.get(&format!("/backups/{id}")).await.ok(200)
    );
    let named =
        NaiveDateTime::parse_from_str(&id, "backup_%Y-%m-%d_%H-%M-%S").expect("the id is its time");
    assert_eq!(
        named.and_utc().timestamp(),
        time(&backup["created_at"]).timestamp()
    );
    assert_eq!(backup["as_of"], backup["created_at"]);
    let moments = [time(&backup["requested_at"]), time(&backup["as_of"])];
    assert!(moments.is_sorted(), "{moments:?}");
    let records = words.records().await;
    assert!(records.len() < 50, "something was deleted");
    assert_eq!(backup["kind"], "full");
    assert_eq!(backup["parent"], Value::Null);
    assert_eq!(backup["verification"], Value::Null);
    assert_eq!(backup["records"], records.len() + 3);
    assert_eq!(backup["new_records"], records.len() + 3);
    assert_eq!(
        (
            &backup["compression"],
            &backup["encrypted"],
            &backup["pinned"]
        ),
        (&json!("zstd"), &json!(false), &json!(true))
    );
    assert_eq!(backup["labels"], request["labels"]);
    let vectors: usize = records
        .iter()
        .map(|record| record.embedding.len() * 4)
        .sum();
    assert!(backup["raw_bytes"].as_u64().unwrap() as usize > vectors);
    let packs = files_below(&service.repository_dir().join("packs"));
    let stored: u64 = packs
        .iter()
        .map(|pack| pack.metadata().unwrap().len())
        .sum();
    assert_eq!(backup["stored_bytes"], stored);
    // With its manifest.
    let manifest = format!("backups/{}.json", text(&backup["id"]));
    let manifest = service.repository_dir().join(manifest).metadata().unwrap();
    assert_eq!(backup["new_bytes"], stored + manifest.len());

    let collections = backup["collections"].as_array().unwrap();
    assert_eq!(collections.len(), 3);
    let found = |name: &str| {
        collections
            .iter()
            .find(|listed| listed["name"] == name)
            .unwrap()
    };
    collections
        .iter()
        .for_each(|listed| assert_members(listed, &BACKUP_COLLECTION));
    let listed = found("words");
    assert_eq!(listed["id"], words.id);
    assert_eq!(
        (&listed["tenant"], &listed["database"]),
        (&json!("default_tenant"), &json!("default_database"))
    );
    assert_eq!(
        (&listed["dimension"], &listed["space"], &listed["records"]),
        (&json!(384), &json!("ip"), &json!(records.len()))
    );
    assert_eq!(listed["digest"], digest(&records));
    assert!(listed["sequence"].as_u64().unwrap() > 0);
    assert_eq!(
        (&found("small")["dimension"], &found("small")["digest"]),
        (&json!(8), &json!(digest(&small.records().await)))
    );
    assert_eq!(
        (&found("empty")["dimension"], &found("empty")["records"]),
        (&Value::Null, &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_wait_the_job_is_answered_and_can_be_followed() {
    let service = Service::start().await;
    service.create("words").await.add(&wordnet_50()).await;
    let answer = service.send("POST", "/backups", None).await.expect(202);
    assert_eq!(answer.header("retry-after"), Some("1"));
    let job = answer.json();
    assert_members(&job, &JOB);
    let id = text(&job["id"]);
    assert_eq!(answer.header("location").unwrap(), format!("/jobs/{id}"));
    let job = service.finished(&id).await;
    assert_eq!(job["state"], "succeeded");
    assert_eq!(job["progress"]["total"], job["progress"]["done"], "{job}");
    let backup = service
        .get(&format!("/backups/{}", text(&job["result"]["id"])))
        .await
        .ok(200);
    assert_eq!(backup, job["result"]);
    assert_eq!(backup["records"], 50);
    assert_eq!(backup["pinned"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_selected_is_backed_up() {
    let service = Service::start().await;
    service
        .post("/api/v2/tenants", json!({"name": "tenant"}))
        .await
        .expect(200);
    service
        .post(
            "/api/v2/tenants/tenant/databases",
            json!({"name": "database"}),
        )
        .await
        .expect(200);
    let elsewhere = "/api/v2/tenants/tenant/databases/database";
    let far = service.create_in(elsewhere, json!({"name": "words"})).await;
    far.add(&numbered("far", 4)).await;
    service
        .create("words")
        .await
        .add(&numbered("near", 3))
        .await;
    service.create("other").await.add(&numbered("o", 2)).await;

    let reference = json!({"tenant": "tenant", "database": "database", "name": "words"});
    let backup = service.backup(json!({"collections": [reference]})).await;
    assert_eq!(
        (&backup["records"], &backup["collections"][0]["id"]),
        (&json!(4), &json!(far.id))
    );
    assert_eq!(backup["collections"].as_array().unwrap().len(), 1);
    let backup = service
        .backup(json!({"collections": [{"name": "words"}, {"name": "other"}, {"name": "other"}]}))
        .await;
    assert_eq!(
        backup["records"], 5,
        "one that is named twice is there once"
    );

    let before = service.get("/backups").await.ok(200);
    for unknown in [
        json!({"name": "nobody"}),
        json!({"tenant": "nobody", "name": "words"}),
        json!({"database": "database", "name": "words"}),
    ] {
        let problem = service
            .post(
                "/backups?wait=true",
                json!({"collections": [{"name": "words"}, unknown]}),
            )
            .await
            .problem(404);
        assert!(text(&problem["type"]).ends_with("/not-found"));
    }
    assert_eq!(service.get("/backups").await.ok(200), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_filtered_and_walked_newest_first() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 3)).await;
    service.create("other").await;
    let nothing = service.get("/backups").await.ok(200);
    assert_eq!(
        (&nothing["backups"], &nothing["next_cursor"]),
        (&json!([]), &Value::Null)
    );
    let mut made = Vec::new();
    // Fast enough that two fall into one second at once, and again until they do.
    while made.len() < 7 || !made.iter().any(|id: &String| id.ends_with("-2")) {
        assert!(made.len() < 200, "never two in one second: {made:?}");
        let name = if made.len() % 2 == 0 {
            "words"
        } else {
            "other"
        };
        let labels = json!({"number": (made.len() % 3).to_string(), "with:colon": "a:b"});
        let backup = service
            .backup(json!({"collections": [{"name": name}], "labels": labels}))
            .await;
        made.push(text(&backup["id"]));
    }
    made.reverse();
    assert_eq!(made.iter().collect::<BTreeSet<_>>().len(), made.len());
    for id in &made {
        let (seconds, suffix) = id.split_at("backup_2026-11-23_10-30-00".len());
        NaiveDateTime::parse_from_str(seconds, "backup_%Y-%m-%d_%H-%M-%S").unwrap();
        assert!(
            suffix.is_empty()
                || suffix
                    .strip_prefix('-')
                    .is_some_and(|n| n.parse::<u32>().unwrap() >= 2),
            "{id}"
        );
    }
    let walk = async |query: &str, limit: usize| {
        let (mut ids, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = service
                .get(&format!("/backups?limit={limit}{query}{cursor}"))
                .await
                .ok(200);
            let found = page["backups"].as_array().unwrap();
            found
                .iter()
                .for_each(|backup| assert_members(backup, &BACKUP));
            assert!(found.len() <= limit);
            ids.extend(found.iter().map(|backup| text(&backup["id"])));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return ids,
            }
        }
    };
    for limit in [1, 3, made.len(), 500] {
        assert_eq!(walk("", limit).await, made, "pages of {limit}");
    }
    let every = |offset: usize, step: usize| {
        let mut ids: Vec<_> = made
            .iter()
            .rev()
            .skip(offset)
            .step_by(step)
            .cloned()
            .collect();
        ids.reverse();
        ids
    };
    assert_eq!(walk("&collection=other", 2).await, every(1, 2));
    assert_eq!(walk("&label=number:2", 2).await, every(2, 3));
    assert_eq!(
        walk("&label=number:0&collection=words", 1).await,
        every(0, 6)
    );
    assert!(walk("&label=number:9", 2).await.is_empty());
    assert!(walk("&collection=nobody", 2).await.is_empty());
    for id in [
        "backup_2026-11-23_10-30-00",
        "nobody",
        "..",
        "repository.json",
        "%2e%2e%2frepository",
    ] {
        service
            .get(&format!("/backups/{id}/export"))
            .await
            .problem(404);
        if id != ".." {
            service.get(&format!("/backups/{id}")).await.problem(404);
        }
    }
    service.get("/backups?cursor=nobody").await.problem(422);
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_stands_for_the_newest_backup_wherever_one_is_named() {
    let service = Service::start().await;
    let words = service.create("words").await;
    service.get("/backups/latest").await.problem(404);
    service
        .post("/backups/latest/verify", json!({}))
        .await
        .problem(404);
    let mut made = Vec::new();
    for prefix in ["a", "b"] {
        words.add(&numbered(prefix, 3)).await;
        made.push(text(&service.backup(json!({})).await["id"]));
    }
    let latest = || async { text(&service.get("/backups/latest").await.ok(200)["id"]) };
    assert_eq!(latest().await, made[1]);
    let verified = service
        .post("/backups/latest/verify?wait=true", json!({}))
        .await
        .ok(200);
    assert_eq!(verified["result"]["backup"], json!(made[1]));
    let exported = service.get("/backups/latest/export").await.ok(200);
    assert_eq!(exported["backup"]["id"], json!(made[1]));
    let body = json!({"labels": {"kept": "yes"}});
    let changed = service
        .send("PATCH", "/backups/latest", Some(&body))
        .await
        .ok(200);
    assert_eq!(changed["id"], json!(made[1]));
    let gone = service
        .send("DELETE", "/backups/latest", None)
        .await
        .ok(200);
    assert_eq!(gone["deleted"], json!(made[1]));
    assert_eq!(latest().await, made[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_made_at_the_same_time_get_ids_of_their_own() {
    let service = Service::with(|config| config.jobs.backup_workers = 4).await;
    let words = service.create("words").await;
    words.add(&numbered("w", 200)).await;
    let backups = futures::future::join_all((0..8).map(|_| service.backup(json!({})))).await;
    let ids: BTreeSet<String> = backups.iter().map(|backup| text(&backup["id"])).collect();
    assert_eq!(ids.len(), 8);
    for id in &ids {
        assert_eq!(
            exported(&service, id, "").await["words"],
            numbered("w", 200)
        );
    }
    let listed = service.get("/backups").await.ok(200);
    assert_eq!(listed["backups"].as_array().unwrap().len(), 8);
}

/// For tests: it ends with the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_in_memory_does_all_but_last() {
    let mut service = Service::with(|config| config.repository.url = "memory://".to_owned()).await;
    let words = service.create("words").await;
    words.add(&numbered("w", 20)).await;
    let first = service.backup(json!({})).await;
    words.upsert(&numbered("w", 3)).await;
    let second = service.backup(json!({})).await;
    assert_eq!(second["kind"], "incremental");
    let path = format!("/backups/{}", text(&first["id"]));
    service.send("DELETE", &path, None).await.expect(200);
    let path = format!("/backups/{}/verify?wait=true", text(&second["id"]));
    service.post(&path, json!({})).await.expect(200);
    let found = exported(&service, &text(&second["id"]), "").await;
    assert_eq!(found["words"], words.records().await);
    service.restart().await;
    let listed = service.get("/backups").await.ok(200);
    assert_eq!(listed["backups"], json!([]));
    // What the store's marker names is not there: the next one is full.
    assert_eq!(service.backup(json!({})).await["kind"], "full");
}
