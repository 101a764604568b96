//! Incremental backups write what changed, restore by themselves, and never start from a state that the
//! store did not have.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vectorkeep::model::record::Record;

use super::exported;
use crate::harness::{Collection, Service, copy_directory, digest, load_20k, numbered, text};

/// What each collection holds now, by name.
async fn live(service: &Service) -> BTreeMap<String, Vec<Record>> {
    let mut found = BTreeMap::new();
    for name in service.names().await {
        let records = service.open(&name).await.records().await;
        found.insert(name, records);
    }
    found
}

async fn assert_holds(service: &Service, backup: &Value, expected: &BTreeMap<String, Vec<Record>>) {
    let found = exported(service, &text(&backup["id"]), "").await;
    assert_eq!(&found, expected, "{}", backup["id"]);
}

/// Restores everything into copies and compares them with what was expected.
async fn assert_restores(
    service: &Service,
    backup: &Value,
    expected: &BTreeMap<String, Vec<Record>>,
) {
    for (name, records) in expected {
        let to = format!("{name}-restored-here");
        let body = json!({"backup": backup["id"], "on_conflict": "replace",
            "collections": [{"name": name, "to": {"name": to}}]});
        service.post("/restore?wait=true", body).await.ok(200);
        assert_eq!(&service.open(&to).await.records().await, records, "{name}");
        service.drop_collection(&to).await;
    }
}

fn of_kind<'a>(backup: &'a Value, kind: &str, parent: Option<&Value>) -> &'a Value {
    assert_eq!(backup["kind"], kind, "{backup}");
    let parent = parent.map_or(Value::Null, |parent| parent["id"].clone());
    assert_eq!(backup["parent"], parent, "{backup}");
    backup
}

/// Updates, inserts and deletes: how many records changed or came, how many went.
async fn change(collection: &Collection, records: &[Record], round: usize) -> (u64, u64) {
    let mut changed: Vec<Record> = records.iter().skip(round).step_by(50).cloned().collect();
    for record in &mut changed {
        record.document = Some(format!("changed in round {round}"));
    }
    collection.upsert(&changed).await;
    let new = numbered(&format!("new-{round}"), 7);
    collection.add(&new).await;
    let gone: Vec<_> = records
        .iter()
        .skip(round + 1)
        .step_by(60)
        .map(|r| &r.id)
        .collect();
    let deleted = collection.delete(json!({"ids": gone})).await;
    (changed.len() as u64 + 7, deleted)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_written_and_each_backup_restores_by_itself() {
    let mut service = Service::start().await;
    let words = service.create("words").await;
    let records = numbered("w", 1_000);
    words.add(&records).await;
    service.create("still").await.add(&numbered("s", 300)).await;
    service.create("empty").await;
    let full = service.backup(json!({})).await;
    of_kind(&full, "full", None);
    assert_eq!(full["new_records"], 1_300);
    let at_full = live(&service).await;

    let (written, deleted) = change(&words, &records, 0).await;
    let first = service.backup(json!({"kind": "incremental"})).await;
    of_kind(&first, "incremental", Some(&full));
    assert_eq!(
        (&first["new_records"], &first["tombstones"]),
        (&json!(written), &json!(deleted))
    );
    assert_eq!(first["records"], 1_300 + 7 - deleted);
    assert!(
        first["new_bytes"].as_u64().unwrap() * 5 < full["new_bytes"].as_u64().unwrap(),
        "{first}"
    );
    let at_first = live(&service).await;

    // The store's own marker outlives a restart.
    service.restart().await;
    let words = words.at(&service);
    let (written, deleted) = change(&words, &records, 2).await;
    service.create("later").await.add(&numbered("l", 20)).await;
    let second = service.backup(json!({})).await;
    of_kind(&second, "incremental", Some(&first));
    assert_eq!(second["new_records"], written + 20);
    assert_eq!(second["tombstones"], deleted);
    let at_second = live(&service).await;
    let nothing = service.backup(json!({})).await;
    of_kind(&nothing, "incremental", Some(&second));
    assert_eq!(nothing["new_records"], 0);
    let manifest = format!("backups/{}.json", text(&nothing["id"]));
    let manifest = service.repository_dir().join(manifest).metadata().unwrap();
    assert_eq!(nothing["new_bytes"], manifest.len());

    for (backup, expected) in [
        (&full, &at_full),
        (&first, &at_first),
        (&second, &at_second),
        (&nothing, &at_second),
    ] {
        assert_holds(&service, backup, expected).await;
        assert_restores(&service, backup, expected).await;
    }
    // No backup needs another's manifest.
    for gone in [&full, &first] {
        let manifest = format!("backups/{}.json", text(&gone["id"]));
        std::fs::remove_file(service.repository_dir().join(manifest)).unwrap();
    }
    assert_restores(&service, &second, &at_second).await;
    let full_again = service.backup(json!({"kind": "full"})).await;
    of_kind(&full_again, "full", None);
    assert_holds(&service, &full_again, &at_second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_parent_incremental_is_refused_and_auto_is_full() {
    let service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("w", 50)).await;
    let jobs = service.get("/jobs").await.ok(200);
    let refused = service
        .post("/backups?wait=true", json!({"kind": "incremental"}))
        .await
        .problem(422);
    assert!(text(&refused["detail"]).contains("full"), "{refused}");
    assert_eq!(service.get("/jobs").await.ok(200), jobs);
    let full = service.backup(json!({"kind": "auto"})).await;
    of_kind(&full, "full", None);

    // A collection made again under its name is another one.
    service.drop_collection("words").await;
    service.create("words").await.add(&numbered("x", 60)).await;
    let again = service.backup(json!({})).await;
    of_kind(&again, "full", None);
    assert_holds(&service, &again, &live(&service).await).await;

    // So is a restored one, in whatever name.
    let body = json!({"backup": full["id"], "on_conflict": "replace"});
    service.post("/restore?wait=true", body).await.ok(200);
    service.open("words").await.add(&numbered("y", 3)).await;
    let restored = service.backup(json!({})).await;
    of_kind(&restored, "full", None);
    assert_holds(&service, &restored, &live(&service).await).await;

    service.post("/api/v2/reset", json!({})).await.expect(200);
    service.create("words").await.add(&numbered("z", 4)).await;
    let reset = service.backup(json!({})).await;
    of_kind(&reset, "full", None);
    assert_holds(&service, &reset, &live(&service).await).await;

    // A parent whose pack is gone serves no more.
    let packs = crate::harness::files_below(&service.repository_dir().join("packs"));
    packs
        .iter()
        .for_each(|pack| std::fs::remove_file(pack).unwrap());
    let whole = service.backup(json!({})).await;
    of_kind(&whole, "full", None);
    assert_holds(&service, &whole, &live(&service).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_directory_never_gives_a_wrong_incremental() {
    let mut service = Service::start().await;
    let words = service.create("words").await;
    let records = numbered("w", 400);
    words.add(&records).await;
    let first = service.backup(json!({})).await;
    change(&words, &records, 0).await;
    service.stop().await;
    let (data, aside) = (service.data_dir().to_owned(), service.scratch("aside"));
    copy_directory(&data, &aside);
    service.resume().await;
    change(&words.at(&service), &records, 1).await;
    let second = service.backup(json!({})).await;
    of_kind(&second, "incremental", Some(&first));
    let at_second = live(&service).await;

    // Back to before the second backup, and on from there in another way.
    service.stop().await;
    std::fs::remove_dir_all(&data).unwrap();
    copy_directory(&aside, &data);
    service.resume().await;
    let words = words.at(&service);
    change(&words, &records, 3).await;
    words.add(&numbered("other", 9)).await;
    let third = service.backup(json!({})).await;
    of_kind(&third, "incremental", Some(&first));
    assert_holds(&service, &third, &live(&service).await).await;
    assert_holds(&service, &second, &at_second).await;

    // Another repository knows nothing of it.
    let mut config = service.config.clone();
    config.repository.url = service.scratch("elsewhere").display().to_string();
    config.repository.begin_new = true;
    service.stop().await;
    service.config = config;
    service.resume().await;
    let elsewhere = service.backup(json!({})).await;
    of_kind(&elsewhere, "full", None);
    assert_holds(&service, &elsewhere, &live(&service).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_of_backups_is_right_and_rewritten_when_much_is_superseded() {
    let service = Service::with(|config| config.storage.max_tombstones = 100).await;
    let words = service.create("words").await;
    let records = numbered("w", 600);
    words.add(&records).await;
    let mut made = vec![(service.backup(json!({})).await, live(&service).await)];
    for round in 0..8 {
        change(&words, &records, round).await;
        made.push((service.backup(json!({})).await, live(&service).await));
    }
    for (backup, expected) in &made {
        assert_holds(&service, backup, expected).await;
        let held = &backup["collections"][0];
        assert_eq!(held["digest"], digest(&expected["words"]));
    }
    assert!(
        made.iter()
            .skip(1)
            .all(|(backup, _)| backup["kind"] == "incremental")
    );

    // Every record once more: from now on the old ones are a burden.
    for turn in 0..2 {
        let mut all = records.clone();
        for record in &mut all {
            record.uri = Some(format!("turn {turn}"));
        }
        words.upsert(&all).await;
        let backup = service.backup(json!({})).await;
        of_kind(
            &backup,
            "incremental",
            made.last().map(|(backup, _)| backup),
        );
        made.push((backup, live(&service).await));
        words.add(&numbered("after", 3)).await;
        let rewritten = service.backup(json!({})).await;
        of_kind(&rewritten, "full", None);
        assert_holds(&service, &rewritten, &live(&service).await).await;
        made.push((rewritten, live(&service).await));
    }

    // More deletions than are remembered: what is not known is copied whole.
    words.add(&numbered("many", 300)).await;
    service.backup(json!({})).await;
    let ids: Vec<_> = numbered("many", 300).into_iter().map(|r| r.id).collect();
    for some in ids.chunks(40) {
        words.delete(json!({"ids": some})).await;
    }
    let whole = service.backup(json!({})).await;
    of_kind(&whole, "full", None);
    assert_holds(&service, &whole, &live(&service).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_is_made_whole_by_the_next_full_backup_and_is_no_parent_once_known() {
    let service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("w", 300)).await;
    let first = service.backup(json!({})).await;
    words.add(&numbered("more", 5)).await;
    let second = service.backup(json!({})).await;
    of_kind(&second, "incremental", Some(&first));
    let verify = async |backup: &Value| {
        let path = format!("/backups/{}/verify?wait=true", text(&backup["id"]));
        service.post(&path, json!({})).await.status
    };
    let packs = crate::harness::files_below(&service.repository_dir().join("packs"));
    let whole: Vec<Vec<u8>> = packs
        .iter()
        .map(|pack| std::fs::read(pack).unwrap())
        .collect();
    for cut in [0, 1] {
        for (pack, whole) in packs.iter().zip(&whole) {
            let mut bytes = whole.clone();
            bytes[100] ^= 1;
            bytes.truncate(whole.len() - cut);
            std::fs::write(pack, bytes).unwrap();
        }
        // What was found in a backup counts for those that started from it.
        assert_eq!(verify(&first).await, 422);
        let next = service.backup(json!({"kind": "auto"})).await;
        of_kind(&next, "full", None);
        assert_eq!(verify(&next).await, 200);
        assert_holds(&service, &next, &live(&service).await).await;
        // The same records give the same pack: damaged as well, it is written again.
        let packs = crate::harness::files_below(&service.repository_dir().join("packs"));
        packs
            .iter()
            .for_each(|pack| std::fs::write(pack, b"rotten").unwrap());
        assert_eq!(verify(&next).await, 422);
        let again = service.backup(json!({"kind": "full"})).await;
        assert_eq!(verify(&again).await, 200);
        assert_eq!(verify(&next).await, 200, "the same pack");
        // The next turn damages what the newest state stands on.
        words.add(&numbered(&format!("turn-{cut}"), 3)).await;
        let on = service.backup(json!({})).await;
        of_kind(&on, "incremental", Some(&again));
        packs
            .iter()
            .for_each(|pack| std::fs::write(pack, b"rotten").unwrap());
        assert_eq!(verify(&again).await, 422);
    }
}

/// 20,000 records of a real embedding model.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the shared test data; .ci/run has it"]
async fn a_change_of_one_percent_costs_about_one_percent() {
    let service = Service::start().await;
    let words = service.create("words").await;
    let ids = load_20k(&words).await;
    let full = service.backup(json!({})).await;
    assert_eq!(full["new_records"], 20_000);
    let updated: Vec<_> = ids.iter().step_by(200).collect();
    let documents = vec!["changed"; updated.len()];
    let update = json!({"ids": updated, "documents": documents});
    words.post("update", update).await.expect(200);
    let inserted: Vec<_> = (0..50).map(|n| format!("new-{n}")).collect();
    let vectors: Vec<_> = (0..50).map(|n| vec![n as f32 / 3.0; 384]).collect();
    let insert = json!({"ids": inserted, "embeddings": vectors});
    words.post("add", insert).await.expect(201);
    let gone: Vec<_> = ids.iter().skip(9).step_by(400).collect();
    assert_eq!(words.delete(json!({"ids": gone})).await, 50);
    let next = service.backup(json!({"kind": "incremental"})).await;
    assert_eq!(
        (&next["new_records"], &next["tombstones"], &next["records"]),
        (&json!(150), &json!(50), &json!(20_000))
    );
    let bytes = |backup: &Value| backup["new_bytes"].as_u64().unwrap();
    let manifest = format!("backups/{}.json", text(&next["id"]));
    let manifest = std::fs::metadata(service.repository_dir().join(manifest)).unwrap();
    let allowed = bytes(&full) * 3 / 100 + manifest.len();
    assert!(bytes(&next) <= allowed, "{next} of {full}");
    // Each by itself: the full one is gone when the other is restored.
    for (backup, name) in [(&full, "first"), (&next, "second")] {
        let body = json!({"backup": backup["id"], "collections": [{"name": "words", "to": {"name": name}}]});
        let restored = service.post("/restore?wait=true", body).await.ok(200);
        let restored = &restored["result"]["collections"][0];
        assert_eq!(restored["digest"], backup["collections"][0]["digest"]);
        assert_eq!(restored["records"], 20_000);
        let path = format!("/backups/{}", text(&backup["id"]));
        service.send("DELETE", &path, None).await.expect(200);
    }
    assert_ne!(
        full["collections"][0]["digest"],
        next["collections"][0]["digest"]
    );
}
