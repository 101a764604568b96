//! Deep checks run one at a time each and are waited for up to a bound; past it the caller gets what was
//! found the last time.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Report, Status};
use crate::app::App;
use crate::error::Result;

/// What deep checks found last, and which are running, by name.
#[derive(Default)]
pub struct DeepChecks {
    entries: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Default)]
struct Entry {
    running: bool,
    last: Option<Report>,
}

/// Reports that are remembered; a check of a single collection has its own name.
const MAX_REMEMBERED: usize = 1_000;

impl DeepChecks {
    fn begin(&self, name: &str) -> bool {
        let mut entries = self.entries.lock();
        if entries.len() >= MAX_REMEMBERED && !entries.contains_key(name) {
            entries.retain(|_, entry| entry.running);
        }
        let entry = entries.entry(name.to_owned()).or_default();
        !std::mem::replace(&mut entry.running, true)
    }

    fn end(&self, name: &str, report: Option<Report>) {
        if let Some(entry) = self.entries.lock().get_mut(name) {
            entry.running = false;
            if report.is_some() {
                entry.last = report;
            }
        }
    }

    fn last(&self, name: &str) -> Report {
        let entries = self.entries.lock();
        entries
            .get(name)
            .and_then(|entry| entry.last.clone())
            .unwrap_or_default()
    }
}

/// Runs a check, or joins the answer of the one before when it is still running after `timeout`.
///
/// # Errors
/// Those of the check.
pub async fn run(
    app: &App,
    name: String,
    timeout: Duration,
    check: impl FnOnce(&App) -> Result<Report> + Send + 'static,
) -> Result<Report> {
    if !app.deep_checks().begin(&name) {
        return Ok(still_running(app, &name));
    }
    let running = {
        let name = name.clone();
        app.blocking(move |app| {
            // Also ends when the check panics.
            let mut guard = Ending {
                app,
                name: &name,
                report: None,
            };
            let report = check(app)?;
            guard.report = Some(report.clone());
            Ok(report)
        })
    };
    // Past the timeout the thread goes on, and its report is there for the next caller.
    match tokio::time::timeout(timeout, running).await {
        Ok(report) => report,
        Err(_) => Ok(still_running(app, &name)),
    }
}

struct Ending<'a> {
    app: &'a App,
    name: &'a str,
    report: Option<Report>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.app.deep_checks().end(self.name, self.report.take());
    }
}

fn still_running(app: &App, name: &str) -> Report {
    let mut report = app.deep_checks().last(name);
    report.add(
        name,
        Status::Warn,
        false,
        "boolean",
        Some("running".to_owned()),
    );
    report
}
