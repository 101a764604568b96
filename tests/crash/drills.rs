//! Kills while the restore of a backup is rehearsed, with writes to another collection going on.

use serde_json::json;

use crate::campaign::Campaign;
use crate::checks::{End, JobWatch, State, assert_accepted, assert_names, assert_nothing_staged};
use crate::load::Load;
use crate::random;
use crate::records::Known;
use crate::service::Api;

const NAMES: [&str; 2] = ["left", "right"];
const RECORDS: [usize; 2] = [1_200, 800];

/// Backs both collections up; the backup's id.
async fn keep(api: &Api, at: &str) -> String {
    let body = json!({"collections": [{"name": NAMES[0]}, {"name": NAMES[1]}]});
    let (status, job) = api.post("/backups?wait=true", &body).await;
    assert_eq!(status, 201, "{at}: {job}");
    job["result"]["id"].as_str().unwrap().to_owned()
}

/// Whether a backup counts as rehearsed. It was looked at in no other way: nothing else may be said of it.
async fn is_drilled(api: &Api, backup: &str, at: &str) -> bool {
    let (status, found) = api.get(&format!("/backups/{backup}")).await;
    assert_eq!(status, 200, "{at}: {found}");
    let verification = &found["verification"];
    let records: usize = RECORDS.iter().sum();
    let drilled = verification["level"] == "drill"
        && verification["ok"] == true
        && verification["checked_records"] == records;
    assert!(drilled || verification.is_null(), "{at}: {found}");
    drilled
}

/// Rehearses it while nobody interferes.
async fn drill(api: &Api, backup: &str, at: &str) {
    let request = json!({"backup": backup});
    let (status, job) = api.post("/drills?wait=true", &request).await;
    assert_eq!(status, 200, "{at}: {job}");
    let result = &job["result"];
    let records: usize = RECORDS.iter().sum();
    assert!(
        result["backup"] == backup
            && result["ok"] == true
            && result["checked_records"] == records
            && result["queries"].as_u64() > Some(0)
            && result["problems"] == json!([]),
        "{at}: {job}"
    );
    assert!(is_drilled(api, backup, at).await, "{at}: not noted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_drill_changes_nothing_and_verifies_nothing_by_half() {
    campaign(random::seed()).await;
}

/// All rounds, with this seed.
pub(crate) async fn campaign(seed: u64) {
    let mut campaign = Campaign::begin("drills", 3, seed).await;
    let api = campaign.api();
    let mut load = Load::create(&api, &["bystander"], 1, seed).await;
    for (name, count) in NAMES.into_iter().zip(RECORDS) {
        Known::create(&api, name, count).await;
    }
    let before = State::look(&api, &campaign.at()).await;
    let mut jobs = JobWatch::new("drill");
    // Verified although the job's own record does not say so.
    let mut noted_only = 0;
    while campaign.next_round(jobs.is_meaningful(campaign.rounds)) {
        let at = campaign.at();
        // A new one each time: what is said of it can only come from this round.
        let backup = keep(&campaign.api(), &at).await;
        load.start(&campaign.api());
        let request = json!({"backup": backup});
        let answer = campaign.kill_during("/drills?wait=true", request).await;
        load.finish().await;
        campaign.restart().await;
        let api = campaign.api();
        let state = State::look(&api, &at).await;
        load.settle(&state, &at);
        assert_names(&state, NAMES.into_iter().chain(load.names()), &at);
        state.assert_same(&before, NAMES, &at);
        assert_accepted(&answer, 200, &at);
        let end = jobs.look(&api, answer.is_some(), &at).await;
        let drilled = is_drilled(&api, &backup, &at).await;
        assert!(
            drilled || end != End::Succeeded,
            "{at}: succeeded, not verified"
        );
        assert!(!drilled || end != End::Never, "{at}: verified by no job");
        noted_only += u64::from(drilled && end == End::Interrupted);
        drill(&api, &backup, &at).await;
        jobs.skip(&api, &at).await;
    }
    campaign.report(&format!(
        "{} interrupted ({noted_only} after it was noted), {} succeeded; {:?}",
        jobs.interrupted,
        jobs.succeeded,
        load.tally()
    ));
    jobs.assert_meaningful(campaign.rounds);
    assert_nothing_staged(&campaign.api(), &campaign.at()).await;
}
