//! Migrating between environments: a service that knows another one under two names, as what it is and as if
//! it were Chroma's server. Between the two stands a proxy that can lose, hold and refuse requests.

mod configuration;
mod conformance;
mod faults;
mod listing;
mod losses;
mod meanwhile;
mod policies;
mod proxy;
mod resume;
mod swaps;
mod writes;

use serde_json::{Value, json};
use vectorkeep::config::{Config, EnvironmentConfig};
use vectorkeep::model::record::Record;

use self::proxy::Proxy;
pub(crate) use self::resume::with_broken_off_migration;
use crate::harness::{Answer, Collection, Http, Service, assert_members, text, visible};

/// The other service by its kind.
const SECOND: &str = "second";
/// The same one as if it were Chroma's.
const CHROMA: &str = "chroma";
const LOCAL: &str = "local";

const RESULT: [&str; 18] = [
    "source",
    "target",
    "action",
    "read",
    "inserted",
    "updated",
    "unchanged",
    "skipped",
    "deleted",
    "failed",
    "bytes",
    "duration_ms",
    "records_per_second",
    "source_digest",
    "target_digest",
    "verified",
    "resumed",
    "differences",
];
const PLAN: [&str; 10] = [
    "source",
    "target",
    "action",
    "insert",
    "update",
    "unchanged",
    "delete",
    "skip",
    "gap",
    "losses",
];

/// An environment as the configuration has it; further members by `more`.
fn environment(kind: &str, url: &str, more: Value) -> EnvironmentConfig {
    let mut members = json!({"kind": kind, "url": url});
    extend(&mut members, more);
    serde_json::from_value(members).unwrap()
}

fn extend(object: &mut Value, more: Value) {
    let more = more.as_object().unwrap().clone();
    object.as_object_mut().unwrap().extend(more);
}

struct World {
    local: Service,
    other: Service,
    proxy: Proxy,
}

impl World {
    async fn start() -> Self {
        Self::with(|_| (), |_| ()).await
    }

    /// With other settings of the service that is asked, and of the other one. A request that fails is not
    /// repeated unless they say so.
    async fn with(local: impl FnOnce(&mut Config), other: impl FnOnce(&mut Config)) -> Self {
        let other = Service::with(other).await;
        let proxy = Proxy::start(&other.base).await;
        let url = proxy.url.clone();
        let local = Service::with(|config| {
            for (name, kind) in [(SECOND, "vectorkeep"), (CHROMA, "chroma")] {
                let found = environment(kind, &url, json!({}));
                config.environments.insert(name.to_owned(), found);
            }
            config.migration.max_retries = 0;
            local(config);
        })
        .await;
        Self {
            local,
            other,
            proxy,
        }
    }

    /// The service that an environment is.
    fn at(&self, environment: &str) -> &Http {
        if environment == LOCAL {
            &self.local
        } else {
            &self.other
        }
    }

    /// Everything that a client of either can see, and all jobs.
    async fn look(&self) -> Vec<(String, Value, Vec<u8>)> {
        let mut seen = Vec::new();
        for http in [&*self.local, &*self.other] {
            seen.extend(visible(http).await);
            let mut jobs = http.get("/jobs").await.ok(200);
            // A problem carries the id of the request that it is shown to.
            for job in jobs["jobs"].as_array_mut().unwrap() {
                if let Some(problem) = job["problem"].as_object_mut() {
                    problem.remove("request_id");
                }
            }
            seen.push(("jobs".to_owned(), jobs, Vec::new()));
        }
        seen
    }

    /// Nothing that a migration makes on its way is left.
    async fn assert_tidy(&self) {
        for http in [&*self.local, &*self.other] {
            let names = http.names().await;
            let left = names.iter().filter(|name| name.starts_with("vectorkeep-"));
            let left: Vec<_> = left.collect();
            assert!(left.is_empty(), "left on {}: {left:?}", http.base);
        }
    }
}

/// Environment and collection.
type End<'a> = (&'a str, &'a str);

fn end(end: End<'_>) -> Value {
    json!({"environment": end.0, "tenant": "default_tenant", "database": "default_database",
        "collection": end.1})
}

fn request(source: End<'_>, target: End<'_>, options: Value) -> Value {
    let named = |end: End<'_>| json!({"environment": end.0, "collection": end.1});
    let mut body = json!({"source": named(source), "target": named(target)});
    extend(&mut body, options);
    body
}

async fn migrate(http: &Http, body: Value) -> Answer {
    http.post("/migrate?wait=true", body).await
}

/// The result of a migration that succeeds, its members checked.
async fn migrated(http: &Http, body: Value) -> Value {
    let job = migrate(http, body).await.ok(200);
    checked_result(job)
}

/// The result of a job that succeeded.
fn checked_result(mut job: Value) -> Value {
    assert_eq!(
        (&job["kind"], &job["state"], &job["problem"]),
        (&json!("migration"), &json!("succeeded"), &Value::Null),
        "{job}"
    );
    let result = job["result"].take();
    assert_members(&result, &RESULT);
    let done = result["action"] != "skipped";
    assert_eq!(
        (
            &result["verified"],
            &result["failed"],
            &result["differences"]
        ),
        (&json!(done), &json!(0), &json!([])),
        "{result}"
    );
    result
}

/// The plan of a migration, which makes no job and changes nothing on either side.
async fn planned(world: &World, body: &Value) -> Value {
    let before = world.look().await;
    let mut body = body.clone();
    body["dry_run"] = json!(true);
    let plan = world.local.post("/migrate", body).await.ok(200);
    let after = world.look().await;
    for (before, after) in before.iter().zip(&after) {
        let shown = |seen: &(String, Value, Vec<u8>)| {
            let dump = String::from_utf8_lossy(&seen.2).into_owned();
            format!("{} {} {dump}", seen.0, seen.1)
        };
        assert_eq!(
            shown(after),
            shown(before),
            "a dry run changed something: {plan}"
        );
    }
    assert_eq!(
        after.len(),
        before.len(),
        "a dry run changed something: {plan}"
    );
    assert_members(&plan, &PLAN);
    assert!(
        plan["needed_bytes"].is_u64() && plan["available_bytes"].is_u64(),
        "{plan}"
    );
    plan
}

/// Asserts that a collection holds these records, in this order and to the bit.
async fn assert_exact(collection: &Collection, expected: &[Record], context: &str) {
    let found = collection.records().await;
    let ids = |records: &[Record]| -> Vec<String> {
        records.iter().map(|record| record.id.clone()).collect()
    };
    assert_eq!(ids(&found), ids(expected), "{context}: ids and their order");
    assert_same(&found, expected, context);
    assert_eq!(collection.count().await, expected.len() as u64, "{context}");
}

/// Asserts that both are the same records to the bit, in whatever order.
fn assert_same(found: &[Record], expected: &[Record], context: &str) {
    let by_id = |records: &[Record]| {
        let mut records = records.to_vec();
        records.sort_by(|a, b| a.id.cmp(&b.id));
        records
    };
    let (found, expected) = (by_id(found), by_id(expected));
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.id, expected.id, "{context}: ids");
        // Equal numbers may differ in their bits: a zero has a sign.
        assert!(
            found.canonical() == expected.canonical(),
            "{context}: {found:?} instead of {expected:?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{context}: records");
}

/// What a collection is, apart from its name.
async fn unnamed_definition(collection: &Collection) -> Value {
    let mut definition = collection.definition().await;
    let members = definition.as_object_mut().unwrap();
    members.remove("name").expect("a collection has a name");
    definition
}

/// Asserts that a migration that was begun with this body fails because the other side fails.
async fn assert_breaks_off(world: &World, body: &Value) -> Value {
    let problem = migrate(&world.local, body.clone()).await.problem(502);
    let kind = text(&problem["type"]);
    assert!(kind.ends_with("/remote-unavailable"), "{problem}");
    problem
}
