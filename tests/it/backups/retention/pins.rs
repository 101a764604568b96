//! Pins and labels: what may be changed of a backup after it was made.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;

use super::{
    assert_sound, back_up, delete, deleted, files, ids, loaded, manifest_of, packs, patch,
    without_grace,
};
use crate::harness::{Service, numbered, text};

#[tokio::test(flavor = "multi_thread")]
async fn pins_and_labels_are_changed_one_by_one_and_kept() {
    let mut service = Service::start().await;
    service.create("words").await.add(&numbered("w", 3)).await;
    let labels = json!({"reason": "test"});
    let mut expected = service.backup(json!({"labels": labels})).await;
    let id = text(&expected["id"]);
    let manifest = fs::read(manifest_of(&service, &id)).unwrap();
    back_up(&service, json!({})).await;

    expected["pinned"] = json!(true);
    let answer = patch(&service, &id, json!({"pinned": true})).await.ok(200);
    assert_eq!(answer, expected, "the labels stay");
    expected["labels"] = json!({"why": "audit", "päge": "a:b"});
    let body = json!({"labels": expected["labels"]});
    let answer = patch(&service, &id, body).await.ok(200);
    assert_eq!(
        answer, expected,
        "the pin stays, the labels are these alone"
    );
    for _ in 0..2 {
        let shown = service.get(&format!("/backups/{id}")).await.ok(200);
        assert_eq!(shown, expected);
        let listed = service.get("/backups").await.ok(200);
        assert_eq!(listed["backups"][1], expected);
        let found = service.get("/backups?label=why:audit").await.ok(200);
        assert_eq!(found["backups"], json!([expected]));
        let found = service.get("/backups?label=reason:test").await.ok(200);
        assert_eq!(found["backups"], json!([]));
        service.restart().await;
    }

    for (body, named) in [
        (json!({"pined": false}), "pined"),
        (json!({"pinned": false, "label": {}}), "label"),
        (json!({"pinned": "no"}), "pinned"),
        (json!({"labels": {"a": 1}}), "labels"),
    ] {
        let problem = patch(&service, &id, body).await.problem(422);
        assert!(text(&problem["detail"]).contains(named), "{problem}");
    }
    let unknown = "backup_2001-01-01_00-00-00";
    let body = json!({"pinned": true});
    patch(&service, unknown, body).await.problem(404);
    let shown = service.get(&format!("/backups/{id}")).await.ok(200);
    assert_eq!(shown, expected);

    expected["labels"] = json!({});
    let answer = patch(&service, &id, json!({"labels": {}})).await.ok(200);
    assert_eq!(answer, expected);
    let now = fs::read(manifest_of(&service, &id)).unwrap();
    assert_eq!(now, manifest, "a manifest never changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_backup_is_not_deleted_until_it_is_unpinned() {
    let service = without_grace().await;
    let (_, records) = loaded(&service).await;
    let born_pinned = back_up(&service, json!({"pinned": true, "kind": "full"})).await;
    let pinned_later = back_up(&service, json!({"kind": "full"})).await;
    let body = json!({"pinned": true});
    patch(&service, &pinned_later, body).await.ok(200);
    for id in [born_pinned, pinned_later] {
        let before = (ids(&service).await, files(&service));
        delete(&service, &id).await.problem(409);
        assert!((ids(&service).await, files(&service)) == before, "{id}");
        assert_sound(&service, &id, &records).await;
        patch(&service, &id, json!({"pinned": false})).await.ok(200);
        deleted(&service, &id).await;
    }
    assert_eq!(packs(&service), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_bounded_in_bytes() {
    let service = Service::with(|config| config.repository.max_label_bytes = 10).await;
    service.create("words").await.add(&numbered("w", 3)).await;
    let id = back_up(&service, json!({})).await;
    for fits in [
        json!({"k": "123456789"}),
        json!({"k": "üüüü1"}),
        json!({"ab": "cde", "fg": "hij"}),
    ] {
        back_up(&service, json!({"labels": fits})).await;
        let answer = patch(&service, &id, json!({"labels": fits})).await.ok(200);
        assert_eq!(answer["labels"], fits);
    }
    let before = (
        service.get("/backups").await.ok(200),
        service.get("/jobs").await.ok(200),
    );
    for over in [
        json!({"k": "1234567890"}),
        json!({"k": "üüüüü"}),
        json!({"ab": "cde", "fg": "hijk"}),
    ] {
        let body = json!({"labels": over});
        service.post("/backups", body.clone()).await.problem(422);
        patch(&service, &id, body).await.problem(422);
    }
    let after = (
        service.get("/backups").await.ok(200),
        service.get("/jobs").await.ok(200),
    );
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_with_colons_are_found_and_a_label_without_a_value_is_told_the_form() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 3)).await;
    let labels = json!({"reason": "a:b", "url:prod": "http://x", "empty": ""});
    let made = service.backup(json!({"labels": labels})).await;
    service.backup(json!({"labels": {"reason": "a"}})).await;
    for (label, count) in [
        ("reason:a:b", 1),
        ("url:prod:http://x", 1),
        ("empty:", 1),
        ("reason:a", 1),
        ("reason:", 0),
        ("url:prod", 0),
    ] {
        let found = service
            .get(&format!("/backups?label={label}"))
            .await
            .ok(200);
        let found = found["backups"].as_array().unwrap();
        assert_eq!(found.len(), count, "{label}");
        if label != "reason:a" && count > 0 {
            assert_eq!(found[0]["id"], made["id"], "{label}");
        }
    }
    for label in ["reason", ""] {
        let problem = service
            .get(&format!("/backups?label={label}"))
            .await
            .problem(422);
        let detail = text(&problem["detail"]);
        assert!(detail.contains("key:value"), "{detail}");
    }
}
