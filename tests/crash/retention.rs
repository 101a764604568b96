//! Kills while backups are deleted and pruned.

use std::time::Duration;

use serde_json::json;

use crate::campaign::Campaign;
use crate::checks;
use crate::random;
use crate::records::{Known, Records};
use crate::service::Api;

const RECORDS: usize = 400;
const KEPT: usize = 3;

/// The backups there are, oldest first, each with its content as it was then. (Two of one second need not
/// sort by their ids: one that is deleted makes room for its id.)
type Contents = Vec<(String, Records)>;

/// Changes the collection and backs it up: incremental where the store allows it.
async fn keep(api: &Api, known: &mut Known, version: u64, contents: &mut Contents, at: &str) {
    known.change(api, version).await;
    let (status, job) = api.post("/backups?wait=true", &json!({})).await;
    assert_eq!(status, 201, "{at}: {job}");
    let id = job["result"]["id"].as_str().unwrap().to_owned();
    contents.push((id, known.records.clone()));
}

/// Waits for what was taken up again; how the newest pruning ended.
async fn last_pruning(api: &Api, at: &str) -> Option<String> {
    loop {
        let (status, found) = api.get("/jobs?kind=prune&limit=1").await;
        assert_eq!(status, 200, "{at}: {found}");
        let state = found["jobs"][0]["state"].as_str()?;
        match state {
            "queued" | "running" => tokio::time::sleep(Duration::from_millis(5)).await,
            "succeeded" | "interrupted" => return Some(state.to_owned()),
            _ => panic!("{at}: {found}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_deletions_leave_whole_backups_and_nothing_that_nobody_needs() {
    campaign(random::seed()).await;
}

/// All rounds, with this seed.
pub(crate) async fn campaign(seed: u64) {
    let mut campaign = Campaign::begin("retention", 2, seed).await;
    let mut known = Known::create(&campaign.api(), "known", RECORDS).await;
    let mut contents = Contents::new();
    let mut version = 1;
    let (mut unanswered, mut undone, mut resumed) = (0, 0, 0);
    while campaign.next_round(unanswered >= campaign.rounds / 6 && resumed > 0) {
        let at = campaign.at();
        let api = campaign.api();
        while contents.len() < KEPT + 2 {
            version += 1;
            keep(&api, &mut known, version, &mut contents, &at).await;
        }
        let ids: Vec<String> = contents.iter().map(|(id, _)| id.clone()).collect();
        let deleting = campaign.round % 2 == 0;
        // What may go, and what was answered.
        let (victims, answer) = if deleting {
            let victim = ids[campaign.pick(ids.len())].clone();
            let path = format!("/backups/{victim}");
            let call = async move { api.try_delete(&path).await };
            (vec![victim], campaign.kill_in(call).await)
        } else {
            let rule = json!({"keep_last": KEPT});
            let call = async move { api.try_post("/backups/prune?wait=true", &rule).await };
            (
                ids[..ids.len() - KEPT].to_vec(),
                campaign.kill_in(call).await,
            )
        };
        checks::assert_accepted(&answer, 200, &at);
        campaign.restart().await;
        let api = campaign.api();
        let pruned = last_pruning(&api, &at).await;
        let listed = checks::backups(&api, &at).await;
        let listed: Vec<&str> = listed.iter().map(|b| b["id"].as_str().unwrap()).collect();
        for id in &ids {
            let (is_victim, is_listed) = (victims.contains(id), listed.contains(&id.as_str()));
            assert!(is_victim || is_listed, "{at}: {id} is gone");
            assert!(
                !(is_victim && is_listed && answer.is_some()),
                "{at}: {id} came back"
            );
        }
        contents.retain(|(id, _)| listed.contains(&id.as_str()));
        assert_eq!(listed.len(), contents.len(), "{at}: {listed:?}");
        unanswered += u64::from(answer.is_none());
        undone += u64::from(victims.iter().any(|id| listed.contains(&id.as_str())));
        resumed +=
            u64::from(!deleting && answer.is_none() && pruned.as_deref() == Some("succeeded"));
        for (id, _) in &contents {
            let path = format!("/backups/{id}/verify?wait=true");
            let (status, job) = api.post(&path, &json!({})).await;
            assert_eq!(status, 200, "{at}: {id}: {job}");
            assert_eq!(job["result"]["ok"], true, "{at}: {job}");
        }
    }
    let (api, at) = (campaign.api(), campaign.at());
    for backup in checks::backups(&api, &at).await {
        let id = backup["id"].as_str().unwrap();
        let exported = checks::export(&api, &backup, &at).await;
        let (_, records) = contents.iter().find(|(known, _)| known == id).unwrap();
        assert!(exported["known"].records == *records, "{at}: {id}");
        let (status, answer) = api.delete(&format!("/backups/{id}")).await;
        assert_eq!(status, 200, "{at}: {answer}");
    }
    assert_eq!(campaign.packs(), 0, "{at}: packs that nobody needs");
    campaign.report(&format!(
        "{unanswered} without an answer, {undone} before anything was deleted, {resumed} finished after the restart"
    ));
    assert!(
        unanswered >= campaign.rounds / 6 && resumed > 0,
        "these kills show nothing"
    );
}
