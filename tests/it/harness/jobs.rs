//! Jobs that do what a test wants.

use serde_json::{Value, json};
use vectorkeep::error::Result;
use vectorkeep::jobs::{Ended, JobKind, Submission, Work};
use vectorkeep::progress::Progress;

/// A job without key and claims whose result is what `work` returns.
pub(crate) fn submission(
    kind: JobKind,
    work: impl FnOnce(&Progress) -> Result<Value> + Send + 'static,
) -> Submission {
    let run = move |progress: &Progress| {
        Ok(Ended {
            result: work(progress)?,
            about: String::new(),
            records: None,
        })
    };
    Submission {
        kind,
        request: json!({"asked": "for"}),
        key: None,
        claims: Vec::new(),
        requested_by: None,
        work: Work {
            about: String::new(),
            run: Box::new(run),
        },
    }
}
