use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use uuid::Uuid;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn checks(max_running: usize, max_age: Duration) -> DeepChecks {
    DeepChecks::new(DeepLimits {
        max_running,
        max_age,
    })
}

fn passing() -> Work {
    Box::new(|_| {
        let mut report = Report::default();
        report.pass("a:b", 1, "things");
        Ok(report)
    })
}

fn of(number: u128) -> DeepCheck {
    DeepCheck::Collections(Some(Uuid::from_u128(number)))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_meanwhile_shares_the_run_and_who_asks_soon_its_result() {
    let checks = checks(1, LONG);
    let runs = Arc::new(AtomicUsize::new(0));
    let (go, wait) = mpsc::channel::<()>();
    let counted = Arc::clone(&runs);
    let first: Work = Box::new(move |progress| {
        counted.fetch_add(1, Ordering::SeqCst);
        progress.phase("check", 10);
        progress.advance(4, 100);
        wait.recv().unwrap();
        passing()(progress)
    });
    // Past the bound it is said how far the run is.
    let so_far = checks
        .result(DeepCheck::Storage, 0, Duration::ZERO, first)
        .await;
    let so_far = so_far.unwrap();
    assert_eq!(so_far.status(), Status::Warn);
    let joined: Vec<_> = (0..5)
        .map(|_| {
            let (checks, counted) = (checks.clone(), Arc::clone(&runs));
            let work: Work = Box::new(move |progress| {
                counted.fetch_add(1, Ordering::SeqCst);
                passing()(progress)
            });
            tokio::spawn(async move { checks.result(DeepCheck::Storage, 0, LONG, work).await })
        })
        .collect();
    let mut running = checks.inner.running.subscribe();
    running.wait_for(|running| *running == 1).await.unwrap();
    go.send(()).unwrap();
    let mut times = Vec::new();
    for joined in joined {
        times.push(joined.await.unwrap().unwrap().checks["a:b"][0].time);
    }
    let again = checks.result(DeepCheck::Storage, 0, LONG, passing()).await;
    times.push(again.unwrap().checks["a:b"][0].time);
    times.dedup();
    assert_eq!((times.len(), runs.load(Ordering::SeqCst)), (1, 1));
    // What was written since is looked at.
    let newer = checks.result(DeepCheck::Storage, 1, LONG, passing()).await;
    assert_ne!(newer.unwrap().checks["a:b"][0].time, times[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_older_data_is_not_shared_and_the_one_after_it_is() {
    let checks = checks(1, LONG);
    let (go, wait) = mpsc::channel::<()>();
    let first: Work = Box::new(move |progress| {
        wait.recv().unwrap();
        passing()(progress)
    });
    checks.begin(DeepCheck::Storage, 1, first).unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let joined: Vec<_> = (2..5)
        .map(|version| {
            let (checks, counted) = (checks.clone(), Arc::clone(&runs));
            let work: Work = Box::new(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut report = Report::default();
                report.pass("newer", 1, "things");
                Ok(report)
            });
            tokio::spawn(
                async move { checks.result(DeepCheck::Storage, version, LONG, work).await },
            )
        })
        .collect();
    // The entry has one end of the outcome, and each who asked another.
    let asked = || {
        let state = checks.inner.state.lock();
        let next = state.entries[&DeepCheck::Storage].next.as_ref();
        next.map_or(0, |(run, _)| run.outcome.receiver_count() - 1)
    };
    while asked() < 3 {
        tokio::task::yield_now().await;
    }
    go.send(()).unwrap();
    for joined in joined {
        let found = joined.await.unwrap().unwrap();
        assert!(found.checks.contains_key("newer"), "{found:?}");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    checks.closed(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_result_stays_a_failure_while_the_check_runs_again() {
    let checks = checks(1, Duration::ZERO);
    let panics: Work = Box::new(|_| panic!("of a check"));
    let failed = checks.result(DeepCheck::Storage, 0, LONG, panics).await;
    assert_eq!(failed.unwrap().status(), Status::Fail);
    let (_go, wait) = mpsc::channel::<()>();
    let slow: Work = Box::new(move |progress| {
        while progress.check().is_ok() && wait.try_recv().is_err() {
            std::thread::yield_now();
        }
        progress.check().and_then(|()| passing()(progress))
    });
    let running = checks
        .result(DeepCheck::Storage, 0, Duration::ZERO, slow)
        .await;
    let running = running.unwrap();
    assert_eq!(running.status(), Status::Fail);
    assert!(running.checks.contains_key("storage"), "{running:?}");
    // It ends early, what waits does not begin, and nothing begins any more.
    checks.begin(of(1), 0, passing()).unwrap();
    checks.closed(LONG).await;
    let refused = checks.result(of(1), 0, LONG, passing()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
    assert_eq!(checks.last_status(of(1)), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_what_is_remembered_is_bounded() {
    let checks = checks(2, Duration::ZERO);
    let (go, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    for number in 0..2 {
        let wait = Arc::clone(&wait);
        let held: Work = Box::new(move |progress| {
            // Both end when the sender is gone.
            let _ = wait.lock().recv();
            passing()(progress)
        });
        checks.begin(of(number), 0, held).unwrap();
    }
    for number in 2..2 + MAX_WAITING as u128 {
        checks.begin(of(number), 0, passing()).unwrap();
    }
    let asked = checks.result(of(1_000_000), 0, LONG, passing()).await;
    assert_eq!(asked.unwrap_err().kind(), Kind::Overloaded);
    // The service's own checks have places beyond.
    for number in 0..OWN_WAITING as u128 {
        checks.begin(of(2_000_000 + number), 0, passing()).unwrap();
    }
    let refused = checks.begin(of(3_000_000), 0, passing()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Overloaded);
    drop(go);
    for number in 0..2 * MAX_REMEMBERED as u128 {
        // One that waits is not begun twice.
        let found = checks.result(of(number), 0, LONG, passing()).await.unwrap();
        assert_eq!(found.status(), Status::Pass);
        assert!(checks.inner.state.lock().entries.len() <= MAX_REMEMBERED);
    }
    let missing: Work = Box::new(|_| Err(Error::not_found("gone")));
    let refused = checks
        .result(of(7_000_000), 0, LONG, missing)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::NotFound);
}

#[test]
fn the_overview_has_the_newest_results_and_no_failure_of_what_is_gone() {
    let checks = checks(1, Duration::ZERO);
    let (live, gone) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let finish = |check: DeepCheck, about: Option<Uuid>, status: Status| {
        let mut report = Report::default();
        let output = Some(format!("of {check}"));
        report.add_about(about, "a:b", status, 1, "things", output);
        let finished = judge(check, 0, Ok(Ok(report))).ok();
        checks
            .inner
            .state
            .lock()
            .entries
            .entry(check)
            .or_default()
            .last = finished;
    };
    let shown = || {
        let mut report = Report::default();
        checks.summarize(&mut report, |id| id == live, 20);
        let found = report.checks.get("collections:integrity");
        found.map(|list| list.iter().map(|check| check.status).collect::<Vec<_>>())
    };
    assert_eq!(shown(), None);
    finish(DeepCheck::Collections(None), Some(live), Status::Fail);
    assert_eq!(shown(), Some(vec![Status::Fail]));
    // A part that passes does not speak for the rest.
    finish(of(1), Some(live), Status::Pass);
    assert_eq!(shown(), Some(vec![Status::Fail, Status::Pass]));
    finish(DeepCheck::Collections(None), Some(gone), Status::Fail);
    assert_eq!(shown(), Some(vec![Status::Pass]));
    finish(of(2), Some(gone), Status::Fail);
    assert_eq!(shown(), Some(vec![Status::Pass]));
    finish(of(1), Some(live), Status::Fail);
    assert_eq!(shown(), Some(vec![Status::Fail, Status::Pass]));
    finish(DeepCheck::Collections(None), None, Status::Pass);
    assert_eq!(shown(), Some(vec![Status::Pass]));
}
