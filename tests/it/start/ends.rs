//! How the program ends: asked to, under writes, and killed in the middle of a backup.

use std::os::unix::process::ExitStatusExt as _;

use serde_json::json;

use super::Process;
use crate::harness::{Collection, Http, eventually, numbered, text};

/// Adds one record after the other until the service goes away; the ids that were acknowledged.
async fn add_until_gone(collection: Collection, http: Http, writer: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let id = format!("{writer}-{number}");
        let body = json!({"ids": [id], "embeddings": [[writer, number]], "documents": ["text"]});
        let request = http.request("POST", &collection.path("add")).json(&body);
        match Http::try_send(request).await {
            Ok(answer) if answer.status == 201 => acknowledged.push(id),
            Ok(answer) if answer.status == 503 => break,
            Ok(answer) => panic!("{}: {}", answer.status, answer.text()),
            Err(_) => break,
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_writes_ends_with_0_and_keeps_all_that_was_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let mut expected: Vec<String> = Vec::new();
    for round in 0..3_usize {
        let mut process = Process::start(home.path(), &[]).await;
        let http = process.http.clone();
        let words = if round == 0 {
            http.create("words").await
        } else {
            http.open("words").await
        };
        let before = words.count().await;
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                tokio::spawn(add_until_gone(
                    words.clone(),
                    http.clone(),
                    round * 10 + writer,
                ))
            })
            .collect();
        eventually("some writes", async || {
            (words.count().await >= before + 60).then_some(())
        })
        .await;
        process.terminate();
        let status = process.ended().await;
        assert_eq!(status.code(), Some(0), "{status}: {}", process.stderr());
        for writer in writers {
            expected.extend(writer.await.unwrap());
        }
    }
    let process = Process::start(home.path(), &[]).await;
    let found = process.http.open("words").await.ids(json!({})).await;
    for id in &expected {
        assert!(found.contains(id), "{id} was acknowledged and is lost");
    }
    assert!(
        found.len() <= expected.len() + 12,
        "{} records of {} acknowledged",
        found.len(),
        expected.len()
    );
    process.http.get("/health/collections").await.expect(200);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_is_never_running_again_and_never_half_there() {
    let home = tempfile::tempdir().unwrap();
    let mut process = Process::start(home.path(), &[]).await;
    process
        .http
        .create("words")
        .await
        .add(&numbered("w", 20_000))
        .await;
    let mut interrupted = 0;
    for _ in 0..5 {
        let job = text(&process.http.send("POST", "/backups", None).await.ok(202)["id"]);
        process.child.kill().unwrap();
        assert_eq!(process.ended().await.signal(), Some(9));
        process = Process::start(home.path(), &[]).await;
        let job = process.http.get(&format!("/jobs/{job}")).await.ok(200);
        match text(&job["state"]).as_str() {
            "interrupted" => interrupted += 1,
            "succeeded" => drop(
                process
                    .http
                    .get(&format!("/backups/{}", text(&job["result"]["id"])))
                    .await
                    .expect(200),
            ),
            other => panic!("{other}: {job}"),
        }
        for state in ["running", "queued"] {
            assert_eq!(
                process
                    .http
                    .get(&format!("/jobs?state={state}"))
                    .await
                    .ok(200)["jobs"],
                json!([])
            );
        }
        let listed = process.http.get("/backups").await.ok(200);
        for backup in listed["backups"].as_array().unwrap() {
            assert_eq!(backup["records"], 20_000);
            process
                .http
                .get(&format!("/backups/{}/export", text(&backup["id"])))
                .await
                .ok(200);
        }
    }
    assert!(interrupted > 0, "no kill fell into a backup");
    // What was left behind does not stand in the way.
    let backup = process.http.backup(json!({})).await;
    assert_eq!(backup["records"], 20_000);
    process.stop().await;
}
