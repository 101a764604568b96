//! Kills under writes alone.

use std::ops::Range;
use std::time::Duration;

use crate::campaign::Campaign;
use crate::checks::{Sequences, State, assert_names};
use crate::load::Load;

const UNTIL_KILL: Range<Duration> = Duration::from_millis(5)..Duration::from_millis(400);
const BACKUP_EVERY: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_and_no_batch_is_torn() {
    let mut campaign = Campaign::begin("writes", 1).await;
    let mut load = Load::create(&campaign.api(), &["alpha", "beta"], 2, campaign.seed).await;
    let mut sequences = Sequences::default();
    while campaign.next_round() {
        let at = campaign.at();
        load.start(&campaign.api());
        campaign.kill_within(UNTIL_KILL).await;
        load.finish().await;
        campaign.restart().await;
        let api = campaign.api();
        let state = State::look(&api, &at).await;
        assert_names(&state, load.names(), &at);
        load.settle(&state, &at);
        if campaign.round.is_multiple_of(BACKUP_EVERY) || campaign.round == campaign.rounds {
            let backup = state.assert_backup_equals(&api, &at).await;
            sequences.observe(&backup, &at);
        }
    }
    let tally = load.tally();
    campaign.report(&format!("{tally:?}"));
    assert!(
        tally.acknowledged >= campaign.rounds && tally.interrupted() >= campaign.rounds / 2,
        "too little was under way: {tally:?}"
    );
}
