//! The services that the demo runs in this process, and the directory that they may use.

use std::fs;
use std::path::Path;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::ELSEWHERE;
use super::client::Client;
use crate::api;
use crate::app::App;
use crate::config::{Config, EnvironmentConfig};
use crate::error::{Error, Result};

/// The demo's own file in its directory: only a directory that has it is ever emptied.
const MARKER: &str = ".vectorkeep-demo";

/// Makes the directory empty, if that is allowed.
///
/// # Errors
/// `InvalidArgument` for somebody else's directory, `Storage` where it cannot be used.
pub(super) fn prepare(directory: &Path) -> Result<()> {
    let unusable = |error: std::io::Error| {
        Error::storage(format!("{} cannot be used: {error}", directory.display()))
    };
    fs::create_dir_all(directory).map_err(unusable)?;
    let entries = fs::read_dir(directory)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .map_err(unusable)?;
    let ours = entries.iter().any(|entry| entry.file_name() == MARKER);
    if !entries.is_empty() && !ours {
        return Err(Error::invalid(format!(
            "{} is not empty and was not made by a demo; choose another --data-dir",
            directory.display()
        )));
    }
    for entry in entries.iter().filter(|entry| entry.file_name() != MARKER) {
        let path = entry.path();
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(unusable)?;
    }
    fs::write(
        directory.join(MARKER),
        "made by vectorkeep demo, which may empty this directory\n",
    )
    .map_err(unusable)
}

/// A service in this process, on a port of its own.
pub(super) struct Service {
    pub(super) client: Client,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<()>>,
}

impl Service {
    /// Starts one below `directory`; `elsewhere` is an environment that it can migrate to and from.
    pub(super) async fn start(directory: &Path, elsewhere: Option<&Self>) -> Result<Self> {
        let mut config = Config::baseline()?;
        config.storage.data_dir = directory.join("data");
        config.repository.url = directory.join("backups").display().to_string();
        config.server.shutdown_grace_ms = 5_000;
        if let Some(elsewhere) = elsewhere {
            let environment = EnvironmentConfig::vectorkeep(elsewhere.client.base());
            config
                .environments
                .insert(ELSEWHERE.to_owned(), environment);
        }
        let app = tokio::task::spawn_blocking(|| App::open(config, Handle::current()))
            .await
            .unwrap_or_else(|error| {
                Err(Error::internal("opening the store panicked").because(error))
            })?;
        let unbound = |error| Error::internal("no port can be bound").because(error);
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(unbound)?;
        let address = listener.local_addr().map_err(unbound)?;
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(api::serve(app, listener, async {
            let _ = stopped.await;
        }));
        Ok(Self {
            client: Client::new(address),
            stop,
            served,
        })
    }

    pub(super) async fn stop(self) -> Result<()> {
        drop(self.client);
        let _ = self.stop.send(());
        self.served
            .await
            .unwrap_or_else(|error| Err(Error::internal("the service panicked").because(error)))
    }
}
