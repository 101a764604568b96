//! Jobs that were under way when the service ended: run again where that is safe, else an honest end.

use chrono::Utc;
use serde_json::json;
use vectorkeep::engine::Durability;
use vectorkeep::jobs::{JobKind, JobRecord, JobState};

use super::{blocking_job, in_state, listed};
use crate::harness::{Harm, Service, harm, numbered, open_engine, text};

/// Puts records into the store of a service that is stopped; their ids.
async fn leave<const N: usize>(service: &Service, records: [JobRecord; N]) -> Vec<String> {
    let data_dir = service.data_dir().to_owned();
    let leaving = move || {
        let engine = open_engine(&data_dir, Durability::Always, 10);
        for record in &records {
            let payload = serde_json::to_vec(record).unwrap();
            engine.put_job(&record.id, payload).unwrap();
        }
        engine.close().unwrap();
        records.map(|record| record.id).to_vec()
    };
    tokio::task::spawn_blocking(leaving).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_no_job_is_running() {
    let mut service = Service::start().await;
    let (id, _end) = blocking_job(&service, false).await;
    in_state(&service, &id, "running").await;
    service.restart().await;
    let job = service.get(&format!("/jobs/{id}")).await.ok(200);
    let state = text(&job["state"]);
    assert!(["canceled", "interrupted"].contains(&&*state), "{job}");

    // As a kill leaves them: records that say queued and running.
    service.stop().await;
    let left = [
        (JobKind::Backup, JobState::Queued),
        (JobKind::Backup, JobState::Running),
        (JobKind::Restore, JobState::Running),
        (JobKind::Migration, JobState::Running),
    ]
    .map(|(kind, state)| {
        let mut record = JobRecord::new(kind, json!({}), Utc::now());
        record.state = state;
        record
    });
    let mut killed = leave(&service, left).await;
    service.resume().await;
    for _ in 0..2 {
        for id in &killed {
            let job = service.get(&format!("/jobs/{id}")).await.ok(200);
            assert_eq!(
                (&job["state"], &job["cancellable"]),
                (&json!("interrupted"), &json!(false))
            );
            assert!(
                job["finished_at"].is_string() && !text(&job["problem"]["detail"]).is_empty(),
                "{job}"
            );
            service
                .post(&format!("/jobs/{id}/cancel"), json!({}))
                .await
                .problem(409);
        }
        for state in ["running", "queued"] {
            assert!(
                listed(&service, &format!("?state={state}"))
                    .await
                    .is_empty()
            );
        }
        killed.sort();
        let mut interrupted = listed(&service, "?state=interrupted").await;
        interrupted.retain(|found| *found != id);
        interrupted.reverse();
        assert_eq!(interrupted, killed);
        service.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stopped_in_the_middle_and_can_be_run_again_is_run_again_once() {
    let mut service = Service::start().await;
    service.create("words").await.add(&numbered("w", 50)).await;
    let backup = text(&service.backup(json!({})).await["id"]);
    service.stop().await;
    // As a kill leaves them.
    let request = json!({"backup": backup, "level": "records"});
    let left = [
        (JobState::Running, false, false),
        (JobState::Queued, false, false),
        (JobState::Running, true, false),
        (JobState::Running, false, true),
    ]
    .map(|(state, resumed, cancel_requested)| {
        let mut record = JobRecord::new(JobKind::Verification, request.clone(), Utc::now());
        (record.state, record.resumed) = (state, resumed);
        record.cancel_requested = cancel_requested;
        record
    });
    let left = leave(&service, left).await;
    service.resume().await;
    for id in &left[..2] {
        let job = service.finished(id).await;
        assert_eq!(
            (
                &job["state"],
                &job["resumed"],
                &job["result"]["checked_records"]
            ),
            (&json!("succeeded"), &json!(true), &json!(50)),
            "{job}"
        );
    }
    for (id, state) in [(&left[2], "interrupted"), (&left[3], "canceled")] {
        let job = service.get(&format!("/jobs/{id}")).await.ok(200);
        assert_eq!(job["state"], state, "{job}");
    }
    let verified = service.get(&format!("/backups/{backup}")).await.ok(200);
    assert_eq!(verified["verification"]["ok"], true);
}

/// One record that cannot be read stopped the start.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_read_are_set_aside_and_named() {
    let mut service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("w", 50)).await;
    let backup = text(&service.backup(json!({})).await["id"]);
    service.stop().await;
    let records = ["sound", "flipped", "undecodable", "newer"];
    let left = records.map(|name| {
        let mut record = JobRecord::new(JobKind::Verification, json!({"made": name}), Utc::now());
        record.state = JobState::Succeeded;
        record
    });
    let [sound, flipped, undecodable, newer] = leave(&service, left).await.try_into().unwrap();
    let harmed = harm(service.data_dir(), "jobs", |key, payload| match key {
        key if key == flipped.as_bytes() => Some(Harm::Flip),
        key if key == undecodable.as_bytes() => Some(Harm::Rewrite(b"{\"id\":".to_vec())),
        key if key == newer.as_bytes() => {
            let mut record: serde_json::Value = serde_json::from_slice(payload).unwrap();
            record["format"] = json!(1_000);
            Some(Harm::Rewrite(record.to_string().into_bytes()))
        }
        _ => None,
    });
    assert_eq!(harmed, 3);
    for _ in 0..2 {
        service.resume().await;
        service.get(&format!("/jobs/{sound}")).await.expect(200);
        for (id, why) in [
            (&flipped, "damaged"),
            (&undecodable, "decoded"),
            (&newer, "1000"),
        ] {
            let problem = service.get(&format!("/jobs/{id}")).await.problem(500);
            let detail = text(&problem["detail"]);
            assert!(
                detail.contains(id.as_str()) && detail.contains(why),
                "{detail}"
            );
        }
        let shown = listed(&service, "?limit=100").await;
        assert!(
            shown.contains(&sound) && !shown.contains(&newer),
            "{shown:?}"
        );
        // What else there is goes on.
        words.at(&service).upsert(&numbered("w", 3)).await;
        let verify = format!("/backups/{backup}/verify?wait=true");
        service.post(&verify, json!({})).await.expect(200);
        service.stop().await;
    }
}
