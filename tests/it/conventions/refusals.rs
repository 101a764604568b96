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

#[tokio::test(flavor = "multi_thread")]
async fn unknown_members_and_impossible_values_are_named_and_refused() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 3)).await;
    service.backup(json!({})).await;
    let before = (service.names().await, service.get("/jobs").await.ok(200));
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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_built_yet_is_refused_and_never_ignored() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 3)).await;
    service.backup(json!({})).await;
    let before = (
        service.names().await,
        service.get("/jobs").await.ok(200),
        service.get("/backups").await.ok(200),
    );
    let restore = |member: &str, value: Value| {
        let mut body = json!({"backup": "latest", "collections": [{"name": "words", "to": {"name": "other"}}]});
        body[member] = value;
        Some(body)
    };
    for (method, path, body) in [
        ("POST", "/drills", Some(json!({}))),
        ("GET", "/metrics", None),
        ("GET", "/jobs?kind=drill", None),
        ("POST", "/restore", restore("on_conflict", json!("skip"))),
        ("POST", "/restore", restore("on_conflict", json!("merge"))),
        ("POST", "/restore", restore("merge_winner", json!("live"))),
        ("POST", "/restore", restore("ids", json!(["w-00001"]))),
        ("POST", "/restore", restore("where", json!({"n": 1}))),
        ("POST", "/restore", restore("dry_run", json!(true))),
        ("POST", "/restore", restore("dry_run", json!(false))),
        (
            "POST",
            "/migrate",
            Some(
                json!({"source": {"collection": "words"}, "target": {"collection": "x"}, "dry_run": true}),
            ),
        ),
    ] {
        service.send(method, path, body.as_ref()).await.problem(422);
    }
    let after = (
        service.names().await,
        service.get("/jobs").await.ok(200),
        service.get("/backups").await.ok(200),
    );
    assert_eq!(after, before);
}
