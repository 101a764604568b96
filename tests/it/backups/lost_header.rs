//! `repository.json` is gone, and the backups are there.

use std::fs;

use serde_json::json;

use crate::harness::{Service, eventually, files_below, numbered, text};

/// A new identity beside thirty good backups made strangers of them, and pruning advised to delete them.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_is_begun_beside_backups_without_their_header() {
    let mut service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("w", 20)).await;
    let made = text(&service.backup(json!({})).await["id"]);
    service.stop().await;
    let header = service.repository_dir().join("repository.json");
    let content = fs::read(&header).unwrap();
    fs::remove_file(&header).unwrap();
    let files = files_below(&service.repository_dir());
    service.resume().await;
    for (method, path) in [
        ("GET", "/backups"),
        ("POST", "/backups?wait=true"),
        ("POST", "/backups/latest/verify?wait=true"),
    ] {
        let answer = service.send(method, path, None).await;
        let status = answer.status;
        assert!(status >= 500, "{path}: {}", answer.text());
        let detail = text(&answer.problem(status)["detail"]);
        let id = serde_json::from_slice::<serde_json::Value>(&content).unwrap();
        let id = text(&id["repository_id"]);
        assert!(
            detail.contains("repository.json") && detail.contains(&id),
            "{path} does not say what to put back: {detail}"
        );
    }
    assert_eq!(files_below(&service.repository_dir()), files);
    // Data is served all the same.
    words.at(&service).add(&numbered("more", 3)).await;

    // Put back, it is found without a restart.
    fs::write(&header, content).unwrap();
    let latest = eventually("the repository", async || {
        let answer = service.get("/backups/latest").await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!(text(&latest["id"]), made);
}
