//! Strict requests: what is mistyped or not there yet is refused, and nothing has happened.

use serde_json::{Value, json};

use crate::harness::{Service, numbered, text};

/// An array in the place of an object is a wrong shape, not its members in some order.
#[tokio::test(flavor = "multi_thread")]
async fn arrays_do_not_pass_for_objects() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 3)).await;
    service.backup(json!({})).await;
    let before = service.get("/jobs").await.ok(200);
    let end = |name: &str| json!({"collection": name});
    let mut taken = Vec::new();
    for (path, body) in [
        ("/backups", json!([])),
        ("/backups", json!([null])),
        ("/backups", json!([null, "full", {}, false])),
        (
            "/backups",
            json!({"collections": [["default_tenant", "default_database", "words"]]}),
        ),
        ("/restore", json!(["latest", null, "rename"])),
        (
            "/restore",
            json!({"backup": "latest", "on_conflict": "rename", "collections": [["default_tenant", "default_database", "words", {}]]}),
        ),
        (
            "/restore",
            json!({"backup": "latest", "collections": [{"name": "words", "to": [null, null, "other"]}]}),
        ),
        ("/migrate", json!([end("words"), end("other"), "fail"])),
        (
            "/migrate",
            json!({"source": ["local", "default_tenant", "default_database", "words"], "target": end("other")}),
        ),
        ("/drills", json!(["latest"])),
    ] {
        let answer = service
            .post(&format!("{path}?wait=true"), body.clone())
            .await;
        if answer.status == 422 {
            answer.problem(422);
        } else {
            taken.push(format!("POST {path} {body}: {}", answer.status));
        }
    }
    assert!(taken.is_empty(), "taken for objects: {taken:#?}");
    assert_eq!(service.get("/jobs").await.ok(200), before);
}

/// A migration that could be made but for one member.
fn migration(member: &str, value: Value) -> Value {
    let mut body = json!({"source": {"collection": "words"}, "target": {"collection": "other"}});
    body[member] = value;
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_members_and_impossible_values_are_named_and_refused() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 3)).await;
    service.backup(json!({})).await;
    let before = (service.names().await, service.get("/jobs").await.ok(200));
    let merge = json!({"backup": "latest", "on_conflict": "merge"});
    for winner in [json!("target"), json!(""), json!(true), json!(["live"])] {
        let mut body = merge.clone();
        body["merge_winner"] = winner;
        let problem = service.post("/restore?wait=true", body).await.problem(422);
        assert!(text(&problem["detail"]).contains("merge_winner"));
    }
    for (path, body, named) in [
        ("/backups", json!({"colections": []}), "colections"),
        (
            "/backups",
            json!({"collections": [{"name": "words", "nmae": "x"}]}),
            "nmae",
        ),
        ("/backups", json!({"collections": [{}]}), "name"),
        ("/backups", json!({"collections": "words"}), "collections"),
        ("/backups", json!({"collections": [{"name": 5}]}), "name"),
        ("/backups", json!({"kind": "partial"}), "kind"),
        ("/backups", json!({"labels": {"a": 1}}), "labels"),
        ("/backups", json!({"pinned": "yes"}), "pinned"),
        (
            "/restore",
            json!({"backup": "latest", "on_conflit": "replace"}),
            "on_conflit",
        ),
        (
            "/restore",
            json!({"backup": "latest", "on_conflict": "overwrite"}),
            "on_conflict",
        ),
        ("/restore", json!({"backup": 7}), "backup"),
        (
            "/restore",
            json!({"backup": "latest", "collections": [{"name": "words", "too": {}}]}),
            "too",
        ),
        (
            "/restore",
            json!({"backup": "latest", "collections": [{"name": "words", "to": {"nmae": "x"}}]}),
            "nmae",
        ),
        (
            "/restore",
            json!({"backup": "latest", "collections": [{"name": "words", "to": null}]}),
            "to",
        ),
        ("/restore", json!({}), "backup"),
        (
            "/restore",
            json!({"backup": "latest", "on_conflict": "replace", "merge_winner": "live"}),
            "merge_winner",
        ),
        (
            "/restore",
            json!({"backup": "latest", "merge_winner": "backup"}),
            "merge_winner",
        ),
        (
            "/restore",
            json!({"backup": "latest", "on_conflict": "merge", "merge_winner": "source"}),
            "merge_winner",
        ),
        (
            "/restore",
            json!({"backup": "latest", "on_conflict": "rename", "ids": "w-00001"}),
            "ids",
        ),
        (
            "/restore",
            json!({"backup": "latest", "on_conflict": "rename", "ids": ["w-00001", 2]}),
            "ids",
        ),
        (
            "/restore",
            json!({"backup": "latest", "on_conflict": "rename", "ids": {"w-00001": true}}),
            "ids",
        ),
        (
            "/restore",
            json!({"backup": "latest", "on_conflict": "rename", "dry_run": "yes"}),
            "dry_run",
        ),
        (
            "/migrate",
            migration("on_conflit", json!("replace")),
            "on_conflit",
        ),
        (
            "/migrate",
            migration("on_conflict", json!("overwrite")),
            "on_conflict",
        ),
        (
            "/migrate",
            migration("merge_winner", json!("source")),
            "merge_winner",
        ),
        (
            "/migrate",
            migration("merge_winner", json!("backup")),
            "merge_winner",
        ),
        ("/migrate", migration("batch_size", json!(0)), "batch_size"),
        ("/migrate", migration("batch_size", json!(-1)), "batch_size"),
        (
            "/migrate",
            migration("batch_size", json!(2.5)),
            "batch_size",
        ),
        (
            "/migrate",
            migration("batch_size", json!(5_001)),
            "batch_size",
        ),
        (
            "/migrate",
            migration("batch_size", json!(u64::MAX)),
            "batch_size",
        ),
        ("/migrate", migration("verify", json!("no")), "verify"),
        ("/migrate", migration("allow_loss", json!(1)), "allow_loss"),
        ("/migrate", migration("dry_run", json!("yes")), "dry_run"),
        ("/migrate", migration("ids", json!(["w-00001"])), "ids"),
        (
            "/migrate",
            migration(
                "target",
                json!({"collection": "x", "url": "http://127.0.0.1"}),
            ),
            "url",
        ),
        (
            "/migrate",
            migration("source", json!({"environment": "local"})),
            "collection",
        ),
        ("/drills", json!({"backp": "latest"}), "backp"),
        ("/drills", json!({"backup": 7}), "backup"),
        (
            "/drills",
            json!({"backup": "latest", "level": "drill"}),
            "level",
        ),
        (
            "/drills",
            json!({"backup": "latest", "collections": []}),
            "collections",
        ),
    ] {
        let problem = service
            .post(&format!("{path}?wait=true"), body.clone())
            .await
            .problem(422);
        let detail = text(&problem["detail"]);
        assert!(detail.contains(named), "POST {path} {body}: {detail}");
    }
    for path in [
        "/backups?limt=3",
        "/backups?limit=x",
        "/backups?limit=-1",
        "/jobs?stat=failed",
        "/jobs?state=broken",
        "/jobs?kind=nothing",
        "/jobs?limit=x",
    ] {
        service.get(path).await.problem(422);
    }
    service
        .post("/backups?wait=perhaps", json!({}))
        .await
        .problem(422);
    assert_eq!(
        (service.names().await, service.get("/jobs").await.ok(200)),
        before
    );
}

/// A drill is no level of verification, and a level of verification is no drill.
#[tokio::test(flavor = "multi_thread")]
async fn levels_of_verification_that_there_are_not_are_refused() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 3)).await;
    let backup = text(&service.backup(json!({})).await["id"]);
    let before = service.get("/jobs").await.ok(200);
    for body in [
        json!({"level": "drill"}),
        json!({"level": "deep"}),
        json!({"level": 3}),
        json!({"level": null}),
        json!({"levle": "records"}),
    ] {
        let path = format!("/backups/{backup}/verify?wait=true");
        let problem = service.post(&path, body.clone()).await.problem(422);
        let detail = text(&problem["detail"]);
        assert!(detail.contains("lev"), "{body}: {detail}");
    }
    assert_eq!(service.get("/jobs").await.ok(200), before);
    let shown = service.get(&format!("/backups/{backup}")).await.ok(200);
    assert_eq!(shown["verification"], Value::Null);
}
