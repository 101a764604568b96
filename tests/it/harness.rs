//! A running service with its own directories, the client that tests speak to it with, the records they
//! load, and the sums they compare with.

mod client;
mod jobs;
mod records;
mod stored;

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vectorkeep::api;
use vectorkeep::app::App;
use vectorkeep::config::Config;
use vectorkeep::engine::{Durability, Engine, EngineOptions, OpenOptions};
use vectorkeep::error::{Error, Kind, Result};

pub(crate) use client::{Answer, Collection, Http};
pub(crate) use jobs::submission;
pub(crate) use records::{
    columns, digest, distance, load_20k, numbered, parse_record, shared, wordnet_50,
};
pub(crate) use stored::{Harm, harm};

pub(crate) const DEFAULT_NAMESPACE: &str =
    "/api/v2/tenants/default_tenant/databases/default_database";
/// No step of a test may take longer.
pub(crate) const BOUND: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Waits for a condition; what it yields, or a panic that says what was waited for.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(started.elapsed() < BOUND, "waited in vain: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Opens a store with no service. The last thread of what had it open may still be on its way out. Blocks.
pub(crate) fn open_engine(data_dir: &Path, durability: Durability, max_tombstones: u64) -> Engine {
    let options = EngineOptions {
        store: OpenOptions {
            data_dir: data_dir.to_owned(),
            cache_bytes: 16 << 20,
            accept_data_loss: false,
            min_free_bytes: 0,
            sync_timeout: Duration::from_secs(60),
        },
        durability,
        max_tombstones,
        max_delete_step: 1_000,
        max_write_delay: Duration::from_millis(500),
    };
    let started = Instant::now();
    loop {
        match Engine::open(options.clone()) {
            Ok(engine) => return engine,
            Err(error) if error.kind() == Kind::Conflict && started.elapsed() < BOUND => {
                std::thread::sleep(POLL);
            }
            Err(error) => panic!("the store does not open: {error:?}"),
        }
    }
}

/// A service in this process.
pub(crate) struct Service {
    pub(crate) config: Config,
    running: Option<Running>,
    http: Http,
    home: TempDir,
}

struct Running {
    app: App,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<()>>,
}

impl Deref for Service {
    type Target = Http;

    fn deref(&self) -> &Http {
        &self.http
    }
}

impl Drop for Service {
    /// Nothing may write to the directories any more when they are removed.
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            let _ = running.app.engine().close();
        }
    }
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// Starts with other settings than the tests' usual ones.
    pub(crate) async fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::baseline().unwrap();
        config.server.allow_reset = true;
        config.server.shutdown_grace_ms = 10_000;
        config.storage.data_dir = home.path().join("data");
        config.repository.url = home.path().join("repository").display().to_string();
        // How full the machine's disk is must not matter, but where a test makes it matter.
        (config.health.disk_fail_bytes, config.health.disk_warn_bytes) = (1, 2);
        // What a check found a moment ago is of no use to tests.
        config.health.deep_max_age_ms = 0;
        adjust(&mut config);
        let http = Http::new(String::new());
        let mut service = Self {
            config,
            running: None,
            http,
            home,
        };
        service.resume().await;
        service
    }

    /// Opens the directories (again); the error of a refused start.
    pub(crate) async fn try_resume(&mut self) -> Result<()> {
        let started = Instant::now();
        let app = loop {
            let config = self.config.clone();
            let opening = tokio::task::spawn_blocking(|| App::open(config, Handle::current()));
            match tokio::time::timeout(BOUND, opening)
                .await
                .expect("the start hangs")
                .unwrap()
            {
                Ok(app) => break app,
                // The last thread of the service before may still be on its way out.
                Err(error) if error.kind() == Kind::Conflict && started.elapsed() < BOUND => {
                    tokio::time::sleep(POLL).await;
                }
                Err(error) => return Err(error),
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.http = Http::new(format!("http://{}", listener.local_addr().unwrap()));
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(api::serve(app.clone(), listener, async {
            let _ = stopped.await;
        }));
        self.running = Some(Running { app, stop, served });
        Ok(())
    }

    pub(crate) async fn resume(&mut self) {
        self.try_resume()
            .await
            .unwrap_or_else(|error: Error| panic!("refused to start: {error:?}"));
    }

    /// Stops as SIGTERM would.
    pub(crate) async fn stop(&mut self) {
        let Running { app, stop, served } = self.running.take().expect("it runs");
        stop.send(()).expect("it serves");
        drop(app);
        let served = tokio::time::timeout(BOUND, served)
            .await
            .expect("the stop hangs");
        served.unwrap().expect("a clean stop");
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.resume().await;
    }

    pub(crate) fn app(&self) -> &App {
        &self.running.as_ref().expect("it runs").app
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.config.storage.data_dir
    }

    pub(crate) fn repository_dir(&self) -> PathBuf {
        PathBuf::from(&self.config.repository.url)
    }

    /// The id of the content that a collection has at this moment: a merge gives it another, and the id that clients
    /// know stays.
    pub(crate) fn content(&self, id: &str) -> String {
        let found = self.app().engine().addressed(id.parse().unwrap());
        found.map_or_else(|_| id.to_owned(), |info| info.descriptor.id.to_string())
    }

    /// A place of its own, removed at the end.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Waits until the store holds records, ids or tombstones of these collections only, by the ids that clients know. The service is
    /// stopped and started for every look, which also lets it sweep.
    pub(crate) async fn holds_only(&mut self, expected: &BTreeSet<String>) {
        let expected: BTreeSet<String> = expected.iter().map(|id| self.content(id)).collect();
        let mut found = BTreeSet::new();
        for _ in 0..20 {
            self.stop().await;
            found = collections_in_store(self.data_dir()).await;
            self.resume().await;
            if found == expected {
                return;
            }
        }
        panic!("the store holds parts of {found:?}, expected {expected:?}");
    }
}

/// Ids of the collections that anything is stored for, live or not: keys begin with them.
async fn collections_in_store(data_dir: &Path) -> BTreeSet<String> {
    let data_dir = data_dir.to_owned();
    let opening = tokio::task::spawn_blocking(move || stored::open(&data_dir));
    let db = opening.await.unwrap();
    let trees = ["records", "ids", "tombstones"].map(|name| db.open_tree(name).unwrap());
    let keys = trees.iter().flat_map(|tree| tree.iter().keys());
    keys.map(|key| {
        uuid::Uuid::from_slice(&key.unwrap()[..16])
            .unwrap()
            .to_string()
    })
    .collect()
}

/// All files below a directory, sorted.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Copies a directory with all below it.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no string: {value}"))
        .to_owned()
}

#[track_caller]
pub(crate) fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(text).collect()
}

/// All that a client can see: ids, definitions and records of every collection of the default database.
pub(crate) async fn visible(http: &Http) -> Vec<(String, Value, Vec<u8>)> {
    let mut seen = Vec::new();
    for name in http.names().await {
        let collection = http.open(&name).await;
        let definition = collection.definition().await;
        let dump = collection.dump().await.to_vec();
        seen.push((collection.id, definition, dump));
    }
    seen
}

/// Asserts that a JSON object has all of these members.
#[track_caller]
pub(crate) fn assert_members(object: &Value, members: &[&str]) {
    let object = object
        .as_object()
        .unwrap_or_else(|| panic!("no object: {object}"));
    for member in members {
        assert!(object.contains_key(*member), "no {member:?} in {object:?}");
    }
}
