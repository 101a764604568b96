//! Settings: what is wrong stops the start and is named, and where a setting is given decides.

use std::fs;

use serde_json::{Value, json};

use super::{Process, assert_one_line, program, refusal, the_binary};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_stops_the_start_with_one_line_that_names_it() {
    let home = tempfile::tempdir().unwrap();
    for (name, value, named) in [
        ("VECTORKEEP__SERVER__LISTN", "127.0.0.1:1", "listn"),
        ("VECTORKEEP__SEVER__LISTEN", "127.0.0.1:1", "sever"),
        ("VECTORKEEP__NOTHING", "1", "nothing"),
        ("VECTORKEEP__SERVER__LISTEN", "nowhere", "server.listen"),
        ("VECTORKEEP__SERVER__LISTEN", "8000", "server.listen"),
        (
            "VECTORKEEP__SERVER__ALLOW_RESET",
            "perhaps",
            "server.allow_reset",
        ),
        (
            "VECTORKEEP__SERVER__MAX_BODY_BYTES",
            "0",
            "server.max_body_bytes",
        ),
        (
            "VECTORKEEP__STORAGE__DURABILITY",
            "sometimes",
            "storage.durability",
        ),
        ("VECTORKEEP__JOBS__WORKERS", "-1", "jobs.workers"),
        (
            "VECTORKEEP__REPOSITORY__COMPRESSION_LEVEL",
            "99",
            "repository.compression_level",
        ),
        ("VECTORKEEP__LOG__FORMAT", "xml", "log.format"),
        ("VECTORKEEP__LOG__LEVEL", "a=b=c=", "log.level"),
    ] {
        let mut command = program(&the_binary(), home.path());
        command.env(name, value);
        let (code, message) = refusal(command, home.path()).await;
        assert_eq!(code, Some(2), "{name}={value}: {message}");
        assert_one_line(&message, named);
        assert!(
            !home.path().join("data").exists(),
            "{name}={value} made a data directory"
        );
    }
    for (content, named) in [
        (Some("[server]\nlistn = \"127.0.0.1:1\"\n"), "listn"),
        (Some("[server]\nlisten = 5\n"), "server.listen"),
        (Some("[storage]\ncache_bytes = 1\n"), "storage.cache_bytes"),
        (
            Some("[health]\ndisk_fail_bytes = 9_000_000_000_000\n"),
            "disk_fail_bytes",
        ),
        (Some("[server\n"), "TOML parse error at line 1"),
        (None, "settings.toml"),
    ] {
        let file = home.path().join("settings.toml");
        let _ = fs::remove_file(&file);
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let mut command = program(&the_binary(), home.path());
        command.args(["serve", "--config"]).arg(&file);
        let (code, message) = refusal(command, home.path()).await;
        assert_eq!(code, Some(2), "{content:?}: {message}");
        assert_one_line(&message, named);
        assert!(
            !home.path().join("data").exists(),
            "{content:?} made a data directory"
        );
    }
}

/// A value that can never work is no repository that happens to be out of reach.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_a_kind_that_is_not_offered_stops_the_start() {
    let home = tempfile::tempdir().unwrap();
    for url in [
        "ftp://host/backups",
        "s3://id:secret@bucket/x",
        "s3://",
        "http://example.com",
        "",
    ] {
        let started =
            Process::try_start(home.path(), &[("VECTORKEEP__REPOSITORY__URL", url)]).await;
        let Err((status, message)) = started else {
            panic!("it starts with repository.url = {url:?}");
        };
        assert_eq!(status.code(), Some(2), "{message}");
        assert_one_line(&message, "repository.url");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_goes_over_the_file_and_the_file_over_the_baseline() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("settings.toml");
    fs::write(
        &file,
        "[server]\nallow_reset = true\nmax_body_bytes = 1000\n[log]\nformat = \"json\"\n",
    )
    .unwrap();
    let line = the_binary();
    let launched = Process::launch(home.path(), &line, |command| {
        command.arg("serve").arg("--config").arg(&file);
        command.env("VECTORKEEP__SERVER__MAX_BODY_BYTES", "5000");
    });
    let Ok(process) = launched.await else {
        panic!("it does not start with a file");
    };
    let http = &process.http;
    http.post("/api/v2/reset", json!(null)).await.expect(200);
    http.post("/backups", json!({"labels": {"a": "x".repeat(4_000)}}))
        .await
        .expect(202);
    http.post("/backups", json!({"labels": {"a": "x".repeat(5_000)}}))
        .await
        .problem(413);
    let log = process.stderr();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    assert!(!lines.is_empty());
    process.stop().await;
}

/// What the protocol has and this server does not is asked for by clients that try; it is nobody's fault.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_is_no_error_in_the_log() {
    let home = tempfile::tempdir().unwrap();
    let settings = [("VECTORKEEP__LOG__FORMAT", "json")];
    let process = Process::start(home.path(), &settings).await;
    let words = process.http.create("words").await;
    for _ in 0..3 {
        let searches = json!({"searches": []});
        words.post("search", searches).await.expect(501);
    }
    let log = process.stderr();
    assert!(
        !log.contains("\"ERROR\"") && !log.contains("\"WARN\""),
        "{log}"
    );
    process.stop().await;
}
