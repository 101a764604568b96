//! Restoring some records: by ids, by a filter, by both; into new places and into what is there.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vectorkeep::model::metadata::MetadataValue;
use vectorkeep::model::record::Record;

use super::policies::{PLANNED_COUNTS, RESTORED_COUNTS, assert_exact, counts, outcome, planned};
use super::{restore, restored, visible, with_backup};
use crate::harness::{Collection, DEFAULT_NAMESPACE, Http, Service, digest, numbered, text};

type Holds = fn(&Record) -> bool;

fn notes() -> Vec<Record> {
    let mut records = numbered("r", 40);
    for (number, record) in records.iter_mut().enumerate() {
        let kind = if number % 2 == 0 { "even" } else { "odd" };
        let kind = MetadataValue::Str(kind.to_owned());
        record.metadata.insert("kind".to_owned(), kind);
        if number % 10 == 7 {
            record.document = None;
        }
    }
    records
}

/// A service with one backup of "notes", whose order is not that of the ids; what it holds.
async fn with_notes() -> (Service, Collection, Vec<Record>, String) {
    let service = Service::start().await;
    let body = json!({"name": "notes", "metadata": {"owner": "a"},
        "configuration": {"hnsw": {"space": "ip"}}});
    let collection = service.create_in(DEFAULT_NAMESPACE, body).await;
    collection.add(&notes()).await;
    collection.delete(json!({"ids": ["r-00005"]})).await;
    collection.add(&notes()[5..6]).await;
    let kept = collection.records().await;
    let backup = text(&service.backup(json!({})).await["id"]);
    (service, collection, kept, backup)
}

/// Changes the collection after its backup: some records go, some become others, some come.
async fn change(collection: &Collection) {
    let mut changed = [12, 14, 20].map(|at| notes()[at].clone());
    for record in &mut changed {
        record.document = Some("changed since".to_owned());
    }
    // No longer what a filter would find.
    changed[2]
        .metadata
        .insert("n".to_owned(), MetadataValue::Int(-1));
    collection.upsert(&changed).await;
    collection
        .delete(json!({"ids": ["r-00011", "r-00002"]}))
        .await;
    collection.add(&numbered("later", 3)).await;
}

fn number(record: &Record) -> i64 {
    match record.metadata["n"] {
        MetadataValue::Int(number) => number,
        ref other => panic!("{other:?}"),
    }
}

fn is_even(record: &Record) -> bool {
    record.metadata["kind"] == MetadataValue::Str("even".to_owned())
}

fn says(record: &Record, part: &str) -> bool {
    let document = record.document.as_ref();
    document.is_some_and(|document| document.contains(part))
}

/// Ids that were asked for and are not in the backup.
fn missing_ids(restored: &Value) -> BTreeSet<String> {
    let listed = restored["missing_ids"].as_array();
    listed.into_iter().flatten().map(text).collect()
}

fn find<'a>(records: &'a [Record], id: &str) -> &'a Record {
    records.iter().find(|record| record.id == id).unwrap()
}

fn to_itself(backup: &str, selection: &Value, options: &Value) -> Value {
    let mut body = json!({"backup": backup, "collections": [{"name": "notes"}]});
    for part in [selection, options] {
        let members = part.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(members);
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_and_filters_select_what_a_look_at_every_record_selects() {
    let (service, collection, kept, backup) = with_notes().await;
    let before = collection.dump().await;
    let cases: [(Value, Holds, &[&str]); 8] = [
        (
            json!({"ids": ["r-00030", "r-00005", "r-00007"]}),
            |record| [30, 5, 7].contains(&number(record)),
            &[],
        ),
        (
            json!({"ids": ["nobody", "r-00001", "r-00040", "r-00039"]}),
            |record| [1, 39].contains(&number(record)),
            &["nobody", "r-00040"],
        ),
        (json!({"where": {"kind": "even"}}), is_even, &[]),
        (
            json!({"where": {"$and": [{"n": {"$gt": 10}}, {"n": {"$lte": 20.5}}]}}),
            |record| (11..=20).contains(&number(record)),
            &[],
        ),
        (
            json!({"where": {"#document": {"$contains": "text 1"}}}),
            |record| says(record, "text 1"),
            &[],
        ),
        (
            json!({"where": {"$or": [{"#document": {"$not_contains": "text"}}, {"n": {"$in": [1, 2]}}]}}),
            |record| record.document.is_none() || [1, 2].contains(&number(record)),
            &[],
        ),
        (
            json!({"where": {"$and": [{"kind": {"$ne": "even"}}, {"n": {"$gt": 3}}, {"#document": {"$contains": "3"}}]}}),
            |record| !is_even(record) && number(record) > 3 && says(record, "3"),
            &[],
        ),
        // What is there and does not match is not unknown.
        (
            json!({"ids": ["r-00008", "r-00009", "nobody", "r-00010"], "where": {"kind": "even"}}),
            |record| [8, 10].contains(&number(record)),
            &["nobody"],
        ),
    ];
    for (at, (selection, holds, unknown)) in cases.into_iter().enumerate() {
        let context = selection.to_string();
        let expected: Vec<Record> = kept.iter().filter(|r| holds(r)).cloned().collect();
        assert!(!expected.is_empty() && expected.len() < kept.len());
        let name = format!("picked-{at}");
        let to = json!({"collections": [{"name": "notes", "to": {"name": name}}]});
        let body = to_itself(&backup, &selection, &to);
        let plan = planned(&service, body.clone()).await["collections"][0].take();
        let done = outcome(&service, body).await["collections"][0].take();
        let all_new = [expected.len() as u64, 0, 0, 0, 0];
        assert_eq!(counts(&plan, PLANNED_COUNTS), all_new, "{context}");
        assert_eq!(counts(&done, RESTORED_COUNTS), all_new, "{context}");
        assert_eq!(done["records"], expected.len(), "{context}");
        assert_eq!(done["digest"], digest(&expected), "{context}");
        let unknown: BTreeSet<String> = unknown.iter().map(|id| (*id).to_owned()).collect();
        assert_eq!(missing_ids(&done), unknown, "{context}");
        let picked = service.open(&name).await;
        assert_exact(&picked, &expected, &context).await;
        let mut definition = picked.definition().await;
        definition["name"] = json!("notes");
        assert_eq!(definition, collection.definition().await, "{context}");
    }
    assert_eq!(collection.dump().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_selected_nothing_changes() {
    let (mut service, collection, _, backup) = with_notes().await;
    change(&collection).await;
    let before = visible(&service).await;
    for selection in [
        json!({"ids": ["nobody", "r-00040"]}),
        json!({"where": {"kind": "neither"}}),
        json!({"where": {"$and": [{"kind": "even"}, {"kind": "odd"}]}}),
        json!({"ids": ["r-00003", "r-00009"], "where": {"kind": "even"}}),
        json!({"ids": []}),
    ] {
        for options in [
            json!({"collections": [{"name": "notes", "to": {"name": "picked"}}]}),
            json!({"on_conflict": "rename"}),
            json!({"on_conflict": "replace"}),
            json!({"on_conflict": "merge"}),
            json!({"on_conflict": "merge", "merge_winner": "live"}),
        ] {
            let body = to_itself(&backup, &selection, &options);
            let context = body.to_string();
            restore(&service, body).await.problem(422);
            assert!(visible(&service).await == before, "{context}");
        }
    }
    let jobs = service.get("/jobs?kind=restore").await.ok(200);
    let jobs = jobs["jobs"].as_array().unwrap();
    assert!(!jobs.is_empty() && jobs.iter().all(|job| job["state"] == "failed"));
    service.holds_only(&BTreeSet::from([collection.id])).await;
}

/// Merges a selection into what has changed since; both sides in full are compared before and after.
async fn merged(http: &Http, body: Value, expected: &[Record], numbers: [u64; 5]) {
    let context = body.to_string();
    let old = http.open("notes").await;
    let definition = old.definition().await;
    let plan = planned(http, body.clone()).await["collections"][0].take();
    let done = outcome(http, body).await["collections"][0].take();
    assert_eq!(done["action"], "merged", "{context}");
    assert_eq!(counts(&plan, PLANNED_COUNTS), numbers, "{context}");
    assert_eq!(counts(&done, RESTORED_COUNTS), numbers, "{context}");
    assert_eq!(done["records"], expected.len(), "{context}");
    assert_eq!(done["digest"], digest(expected), "{context}");
    let new = http.open("notes").await;
    assert_eq!(new.id, old.id, "{context}");
    assert_exact(&old, expected, &context).await;
    assert_exact(&new, expected, &context).await;
    assert_eq!(new.definition().await, definition, "{context}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_deleted_comes_back_behind_the_others_and_nothing_else_does() {
    for winner in [None, Some("backup"), Some("live")] {
        let (service, collection, kept, backup) = with_notes().await;
        change(&collection).await;
        let body = json!({"new_metadata": {"owner": "b"}});
        let path = format!("{DEFAULT_NAMESPACE}/collections/{}", collection.id);
        service.send("PUT", &path, Some(&body)).await.expect(200);
        let mut live = collection.records().await;
        let mut options = json!({"on_conflict": "merge"});
        if let Some(winner) = winner {
            options["merge_winner"] = json!(winner);
        }
        let backup_wins = winner != Some("live");
        let body = |selection: Value| to_itself(&backup, &selection, &options);

        live.push(find(&kept, "r-00011").clone());
        let undelete = body(json!({"ids": ["r-00011"]}));
        merged(&service, undelete, &live, [1, 0, 0, 0, 0]).await;

        // Of the records that became others, those that were asked for; where they stand.
        let mut numbers = [0, 0, 1, 0, 1];
        if backup_wins {
            numbers = [0, 1, 1, 0, 0];
            let at = live.iter().position(|r| r.id == "r-00012").unwrap();
            live[at] = find(&kept, "r-00012").clone();
        }
        let revert = body(json!({"ids": ["r-00013", "r-00012"]}));
        merged(&service, revert, &live, numbers).await;

        // A filter looks at the backup's records, whatever they are now.
        let mut numbers = [1, 0, 0, 0, 1];
        if backup_wins {
            numbers = [1, 1, 0, 0, 0];
            let at = live.iter().position(|r| r.id == "r-00020").unwrap();
            live[at] = find(&kept, "r-00020").clone();
        }
        live.push(find(&kept, "r-00002").clone());
        let filtered = body(json!({"where": {"n": {"$in": [2, 20]}}}));
        merged(&service, filtered, &live, numbers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_for_some_ids_counts_what_the_restore_then_does() {
    // Deleted, changed, the same, never there; `later` records and all others are not asked for.
    let selection = json!({"ids": ["r-00011", "r-00014", "r-00015", "nobody"]});
    for (options, numbers) in [
        (json!({"on_conflict": "rename"}), [3, 0, 0, 0, 0]),
        (json!({"on_conflict": "merge"}), [1, 1, 1, 0, 0]),
        (
            json!({"on_conflict": "merge", "merge_winner": "live"}),
            [1, 0, 1, 0, 1],
        ),
    ] {
        let (service, collection, kept, backup) = with_notes().await;
        change(&collection).await;
        assert_eq!(collection.count().await, 41);
        let body = to_itself(&backup, &selection, &options);
        let plan = planned(&service, body.clone()).await["collections"][0].take();
        assert_eq!(counts(&plan, PLANNED_COUNTS), numbers, "{options}");
        assert_eq!(
            (&plan["missing"], &plan["missing_ids"]),
            (&json!(1), &json!(["nobody"]))
        );
        let done = outcome(&service, body).await["collections"][0].take();
        assert_eq!(counts(&done, RESTORED_COUNTS), numbers, "{options}");
        assert_eq!(done["missing_ids"], json!(["nobody"]));
        for member in ["name", "to", "action"] {
            assert_eq!(plan[member], done[member], "{options}");
        }
        if done["action"] != "merged" {
            let expected = ["r-00011", "r-00014", "r-00015"].map(|id| find(&kept, id).clone());
            let target = service.open(&text(&done["to"]["name"])).await;
            assert_exact(&target, &expected, &options.to_string()).await;
        }
    }
}

/// A typo in an id was a plan of zeros, with 200.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_all_unknown_are_refused_by_the_plan_and_by_the_restore() {
    let (service, collection, _, backup) = with_notes().await;
    let before = collection.dump().await;
    let selection = json!({"ids": ["r-0001", "nobody"]});
    for options in [
        json!({"on_conflict": "merge", "dry_run": true}),
        json!({"on_conflict": "merge"}),
        json!({"on_conflict": "rename", "dry_run": true}),
        json!({"on_conflict": "rename"}),
    ] {
        let body = to_itself(&backup, &selection, &options);
        let problem = restore(&service, body).await.problem(422);
        assert_eq!(problem["missing"], 2, "{options}: {problem}");
        assert_eq!(problem["missing_ids"], json!(["nobody", "r-0001"]));
        let detail = text(&problem["detail"]);
        assert!(
            detail.contains("r-0001") && detail.contains("nothing was changed"),
            "{detail}"
        );
    }
    assert_eq!(collection.dump().await, before);
    assert_eq!(service.names().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_goes_to_another_tenant_or_database_which_is_made() {
    let (service, collection, kept, backup) = with_notes().await;
    let before = visible(&service).await;
    for (to, tenant, database, name) in [
        (
            json!({"tenant": "new-tenant", "database": "its-own", "name": "some"}),
            "new-tenant",
            "its-own",
            "some",
        ),
        (
            json!({"database": "new-database"}),
            "default_tenant",
            "new-database",
            "notes",
        ),
    ] {
        let namespace = format!("/api/v2/tenants/{tenant}/databases/{database}");
        let collections = json!({"collections": [{"name": "notes", "to": to}]});
        let body = to_itself(&backup, &json!({"where": {"kind": "odd"}}), &collections);
        planned(&service, body.clone()).await;
        // Planning makes neither.
        service.get(&namespace).await.expect(404);

        let mut expected: Vec<_> = kept.iter().filter(|r| !is_even(r)).cloned().collect();
        let done = outcome(&service, body).await["collections"][0].take();
        let target = json!({"tenant": tenant, "database": database, "name": name});
        assert_eq!(
            (&done["action"], &done["name"], &done["to"]),
            (&json!("created"), &json!("notes"), &target)
        );
        let found = service.open_in(&namespace, name).await;
        assert_exact(&found, &expected, &namespace).await;

        // Now it is there.
        let ids = json!({"ids": ["r-00003", "r-00030", "r-00002"], "on_conflict": "merge"});
        let done = outcome(&service, to_itself(&backup, &ids, &collections)).await;
        let done = &done["collections"][0];
        assert_eq!((&done["action"], &done["to"]), (&json!("merged"), &target));
        assert_eq!(counts(done, RESTORED_COUNTS), [2, 0, 1, 0, 0]);
        expected.extend(["r-00002", "r-00030"].map(|id| find(&kept, id).clone()));
        let found = service.open_in(&namespace, name).await;
        assert_exact(&found, &expected, &namespace).await;
    }
    assert!(visible(&service).await == before);
    assert_exact(&collection, &kept, "the collection that was backed up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_selections_are_refused_at_once() {
    let (service, _, _, backup) = with_notes().await;
    let before = (visible(&service).await, service.get("/jobs").await.ok(200));
    let refused = async |selection: &Value, options: &Value, status: u16| -> Value {
        let body = to_itself(&backup, selection, options);
        restore(&service, body).await.problem(status)
    };
    // As the record routes answer them.
    for clause in [
        json!({}),
        json!({"kind": "even", "n": 1}),
        json!({"$not": [{"kind": "even"}]}),
        json!({"$and": {"kind": "even"}}),
        json!({"n": {"$gt": "3"}}),
        json!({"n": {"$gte": 1, "$lte": 2}}),
        json!({"n": {"$near": 1}}),
        json!({"n": {"$in": []}}),
        json!({"#document": {"$regex": "("}}),
    ] {
        let got = service.open("notes").await;
        let got = got.post("get", json!({ "where": clause })).await;
        assert_eq!(got.status, 400, "{clause}");
        for options in [
            json!({"on_conflict": "merge"}),
            json!({"on_conflict": "replace"}),
            json!({"on_conflict": "merge", "dry_run": true}),
        ] {
            refused(&json!({ "where": clause }), &options, 400).await;
        }
    }
    for ids in [json!("r-00001"), json!([1])] {
        let problem = refused(&json!({ "ids": ids }), &json!({}), 422).await;
        assert!(text(&problem["detail"]).contains("ids"), "{problem}");
    }
    // A winner where nothing is merged, and one that nobody knows.
    for options in [
        json!({"merge_winner": "live"}),
        json!({"merge_winner": "backup"}),
        json!({"merge_winner": "backup", "on_conflict": "fail"}),
        json!({"merge_winner": "live", "on_conflict": "skip"}),
        json!({"merge_winner": "live", "on_conflict": "rename"}),
        json!({"merge_winner": "backup", "on_conflict": "replace"}),
        json!({"merge_winner": "live", "on_conflict": "replace", "dry_run": true}),
        json!({"merge_winner": "source", "on_conflict": "merge"}),
    ] {
        let problem = refused(&json!({}), &options, 422).await;
        let detail = text(&problem["detail"]);
        assert!(detail.contains("merge_winner"), "{options}: {detail}");
    }
    for policy in ["fail", "skip", "rename"] {
        let options = json!({"keep_id": true, "on_conflict": policy});
        let problem = refused(&json!({}), &options, 422).await;
        assert!(text(&problem["detail"]).contains("keep_id"), "{problem}");
    }
    let after = (visible(&service).await, service.get("/jobs").await.ok(200));
    assert!(after == before, "a refused request changed something");
}

/// A job's record is kept for weeks: what is long in a request stands there by number and hash, and ids that are
/// not in the backup are counted, the first of them named.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_does_not_keep_a_long_list_of_ids() {
    let service = Service::start().await;
    let records = numbered("r", 5);
    service.create("words").await.add(&records).await;
    service.backup(json!({})).await;
    let nobody = (0..5_000).map(|number| format!("nobody-{number}"));
    let ids: Vec<String> = nobody.chain([records[3].id.clone()]).collect();
    let body = json!({"backup": "latest", "collections": [{"name": "words"}], "on_conflict": "rename", "ids": ids});
    let job = service.post("/restore?wait=true", body).await.ok(200);
    assert_eq!(job["request"]["ids"]["count"], 5_001, "{}", job["request"]);
    let done = &job["result"]["collections"][0];
    assert_eq!(
        (&done["records"], &done["missing"]),
        (&json!(1), &json!(5_000))
    );
    assert_eq!(done["missing_ids"].as_array().unwrap().len(), 20);
    assert!(job.to_string().len() < 10_000);
}

/// Four thousand records became three, and the job succeeded.
#[tokio::test(flavor = "multi_thread")]
async fn a_selection_never_replaces_what_holds_more() {
    let (service, words, records, backup) = with_backup().await;
    let before = visible(&service).await;
    let count = records.len();
    for selection in [
        json!({"ids": [records[0].id, records[1].id]}),
        json!({"where": {"pos": "noun"}}),
    ] {
        for dry_run in [true, false] {
            let mut body = json!({"backup": backup, "collections": [{"name": "words"}], "on_conflict": "replace",
                "dry_run": dry_run});
            let members = body.as_object_mut().unwrap();
            members.extend(selection.as_object().unwrap().clone());
            let problem = restore(&service, body).await.problem(422);
            let detail = text(&problem["detail"]);
            assert!(
                detail.contains("merge") && detail.contains(&format!("its {count};")),
                "{detail}"
            );
        }
    }
    assert_eq!(visible(&service).await, before);
    // Beside it, and where there is nothing to drop, they may come.
    let to = json!([{"name": "words", "to": {"name": "some"}}]);
    let body = json!({"backup": backup, "collections": to, "on_conflict": "replace", "ids": [records[0].id]});
    let result = restored(&service, body).await;
    assert_eq!(result["collections"][0]["records"], 1);
    assert_eq!(words.count().await, count as u64);
}
