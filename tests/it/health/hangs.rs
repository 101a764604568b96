//! Calls into the store that never end, as sled leaves them behind when a sync failed.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::json;
use vectorkeep::engine::{Engine, damage};
use vectorkeep::error::{Kind, Result};

use super::report;
use crate::harness::{Answer, Service, eventually};

const SYNC_TIMEOUT_MS: u64 = 1_000;
/// Beyond the bound: the watchdog's last look, the last chance of a thread, and a machine that is busy.
const MARGIN: Duration = Duration::from_secs(20);

async fn service() -> Service {
    Service::with(|config| {
        config.storage.sync_timeout_ms = SYNC_TIMEOUT_MS;
        config.storage.close_timeout_ms = 1_000;
    })
    .await
}

async fn await_call(service: &Service, call: &str) {
    let calls = service.app().engine().calls();
    eventually("a call hangs", async || {
        calls.under_way().contains(&call).then_some(())
    })
    .await;
}

fn refused(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.request);
    assert!(answer.header("retry-after").is_some(), "{}", answer.request);
    let why = answer.json().to_string();
    assert!(why.contains("storage.sync_timeout_ms"), "{why}");
}

/// Hangs in `how`, on the thread of a request; sees that this one, a write beside it, all later writes, a job and the
/// stop are answered, and that health and metrics say why.
async fn everybody_is_told(call: &'static str, how: fn(&Engine, &Receiver<()>) -> Result<()>) {
    let service = service().await;
    let words = service.create("words").await;
    let one = |id: &str| json!({"ids": [id], "embeddings": [[1.0, 2.0]]});
    service.post(&words.path("add"), one("a")).await.expect(201);

    let began = Instant::now();
    let (end, ended) = channel::<()>();
    let app = service.app().clone();
    let hanging =
        tokio::spawn(async move { app.on_thread(move |app| how(app.engine(), &ended)).await });
    await_call(&service, call).await;
    // It waits for the write lock, or for the sync that it shares.
    let waiting = service.post(&words.path("add"), one("b")).await;
    refused(&waiting);
    let error = hanging.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert!(began.elapsed() < Duration::from_millis(SYNC_TIMEOUT_MS) + MARGIN);
    assert!(began.elapsed() >= Duration::from_millis(SYNC_TIMEOUT_MS));

    refused(&service.post(&words.path("add"), one("c")).await);
    assert_eq!(service.post("/backups", json!({})).await.status, 503);
    let found = service
        .post(&words.path("get"), json!({"ids": ["a"]}))
        .await;
    assert_eq!(found.expect(200).json()["ids"], json!(["a"]));

    let health = report(service.get("/health").await, 503, "fail");
    let check = &health["checks"]["storage:accepting_writes"][0];
    assert_eq!(check["status"], "fail");
    let why = check["output"].as_str().unwrap();
    assert!(why.contains(&format!("{call} has not ended")), "{why}");
    assert_eq!(service.get("/health/ready").await.status, 503);
    let metrics = String::from_utf8(service.get("/metrics").await.bytes.to_vec()).unwrap();
    let hangs_for = metrics
        .lines()
        .find_map(|line| line.strip_prefix("vectorkeep_store_longest_call_seconds "));
    assert!(
        hangs_for.unwrap().parse::<f64>().unwrap() > 0.5,
        "{hangs_for:?}"
    );

    // What hangs still hangs: the stop does not wait for it.
    let closing = Instant::now();
    let closed = service.app().close(Duration::ZERO).await;
    assert_eq!(closed.unwrap_err().kind(), Kind::Unavailable);
    assert!(closing.elapsed() < MARGIN);
    assert!(service.app().engine().calls().under_way().contains(&call));
    drop(end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_ends_stops_all_writes_within_the_bound_and_everybody_is_told() {
    everybody_is_told("commit", damage::hang_in_commit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_never_ends_stops_all_writes_within_the_bound_and_everybody_is_told() {
    everybody_is_told("sync", damage::hang_in_sync).await;
}

/// One that takes its time is no fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_ends_within_the_bound_is_waited_for() {
    let service = Service::start().await;
    let words = service.create("words").await;
    let (end, ended) = channel::<()>();
    let app = service.app().clone();
    let slow = tokio::spawn(async move {
        app.on_thread(move |app| damage::hang_in_sync(app.engine(), &ended))
            .await
    });
    await_call(&service, "sync").await;
    let body = json!({"ids": ["a"], "embeddings": [[1.0, 2.0]]});
    let path = words.path("add");
    let (answer, ()) = tokio::join!(service.post(&path, body), async {
        let engine = service.app().engine();
        eventually("the write is committed and waits", async || {
            let info = engine.collection(words.id.parse().unwrap()).unwrap();
            (info.head.count == 1).then_some(())
        })
        .await;
        drop(end);
    });
    answer.expect(201);
    slow.await.unwrap().unwrap();
    report(service.get("/health").await, 200, "pass");
}
