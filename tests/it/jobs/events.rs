//! The events of a job: from what it does now to its end, and the stream's.

use std::sync::mpsc;

use serde_json::{Value, json};
use vectorkeep::jobs::JobKind;
use vectorkeep::progress::Progress;

use super::{blocking_job, in_state};
use crate::harness::{Http, Service, eventually, submission};

/// Reads events until the stream ends: each as its name and data.
async fn events(service: &Service, id: &str) -> Vec<(String, Value)> {
    let answer = service.get(&format!("/jobs/{id}/events")).await.expect(200);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let stream = answer.text();
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim_start_matches(':').trim().to_owned())
    };
    stream
        .split("\n\n")
        .filter_map(|block| {
            let data = field(block, "data")?;
            Some((field(block, "event")?, serde_json::from_str(&data).unwrap()))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_follow_a_job_to_its_end() {
    let mut service = Service::with(|config| {
        config.jobs.event_interval_ms = 5;
        config.jobs.max_event_streams = 1;
    })
    .await;
    service.get("/jobs/nobody/events").await.problem(404);
    let (id, end) = blocking_job(&service, false).await;
    let job = in_state(&service, &id, "running").await;
    let following = Http::clone(&service);
    let path = format!("/jobs/{id}/events");
    let open = following.request("GET", &path).send().await.unwrap();
    assert_eq!(open.status(), 200);
    // The place is taken.
    let refused = service.get(&path).await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.problem(429);
    drop(open);
    let followed = eventually("a free place", async || {
        end.send(()).ok();
        let answer = service.get(&path).await;
        (answer.status == 200).then_some(())
    });
    followed.await;
    let found = events(&service, &id).await;
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["progress", "end"]);
    let (_, last) = found.last().unwrap();
    assert_eq!(*last, service.get(&format!("/jobs/{id}")).await.ok(200));
    assert_eq!(last["state"], "succeeded");
    assert_ne!(last["state"], job["state"]);

    // One that goes on when the service stops does not keep it from stopping.
    let (id, _end) = blocking_job(&service, false).await;
    let open = service
        .request("GET", &format!("/jobs/{id}/events"))
        .send()
        .await
        .unwrap();
    assert_eq!(open.status(), 200);
    service.restart().await;
    let text = open.text().await.unwrap_or_default();
    assert!(text.contains("event: progress"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_job_is_an_event() {
    let service = Service::with(|config| config.jobs.event_interval_ms = 1).await;
    let (step, steps) = mpsc::channel::<()>();
    let jobs = service.app().jobs().clone();
    let work = move |progress: &Progress| {
        for phase in ["one", "two", "three"] {
            progress.phase(phase, 1);
            progress.advance(1, 1);
            let _ = steps.recv();
        }
        Ok(json!({}))
    };
    let submission = submission(JobKind::Backup, work);
    let id = tokio::task::spawn_blocking(move || jobs.submit(submission).unwrap().id)
        .await
        .unwrap();
    let following = Http::clone(&service);
    let path = format!("/jobs/{id}/events");
    let mut stream = following.request("GET", &path).send().await.unwrap();
    let mut seen = String::new();
    for phase in ["one", "two", "three"] {
        let expected = format!("\"phase\":\"{phase}\",\"progress\":{{\"done\":1");
        while !seen.contains(&expected) {
            let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
            seen.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        step.send(()).unwrap();
    }
    while let Some(chunk) = stream.chunk().await.unwrap() {
        seen.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert_eq!(seen.matches("event: end").count(), 1);
    assert!(seen.matches("event: progress").count() >= 3, "{seen}");
}
