//! How a staged collection of another server gets its name.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};

use super::RemoteCollection;
use crate::error::{Error, Result};
use crate::model::names::CollectionName;
use crate::progress::Progress;

/// How often another instance is asked to replace a collection.
const REPLACEMENTS: usize = 4;
/// How often a job of another instance is looked at.
/// How long another instance's job may take: it copies within its own store.
const LONGEST_JOB: Duration = Duration::from_secs(3_600);
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl RemoteCollection {
    /// Whether a replacement leaves no moment at which the name leads nowhere.
    pub fn replaces_at_once(&self) -> bool {
        self.remote.is_vectorkeep()
    }

    /// Gives a staged collection its name, which is free.
    ///
    /// # Errors
    /// `NameConflict` when it was taken meanwhile, `RemoteUnavailable`.
    pub fn publish(&self, staged: &str, name: &CollectionName, progress: &Progress) -> Result<()> {
        match self.remote.id_of(name, progress)? {
            Some(there) if there == staged => return Ok(()),
            Some(_) => {
                return Err(Error::name_conflict(format!(
                    "{name} was made in {} meanwhile",
                    self.http().shown()
                )));
            }
            None => {}
        }
        let change = json!({ "new_name": name.name });
        self.remote.put(&self.name, staged, &change, progress)
    }

    /// Puts a staged collection in the place of the one that has its name.
    ///
    /// Another instance does that at once: it migrates the staged collection over the other one by itself. On a
    /// Chroma server the old one is renamed to `aside`, the new one takes the name, and then the old one goes:
    /// between the two the name leads nowhere. Doing it again goes on where it was, for as long as `contents`, which
    /// stands for what is in the staged collection, is the same.
    ///
    /// # Errors
    /// `RemoteUnavailable`.
    pub fn replace(
        &self,
        staged: &str,
        name: &CollectionName,
        aside: &CollectionName,
        contents: &str,
        progress: &Progress,
    ) -> Result<()> {
        if self.replaces_at_once() {
            return self.replace_at_once(staged, name, contents, progress);
        }
        if let Some(there) = self.remote.find(name, progress)?
            && there.id != staged
        {
            let change = json!({ "new_name": aside.name });
            self.remote.put(name, &there.id, &change, progress)?;
        }
        self.publish(staged, name, progress).map_err(|error| {
            let kind = error.kind();
            Error::new(
                kind,
                format!(
                    "{}; what was to be replaced is in {aside} now",
                    error.message()
                ),
            )
        })?;
        self.remote.delete(aside, progress)
    }

    fn replace_at_once(
        &self,
        staged: &str,
        name: &CollectionName,
        contents: &str,
        progress: &Progress,
    ) -> Result<()> {
        let found = self.by_id(staged, progress)?;
        let from = CollectionName::new(&name.tenant, &name.database, found.name);
        let end = |name: &CollectionName| json!({"tenant": name.tenant, "database": name.database, "collection": name.name});
        let request = json!({"source": end(&from), "target": end(name), "on_conflict": "replace"});
        let body = Bytes::from(request.to_string());
        let mut why = String::new();
        for attempt in 0..REPLACEMENTS {
            // A job of that key may be one that was broken off: then the next key makes another.
            let key = format!("{staged}-{contents}-{attempt}");
            let url = self.http().url(["migrate"]);
            let job: Value = self.http().read_keyed(&url, body.clone(), &key, progress)?;
            let job = self.ended(&job, progress)?;
            if job.get("state").and_then(Value::as_str) == Some("succeeded") {
                return self.remote.delete(&from, progress);
            }
            let said = job.pointer("/problem/detail").and_then(Value::as_str);
            said.unwrap_or("no reason was given").clone_into(&mut why);
        }
        Err(self
            .http()
            .unavailable(&format!("the replacement failed: {why}")))
    }

    /// Waits for the end of another instance's job.
    fn ended(&self, job: &Value, progress: &Progress) -> Result<Value> {
        let id = job.get("id").and_then(Value::as_str).unwrap_or_default();
        let url = self.http().url(["jobs", id]);
        let began = Instant::now();
        while began.elapsed() < LONGEST_JOB {
            let job: Value = self.http().read(&Method::GET, &url, None, progress)?;
            match job.get("state").and_then(Value::as_str) {
                Some("queued" | "running") => pause(progress)?,
                _ => return Ok(job),
            }
        }
        Err(self.http().unavailable(&format!(
            "its job {id} did not end within {} s",
            LONGEST_JOB.as_secs()
        )))
    }
}

fn pause(progress: &Progress) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < LOOK_EVERY {
        progress.check()?;
        std::thread::sleep(LOOK_EVERY / 5);
    }
    Ok(())
}
