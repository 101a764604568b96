//! The service as a child process, and an HTTP client that knows whether it was killed.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use tempfile::TempDir;
use vectorkeep::tls::client_builder;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Another process can take a port between its choice and its use.
const PORT_ATTEMPTS: usize = 10;
const SIGKILL: i32 = 9;
const LOG_TAIL_LINES: usize = 40;

/// Data, repository and log; they outlive every process. Kept on disk when the test fails.
pub(crate) struct Home {
    directory: TempDir,
    /// Variables of every process beside those that all have.
    settings: Vec<(String, String)>,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self::with(Vec::new())
    }

    /// With variables that every process gets.
    pub(crate) fn with(settings: Vec<(String, String)>) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            settings,
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("service.log")
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Names of the directories in the data directory.
    pub(crate) fn store_directories(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("data")).unwrap();
        entries
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().unwrap().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }

    /// Files of packs in the repository.
    pub(crate) fn packs(&self) -> usize {
        let packs = self.directory.path().join("backups/packs");
        let Ok(prefixes) = fs::read_dir(packs) else {
            return 0;
        };
        let count = |prefix: PathBuf| fs::read_dir(prefix).unwrap().count();
        prefixes.map(|prefix| count(prefix.unwrap().path())).sum()
    }

    /// Starts a process; it is not ready yet.
    pub(crate) fn spawn(&self) -> Service {
        let port = free_port();
        let path = self.directory.path();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_vectorkeep"))
            .env("VECTORKEEP__SERVER__LISTEN", format!("127.0.0.1:{port}"))
            .env("VECTORKEEP__STORAGE__DATA_DIR", path.join("data"))
            .env("VECTORKEEP__REPOSITORY__URL", path.join("backups"))
            // Small packs: a backup of little data still has many instants between them.
            .env("VECTORKEEP__REPOSITORY__PACK_BYTES", "65536")
            // What nothing needs goes at once: the most dangerous setting.
            .env("VECTORKEEP__REPOSITORY__GRACE_MS", "0")
            // Every look is a new one.
            .env("VECTORKEEP__HEALTH__DEEP_MAX_AGE_MS", "0")
            .env("VECTORKEEP__LOG__LEVEL", "warn")
            .envs(self.settings.clone())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let client = client_builder()
            .no_proxy()
            .timeout(REQUEST_TIMEOUT)
            .build()
            .unwrap();
        Service {
            child,
            api: Api {
                base: format!("http://127.0.0.1:{port}"),
                client,
                killed: Arc::new(AtomicBool::new(false)),
            },
        }
    }

    /// Starts a process and waits until it is ready.
    pub(crate) async fn start(&self, at: &str) -> Service {
        for _ in 0..PORT_ATTEMPTS {
            let mut service = self.spawn();
            if service.becomes_ready(at).await {
                return service;
            }
            let tail = self.log_tail();
            let last = tail.lines().last().unwrap_or_default();
            assert!(
                last.contains("cannot be bound"),
                "{at}: the service does not start:\n{tail}"
            );
        }
        panic!("{at}: no free port was found");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            let directory = self.directory.path().display();
            eprintln!(
                "kept {directory}; the service's last lines:\n{}",
                self.log_tail()
            );
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A running process; killed when dropped.
pub(crate) struct Service {
    child: Child,
    api: Api,
}

impl Service {
    pub(crate) fn api(&self) -> Api {
        self.api.clone()
    }

    /// False when the process ended instead.
    async fn becomes_ready(&mut self, at: &str) -> bool {
        let started = Instant::now();
        let url = format!("{}/health/ready", self.api.base);
        loop {
            let answer = self.api.client.get(&url).send().await;
            if answer.as_ref().is_ok_and(|answer| answer.status() == 200) {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(
                started.elapsed() < READY_TIMEOUT,
                "{at}: not ready within {READY_TIMEOUT:?}: {answer:?}"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// SIGKILL, and the end of the process.
    pub(crate) fn kill(mut self, at: &str) {
        self.api.killed.store(true, Ordering::SeqCst);
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(SIGKILL),
            "{at}: the service ended by itself: {status}"
        );
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.api.killed.store(true, Ordering::SeqCst);
        // Both do nothing after `kill`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body; the body is null where the kill cut it off or it is no JSON.
pub(crate) type Answer = (u16, Value);

/// Client of one process.
#[derive(Clone)]
pub(crate) struct Api {
    base: String,
    client: Client,
    killed: Arc<AtomicBool>,
}

impl Api {
    /// The address of the process.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// `None`: the kill broke the connection, the outcome is unknown.
    async fn send(&self, request: RequestBuilder) -> Option<Answer> {
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                assert!(
                    self.killed.load(Ordering::SeqCst),
                    "the service broke a connection off without being killed: {error:?}"
                );
                return None;
            }
        };
        // What arrived of the head is an answer, even where the kill cut the body off.
        let status = answer.status().as_u16();
        let body = answer.bytes().await.unwrap_or_default();
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// A POST that a kill may interrupt.
    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> Option<Answer> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// The same, or two of it at once.
    pub(crate) async fn try_post_times(
        &self,
        twice: bool,
        path: &str,
        body: &Value,
    ) -> Vec<Option<Answer>> {
        if !twice {
            return vec![self.try_post(path, body).await];
        }
        let (one, other) = tokio::join!(self.try_post(path, body), self.try_post(path, body));
        vec![one, other]
    }

    /// A GET that a kill may interrupt.
    pub(crate) async fn try_get(&self, path: &str) -> Option<Answer> {
        self.send(self.request(Method::GET, path)).await
    }

    /// A DELETE that a kill may interrupt.
    pub(crate) async fn try_delete(&self, path: &str) -> Option<Answer> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// A POST that has to be answered.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let answer = self.try_post(path, body).await;
        answer.expect("nobody kills the service now")
    }

    /// A GET that has to be answered.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let answer = self.try_get(path).await;
        answer.expect("nobody kills the service now")
    }

    /// A DELETE that has to be answered.
    pub(crate) async fn delete(&self, path: &str) -> Answer {
        let answer = self.try_delete(path).await;
        answer.expect("nobody kills the service now")
    }
}
