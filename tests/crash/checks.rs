//! What is looked at after every restart, all of it over HTTP.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::records::{self, COLLECTIONS, Known, Record, Records, differences};
use crate::service::{Answer, Api};

/// A collection as it was found.
#[derive(PartialEq)]
struct Found {
    id: String,
    digest: String,
    order: Vec<String>,
    records: Records,
}

/// All collections as they were found at rest.
pub(crate) struct State {
    collections: BTreeMap<String, Found>,
}

impl State {
    /// Reads everything. Fails unless every collection is sound and nothing runs.
    pub(crate) async fn look(api: &Api, at: &str) -> Self {
        let integrity = integrity(api, at).await;
        let listed = list(api, at).await;
        assert!(
            integrity.keys().eq(listed.keys()),
            "{at}: checked {:?}, listed {:?}",
            integrity.keys(),
            listed.keys()
        );
        let mut collections = BTreeMap::new();
        for (name, id) in listed {
            let found = records::read(api, &id, at).await;
            let order: Vec<String> = found.iter().map(|record| record.id.clone()).collect();
            let (count, digest) = integrity[&name].clone();
            assert_eq!(found.len() as u64, count, "{at}: {name}: read and counted");
            let found = Found {
                id,
                digest,
                order,
                records: records::by_id(found, at),
            };
            collections.insert(name, found);
        }
        assert_nothing_runs(api, at).await;
        Self { collections }
    }

    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.collections.keys().map(String::as_str).collect()
    }

    pub(crate) fn id(&self, name: &str) -> &str {
        &self.collections[name].id
    }

    pub(crate) fn records(&self, name: &str) -> &Records {
        &self.collections[name].records
    }

    pub(crate) fn digest(&self, name: &str) -> &str {
        &self.collections[name].digest
    }

    /// Whether a collection holds exactly these records.
    pub(crate) fn holds(&self, name: &str, records: &Records) -> bool {
        self.records(name) == records
    }

    /// Fails unless a collection is as it was left.
    pub(crate) fn assert_untouched(&self, known: &Known, at: &str) {
        let found = self.records(known.name);
        assert!(
            found == &known.records,
            "{at}: {} changed at {:?}",
            known.name,
            differences(found, &known.records)
        );
    }

    /// Fails unless these collections are as they were in every respect, their ids and their order included.
    pub(crate) fn assert_same<'a>(
        &self,
        before: &Self,
        names: impl IntoIterator<Item = &'a str>,
        at: &str,
    ) {
        for name in names {
            let (found, expected) = (&self.collections[name], &before.collections[name]);
            assert!(
                found == expected,
                "{at}: {name} was {}, is {}, and changed at {:?}",
                expected.id,
                found.id,
                differences(&found.records, &expected.records)
            );
        }
    }

    /// Makes a full backup and exports it: both must say what the collections say, in their order.
    pub(crate) async fn assert_backup_equals(&self, api: &Api, at: &str) -> Value {
        let (status, job) = api.post("/backups?wait=true", &json!({})).await;
        assert_eq!(status, 201, "{at}: backup: {job}");
        let backup = job["result"].clone();
        let exported = export(api, &backup, at).await;
        let names: BTreeSet<&str> = exported.keys().map(String::as_str).collect();
        assert_eq!(names, self.names(), "{at}: collections of the backup");
        for (name, export) in exported {
            let live = &self.collections[&name];
            assert_eq!(
                export.digest, live.digest,
                "{at}: digest of {name} in the backup"
            );
            assert_eq!(
                export.order, live.order,
                "{at}: order of {name} in the backup"
            );
            assert!(
                export.records == live.records,
                "{at}: {name} in the backup differs at {:?}",
                differences(&export.records, &live.records)
            );
        }
        backup
    }
}

/// Fails with the difference unless exactly these collections exist.
pub(crate) fn assert_names<'a>(
    state: &State,
    expected: impl IntoIterator<Item = &'a str>,
    at: &str,
) {
    let expected: BTreeSet<&str> = expected.into_iter().collect();
    assert_eq!(state.names(), expected, "{at}: collections that exist");
}

/// Name → id.
async fn list(api: &Api, at: &str) -> BTreeMap<String, String> {
    let (status, listed) = api.get(COLLECTIONS).await;
    assert_eq!(status, 200, "{at}: {listed}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let collections = listed.as_array().unwrap().iter();
    collections
        .map(|collection| (text(&collection["name"]), text(&collection["id"])))
        .collect()
}

/// The deep check of all collections: name → count and digest. Fails unless all are sound and something
/// was looked at.
async fn integrity(api: &Api, at: &str) -> BTreeMap<String, (u64, String)> {
    let (status, health) = api.get("/health/collections").await;
    let passed = status == 200 && health["status"] == "pass";
    assert!(passed, "{at}: health: {status} {health}");
    let checks = health["checks"]["collections:integrity"].as_array();
    let checks = checks.map(Vec::as_slice).unwrap_or_default();
    let checked = health["checks"]["collections:checked"][0]["observed_value"].as_u64();
    assert_eq!(checked, Some(checks.len() as u64), "{at}: health: {health}");
    checks.iter().map(|check| sound(check, at)).collect()
}

fn sound(check: &Value, at: &str) -> (String, (u64, String)) {
    let observed = &check["observed_value"];
    let none = |member: &str| observed[member] == 0;
    let count = observed["count"].as_u64();
    let agree = observed["checked_records"].as_u64() == count
        && observed["checked_ids"].as_u64() == count
        && observed["recomputed_digest"] == observed["digest"]
        && none("orphans")
        && none("damaged")
        && none("memory_differences");
    assert!(agree && check["status"] == "pass", "{at}: health: {check}");
    let name = observed["collection"].as_str().unwrap();
    let name = name.rsplit('/').next().unwrap().to_owned();
    let digest = observed["digest"].as_str().unwrap().to_owned();
    (name, (count.unwrap(), digest))
}

/// Drops all collections: then nothing lives in the store any more, or it is one that is staged.
pub(crate) async fn assert_nothing_staged(api: &Api, at: &str) {
    for name in list(api, at).await.into_keys() {
        let (status, answer) = api.delete(&format!("{COLLECTIONS}/{name}")).await;
        assert_eq!(status, 200, "{at}: dropping {name}: {answer}");
    }
    let (status, job) = api.post("/compactions?wait=true", &json!({})).await;
    assert_eq!(status, 200, "{at}: {job}");
    assert_eq!(job["result"]["live_bytes"], 0, "{at}: still staged: {job}");
}

async fn assert_nothing_runs(api: &Api, at: &str) {
    for state in ["queued", "running"] {
        let (status, found) = api.get(&format!("/jobs?state={state}")).await;
        assert_eq!(status, 200, "{at}: {found}");
        assert_eq!(found["jobs"], json!([]), "{at}: {state} after a restart");
    }
}

/// How the jobs of one kind ended, newest first.
pub(crate) async fn ended_jobs(api: &Api, kind: &str, at: &str) -> Vec<Value> {
    let (status, found) = api.get(&format!("/jobs?kind={kind}&limit=1000")).await;
    assert_eq!(status, 200, "{at}: {found}");
    let jobs = found["jobs"].as_array().unwrap().clone();
    for job in &jobs {
        let ended = job["state"] == "succeeded" || job["state"] == "interrupted";
        assert!(ended && !job["finished_at"].is_null(), "{at}: {job}");
    }
    jobs
}

/// How the job of a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The kill came before it was accepted.
    Never,
    Interrupted,
    Succeeded,
}

/// Follows the jobs of one kind across restarts.
pub(crate) struct JobWatch {
    kind: &'static str,
    seen: usize,
    pub(crate) interrupted: u64,
    pub(crate) succeeded: u64,
}

impl JobWatch {
    pub(crate) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            seen: 0,
            interrupted: 0,
            succeeded: 0,
        }
    }

    /// Counts jobs that ended as they should, none of them killed.
    pub(crate) async fn skip(&mut self, api: &Api, at: &str) {
        self.seen = ended_jobs(api, self.kind, at).await.len();
    }

    /// How the one job since the last look ended. An answered one must be there as succeeded.
    pub(crate) async fn look(&mut self, api: &Api, answered: bool, at: &str) -> End {
        let jobs = ended_jobs(api, self.kind, at).await;
        let new = jobs.len() - self.seen;
        assert!(new <= 1, "{at}: {new} new jobs");
        self.seen = jobs.len();
        let end = match new {
            0 => End::Never,
            _ if jobs[0]["state"] == "succeeded" => End::Succeeded,
            _ => End::Interrupted,
        };
        assert!(
            !answered || end == End::Succeeded,
            "{at}: the job was answered as succeeded, now it is {end:?}"
        );
        self.interrupted += u64::from(end == End::Interrupted);
        self.succeeded += u64::from(end == End::Succeeded);
        end
    }

    /// Whether kills landed in running jobs, and others after them.
    pub(crate) fn is_meaningful(&self, rounds: u64) -> bool {
        self.interrupted >= (rounds / 6).max(1) && self.succeeded > 0
    }

    /// Fails unless that is so.
    pub(crate) fn assert_meaningful(&self, rounds: u64) {
        assert!(
            self.is_meaningful(rounds),
            "of {rounds} kills only {} landed in a job, {} after one: this run shows nothing",
            self.interrupted,
            self.succeeded
        );
    }
}

/// A long verb that was answered was answered well.
pub(crate) fn assert_accepted(answer: &Option<Answer>, expected: u16, at: &str) {
    if let Some((status, answer)) = answer {
        assert_eq!(*status, expected, "{at}: {answer}");
    }
}

/// All backups, newest first; none is damaged.
pub(crate) async fn backups(api: &Api, at: &str) -> Vec<Value> {
    let (status, listed) = api.get("/backups?limit=1000").await;
    assert_eq!(status, 200, "{at}: {listed}");
    assert_eq!(listed["damaged"], json!({}), "{at}: damaged manifests");
    assert_eq!(listed["next_cursor"], Value::Null, "{at}: too many backups");
    listed["backups"].as_array().unwrap().clone()
}

/// One collection of an export.
pub(crate) struct Exported {
    pub(crate) digest: String,
    order: Vec<String>,
    pub(crate) records: Records,
}

/// Exports a backup: valid JSON, with the counts and digests that the backup is listed with.
pub(crate) async fn export(api: &Api, backup: &Value, at: &str) -> BTreeMap<String, Exported> {
    let id = backup["id"].as_str().unwrap();
    let at = format!("{at}, {id}");
    let (status, export) = api.get(&format!("/backups/{id}/export?format=json")).await;
    assert_eq!(status, 200, "{at}: export: {export}");
    assert!(!export.is_null(), "{at}: the export is no valid JSON");
    assert_eq!(export["backup"], *backup, "{at}: the backup in its export");
    let listed = backup["collections"].as_array().unwrap();
    let exported = export["collections"].as_array().unwrap();
    assert_eq!(exported.len(), listed.len(), "{at}: collections");
    let mut collections = BTreeMap::new();
    for (listed, exported) in listed.iter().zip(exported) {
        let rows = exported["records"].as_array().unwrap();
        assert_eq!(exported["name"], listed["name"], "{at}: collections");
        assert_eq!(
            exported["digest"], listed["digest"],
            "{at}: {}",
            listed["name"]
        );
        assert_eq!(
            json!(rows.len()),
            listed["records"],
            "{at}: {}",
            listed["name"]
        );
        let records: Vec<Record> = rows.iter().map(Record::exported).collect();
        let content = Exported {
            digest: exported["digest"].as_str().unwrap().to_owned(),
            order: records.iter().map(|record| record.id.clone()).collect(),
            records: records::by_id(records, &at),
        };
        collections.insert(listed["name"].as_str().unwrap().to_owned(), content);
    }
    collections
}

/// The highest sequence seen of each collection.
#[derive(Default)]
pub(crate) struct Sequences(BTreeMap<String, u64>);

impl Sequences {
    /// Fails when a later backup has a lower sequence.
    pub(crate) fn observe(&mut self, backup: &Value, at: &str) {
        for collection in backup["collections"].as_array().unwrap() {
            let name = collection["name"].as_str().unwrap().to_owned();
            let sequence = collection["sequence"].as_u64().unwrap();
            let before = self.0.insert(name, sequence).unwrap_or(0);
            assert!(
                sequence >= before,
                "{at}: the sequence of {} went down from {before} to {sequence}",
                collection["name"]
            );
        }
    }
}
