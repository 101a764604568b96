//! What others write between the preparation of a batch and its commit.

use serde_json::json;

use super::draft::Draft;
use super::{RecordPatch, WriteMode, WriteOutcome};
use crate::engine::testing::{ALL, Opened, filter, patch, record};
use crate::engine::{DeleteRequest, GetRequest, QueryRequest};
use crate::error::Kind;
use crate::progress::Progress;

/// Prepares a batch, lets others write, and commits it.
fn write_around(
    opened: &Opened,
    mode: WriteMode,
    patches: Vec<RecordPatch>,
    meanwhile: impl FnOnce(&Opened),
) -> WriteOutcome {
    let inner = &opened.engine.inner;
    let collection = inner.addressed(opened.id).unwrap();
    let mut draft = Draft::new(mode, patches, &collection.info()).unwrap();
    draft
        .prepare(&inner.store, &collection, &Progress::default())
        .unwrap();
    meanwhile(opened);
    let mut writer = inner.lock_writer().unwrap();
    draft.prepare_again(&inner.store, &collection).unwrap();
    draft.commit(inner, &mut writer, &collection).unwrap().1
}

fn outcome(inserted: u64, updated: u64, untouched: u64) -> WriteOutcome {
    WriteOutcome {
        inserted,
        updated,
        untouched,
    }
}

#[test]
fn an_id_that_is_taken_meanwhile_is_updated_or_left_alone() {
    let opened = Opened::new();
    let theirs = || vec![patch("a", 1.0, Some("theirs"), &[("theirs", 1)])];
    let ours = || vec![patch("a", 2.0, None, &[("ours", 2)])];
    let upserted = write_around(&opened, WriteMode::Upsert, ours(), |opened| {
        opened.write(WriteMode::Add, theirs());
    });
    assert_eq!(upserted, outcome(0, 1, 0));
    let joined = record("a", 2.0, Some("theirs"), &[("ours", 2), ("theirs", 1)]);
    assert_eq!(opened.records(), [joined]);
    opened.delete(&["a"]);
    let added = write_around(&opened, WriteMode::Add, ours(), |opened| {
        opened.write(WriteMode::Add, theirs());
    });
    assert_eq!(added, outcome(0, 0, 1));
    let left = record("a", 1.0, Some("theirs"), &[("theirs", 1)]);
    assert_eq!(opened.records(), [left]);
    opened.check();
}

#[test]
fn an_id_that_is_freed_meanwhile_is_inserted_or_left_alone() {
    let opened = Opened::new();
    let before = || vec![patch("a", 1.0, Some("before"), &[("before", 1)])];
    let ours = || vec![patch("a", 2.0, None, &[("ours", 2)])];
    for (mode, expected) in [
        (WriteMode::Upsert, outcome(1, 0, 0)),
        (WriteMode::Add, outcome(1, 0, 0)),
        (WriteMode::Update, outcome(0, 0, 1)),
    ] {
        opened.write(WriteMode::Upsert, before());
        let written = write_around(&opened, mode, ours(), |opened| {
            assert_eq!(opened.delete(&["a"]), 1);
        });
        assert_eq!(written, expected, "{mode:?}");
        let there = opened.records();
        let expected = [record("a", 2.0, None, &[("ours", 2)])];
        assert_eq!(there, expected[..expected_len(mode)], "{mode:?}");
        opened.check();
        opened.delete(&["a"]);
    }
}

fn expected_len(mode: WriteMode) -> usize {
    usize::from(mode != WriteMode::Update)
}

#[test]
fn a_record_that_is_changed_meanwhile_keeps_what_was_not_sent() {
    let opened = Opened::new();
    opened.write(
        WriteMode::Add,
        vec![patch("a", 1.0, Some("old"), &[("k", 1), ("gone", 1)])],
    );
    let mut ours = patch("a", 2.0, None, &[("k", 2)]);
    ours.metadata.push(("gone".to_owned(), None));
    let mut second = patch("a", 3.0, None, &[("twice", 3)]);
    second.embedding = None;
    // Two patches of one id, and one of another that nobody touches.
    let patches = vec![ours, patch("b", 5.0, None, &[]), second];
    let written = write_around(&opened, WriteMode::Upsert, patches, |opened| {
        opened.write(
            WriteMode::Update,
            vec![patch("a", 9.0, Some("new"), &[("theirs", 9), ("gone", 9)])],
        );
    });
    assert_eq!(written, outcome(1, 1, 0));
    assert_eq!(
        opened.records(),
        [
            record(
                "a",
                2.0,
                Some("new"),
                &[("k", 2), ("theirs", 9), ("twice", 3)]
            ),
            record("b", 5.0, None, &[]),
        ]
    );
    opened.check();
}

#[test]
fn what_was_prepared_stands_where_others_write_elsewhere() {
    let opened = Opened::new();
    opened.write(WriteMode::Add, vec![patch("a", 1.0, None, &[])]);
    let patches = vec![patch("a", 2.0, None, &[]), patch("c", 3.0, None, &[])];
    let written = write_around(&opened, WriteMode::Upsert, patches, |opened| {
        opened.write(WriteMode::Add, vec![patch("b", 4.0, None, &[])]);
    });
    assert_eq!(written, outcome(1, 1, 0));
    let ids: Vec<String> = opened.records().into_iter().map(|r| r.id).collect();
    assert_eq!(ids, ["a", "b", "c"], "in the order of their commits");
    opened.check();
}

#[test]
fn a_dimension_that_is_fixed_meanwhile_is_everybodys() {
    let opened = Opened::new();
    let inner = &opened.engine.inner;
    let collection = inner.addressed(opened.id).unwrap();
    let patches = vec![patch("a", 1.0, None, &[])];
    let mut draft = Draft::new(WriteMode::Add, patches, &collection.info()).unwrap();
    draft
        .prepare(&inner.store, &collection, &Progress::default())
        .unwrap();
    let mut three = patch("b", 1.0, None, &[]);
    three.embedding = Some(vec![1.0, 2.0, 3.0]);
    opened.write(WriteMode::Add, vec![three]);
    let refused = draft.prepare_again(&inner.store, &collection).unwrap_err();
    assert_eq!(refused.kind(), Kind::InvalidArgument);
    assert_eq!(
        refused.message(),
        "Collection expecting embedding with dimension of 3, got 2"
    );
}

#[test]
fn what_is_given_up_before_its_commit_changes_nothing() {
    let opened = Opened::new();
    opened.write(WriteMode::Add, vec![patch("a", 1.0, Some("text"), &[])]);
    let before = opened.engine.sequence();
    let progress = Progress::default();
    assert!(progress.cancel());
    let patches = vec![patch("b", 1.0, None, &[])];
    let written =
        opened
            .engine
            .write_unless_canceled(opened.id, WriteMode::Add, patches, &progress);
    let deletion = DeleteRequest {
        ids: Some(vec!["a".to_owned()]),
        progress: progress.clone(),
        ..DeleteRequest::default()
    };
    let read = GetRequest {
        progress: progress.clone(),
        ..GetRequest::default()
    };
    let search = QueryRequest {
        embeddings: vec![vec![1.0, 1.0]],
        n_results: 1,
        progress: progress.clone(),
        ..QueryRequest::default()
    };
    let refusals = [
        written.unwrap_err(),
        opened.engine.delete(opened.id, &deletion).unwrap_err(),
        opened.engine.get(opened.id, &read, ALL).unwrap_err(),
        opened.engine.query(opened.id, &search).unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.kind(), Kind::Canceled);
    }
    assert_eq!(opened.engine.sequence(), before);
    assert_eq!(opened.records().len(), 1);
}

/// Who reads holds nothing that a writer needs: it may write itself, from within.
#[test]
fn a_read_lets_others_write() {
    let opened = Opened::new();
    let patches = (0..30).map(|at| patch(&format!("r{at}"), at as f32, Some("text"), &[("n", at)]));
    opened.write(WriteMode::Add, patches.collect());
    for filter in [None, filter(&json!({"n": {"$gte": 10}}))] {
        let request = GetRequest {
            filter,
            ..GetRequest::default()
        };
        let mut visited = 0;
        let read = opened.engine.for_each(opened.id, &request, |view| {
            visited += 1;
            let version = format!("seen {visited}");
            let mut seen = patch(view.id, 0.5, Some(&version), &[]);
            seen.embedding = None;
            assert_eq!(opened.write(WriteMode::Update, vec![seen]).updated, 1);
            Ok(())
        });
        read.unwrap();
        assert_eq!(visited, if request.filter.is_some() { 20 } else { 30 });
    }
    opened.check();
}
