//! The program itself: what stops its start, what it survives, and how it ends.

mod disk;
mod keys;
mod loss;
mod memory;
mod offline;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::{Value, json};

use crate::harness::{Collection, Http, eventually, files_below, numbered, text, wordnet_50};

const BINARY: &str = env!("CARGO_BIN_EXE_vectorkeep");

fn the_binary() -> [String; 1] {
    [BINARY.to_owned()]
}

/// The program (a command line that runs it), with directories below `home` and nothing of the caller's settings.
fn program(line: &[String], home: &Path) -> Command {
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("VECTORKEEP"))
    {
        command.env_remove(name);
    }
    let file = |name: &str| {
        File::options()
            .create(true)
            .append(true)
            .open(home.join(name))
            .unwrap()
    };
    command
        .current_dir(home)
        .env("VECTORKEEP__STORAGE__DATA_DIR", home.join("data"))
        .env("VECTORKEEP__REPOSITORY__URL", home.join("repository"))
        .env("VECTORKEEP__HEALTH__DEEP_MAX_AGE_MS", "0")
        .stdin(Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"));
    command
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A running program; killed at the end of the test if it still runs.
pub(crate) struct Process {
    child: Child,
    pub(crate) http: Http,
    home: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts and waits until it is ready.
    pub(crate) async fn start(home: &Path, settings: &[(&str, &str)]) -> Self {
        match Self::try_start(home, settings).await {
            Ok(process) => process,
            Err((status, message)) => panic!("ended with {status}: {message}"),
        }
    }

    /// As [`Process::start`]; how it ended and what it said when it ends before it is ready.
    async fn try_start(
        home: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self, (ExitStatus, String)> {
        Self::launch(home, &the_binary(), |command| {
            command.envs(settings.iter().copied());
        })
        .await
    }

    async fn launch(
        home: &Path,
        line: &[String],
        adjust: impl Fn(&mut Command),
    ) -> Result<Self, (ExitStatus, String)> {
        loop {
            let address = free_address();
            let _ = fs::remove_file(home.join("stderr"));
            let mut command = program(line, home);
            command.env("VECTORKEEP__SERVER__LISTEN", &address);
            adjust(&mut command);
            let (child, http) = (
                command.spawn().unwrap(),
                Http::new(format!("http://{address}")),
            );
            let mut process = Self {
                child,
                http,
                home: home.to_owned(),
            };
            let ended = eventually("ready or ended", async || {
                if let Some(status) = process.child.try_wait().unwrap() {
                    return Some(Some(status));
                }
                let ready = Http::try_send(process.http.request("GET", "/health/ready")).await;
                ready
                    .is_ok_and(|answer| answer.status == 200)
                    .then_some(None)
            })
            .await;
            match ended {
                None => return Ok(process),
                // Another test was faster to take the free port.
                Some(_) if process.stderr().contains("cannot be bound") => {}
                Some(status) => return Err((status, process.stderr())),
            }
        }
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.home.join("stderr")).unwrap()
    }

    async fn ended(&mut self) -> ExitStatus {
        eventually("the end of the process", async || {
            self.child.try_wait().unwrap()
        })
        .await
    }

    fn terminate(&self) {
        let signal = format!("kill -TERM {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &signal])
                .status()
                .unwrap()
                .success()
        );
    }

    async fn stop(mut self) {
        self.terminate();
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{status}: {}", self.stderr());
    }
}

/// Runs the program to its end: the exit code, and the one line that it printed.
async fn refusal(mut command: Command, home: &Path) -> (Option<i32>, String) {
    let _ = fs::remove_file(home.join("stderr"));
    command.stderr(File::create(home.join("stderr")).unwrap());
    let mut child = command.spawn().unwrap();
    let status = eventually("the end of the process", async || child.try_wait().unwrap()).await;
    (
        status.code(),
        fs::read_to_string(home.join("stderr")).unwrap(),
    )
}

fn assert_one_line(message: &str, named: &str) {
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    assert!(message.contains(named), "{named:?} is not named: {message}");
}

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
        assert_eq!(code, Some(1), "{name}={value}: {message}");
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
        assert_eq!(code, Some(1), "{content:?}: {message}");
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
        assert_eq!(status.code(), Some(1), "{message}");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_directory_is_refused_and_the_first_unharmed() {
    let home = tempfile::tempdir().unwrap();
    let first = Process::start(home.path(), &[]).await;
    let words = first.http.create("words").await;
    words.add(&wordnet_50()).await;
    let (dump, files) = (words.dump().await, files_below(&home.path().join("data")));

    let second = tempfile::tempdir().unwrap();
    let mut command = program(&the_binary(), second.path());
    command
        .env("VECTORKEEP__STORAGE__DATA_DIR", home.path().join("data"))
        .env("VECTORKEEP__SERVER__LISTEN", free_address());
    let (code, message) = refusal(command, second.path()).await;
    assert_eq!(code, Some(1), "{message}");
    assert_one_line(&message, "in use by another process");
    assert!(
        message.contains(&home.path().join("data").display().to_string()),
        "{message}"
    );
    assert_eq!(
        files_below(&home.path().join("data")),
        files,
        "the second left or removed files"
    );

    assert_eq!(words.dump().await, dump);
    words
        .add(&[crate::harness::parse_record(
            &json!({"id": "more", "embedding": vec![0.5; 384]}),
        )])
        .await;
    let dump = words.dump().await;
    first.stop().await;
    let again = Process::start(home.path(), &[]).await;
    assert_eq!(words.at(&again.http).dump().await, dump);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named_and_the_data_unharmed() {
    let home = tempfile::tempdir().unwrap();
    let first = Process::start(home.path(), &[]).await;
    first
        .http
        .create("words")
        .await
        .add(&numbered("w", 5))
        .await;
    first.stop().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = program(&the_binary(), home.path());
    command.env(
        "VECTORKEEP__SERVER__LISTEN",
        taken.local_addr().unwrap().to_string(),
    );
    let (code, message) = refusal(command, home.path()).await;
    assert_eq!(code, Some(1), "{message}");
    let last = message.trim_end().lines().last().unwrap();
    assert!(
        last.contains("server.listen") && last.contains(&taken.local_addr().unwrap().to_string()),
        "{message}"
    );
    let again = Process::start(home.path(), &[]).await;
    assert_eq!(
        again.http.open("words").await.records().await,
        numbered("w", 5)
    );
    again.stop().await;
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_is_a_clear_error() {
    let home = tempfile::tempdir().unwrap();
    // Root may write anywhere, so the program runs as somebody else, from where everybody may read.
    let binary = home.path().join("vectorkeep");
    fs::copy(BINARY, &binary).unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    let is_root =
        fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let (data, elsewhere) = (home.path().join("data"), tempfile::tempdir().unwrap());
    for existing in [true, false] {
        let _ = fs::remove_dir(&data);
        if existing {
            fs::create_dir(&data).unwrap();
            fs::set_permissions(&data, Permissions::from_mode(0o555)).unwrap();
        } else {
            fs::set_permissions(home.path(), Permissions::from_mode(0o555)).unwrap();
        }
        let mut command = program(&[binary.display().to_string()], home.path());
        command.env("VECTORKEEP__SERVER__LISTEN", free_address());
        if is_root {
            command.uid(65_534).gid(65_534);
        }
        let (code, message) = refusal(command, elsewhere.path()).await;
        assert_eq!(code, Some(1), "{message}");
        assert_one_line(&message, &data.display().to_string());
        assert!(message.to_lowercase().contains("denied"), "{message}");
    }
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
}
