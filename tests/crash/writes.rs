//! Kills under writes alone: records in batches and one by one, and whole collections.

use std::ops::Range;
use std::time::Duration;

use crate::campaign::Campaign;
use crate::checks::{Sequences, State, assert_names};
use crate::load::Load;
use crate::random;
use crate::turnover::Turnover;

const UNTIL_KILL: Range<Duration> = Duration::from_millis(5)..Duration::from_millis(400);
const BACKUP_EVERY: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_and_no_batch_is_torn() {
    campaign(random::seed()).await;
}

/// All rounds, with this seed.
pub(crate) async fn campaign(seed: u64) {
    let mut campaign = Campaign::begin("writes", 1, seed).await;
    let mut load = Load::create(&campaign.api(), &["alpha", "beta"], 2, seed).await;
    let mut turnover = Turnover::new(&["brief", "fleeting"], seed);
    let mut sequences = Sequences::default();
    while campaign.next_round(true) {
        let at = campaign.at();
        load.start(&campaign.api());
        turnover.start(&campaign.api());
        campaign.kill_within(UNTIL_KILL).await;
        load.finish().await;
        turnover.finish().await;
        campaign.restart().await;
        let api = campaign.api();
        let state = State::look(&api, &at).await;
        load.settle(&state, &at);
        turnover.settle(&state, &at);
        assert_names(&state, turnover.names().chain(load.names()), &at);
        if campaign.round.is_multiple_of(BACKUP_EVERY) || campaign.round == campaign.rounds {
            let backup = state.assert_backup_equals(&api, &at).await;
            sequences.observe(&backup, &at);
        }
    }
    let tally = load.tally();
    let collections = turnover.acknowledged();
    campaign.report(&format!(
        "{tally:?}, {collections} collections made, filled or dropped"
    ));
    assert!(
        tally.acknowledged >= campaign.rounds
            && tally.interrupted() >= campaign.rounds / 2
            && collections >= campaign.rounds,
        "too little was under way: {tally:?}, {collections} collections"
    );
}
