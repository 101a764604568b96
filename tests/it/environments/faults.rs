//! Answers that are lost, late or too long: asked for again, waited for, or never asked for so.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use vectorkeep::model::record::Record;

use super::proxy::Fate;
use super::{
    CHROMA, LOCAL, SECOND, World, assert_exact, assert_same, checked_result, end, migrate,
    migrated, request,
};
use crate::harness::{numbered, text};

/// Every write and every read may be done twice.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_are_asked_for_again() {
    for (source, target) in [
        (LOCAL, SECOND),
        (LOCAL, CHROMA),
        (SECOND, LOCAL),
        (CHROMA, LOCAL),
    ] {
        let world = World::with(|config| config.migration.max_retries = 4, |_| ()).await;
        let records = numbered("r", 200);
        world.at(source).create("source").await.add(&records).await;
        for policy in ["fail", "replace", "merge"] {
            let context = format!("{source} to {target}, {policy}");
            let name = format!("target-{policy}");
            if policy != "fail" {
                let old = world.at(target).create(&name).await;
                old.add(&numbered("r", 10)).await;
            }
            // Before it is done or after, one request after the other, in another place each time.
            let asked = AtomicUsize::new(0);
            world
                .proxy
                .rule(move |_| match asked.fetch_add(1, Ordering::SeqCst) % 7 {
                    2 => Fate::Lost,
                    4 => Fate::Answered(503, "{}"),
                    5 => Fate::Cut,
                    _ => Fate::Passes,
                });
            let options = json!({"on_conflict": policy, "batch_size": 60});
            let body = request((source, "source"), (target, &name), options);
            let result = migrated(&world.local, body).await;
            world.proxy.mend();
            assert_eq!(result["target"], end((target, &name)), "{context}");
            let found = world.at(target).open(&name).await;
            assert_same(&found.records().await, &records, &context);
            assert_eq!(found.count().await, 200, "{context}");
            world.assert_tidy().await;
        }
    }
}

/// The other service looks at all of a collection to say what is in it, and says so when that takes longer than
/// it lets anybody wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_over_there_that_takes_its_time_is_waited_for() {
    let world = World::with(|_| (), |config| config.health.deep_timeout_ms = 1).await;
    let records = numbered("r", 3_000);
    for http in [&*world.local, &*world.other] {
        http.create("source").await.add(&records).await;
    }
    for (source, target) in [(LOCAL, SECOND), (SECOND, LOCAL)] {
        let body = request((source, "source"), (target, "target"), json!({}));
        let job = world.local.post("/migrate", body).await.ok(202);
        let job = world.local.finished(&text(&job["id"])).await;
        let result = checked_result(job);
        assert_eq!(result["source_digest"], result["target_digest"]);
        let found = world.at(target).open("target").await;
        assert_exact(&found, &records, target).await;
    }
}

/// Records whose sizes have nothing to do with each other: a small one first, then large ones.
fn uneven() -> Vec<Record> {
    let mut records = numbered("r", 160);
    for (number, record) in records.iter_mut().enumerate().skip(1) {
        record.document = Some(format!("{number} ").repeat(4_000));
    }
    records
}

/// However large records are, no request carries much more of them than the configuration says.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_any_size_go_in_requests_of_the_configured_one() {
    const AT_A_TIME: usize = 65_536;
    const MOST: usize = 6 * AT_A_TIME;
    let world = World::with(
        |config| config.migration.batch_bytes = AT_A_TIME,
        |config| config.server.max_body_bytes = MOST,
    )
    .await;
    for http in [&*world.local, &*world.other] {
        let source = http.create("source").await;
        for batch in uneven().chunks(10) {
            source.add(batch).await;
        }
    }
    for (source, target) in [
        ((LOCAL, "source"), (SECOND, "from-here")),
        ((LOCAL, "source"), (CHROMA, "from-here-too")),
        ((SECOND, "source"), (LOCAL, "from-there")),
        ((SECOND, "source"), (CHROMA, "within")),
        ((CHROMA, "source"), (SECOND, "within-too")),
    ] {
        world.proxy.take_seen();
        migrated(&world.local, request(source, target, json!({}))).await;
        let seen = world.proxy.take_seen();
        let longest = seen.iter().map(|passing| passing.body.len()).max();
        assert!(longest.unwrap() <= MOST, "{target:?}: {longest:?}");
        let found = world.at(target.0).open(target.1).await;
        assert_exact(&found, &uneven(), target.1).await;
    }
}

/// An answer that is longer than is taken in is refused by name, not taken in.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_refused() {
    let world = World::with(
        |config| {
            config.migration.max_answer_bytes = 20_000;
            config.migration.batch_bytes = 10_000;
        },
        |_| (),
    )
    .await;
    let mut records = numbered("r", 5);
    records[3].document = Some("x".repeat(100_000));
    world.other.create("source").await.add(&records).await;
    for place in [SECOND, CHROMA] {
        let body = request((place, "source"), (LOCAL, "target"), json!({}));
        let problem = migrate(&world.local, body).await.problem(502);
        let detail = text(&problem["detail"]);
        assert!(detail.contains("max_answer_bytes"), "{detail}");
    }
    assert!(world.local.names().await.is_empty());
}
