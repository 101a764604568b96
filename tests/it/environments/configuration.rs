//! What is wrong with the configuration of an environment stops the start, in one line that says where.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::eventually;

/// A program; killed at the end of the test if it still runs.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program with these settings, which it must refuse: the one line that it prints.
async fn refusal(home: &Path, settings: &str) -> String {
    let (file, stderr) = (home.join("settings.toml"), home.join("stderr"));
    fs::write(&file, settings).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vectorkeep"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VECTORKEEP") {
            command.env_remove(name);
        }
    }
    let child = command
        .arg("serve")
        .arg("--config")
        .arg(&file)
        .current_dir(home)
        .env("VECTORKEEP__STORAGE__DATA_DIR", home.join("data"))
        .env("VECTORKEEP__REPOSITORY__URL", home.join("repository"))
        .env("VECTORKEEP__SERVER__LISTEN", "127.0.0.1:0")
        .env("EMPTY_TOKEN", " ")
        .env("BROKEN_TOKEN", "line\nbreak-of-a-secret")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&stderr).unwrap())
        .spawn();
    let mut running = Running(child.unwrap());
    let status = eventually("the end of the process", async || {
        running.0.try_wait().unwrap()
    })
    .await;
    let message = fs::read_to_string(&stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{settings}: {message}");
    assert!(
        !home.join("data").exists(),
        "{settings} made a data directory"
    );
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_work_stops_the_start_with_one_line_that_names_it() {
    let home = tempfile::tempdir().unwrap();
    let section = |name: &str, more: &str| format!("[environments.{name}]\n{more}\n");
    let chroma = |more: &str| {
        let more = format!("kind = \"chroma\"\nurl = \"http://127.0.0.1:9\"\n{more}");
        section("stage", &more)
    };
    let url = |url: &str| section("stage", &format!("kind = \"chroma\"\nurl = \"{url}\""));
    let token = home.path().join("token");
    fs::write(&token, "a-secret-of-a-file\n").unwrap();
    let both = format!("token_env = \"PATH\"\ntoken_file = \"{}\"", token.display());
    for (settings, named) in [
        (
            section("local", "kind = \"chroma\"\nurl = \"http://127.0.0.1:9\""),
            "environments.local",
        ),
        (
            section("\"a b\"", "kind = \"chroma\"\nurl = \"http://127.0.0.1:9\""),
            "environments.a b",
        ),
        (
            section("stage", "kind = \"local\"\nurl = \"http://127.0.0.1:9\""),
            "environments.stage",
        ),
        (
            section("stage", "kind = \"qdrant\"\nurl = \"http://127.0.0.1:9\""),
            "environments.stage",
        ),
        (section("stage", "kind = \"chroma\""), "environments.stage"),
        (section("stage", "url = \"http://h\""), "environments.stage"),
        (
            url("http://user:a-secret@127.0.0.1:9"),
            "environments.stage",
        ),
        (url("http://user@127.0.0.1:9"), "environments.stage"),
        (
            url("http://127.0.0.1:9/?key=a-secret"),
            "environments.stage",
        ),
        (url("ftp://127.0.0.1"), "environments.stage"),
        (url("http://127.0.0.1:9/api/v2"), "give http://127.0.0.1:9"),
        (
            url("https://127.0.0.1:9/chroma/api/v2/"),
            "give https://127.0.0.1:9/chroma",
        ),
        (url("127.0.0.1:9"), "environments.stage"),
        (url(""), "environments.stage"),
        (chroma(&both), "environments.stage"),
        (
            chroma("token_env = \"NO_SUCH_VARIABLE_IS_SET\""),
            "NO_SUCH_VARIABLE_IS_SET",
        ),
        (chroma("token_env = \"EMPTY_TOKEN\""), "environments.stage"),
        (chroma("token_env = \"BROKEN_TOKEN\""), "environments.stage"),
        (chroma("token_file = \"no-such-file\""), "no-such-file"),
        (chroma("token_header = \"cookie\""), "environments.stage"),
        (chroma("token = \"a-secret\""), "environments.stage"),
        (chroma("ca_file = \"no-such-file\""), "no-such-file"),
    ] {
        let message = refusal(home.path(), &settings).await;
        assert_eq!(
            message.trim_end().lines().count(),
            1,
            "{settings}: {message}"
        );
        assert!(
            message.contains("environments.") && message.contains(named),
            "{named:?} is not named: {message}"
        );
        assert!(!message.contains("a-secret"), "{message}");
        assert!(!message.contains("break-of-a-secret"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_of_migrations_are_looked_at_as_well() {
    let home = tempfile::tempdir().unwrap();
    for (settings, named) in [
        ("batch_records = 0", "migration.batch_records"),
        ("batch_bytes = 0", "migration.batch_bytes"),
        ("max_requests = 0", "migration.max_requests"),
        ("max_checkpoints = 0", "migration.max_checkpoints"),
        (
            "batch_records = 100\nmax_batch_records = 99",
            "migration.max_batch_records",
        ),
        ("batch_recrods = 5", "batch_recrods"),
        ("max_retries = -1", "migration.max_retries"),
    ] {
        let message = refusal(home.path(), &format!("[migration]\n{settings}\n")).await;
        assert_eq!(
            message.trim_end().lines().count(),
            1,
            "{settings}: {message}"
        );
        assert!(message.contains(named), "{settings}: {message}");
    }
}
