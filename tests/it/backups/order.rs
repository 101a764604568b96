//! A backup is of the moment it says, and that moment, with the store's sequence, decides which one is the newest: not the clock.

use std::fs;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::time;
use crate::harness::{Service, copy_directory, numbered, text};

/// Puts a backup like another beside it, with other members in its manifest.
fn planted(service: &Service, like: &str, id: &str, members: &Value) -> String {
    let backups = service.repository_dir().join("backups");
    let envelope = fs::read(backups.join(format!("{like}.json"))).unwrap();
    let mut envelope: Value = serde_json::from_slice(&envelope).unwrap();
    let manifest = envelope["manifest"].as_object_mut().unwrap();
    manifest.insert("id".to_owned(), json!(id));
    for (name, value) in members.as_object().unwrap() {
        manifest.insert(name.clone(), value.clone());
    }
    let inner = envelope["manifest"].to_string();
    let hash = blake3::hash(inner.as_bytes()).to_hex().to_string();
    let text = format!("{{\"manifest\":{inner},\"blake3\":\"{hash}\"}}");
    fs::write(backups.join(format!("{id}.json")), text).unwrap();
    id.to_owned()
}

fn sequence_of(service: &Service, id: &str) -> u64 {
    let path = service.repository_dir().join(format!("backups/{id}.json"));
    let envelope: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    envelope["manifest"]["sequence"].as_u64().unwrap()
}

async fn listed(service: &Service) -> Vec<String> {
    let listed = service.get("/backups").await.ok(200);
    let listed = listed["backups"].as_array().unwrap();
    listed.iter().map(|backup| text(&backup["id"])).collect()
}

/// What a selector names: the same wherever it stands.
async fn named(service: &Service, selector: &str) -> String {
    let id = text(&service.get(&format!("/backups/{selector}")).await.ok(200)["id"]);
    let plan = json!({"backup": selector, "on_conflict": "rename", "dry_run": true});
    let plan = service.post("/restore", plan).await.ok(200);
    assert_eq!(plan["backup"], json!(id));
    let path = format!("/backups/{selector}/verify?wait=true");
    let verified = service.post(&path, json!({"level": "manifest"})).await;
    assert_eq!(verified.ok(200)["result"]["backup"], json!(id));
    let drilled = service
        .post("/drills?wait=true", json!({"backup": selector}))
        .await;
    assert_eq!(drilled.ok(200)["result"]["backup"], json!(id));
    let exported = service
        .get(&format!("/backups/{selector}/export"))
        .await
        .ok(200);
    assert_eq!(exported["backup"]["id"], json!(id));
    let patched = service
        .send(
            "PATCH",
            &format!("/backups/{selector}"),
            Some(&json!({"pinned": false})),
        )
        .await;
    assert_eq!(patched.ok(200)["id"], json!(id));
    id
}

async fn backed_up(service: &Service) -> String {
    let words = service.create("words").await;
    words.add(&numbered("w", 20)).await;
    text(&service.backup(json!({})).await["id"])
}

/// A long wait between the request and the moment: "restore the state before the damage" must not bring it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_waited_says_the_moment_that_it_holds() {
    let service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("before", 3)).await;
    let locks = service.repository_dir().join("locks");
    fs::create_dir_all(&locks).unwrap();
    let lock = locks.join("exclusive-another-service");
    fs::write(&lock, b"").unwrap();
    let asked = Utc::now();
    let job = service.post("/backups", json!({})).await.ok(202);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    words.add(&numbered("damage", 1)).await;
    let written = Utc::now();
    fs::remove_file(&lock).unwrap();
    let job = service.finished(&text(&job["id"])).await;
    let backup = &job["result"];
    assert_eq!(
        backup["records"], 4,
        "it holds what was written while it waited: {job}"
    );
    let (requested_at, as_of) = (time(&backup["requested_at"]), time(&backup["as_of"]));
    assert!(requested_at >= asked && requested_at < written - TimeDelta::seconds(1));
    assert!(as_of >= written, "{backup}");
    assert_eq!(backup["created_at"], backup["as_of"]);
    let second = as_of.format("backup_%Y-%m-%d_%H-%M-%S").to_string();
    assert!(text(&backup["id"]).starts_with(&second), "{backup}");
    let before = format!(
        "before:{}",
        written.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
    );
    service
        .get(&format!("/backups/{before}"))
        .await
        .problem(404);
}

/// A manifest of an earlier version says neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_without_the_new_members_answers_with_its_time() {
    let service = Service::start().await;
    let id = backed_up(&service).await;
    let path = service.repository_dir().join(format!("backups/{id}.json"));
    let mut envelope: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let manifest = envelope["manifest"].as_object_mut().unwrap();
    for new in ["requested_at", "line", "tenants"] {
        assert!(manifest.remove(new).is_some(), "{new}");
    }
    let inner = envelope["manifest"].to_string();
    let hash = blake3::hash(inner.as_bytes()).to_hex().to_string();
    fs::write(
        &path,
        format!("{{\"manifest\":{inner},\"blake3\":\"{hash}\"}}"),
    )
    .unwrap();
    let backup = service.get(&format!("/backups/{id}")).await.ok(200);
    for member in ["as_of", "requested_at"] {
        assert_eq!(backup[member], backup["created_at"]);
    }
    assert_eq!(named(&service, &id).await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_dated_in_the_future_owns_nothing() {
    let service = Service::start().await;
    let real = backed_up(&service).await;
    let sequence = sequence_of(&service, &real);
    let ahead = Utc::now() + TimeDelta::days(365);
    // Of the same store, made before; and of no store: there only the clock speaks.
    let members = json!({"created_at": ahead, "sequence": sequence - 1});
    let future = planted(&service, &real, "backup_2998-11-23_10-30-00", &members);
    let members = json!({"created_at": ahead, "sequence": 0, "store_id": uuid::Uuid::nil()});
    let imported = planted(&service, &real, "backup_2999-11-23_10-30-00", &members);
    assert_eq!(named(&service, "latest").await, real);
    assert_eq!(named(&service, "before:2997-01-01T00:00:00Z").await, real);
    assert_eq!(
        listed(&service).await,
        [imported.clone(), real.clone(), future.clone()]
    );
    // Named by their ids they are there.
    for id in [&future, &imported] {
        assert_eq!(named(&service, id).await, *id);
    }
    for id in [&future, &imported, &real] {
        let path = format!("/backups/{id}/verify?wait=true");
        service.post(&path, json!({})).await.expect(200);
    }
    let seen = service
        .app()
        .repository()
        .map(|repository| tokio::task::block_in_place(|| repository.backups_seen()).unwrap());
    let seen = seen.unwrap();
    assert_eq!(seen.newest, Some(real.clone()));
    assert_eq!(seen.verified.map(|verified| verified.id), Some(real));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_does_not_hide_the_newer_state() {
    let service = Service::start().await;
    let first = backed_up(&service).await;
    let sequence = sequence_of(&service, &first);
    let moment = time(&service.get(&format!("/backups/{first}")).await.ok(200)["as_of"]);
    let back = moment - TimeDelta::hours(5);
    let members = json!({"created_at": back, "sequence": sequence + 10});
    let newer = planted(&service, &first, "backup_2020-01-01_00-00-00", &members);
    assert_eq!(listed(&service).await, [newer.clone(), first.clone()]);
    assert_eq!(named(&service, "latest").await, newer);
    // The moment that is asked for is one of the clock.
    let before = format!(
        "before:{}",
        (back - TimeDelta::hours(1)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    );
    service
        .get(&format!("/backups/{before}"))
        .await
        .problem(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_of_a_time_names_the_newest_restorable_state_of_then() {
    let service = Service::start().await;
    let now = backed_up(&service).await;
    let at = |text: &str| -> DateTime<Utc> { text.parse().unwrap() };
    let mut made = Vec::new();
    for (number, moment) in [
        "2026-03-01T10:00:00Z",
        "2026-03-02T10:00:00Z",
        "2026-03-03T10:00:00Z",
    ]
    .into_iter()
    .enumerate()
    {
        let id = at(moment).format("backup_%Y-%m-%d_%H-%M-%S").to_string();
        let members = json!({"created_at": moment, "sequence": number + 1});
        made.push(planted(&service, &now, &id, &members));
    }
    assert_eq!(
        named(&service, "before:2026-03-02T10:00:00Z").await,
        made[1]
    );
    assert_eq!(
        named(&service, "before:2026-03-03T00:00:00+02:00").await,
        made[1]
    );
    assert_eq!(
        named(&service, "before:2026-03-02T09:59:59Z").await,
        made[0]
    );
    assert_eq!(named(&service, "latest").await, now);
    // One whose manifest is damaged, and one of which damage is known, are passed over.
    let path = service
        .repository_dir()
        .join(format!("backups/{}.json", made[1]));
    fs::write(&path, b"{}").unwrap();
    assert_eq!(
        named(&service, "before:2026-03-02T10:00:00Z").await,
        made[0]
    );
    let report = json!({"level": "records", "at": Utc::now(), "ok": false, "checked_records": 0, "checked_bytes": 1});
    let reports = service.repository_dir().join("verifications");
    fs::create_dir_all(&reports).unwrap();
    fs::write(
        reports.join(format!("{}.json", made[2])),
        report.to_string(),
    )
    .unwrap();
    assert_eq!(
        named(&service, "before:2026-03-04T00:00:00Z").await,
        made[0]
    );
    let problem = service
        .get("/backups/before:2026-02-01T00:00:00Z")
        .await
        .problem(404);
    assert!(text(&problem["detail"]).contains("2026-02-01"), "{problem}");
    for bad in ["before:", "before:noon", "before:2026-03-02"] {
        let problem = service.get(&format!("/backups/{bad}")).await.problem(422);
        assert!(text(&problem["detail"]).contains("RFC 3339"), "{problem}");
        service
            .post("/restore", json!({"backup": bad}))
            .await
            .problem(422);
        service
            .post("/drills", json!({"backup": bad}))
            .await
            .problem(422);
    }
}

/// A copy of the data directory was put back: its sequence is behind its own backups.
#[tokio::test(flavor = "multi_thread")]
async fn backups_of_a_store_that_was_set_back_are_newer_than_those_of_before() {
    let mut service = Service::start().await;
    let first = backed_up(&service).await;
    service.stop().await;
    let copy = service.scratch("copy");
    copy_directory(service.data_dir(), &copy);
    service.resume().await;
    let words = service.open("words").await;
    for round in 0..5 {
        words.add(&numbered(&format!("lost-{round}"), 2)).await;
    }
    let lost = text(&service.backup(json!({})).await["id"]);
    service.stop().await;
    fs::remove_dir_all(service.data_dir()).unwrap();
    copy_directory(&copy, service.data_dir());
    service.resume().await;
    service.open("words").await.add(&numbered("new", 1)).await;
    let after = text(&service.backup(json!({})).await["id"]);
    assert!(sequence_of(&service, &after) < sequence_of(&service, &lost));
    assert_eq!(listed(&service).await, [after.clone(), lost, first]);
    assert_eq!(named(&service, "latest").await, after);
    // And so are those after.
    let last = text(&service.backup(json!({})).await["id"]);
    assert_eq!(named(&service, "latest").await, last);
}
