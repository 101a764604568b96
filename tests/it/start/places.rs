//! Where the store and the repository lie, what the service listens on, and what its log says of all that.

use std::fs;

use serde_json::{Value, json};

use super::{Process, USAGE, assert_one_line, free_address, program, refusal, the_binary};
use crate::harness::{eventually, files_below, numbered};

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_would_harm_each_other_stop_the_start_and_stay_as_they_are() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).display().to_string();
    fs::write(home.path().join("file"), "somebody's").unwrap();
    fs::create_dir(home.path().join("chroma")).unwrap();
    fs::write(home.path().join("chroma/chroma.sqlite3"), "somebody's").unwrap();
    let before = files_below(home.path());
    for (name, value, named) in [
        (
            "VECTORKEEP__REPOSITORY__URL",
            at("data/backups"),
            "is inside storage.data_dir",
        ),
        (
            "VECTORKEEP__REPOSITORY__URL",
            at("data"),
            "the same directory",
        ),
        (
            "VECTORKEEP__STORAGE__DATA_DIR",
            at("repository/data"),
            "is inside repository.url",
        ),
        (
            "VECTORKEEP__REPOSITORY__URL",
            at("file"),
            "repository.url must be a directory",
        ),
        (
            "VECTORKEEP__STORAGE__DATA_DIR",
            at("file"),
            "storage.data_dir must be a directory",
        ),
        (
            "VECTORKEEP__STORAGE__DATA_DIR",
            at("chroma"),
            "chroma run --path",
        ),
        (
            "VECTORKEEP_DATA_DIR",
            at("data"),
            "VECTORKEEP__STORAGE__DATA_DIR",
        ),
        (
            "VECTORKEEP__LOG__LEVEL",
            "verbose".to_owned(),
            "info, debug or trace",
        ),
        (
            "VECTORKEEP__HEALTH__DISK_WARN_BYTES",
            "60MB".to_owned(),
            "storage.min_free_bytes",
        ),
        (
            "VECTORKEEP__SERVER__LISTEN",
            "no-such-name.invalid:8000".to_owned(),
            "server.listen",
        ),
        (
            "VECTORKEEP__REPOSITORY__URL",
            "~nobody/backups".to_owned(),
            "repository.url",
        ),
    ] {
        let mut command = program(&the_binary(), home.path());
        command
            .env("VECTORKEEP__SERVER__LISTEN", free_address())
            .env("VECTORKEEP__HEALTH__DISK_FAIL_BYTES", "1")
            .env(name, &value);
        let (code, message) = refusal(command, home.path()).await;
        assert_eq!(code, Some(USAGE), "{name}={value}: {message}");
        assert_one_line(&message, named);
    }
    let mut after = files_below(home.path());
    after.retain(|path| !path.ends_with("stderr") && !path.ends_with("stdout"));
    assert_eq!(after, before, "a refused start leaves nothing behind");
}

/// The line of the log with this message, once it is there.
async fn logged(process: &Process, message: &str) -> Value {
    eventually("a line of the log", async || {
        let log = process.stderr();
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| line["message"] == message)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_units_and_the_home_directory_are_understood_and_the_start_says_what_is_served() {
    let home = tempfile::tempdir().unwrap();
    let line = the_binary();
    let launch = async || {
        let launched = Process::launch(home.path(), &line, |command| {
            let address = command
                .get_envs()
                .find(|(name, _)| *name == "VECTORKEEP__SERVER__LISTEN");
            let address = address.unwrap().1.unwrap().to_str().unwrap().to_owned();
            command
                .env("HOME", home.path())
                .env(
                    "VECTORKEEP__SERVER__LISTEN",
                    address.replace("127.0.0.1", "localhost"),
                )
                .env("VECTORKEEP__STORAGE__DATA_DIR", "data")
                .env("VECTORKEEP__REPOSITORY__URL", "~/repository")
                .env("VECTORKEEP__JOBS__KEPT_MS", "24h")
                .env("VECTORKEEP__SERVER__MAX_BODY_BYTES", "1MiB")
                .env("VECTORKEEP__LOG__FORMAT", "json");
        });
        launched
            .await
            .unwrap_or_else(|(_, message)| panic!("it does not start: {message}"))
    };
    let process = launch().await;
    let serving = logged(&process, "serving").await;
    assert_eq!(serving["newest_backup"], "none");
    assert_eq!(serving["version"], env!("CARGO_PKG_VERSION"));
    let http = &process.http;
    http.create("words").await.add(&numbered("w", 7)).await;
    let made = http.post("/backups?wait=true", json!({})).await.ok(201);
    let id = made["result"]["id"].as_str().unwrap().to_owned();
    // The setting's unit was understood.
    let long = json!({"labels": {"a": "x".repeat(1 << 20)}});
    let refused = http.post("/backups", long).await;
    assert_eq!(refused.status, 413);

    let ended = logged(&process, "job succeeded").await;
    assert_eq!(ended["what"], id);
    assert_eq!(ended["records"], 7);
    assert!(ended["duration_ms"].is_u64(), "{ended}");
    process.stop().await;

    let process = launch().await;
    let serving = logged(&process, "serving").await;
    let real = |name: &str| {
        home.path()
            .join(name)
            .canonicalize()
            .unwrap()
            .display()
            .to_string()
    };
    assert_eq!(serving["data_dir"], real("data"));
    assert_eq!(serving["repository"], real("repository"));
    assert_eq!(serving["newest_backup"], id);
    assert_eq!(
        (&serving["collections"], &serving["records"]),
        (&json!(1), &json!(7))
    );
    assert_eq!(serving["keys"], "none");
    let listen: std::net::SocketAddr = serving["listen"].as_str().unwrap().parse().unwrap();
    assert!(listen.ip().is_loopback() && listen.port() > 0, "{listen}");
    process.stop().await;
}
