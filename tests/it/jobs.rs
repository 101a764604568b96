//! Jobs: listed, waited for, cancelled, bounded, and never running for ever.

mod events;
mod keyed;
mod restarts;

use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use vectorkeep::jobs::JobKind;
use vectorkeep::progress::Progress;

use crate::harness::{Http, Service, eventually, numbered, submission, text};

/// Puts a job to work that only ends when it is told to, or cancelled. The id, and what ends it.
async fn blocking_job(service: &Service, committed: bool) -> (String, mpsc::Sender<()>) {
    let (end, ended) = mpsc::channel::<()>();
    let work = move |progress: &Progress| {
        progress.phase("wait", 10);
        if committed {
            progress.commit()?;
        }
        progress.advance(3, 30);
        loop {
            progress.check()?;
            match ended.recv_timeout(Duration::from_millis(2)) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                _ => return Ok(json!({"done": true})),
            }
        }
    };
    let jobs = service.app().jobs().clone();
    let submit = move || {
        jobs.submit(submission(JobKind::Migration, work))
            .unwrap()
            .id
    };
    (tokio::task::spawn_blocking(submit).await.unwrap(), end)
}

async fn in_state(service: &Service, id: &str, state: &str) -> Value {
    eventually(&format!("job {id} to be {state}"), async || {
        let job = service.get(&format!("/jobs/{id}")).await.ok(200);
        (job["state"] == state).then_some(job)
    })
    .await
}

async fn listed(service: &Service, query: &str) -> Vec<String> {
    let page = service.get(&format!("/jobs{query}")).await.ok(200);
    page["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| text(&job["id"]))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_newest_first_filtered_and_walked() {
    let mut service = Service::start().await;
    assert_eq!(
        service.get("/jobs").await.ok(200),
        json!({"jobs": [], "next_cursor": null})
    );
    service.create("words").await.add(&numbered("w", 5)).await;
    let mut made = Vec::new();
    for round in 0..9 {
        let (path, body) = match round % 3 {
            0 => ("/backups?wait=true", json!({})),
            1 => (
                "/restore?wait=true",
                json!({"backup": "latest", "on_conflict": "replace"}),
            ),
            _ => (
                "/migrate?wait=true",
                json!({"source": {"collection": "words"}, "target": {"collection": format!("copy-{round}")}}),
            ),
        };
        let answer = service.post(path, body).await;
        assert!(answer.status < 300, "{}", answer.text());
        made.push(text(&answer.json()["id"]));
    }
    made.reverse();
    for _ in 0..2 {
        for limit in [1, 2, 4, 9, 100] {
            let (mut walked, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = service
                    .get(&format!("/jobs?limit={limit}{cursor}"))
                    .await
                    .ok(200);
                let jobs = page["jobs"].as_array().unwrap();
                assert!(jobs.len() <= limit);
                walked.extend(jobs.iter().map(|job| text(&job["id"])));
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!(walked, made, "pages of {limit}");
        }
        let kinds: Vec<_> = made.iter().skip(1).step_by(3).cloned().collect();
        assert_eq!(listed(&service, "?kind=restore").await, kinds);
        assert_eq!(listed(&service, "?kind=restore&limit=2").await, kinds[..2]);
        assert_eq!(listed(&service, "?state=succeeded").await, made);
        assert!(listed(&service, "?state=failed").await.is_empty());
        // Jobs live in the store.
        service.restart().await;
    }
    service.get("/jobs/nobody").await.problem(404);
    service
        .post("/jobs/nobody/cancel", json!({}))
        .await
        .problem(404);
    let late = service
        .post(&format!("/jobs/{}/cancel", made[0]), json!({}))
        .await
        .problem(409);
    assert!(!text(&late["detail"]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_shows_its_progress_and_can_be_canceled() {
    let service = Service::start().await;
    let (id, _end) = blocking_job(&service, false).await;
    let job = in_state(&service, &id, "running").await;
    assert_eq!(
        (&job["cancellable"], &job["kind"], &job["request"]),
        (&json!(true), &json!("migration"), &json!({"asked": "for"}))
    );
    assert_eq!(
        (&job["finished_at"], &job["result"], &job["problem"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    let job = eventually("its progress", async || {
        let job = service.get(&format!("/jobs/{id}")).await.ok(200);
        (job["progress"]["done"] == 3).then_some(job)
    })
    .await;
    assert_eq!(
        (
            &job["phase"],
            &job["progress"]["total"],
            &job["progress"]["bytes_done"]
        ),
        (&json!("wait"), &json!(10), &json!(30))
    );
    assert_eq!(listed(&service, "?state=running").await, [&*id]);
    service
        .send("POST", &format!("/jobs/{id}/cancel"), None)
        .await
        .expect(200);
    let job = in_state(&service, &id, "canceled").await;
    assert_eq!(
        (&job["cancellable"], &job["result"]),
        (&json!(false), &Value::Null)
    );
    assert!(job["finished_at"].is_string());
    service
        .post(&format!("/jobs/{id}/cancel"), json!({}))
        .await
        .problem(409);

    // Past the point of no return it goes on.
    let (id, end) = blocking_job(&service, true).await;
    eventually("its point of no return", async || {
        let job = service.get(&format!("/jobs/{id}")).await.ok(200);
        (job["state"] == "running" && job["cancellable"] == false).then_some(())
    })
    .await;
    service
        .post(&format!("/jobs/{id}/cancel"), json!({}))
        .await
        .problem(409);
    end.send(()).unwrap();
    let job = in_state(&service, &id, "succeeded").await;
    assert_eq!(job["result"], json!({"done": true}));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_jobs_are_bounded_and_a_wait_ends_in_time() {
    let service = Service::with(|config| {
        config.jobs.workers = 1;
        config.jobs.max_queued = 2;
        config.jobs.wait_timeout_ms = 40;
    })
    .await;
    service.create("words").await.add(&numbered("w", 5)).await;
    let (running, end) = blocking_job(&service, false).await;
    in_state(&service, &running, "running").await;
    let mut queued = Vec::new();
    let copy = |number: usize| {
        let target = json!({"collection": format!("copy-{number}")});
        json!({"source": {"collection": "words"}, "target": target})
    };
    for number in 0..2 {
        let answer = service
            .post("/migrate?wait=true", copy(number))
            .await
            .expect(202);
        assert_eq!(answer.header("retry-after"), Some("1"));
        let job = answer.json();
        assert_eq!(
            (&job["state"], &job["cancellable"], &job["started_at"]),
            (&json!("queued"), &json!(true), &Value::Null)
        );
        assert_eq!(
            answer.header("location").unwrap(),
            format!("/jobs/{}", text(&job["id"]))
        );
        queued.push(text(&job["id"]));
    }
    for path in ["/migrate", "/migrate?wait=true"] {
        let answer = service.post(path, copy(2)).await;
        assert_eq!(answer.header("retry-after"), Some("1"));
        let problem = answer.problem(429);
        assert!(text(&problem["type"]).ends_with("/overloaded"), "{problem}");
    }
    assert_eq!(
        listed(&service, "").await.len(),
        3,
        "a refused job leaves nothing behind"
    );
    // Data is served meanwhile.
    assert_eq!(service.open("words").await.count().await, 5);
    service
        .post(&format!("/jobs/{}/cancel", queued[0]), json!({}))
        .await
        .expect(200);
    in_state(&service, &queued[0], "canceled").await;
    end.send(()).unwrap();
    in_state(&service, &queued[1], "succeeded").await;
    let names: Vec<String> = service.names().await.into_iter().collect();
    assert_eq!(names, ["copy-1", "words"], "what was canceled never ran");
}

/// Backups have workers of their own, and a queue.
#[tokio::test(flavor = "multi_thread")]
async fn no_other_job_makes_a_backup_wait() {
    let service = Service::with(|config| {
        config.jobs.workers = 1;
        config.jobs.max_queued = 1;
    })
    .await;
    service.create("words").await.add(&numbered("w", 5)).await;
    let (running, end) = blocking_job(&service, false).await;
    in_state(&service, &running, "running").await;
    service.post("/compactions", json!({})).await.expect(202);
    for _ in 0..3 {
        let job = service.post("/backups?wait=true", json!({})).await.ok(201);
        assert_eq!(job["state"], "succeeded");
    }
    let job = service.get(&format!("/jobs/{running}")).await.ok(200);
    assert_eq!(job["state"], "running");
    end.send(()).unwrap();
    in_state(&service, &running, "succeeded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_work_fails_the_job_and_nothing_else() {
    let service = Service::start().await;
    let jobs = service.app().jobs().clone();
    let work = |_: &Progress| panic!("a secret of the work");
    let id = tokio::task::spawn_blocking(move || {
        jobs.submit(submission(JobKind::Backup, work)).unwrap().id
    })
    .await
    .unwrap();
    let job = service.finished(&id).await;
    assert_eq!(
        (&job["state"], &job["problem"]["status"]),
        (&json!("failed"), &json!(500))
    );
    assert!(
        !job.to_string().contains("secret"),
        "internals are logged, never sent: {job}"
    );
    let words = service.create("words").await;
    words.add(&numbered("w", 2)).await;
    assert_eq!(words.count().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_finished_jobs_are_remembered() {
    let mut service = Service::with(|config| config.jobs.kept = 3).await;
    service.create("words").await;
    let mut made = Vec::new();
    for _ in 0..8 {
        let job = service.post("/backups?wait=true", json!({})).await.ok(201);
        made.push(text(&job["id"]));
    }
    let found = listed(&service, "").await;
    assert!((3..=4).contains(&found.len()), "{found:?}");
    assert!(found.iter().eq(made.iter().rev().take(found.len())));
    service.restart().await;
    assert_eq!(listed(&service, "").await, found);
}

/// What a page cannot hold is refused, not bent into shape; a typo beside `wait` does not pass either.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_no_size_and_misspelt_parameters_are_refused() {
    let service = Service::start().await;
    for path in ["/jobs?limit=0", "/backups?limit=0", "/jobs?limit=1001"] {
        let problem = service.get(path).await.problem(422);
        assert!(text(&problem["detail"]).contains("limit"), "{problem}");
    }
    let misspelt = service.post("/backups?wiat=true", json!({})).await;
    assert!(text(&misspelt.problem(422)["detail"]).contains("wiat"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_at_a_time_makes_a_collection() {
    let service = Service::with(|config| config.jobs.workers = 1).await;
    service.create("words").await.add(&numbered("w", 5)).await;
    service.backup(json!({})).await;
    let (blocking, end) = blocking_job(&service, false).await;
    in_state(&service, &blocking, "running").await;
    let migrate = json!({"source": {"collection": "words"}, "target": {"collection": "copy"}});
    let first = text(&service.post("/migrate", migrate.clone()).await.ok(202)["id"]);
    let restore =
        json!({"backup": "latest", "collections": [{"name": "words", "to": {"name": "copy"}}]});
    for (path, body) in [("/migrate", &migrate), ("/restore", &restore)] {
        let problem = service.post(path, body.clone()).await.problem(409);
        assert_eq!(problem["job_id"], *first, "{problem}");
    }
    let other = json!({"source": {"collection": "words"}, "target": {"collection": "other"}});
    service.post("/migrate", other).await.expect(202);
    service.post("/compactions", json!({})).await.expect(202);
    service.post("/compactions", json!({})).await.problem(409);
    service
        .post("/backups/prune", json!({"keep_last": 1}))
        .await
        .expect(202);
    service
        .post("/backups/prune", json!({"keep_last": 2}))
        .await
        .problem(409);
    end.send(()).unwrap();
    in_state(&service, &first, "succeeded").await;
    // Over, it is in nobody's way.
    let replace = json!({"source": {"collection": "words"}, "target": {"collection": "copy"}, "on_conflict": "replace"});
    service
        .post("/migrate?wait=true", replace)
        .await
        .expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_jobs_are_forgotten_after_their_time() {
    let mut service = Service::with(|config| {
        config.jobs.kept_ms = 300;
        config.repository.sweep_interval_ms = 10;
    })
    .await;
    service
        .post("/backups?wait=true", json!({}))
        .await
        .expect(201);
    eventually("the job to be forgotten", async || {
        listed(&service, "").await.is_empty().then_some(())
    })
    .await;
    service.restart().await;
    assert!(listed(&service, "").await.is_empty());
}

/// Whoever waits for a backup must not take it for made.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_canceled_before_it_ran_is_no_success() {
    let service = Service::with(|config| config.jobs.workers = 1).await;
    let (running, end) = blocking_job(&service, false).await;
    in_state(&service, &running, "running").await;
    let http = Http::clone(&service);
    let waiter = tokio::spawn(async move { http.post("/compactions?wait=true", json!({})).await });
    let queued = eventually("a job to be queued", async || {
        listed(&service, "?state=queued").await.first().cloned()
    })
    .await;
    let path = format!("/jobs/{queued}/cancel");
    service.post(&path, json!({})).await.ok(200);
    let answer = waiter.await.unwrap();
    let problem = answer.problem(409);
    assert_eq!(problem["job"]["state"], "canceled", "{problem}");
    assert!(
        text(&problem["detail"]).contains("before it ran"),
        "{problem}"
    );
    drop(end);
}

/// It cannot begin any more: a stop does not wait for it until its grace is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_those_who_wait_for_a_queued_job() {
    let mut service = Service::with(|config| {
        config.jobs.workers = 1;
        config.server.shutdown_grace_ms = 600_000;
    })
    .await;
    let (running, _end) = blocking_job(&service, false).await;
    in_state(&service, &running, "running").await;
    let http = Http::clone(&service);
    let waiter = tokio::spawn(async move { http.post("/compactions?wait=true", json!({})).await });
    eventually("a job to be queued", async || {
        (!listed(&service, "?state=queued").await.is_empty()).then_some(())
    })
    .await;
    tokio::time::timeout(Duration::from_secs(60), service.stop())
        .await
        .expect("the stop waits");
    assert_eq!(waiter.await.unwrap().status, 202);
}
