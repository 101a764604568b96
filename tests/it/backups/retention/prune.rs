//! Pruning: what the rules keep, what goes, and what is never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};

use super::{
    assert_sound, back_up, bytes, change, deleted, files, full_backups, ids, loaded, manifest_of,
    packs, patch, stray, unneeded, vanished, verify, without_grace,
};
use crate::harness::{Service, assert_members, numbered, strings, text};

const PRUNING: [&str; 4] = ["kept", "deleted", "freed_bytes", "pending_bytes"];

/// What a pruning would do.
async fn planned(service: &Service, mut rules: Value) -> Value {
    rules["dry_run"] = json!(true);
    let plan = service.post("/backups/prune", rules).await.ok(200);
    assert_members(&plan, &PRUNING);
    plan
}

/// Prunes; what was done.
async fn pruned(service: &Service, rules: Value) -> Value {
    let mut job = service
        .post("/backups/prune?wait=true", rules)
        .await
        .ok(200);
    assert_eq!(
        (&job["kind"], &job["state"]),
        (&json!("prune"), &json!("succeeded"))
    );
    let result = job["result"].take();
    assert_members(&result, &PRUNING);
    result
}

/// Why each is kept, by its id.
fn reasons(pruning: &Value) -> BTreeMap<String, Vec<String>> {
    let kept = pruning["kept"].as_array().unwrap().iter();
    kept.map(|kept| (text(&kept["id"]), strings(&kept["reasons"])))
        .collect()
}

/// Ids of what is kept, each with a reason, and of what goes.
fn split(pruning: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let kept = reasons(pruning);
    assert!(
        kept.values().all(|reasons| !reasons.is_empty()),
        "{pruning}"
    );
    let deleted = strings(&pruning["deleted"]);
    (kept.into_keys().collect(), deleted.into_iter().collect())
}

fn these(made: &[String], at: &[usize]) -> BTreeSet<String> {
    at.iter().map(|&at| made[at].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruning_that_keeps_nothing_or_is_not_understood_is_refused() {
    let service = without_grace().await;
    full_backups(&service, 2).await;
    let state = async || {
        let jobs = service.get("/jobs").await.ok(200);
        (ids(&service).await, files(&service), jobs)
    };
    let before = state().await;
    for (body, named) in [
        (json!({}), ""),
        (json!({"dry_run": true}), ""),
        (json!({"keep_last": 0}), "keep_last"),
        (json!({"keep_last": 0, "dry_run": true}), "keep_last"),
        (json!({"keep_last": -1}), "keep_last"),
        (json!({"keep_daily": "1"}), "keep_daily"),
        (json!({"keep_last": 1, "keep_yearly": 1}), "keep_yearly"),
        (json!({"keep_last": 1, "dryrun": true}), "dryrun"),
    ] {
        let problem = service.post("/backups/prune", body).await.problem(422);
        assert!(text(&problem["detail"]).contains(named), "{problem}");
    }
    assert!(state().await == before, "something changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruning_says_first_what_it_does_and_does_exactly_that() {
    let service = without_grace().await;
    let (words, records) = loaded(&service).await;
    let mut made = Vec::new();
    for (round, kind) in ["full", "incremental", "full", "incremental"]
        .into_iter()
        .enumerate()
    {
        change(&words, &records, round).await;
        made.push(back_up(&service, json!({"kind": kind})).await);
    }
    let state = async || {
        let listed = service.get("/backups").await.ok(200);
        (listed, service.get("/jobs").await.ok(200), files(&service))
    };
    let before = state().await;
    let plan = planned(&service, json!({"keep_last": 1})).await;
    assert_eq!(split(&plan), (these(&made, &[3]), these(&made, &[0, 1, 2])));
    assert!(state().await == before, "a dry run changed something");

    let before = packs(&service);
    let result = pruned(&service, json!({"keep_last": 1})).await;
    for member in PRUNING {
        assert_eq!(result[member], plan[member], "{member}");
    }
    assert_eq!(ids(&service).await, made[3..]);
    let (freed, pending) = bytes(&result);
    assert_eq!((freed, pending), (vanished(&before, &packs(&service)), 0));
    assert!(freed > 0);
    assert_eq!(unneeded(&service).await, 0);
    assert_sound(&service, &made[3], &words.records().await).await;

    let again = pruned(&service, json!({"keep_last": 1})).await;
    assert_eq!(split(&again), (these(&made, &[3]), BTreeSet::new()));
    assert_eq!(bytes(&again), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pruning_frees_is_pending_for_the_grace_period() {
    let service = Service::start().await;
    let made = full_backups(&service, 3).await;
    let before = packs(&service);
    let plan = planned(&service, json!({"keep_last": 1})).await;
    let result = pruned(&service, json!({"keep_last": 1})).await;
    assert_eq!(split(&result), (these(&made, &[2]), these(&made, &[0, 1])));
    let (freed, pending) = bytes(&result);
    assert_eq!((freed, pending), (0, unneeded(&service).await));
    assert!(pending > 0);
    assert_eq!(bytes(&plan), (freed, pending));
    assert_eq!(packs(&service), before);
}

/// Puts a backup like another beside it, made at another time.
fn plant(service: &Service, like: &str, at: &str) -> String {
    let time = at.trim_end_matches('Z').replace('T', "_");
    let id = format!("backup_{}", time.replace(':', "-"));
    let envelope = fs::read(manifest_of(service, like)).unwrap();
    let mut envelope: Value = serde_json::from_slice(&envelope).unwrap();
    let manifest = &mut envelope["manifest"];
    manifest["id"] = json!(id);
    manifest["created_at"] = json!(at);
    let inner = manifest.to_string();
    let hash = blake3::hash(inner.as_bytes()).to_hex().to_string();
    let planted = format!("{{\"manifest\":{inner},\"blake3\":\"{hash}\"}}");
    fs::write(manifest_of(service, &id), planted).unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_keeps_the_newest_of_its_periods() {
    let service = Service::start().await;
    let now = full_backups(&service, 1).await.remove(0);
    let made = [
        "2021-01-04T10:59:59Z", // Monday of week 1
        "2021-01-04T10:00:00Z",
        "2021-01-04T09:59:59Z",
        "2021-01-03T23:59:59Z", // Sunday of week 53 of 2020
        "2020-12-31T12:00:00Z",
        "2020-12-28T00:00:00Z", // Monday of week 53
        "2020-12-27T23:00:00Z", // Sunday of week 52
        "2020-11-30T08:00:00Z",
    ]
    .map(|at| plant(&service, &now, at));
    deleted(&service, &now).await;
    assert_eq!(ids(&service).await, made);
    let cases: [(Value, &[usize]); 8] = [
        (json!({"keep_last": 3}), &[0, 1, 2]),
        (json!({"keep_hourly": 3}), &[0, 2, 3]),
        (json!({"keep_daily": 3}), &[0, 3, 4]),
        (json!({"keep_weekly": 3}), &[0, 3, 6]),
        (json!({"keep_monthly": 2}), &[0, 4]),
        (json!({"keep_monthly": 9}), &[0, 4, 7]),
        (
            json!({"keep_last": 2, "keep_weekly": 2, "keep_monthly": 2}),
            &[0, 1, 3, 4],
        ),
        (json!({"keep_hourly": 100}), &[0, 2, 3, 4, 5, 6, 7]),
    ];
    for (rules, expected) in cases {
        let plan = planned(&service, rules.clone()).await;
        let (kept, gone) = split(&plan);
        assert_eq!(kept, these(&made, expected), "{rules}");
        let all: BTreeSet<String> = made.iter().cloned().collect();
        assert_eq!(gone, &all - &kept, "{rules}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_spares_what_is_pinned_and_the_newest_that_is_verified() {
    let service = without_grace().await;
    let made = full_backups(&service, 5).await;
    patch(&service, &made[0], json!({"pinned": true}))
        .await
        .ok(200);
    // The newest backup counts, not the newest verification.
    for at in [2, 1] {
        verify(&service, &made[at]).await.ok(200);
    }
    let result = pruned(&service, json!({"keep_last": 1})).await;
    assert_eq!(
        split(&result),
        (these(&made, &[0, 2, 4]), these(&made, &[1, 3]))
    );
    let kept = reasons(&result);
    assert_eq!(kept[&made[0]], ["pinned"]);
    assert_eq!(kept[&made[2]], ["newest_verified"]);
    assert!(!kept[&made[4]].contains(&"newest_verified".to_owned()));
    for at in [0, 2, 4] {
        verify(&service, &made[at]).await.ok(200);
    }

    // Now the newest one is verified as well, and the first one is not pinned any more.
    patch(&service, &made[0], json!({"pinned": false}))
        .await
        .ok(200);
    let result = pruned(&service, json!({"keep_last": 1})).await;
    assert_eq!(split(&result), (these(&made, &[4]), these(&made, &[0, 2])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_failed_spares_nothing() {
    let service = without_grace().await;
    let mut made = full_backups(&service, 1).await;
    let of_first = packs(&service);
    let words = service.open("words").await;
    for round in 1..3 {
        words.add(&numbered(&format!("later-{round}"), 5)).await;
        made.push(back_up(&service, json!({"kind": "full"})).await);
        if round == 1 {
            verify(&service, &made[0]).await.ok(200);
            verify(&service, &made[1]).await.ok(200);
            let mut damaged = packs(&service).into_keys();
            let damaged = damaged.find(|pack| !of_first.contains_key(pack)).unwrap();
            fs::write(damaged, b"rotten").unwrap();
            verify(&service, &made[1]).await.problem(422);
        }
    }
    let plan = planned(&service, json!({"keep_last": 1})).await;
    assert_eq!(split(&plan), (these(&made, &[0, 2]), these(&made, &[1])));
    assert_eq!(reasons(&plan)[&made[0]], ["newest_verified"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_chosen_collections_are_compared_with_their_like() {
    let service = without_grace().await;
    let words = service.create("words").await;
    let other = service.create("other").await;
    let (word, others) = (json!({"name": "words"}), json!({"name": "other"}));
    let mut made = Vec::new();
    for round in 0..2 {
        words.add(&numbered(&format!("w-{round}"), 20)).await;
        other.add(&numbered(&format!("o-{round}"), 20)).await;
        for body in [
            json!({}),
            json!({"collections": [word]}),
            json!({"collections": [others]}),
            json!({"collections": [word, others]}),
        ] {
            made.push(back_up(&service, body).await);
        }
    }
    let result = pruned(&service, json!({"keep_last": 1})).await;
    assert_eq!(
        split(&result),
        (these(&made, &[4, 5, 6, 7]), these(&made, &[0, 1, 2, 3]))
    );
    assert_eq!(unneeded(&service).await, 0);
    for id in ids(&service).await {
        verify(&service, &id).await.ok(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_stops_pruning_until_it_is_deleted() {
    let service = without_grace().await;
    let made = full_backups(&service, 3).await;
    let path = manifest_of(&service, &made[1]);
    let mut manifest = fs::read(&path).unwrap();
    let middle = manifest.len() / 2;
    manifest[middle] ^= 1;
    fs::write(&path, manifest).unwrap();

    // Nobody knows which packs it needs.
    stray(&service);
    let before = files(&service);
    for body in [
        json!({"keep_last": 1}),
        json!({"keep_last": 1, "dry_run": true}),
    ] {
        let answer = service.post("/backups/prune?wait=true", body).await;
        let problem = answer.problem(422);
        assert!(text(&problem["detail"]).contains(&made[1]), "{problem}");
    }
    assert!(files(&service) == before, "something was deleted");

    let before = packs(&service);
    let (freed, pending) = deleted(&service, &made[1]).await;
    assert_eq!((freed, pending), (vanished(&before, &packs(&service)), 0));
    assert!(freed > 0 && !path.exists());
    assert_eq!(unneeded(&service).await, 0);
    let result = pruned(&service, json!({"keep_last": 1})).await;
    assert_eq!(split(&result), (these(&made, &[2]), these(&made, &[0])));
    verify(&service, &made[2]).await.ok(200);
}

/// An operator's copy must not make its packs garbage.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_was_moved_by_hand_stops_pruning() {
    let service = without_grace().await;
    let made = full_backups(&service, 2).await;
    let manifest = manifest_of(&service, &made[0]);
    let elsewhere = manifest.with_file_name("backup-to-keep.json");
    fs::rename(&manifest, &elsewhere).unwrap();
    let before = packs(&service);
    let rules = json!({"keep_last": 1});
    let problem = service.post("/backups/prune", rules.clone()).await.ok(202);
    let job = service.finished(&text(&problem["id"])).await;
    assert_eq!(job["state"], "failed", "{job}");
    assert!(
        job["problem"]["detail"]
            .to_string()
            .contains("backup-to-keep"),
        "{job}"
    );
    assert_eq!(packs(&service), before);
    fs::rename(&elsewhere, &manifest).unwrap();
    pruned(&service, rules).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_that_nothing_refers_to_are_collected_by_deleting_and_pruning() {
    let service = without_grace().await;
    let made = full_backups(&service, 2).await;
    let size = b"left behind".len() as u64;

    let left_behind = stray(&service);
    let before = packs(&service);
    let (freed, pending) = deleted(&service, &made[0]).await;
    assert_eq!((freed, pending), (vanished(&before, &packs(&service)), 0));
    assert!(freed > size && !left_behind.exists());

    stray(&service);
    let result = pruned(&service, json!({"keep_last": 5})).await;
    assert_eq!(split(&result), (these(&made, &[1]), BTreeSet::new()));
    assert_eq!(bytes(&result), (size, 0));
    assert!(!left_behind.exists());
    assert_eq!(verify(&service, &made[1]).await.status, 200);
}

/// Three nights of backups of nothing after the one that is good.
#[tokio::test(flavor = "multi_thread")]
async fn backups_of_nothing_do_not_push_the_good_one_out() {
    let service = without_grace().await;
    let good = full_backups(&service, 1).await.remove(0);
    verify(&service, &good).await.ok(200);
    service.drop_collection("words").await;
    let mut nights = Vec::new();
    for _ in 0..3 {
        nights.push(back_up(&service, json!({})).await);
        verify(&service, nights.last().unwrap()).await.problem(422);
    }
    let result = pruned(&service, json!({"keep_last": 1})).await;
    let kept = reasons(&result);
    assert_eq!(kept[&good], ["newest_verified", "keep_last"]);
    assert_eq!(kept[&nights[2]], ["newest"]);
    assert_eq!(ids(&service).await, [nights[2].clone(), good]);
}
