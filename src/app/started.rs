//! The line that is logged when the service has started: what it is, where it is reached, and on which data.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::App;
use crate::error::{Kind, Result};
use crate::model::selector::Selector;

/// The repository may be on a machine that does not answer: the line does not wait longer for it.
const REPOSITORY_WAIT: Duration = Duration::from_secs(2);

impl App {
    /// Logs that it serves: version, address, the data directory with what it holds, the repository with its newest
    /// backup, and whether keys are needed.
    pub async fn log_start(self, listen: std::io::Result<SocketAddr>) {
        let asked = self.asking_repository(|app| Ok(app.newest_backup()));
        let newest = match tokio::time::timeout(REPOSITORY_WAIT, asked).await {
            Ok(Ok(newest)) => newest,
            Ok(Err(error)) => format!("not known: {error}"),
            Err(_) => "not known yet: the repository does not answer".to_owned(),
        };
        let collections = self.engine().all_collections();
        let records: u64 = collections.iter().map(|info| info.head.count).sum();
        let keys = match self.access().callers().len() {
            count if self.access().is_required() => count.to_string(),
            _ => "none".to_owned(),
        };
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %listen.map_or_else(|error| error.to_string(), |listen| listen.to_string()),
            data_dir = %absolute(self.engine().data_dir()),
            collections = collections.len(),
            records,
            repository = %self.repository_location(),
            newest_backup = %newest,
            keys,
            "serving"
        );
    }

    /// The newest backup that can be restored, for people. Blocks.
    fn newest_backup(&self) -> String {
        let latest = || -> Result<String> { self.repository()?.select(&Selector::Latest) };
        match latest() {
            Ok(id) => id,
            Err(error) if error.kind() == Kind::NotFound => "none".to_owned(),
            Err(error) => format!("not known: {error}"),
        }
    }

    fn repository_location(&self) -> String {
        let url = &self.config().repository.url;
        match crate::repository::directory_of(url) {
            Ok(Some(directory)) => absolute(&directory),
            // A bucket's URL carries no secret: that is refused before.
            _ => url.clone(),
        }
    }
}

fn absolute(path: &Path) -> String {
    let whole = path.canonicalize().or_else(|_| std::path::absolute(path));
    whole
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}
