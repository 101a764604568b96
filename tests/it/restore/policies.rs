//! Every policy with its target missing, present and unchanged, present and changed: what the plan says, what
//! the result says, and what is then there. And that all collections of a request change together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};
use vectorkeep::model::metadata::MetadataValue;
use vectorkeep::model::record::Record;

use super::{RESTORED, RESULT, restore, visible};
use crate::harness::{
    Collection, DEFAULT_NAMESPACE, Http, Service, assert_members, digest, eventually, numbered,
    text,
};

/// Numbers of records, in this order in [`counts`], as the plan and as the result call them.
pub(super) const PLANNED_COUNTS: [&str; 5] = ["insert", "update", "unchanged", "delete", "skip"];
pub(super) const RESTORED_COUNTS: [&str; 5] =
    ["inserted", "updated", "unchanged", "deleted", "skipped"];

/// The result of a restore that succeeds, its members checked.
pub(super) async fn outcome(http: &Http, body: Value) -> Value {
    let mut job = restore(http, body).await.ok(200);
    assert_eq!(
        (&job["kind"], &job["state"], &job["problem"]),
        (&json!("restore"), &json!("succeeded"), &Value::Null)
    );
    let result = job["result"].take();
    assert_members(&result, &RESULT);
    for collection in result["collections"].as_array().unwrap() {
        assert_members(collection, &RESTORED);
        assert_members(collection, &RESTORED_COUNTS);
        let done = collection["action"] != "skipped";
        assert_eq!(collection["verified"], done, "{collection}");
        assert_eq!(collection["digest"].is_string(), done, "{collection}");
    }
    result
}

/// The plan of a restore, which makes no job and changes nothing.
pub(super) async fn planned(http: &Http, mut body: Value) -> Value {
    let before = (visible(http).await, http.get("/jobs").await.ok(200));
    body["dry_run"] = json!(true);
    let plan = http.post("/restore", body).await.ok(200);
    let after = (visible(http).await, http.get("/jobs").await.ok(200));
    assert!(after == before, "a dry run changed something: {plan}");
    assert_members(
        &plan,
        &["backup", "collections", "needed_bytes", "available_bytes"],
    );
    assert!(
        plan["needed_bytes"].is_u64() && plan["available_bytes"].is_u64(),
        "{plan}"
    );
    for collection in plan["collections"].as_array().unwrap() {
        assert_members(collection, &["name", "to", "action"]);
        assert_members(collection, &PLANNED_COUNTS);
    }
    plan
}

#[track_caller]
pub(super) fn counts(collection: &Value, members: [&str; 5]) -> [u64; 5] {
    members.map(|member| collection[member].as_u64().unwrap())
}

/// Asserts that a collection holds these records, in this order and to the bit.
pub(super) async fn assert_exact(collection: &Collection, expected: &[Record], context: &str) {
    let ids = |records: &[Record]| -> Vec<String> {
        records.iter().map(|record| record.id.clone()).collect()
    };
    let found = collection.records().await;
    assert_eq!(ids(&found), ids(expected), "{context}: ids and their order");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected, "{context}");
        // Equal numbers may differ in their bits: a zero has a sign.
        assert_eq!(
            found.canonical(),
            expected.canonical(),
            "{context}: bits of {}",
            found.id
        );
    }
    assert_eq!(collection.count().await, expected.len() as u64, "{context}");
}

/// Asserts that nothing can be read or written under the id any more.
pub(super) async fn assert_gone(http: &Http, collection: &Collection) {
    http.get(&collection.path("count")).await.expect(404);
    let vector = [0.5; 8];
    for (verb, body) in [
        ("get", json!({})),
        ("add", json!({"ids": ["x"], "embeddings": [vector]})),
        ("upsert", json!({"ids": ["x"], "embeddings": [vector]})),
        ("update", json!({"ids": ["r-00001"], "documents": ["x"]})),
        ("delete", json!({"ids": ["r-00001"]})),
        ("query", json!({"query_embeddings": [vector]})),
    ] {
        collection.post(verb, body).await.expect(404);
    }
}

/// The digest that a new backup of a collection has.
pub(super) async fn digest_of_new_backup(http: &Http, name: &str) -> Value {
    let backup = http.backup(json!({"collections": [{"name": name}]})).await;
    let found = http
        .get(&format!("/backups/{}", text(&backup["id"])))
        .await
        .ok(200);
    found["collections"][0]["digest"].clone()
}

/// What is in the backup, before it was moved about.
fn originals() -> Vec<Record> {
    let mut records = numbered("r", 12);
    let big = MetadataValue::Int(9_007_199_254_740_993);
    records[4].metadata.insert("big".to_owned(), big);
    records[5].embedding[0] = 0.0;
    (records[6].document, records[6].uri) = (None, None);
    records[6].metadata.clear();
    records[9].embedding[..3].copy_from_slice(&[-0.0, 1e-45, 0.1]);
    records
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Missing,
    Same,
    Different,
}

/// A backup of "words", and what has become of the collection since.
struct Scene {
    service: Service,
    /// By the id it had when it was backed up.
    words: Collection,
    backup: String,
    kept: Vec<Record>,
    kept_definition: Value,
}

impl Scene {
    async fn new(target: Target) -> Self {
        let service = Service::start().await;
        let body = json!({"name": "words", "metadata": {"lang": "en", "edition": 1},
            "configuration": {"hnsw": {"space": "cosine", "ef_search": 33}}});
        let words = service.create_in(DEFAULT_NAMESPACE, body).await;
        words.add(&originals()).await;
        // The order is not that of the ids.
        words.delete(json!({"ids": ["r-00003"]})).await;
        words.add(&originals()[3..4]).await;
        service
            .create("bystander")
            .await
            .add(&numbered("s", 5))
            .await;
        let backup = text(&service.backup(json!({})).await["id"]);
        let (kept, kept_definition) = (words.records().await, words.definition().await);
        match target {
            Target::Missing => service.drop_collection("words").await,
            Target::Same => {}
            Target::Different => change(&service, &words).await,
        }
        Self {
            service,
            words,
            backup,
            kept,
            kept_definition,
        }
    }
}

/// 2 go, 2 come, 4 become others, 2 of the 6 that stay as they were are written again.
async fn change(service: &Service, words: &Collection) {
    let originals = originals();
    let mut written = [1, 4, 5, 6].map(|at| originals[at].clone());
    written[0].document = Some("another text".to_owned());
    written[0].embedding[2] = 0.1;
    let retyped = MetadataValue::Str("no longer a number".to_owned());
    written[1].metadata.insert("n".to_owned(), retyped);
    written[2].embedding[0] = -0.0;
    words.upsert(&written).await;
    let gone = ["r-00000", "r-00002", "r-00007", "r-00008"];
    words.delete(json!({ "ids": gone })).await;
    // Back, in another place: one as it was, one not.
    let mut again = originals[8].clone();
    again.uri = Some("file:///elsewhere".to_owned());
    words.add(&[again, originals[0].clone()]).await;
    words.add(&numbered("later", 2)).await;
    let path = format!("{DEFAULT_NAMESPACE}/collections/{}", words.id);
    let body = json!({"new_metadata": {"lang": "de"},
        "new_configuration": {"hnsw": {"ef_search": 77}}});
    service.send("PUT", &path, Some(&body)).await.expect(200);
}

/// Both sides by id: what is live in its order, then what only the backup has in the backup's order.
fn union(live: &[Record], backup: &[Record], winner: &str) -> Vec<Record> {
    let there = live.iter().map(|record| {
        let other = backup.iter().find(|other| other.id == record.id);
        other.filter(|_| winner == "backup").unwrap_or(record)
    });
    let missing = backup
        .iter()
        .filter(|record| live.iter().all(|there| there.id != record.id));
    there.chain(missing).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_does_what_it_says_and_its_plan_says_it_before() {
    const ALL_NEW: [u64; 5] = [12, 0, 0, 0, 0];
    const ALL_SAME: [u64; 5] = [0, 0, 12, 0, 0];
    const SKIPPED: [u64; 5] = [0, 0, 0, 0, 12];
    let on = |policy: &str| json!({ "on_conflict": policy });
    let merge = |winner: &str| json!({"on_conflict": "merge", "merge_winner": winner});
    // The action where the target exists, and its numbers: the same content, another content.
    for (options, action, same, different) in [
        (json!({}), None, [0; 5], [0; 5]),
        (on("fail"), None, [0; 5], [0; 5]),
        (on("skip"), Some("skipped"), SKIPPED, SKIPPED),
        (on("rename"), Some("renamed"), ALL_NEW, ALL_NEW),
        (on("replace"), Some("replaced"), ALL_SAME, [2, 4, 6, 2, 0]),
        (
            json!({"on_conflict": "replace", "keep_id": true}),
            Some("replaced"),
            ALL_SAME,
            [2, 4, 6, 2, 0],
        ),
        (on("merge"), Some("merged"), ALL_SAME, [2, 4, 6, 0, 0]),
        (merge("backup"), Some("merged"), ALL_SAME, [2, 4, 6, 0, 0]),
        (merge("live"), Some("merged"), ALL_SAME, [2, 0, 6, 0, 4]),
    ] {
        check(&options, Target::Missing, Some("created"), ALL_NEW).await;
        check(&options, Target::Same, action, same).await;
        check(&options, Target::Different, action, different).await;
    }
}

async fn check(options: &Value, target: Target, action: Option<&str>, expected: [u64; 5]) {
    let context = format!("{options}, target {target:?}");
    let scene = Scene::new(target).await;
    let mut body = options.clone();
    body["backup"] = json!(scene.backup);
    body["collections"] = json!([{"name": "words"}]);
    let Some(action) = action else {
        return check_refusal(scene, body).await;
    };
    let live = match target {
        Target::Missing => Vec::new(),
        _ => scene.words.records().await,
    };
    let before = visible(&scene.service).await;

    let name = if action == "renamed" {
        "words-restored-1"
    } else {
        "words"
    };
    let to = json!({"tenant": "default_tenant", "database": "default_database", "name": name});
    let plan = planned(&scene.service, body.clone()).await;
    let result = outcome(&scene.service, body).await;
    for answer in [&plan, &result] {
        assert_eq!(answer["backup"], scene.backup, "{context}");
        assert_eq!(answer["collections"].as_array().unwrap().len(), 1);
        let row = &answer["collections"][0];
        assert_eq!(
            (&row["name"], &row["to"], &row["action"]),
            (&json!("words"), &to, &json!(action)),
            "{context}"
        );
    }
    let (plan, result) = (&plan["collections"][0], &result["collections"][0]);
    assert_eq!(counts(plan, PLANNED_COUNTS), expected, "{context}");
    assert_eq!(counts(result, RESTORED_COUNTS), expected, "{context}");
    check_contents(scene, options, result, &before, &live, &context).await;
}

/// `fail` where the name is taken: no job, no change, no plan either.
async fn check_refusal(scene: Scene, mut body: Value) {
    let http: &Http = &scene.service;
    let before = (visible(http).await, http.get("/jobs").await.ok(200));
    for dry_run in [true, false] {
        body["dry_run"] = json!(dry_run);
        let problem = restore(http, body.clone()).await.problem(409);
        let kind = text(&problem["type"]);
        assert!(kind.ends_with("/name-conflict"), "{problem}");
        assert!(text(&problem["detail"]).contains("words"), "{problem}");
        let after = (visible(http).await, http.get("/jobs").await.ok(200));
        assert!(after == before, "a refused request changed something");
    }
}

/// What is there afterwards, and again after a restart.
async fn check_contents(
    scene: Scene,
    options: &Value,
    result: &Value,
    before: &[(String, Value, Vec<u8>)],
    live: &[Record],
    context: &str,
) {
    let Scene {
        mut service,
        words,
        kept,
        kept_definition,
        ..
    } = scene;
    let (action, name) = (text(&result["action"]), text(&result["to"]["name"]));
    let stood = before.iter().find(|(id, ..)| *id == words.id);
    let stood = stood.map(|(_, definition, _)| definition.clone());
    let (records, mut definition) = match action.as_str() {
        "skipped" => (live.to_vec(), stood.unwrap()),
        "merged" => {
            let winner = options["merge_winner"].as_str().unwrap_or("backup");
            (union(live, &kept, winner), stood.unwrap())
        }
        _ => (kept, kept_definition),
    };
    definition["name"] = json!(name);

    let target = service.open(&name).await;
    assert_exact(&target, &records, context).await;
    assert_eq!(target.definition().await, definition, "{context}");
    let keeps_handle = match action.as_str() {
        "skipped" | "merged" => true,
        "replaced" => options["keep_id"] == json!(true),
        _ => false,
    };
    assert_eq!(target.id == words.id, keeps_handle, "{context}");
    if action != "skipped" {
        assert_eq!(result["records"], records.len(), "{context}");
        assert_eq!(result["digest"], digest(&records), "{context}");
    }
    let backed_up = digest_of_new_backup(&service, &name).await;
    assert_eq!(backed_up, digest(&records), "{context}");

    // What the restore was not to touch is as it was; what gave its name up is gone.
    let keeps_id = action == "skipped" || action == "renamed";
    let mut expected: Vec<_> = before
        .iter()
        .filter(|(id, ..)| *id != words.id || keeps_id)
        .cloned()
        .collect();
    if action != "skipped" {
        let dump = target.dump().await.to_vec();
        expected.push((target.id.clone(), definition, dump));
    }
    expected.sort_by_key(|(_, definition, _)| text(&definition["name"]));
    assert!(visible(&service).await == expected, "{context}");
    if keeps_handle {
        assert_exact(&words, &records, context).await;
    } else if !keeps_id {
        assert_gone(&service, &words).await;
    }
    let ids: BTreeSet<_> = expected.iter().map(|(id, ..)| id.clone()).collect();
    service.holds_only(&ids).await;
    assert!(visible(&service).await == expected, "{context}: restarted");
}

#[tokio::test(flavor = "multi_thread")]
async fn fail_with_one_conflict_among_three_changes_none() {
    const NAMES: [&str; 3] = ["first", "second", "third"];
    for taken in NAMES {
        let mut service = Service::start().await;
        for name in NAMES {
            service.create(name).await.add(&numbered(name, 30)).await;
        }
        let backup = text(&service.backup(json!({})).await["id"]);
        for name in NAMES.into_iter().filter(|name| *name != taken) {
            service.drop_collection(name).await;
        }
        let there = service.open(taken).await;
        there
            .delete(json!({"ids": [format!("{taken}-00003")]}))
            .await;
        there.add(&numbered("later", 2)).await;
        let databases = "/api/v2/tenants/default_tenant/databases";
        let look = async || {
            let digest = digest_of_new_backup(&service, taken).await;
            let databases = service.get(databases).await.ok(200);
            (visible(&service).await, digest, databases)
        };
        let before = look().await;

        let all: Value = NAMES.iter().map(|name| json!({ "name": name })).collect();
        let reversed: Value = NAMES
            .iter()
            .rev()
            .map(|name| json!({ "name": name }))
            .collect();
        let mut elsewhere = all.clone();
        for collection in elsewhere.as_array_mut().unwrap() {
            if collection["name"] != taken {
                collection["to"] = json!({"database": "elsewhere"});
            }
        }
        for body in [
            json!({"backup": backup}),
            json!({"backup": "latest", "on_conflict": "fail", "collections": [{"name": taken}]}),
            json!({"backup": backup, "collections": all}),
            json!({"backup": backup, "collections": reversed}),
            json!({"backup": backup, "collections": elsewhere, "on_conflict": "fail"}),
        ] {
            let problem = restore(&service, body).await.problem(409);
            let kind = text(&problem["type"]);
            assert!(kind.ends_with("/name-conflict"), "{problem}");
            assert!(text(&problem["detail"]).contains(taken), "{problem}");
        }
        assert!(look().await == before, "{taken} was taken, and yet");
        // What is refused at once is no job.
        let jobs = service.get("/jobs?kind=restore").await.ok(200);
        assert_eq!(jobs["jobs"], json!([]));
        service.holds_only(&BTreeSet::from([there.id])).await;
    }
}

const SIDES: [&str; 3] = ["left", "middle", "right"];
const STATES: u64 = 8;

/// The number of the state that a collection is in.
async fn state_of(http: &Http, name: &str) -> u64 {
    loop {
        let collection = http.open(name).await;
        let body = json!({"ids": ["token"], "include": ["documents"]});
        let got = collection.post("get", body).await;
        // Swapped out since it was looked up.
        if got.status != 404 {
            return text(&got.ok(200)["documents"][0]).parse().unwrap();
        }
    }
}

/// Reads one collection after the other; each read begins after the answer to the one before, so none may show
/// an older state. The states that were seen.
async fn watch(http: Http, step: usize, stop: Arc<AtomicBool>, looks: Arc<AtomicU64>) -> Vec<u64> {
    let mut seen = vec![0];
    let mut at = 0;
    while !stop.load(Ordering::SeqCst) {
        let state = state_of(&http, SIDES[at % SIDES.len()]).await;
        let newest = *seen.last().unwrap();
        assert!(
            state >= newest,
            "{} is in state {state}, another was in {newest} before",
            SIDES[at % SIDES.len()]
        );
        if state > newest {
            seen.push(state);
        }
        at += step;
        looks.fetch_add(1, Ordering::SeqCst);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_replaced_in_one_request_are_never_seen_apart() {
    let service = Service::start().await;
    for side in SIDES {
        service.create(side).await.add(&numbered(side, 300)).await;
    }
    let mut backups = Vec::new();
    for state in 0..STATES {
        let mut token = numbered("token", 1).remove(0);
        (token.id, token.document) = ("token".to_owned(), Some(state.to_string()));
        for side in SIDES {
            let collection = service.open(side).await;
            collection.upsert(std::slice::from_ref(&token)).await;
        }
        backups.push(text(&service.backup(json!({})).await["id"]));
    }
    let replace = async |state: u64| {
        let backup = &backups[state as usize];
        let body = json!({"backup": backup, "on_conflict": "replace"});
        let result = outcome(&service, body).await;
        let done = result["collections"].as_array().unwrap();
        assert!(done.len() == 3 && done.iter().all(|done| done["action"] == "replaced"));
    };
    replace(0).await;
    let stop = Arc::new(AtomicBool::new(false));
    let looks = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    // Forwards and backwards.
    let watchers = [1, 2].into_iter().zip(&looks).map(|(step, looks)| {
        let http = Http::clone(&service);
        tokio::spawn(watch(http, step, Arc::clone(&stop), Arc::clone(looks)))
    });
    let watchers: Vec<_> = watchers.collect();
    for state in 1..STATES {
        replace(state).await;
        for looks in &looks {
            // One may have been under way.
            let enough = looks.load(Ordering::SeqCst) + 2;
            eventually("a look at the new state", async || {
                (looks.load(Ordering::SeqCst) >= enough).then_some(())
            })
            .await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    for watcher in watchers {
        let seen = watcher.await.unwrap();
        assert_eq!(seen, (0..STATES).collect::<Vec<_>>());
    }
}
