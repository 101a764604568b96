//! Kills while the store is copied into fresh files and those take its place, with writes going on.

use serde_json::json;

use crate::campaign::Campaign;
use crate::checks::{End, JobWatch, State, assert_accepted, assert_names};
use crate::load::Load;
use crate::random;
use crate::records::Known;

/// So much that the copy takes a while.
const KNOWN_RECORDS: usize = 1_500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_compaction_loses_nothing_and_leaves_one_store() {
    campaign(random::seed()).await;
}

/// All rounds, with this seed.
pub(crate) async fn campaign(seed: u64) {
    let mut campaign = Campaign::begin("compactions", 3, seed).await;
    let mut load = Load::create(&campaign.api(), &["left", "right"], 2, seed).await;
    let known = Known::create(&campaign.api(), "known", KNOWN_RECORDS).await;
    let mut jobs = JobWatch::new("compaction");
    let mut store = campaign.store_directories();
    let (mut switched, mut switched_only) = (0, 0);
    while campaign.next_round(jobs.is_meaningful(campaign.rounds) && switched < campaign.round) {
        let at = campaign.at();
        load.start(&campaign.api());
        let answer = campaign
            .kill_during("/compactions?wait=true", json!({}))
            .await;
        load.finish().await;
        campaign.restart().await;
        let api = campaign.api();
        let state = State::look(&api, &at).await;
        load.settle(&state, &at);
        state.assert_untouched(&known, &at);
        assert_names(&state, [known.name].into_iter().chain(load.names()), &at);
        assert_accepted(&answer, 200, &at);
        let end = jobs.look(&api, answer.is_some(), &at).await;
        let now = campaign.store_directories();
        assert_eq!(now.len(), 1, "{at}: {now:?}");
        let moved = now != store;
        assert!(moved || end != End::Succeeded, "{at}: succeeded in place");
        assert!(!moved || end != End::Never, "{at}: compacted by no job");
        switched += u64::from(moved);
        switched_only += u64::from(moved && end == End::Interrupted);
        store = now;
    }
    campaign.report(&format!(
        "{} interrupted ({switched_only} after the switch), {} succeeded; {:?}",
        jobs.interrupted,
        jobs.succeeded,
        load.tally()
    ));
    jobs.assert_meaningful(campaign.rounds);
    assert!(switched < campaign.round, "no kill left the old files");
}
