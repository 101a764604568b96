//! Ids say the moment of a backup, and are given once.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::{Service, numbered, text};

/// Makes backups and deletes each before the next one; how many got an id of their own in a second that had one.
async fn made_and_deleted(service: &Service, given: &mut BTreeSet<String>, count: usize) -> usize {
    let mut seconds = BTreeSet::new();
    for _ in 0..count {
        let id = text(&service.backup(json!({})).await["id"]);
        service
            .send("DELETE", &format!("/backups/{id}"), None)
            .await
            .expect(200);
        let (second, _) = id.split_at("backup_2026-11-23_10-30-00".len());
        seconds.insert(second.to_owned());
        assert!(given.insert(id.clone()), "{id} was given twice");
    }
    count - seconds.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_never_given_again_after_a_deletion_in_the_same_second() {
    // With a grace of nothing each deletion collects, which takes the claims in.
    for grace_ms in [0, 3_600_000] {
        let mut service = Service::with(|config| config.repository.grace_ms = grace_ms).await;
        service.create("words").await.add(&numbered("w", 3)).await;
        let mut given = BTreeSet::new();
        let mut shared = 0;
        for _ in 0..20 {
            shared += made_and_deleted(&service, &mut given, 6).await;
            if shared >= 6 {
                break;
            }
        }
        assert!(shared > 0, "never two in one second: {given:?}");
        service.restart().await;
        made_and_deleted(&service, &mut given, 4).await;
    }
}

/// What a clock that was set back asks for: seconds that lie before what was given.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_before_those_that_were_given_gets_a_suffix_of_its_own() {
    let service = Service::with(|config| config.repository.grace_ms = 0).await;
    service.create("words").await.add(&numbered("w", 3)).await;
    let given = json!({"second": "backup_2999-01-01_00-00-00", "suffix": 1, "highest": 7});
    let record = service.repository_dir().join("ids.json");
    std::fs::write(&record, given.to_string()).unwrap();
    let first = text(&service.backup(json!({})).await["id"]);
    assert!(first.ends_with("-8"), "{first}");
    service
        .send("DELETE", &format!("/backups/{first}"), None)
        .await
        .expect(200);
    let second = text(&service.backup(json!({})).await["id"]);
    assert!(second.ends_with("-9"), "{second}");
}
