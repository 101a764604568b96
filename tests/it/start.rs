//! The program itself: what stops its start, what it survives, and how it ends.

mod command_line;
mod disk;
mod ends;
mod keys;
mod loss;
mod memory;
mod offline;
mod places;
mod settings;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::json;

use crate::harness::{Http, eventually, files_below, numbered, parse_record, wordnet_50};

const BINARY: &str = env!("CARGO_BIN_EXE_vectorkeep");

/// Exit statuses, as docs/operate.md lists them.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const WARN: i32 = 3;
const DAMAGED: i32 = 4;
const UNREACHABLE: i32 = 5;

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
        .add(&[parse_record(
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
