//! Seeds that are run for ever, each by its name: a seed with which a campaign failed once gets a test here that says
//! what it found. (The load and the delays are the same again; where the kills land depends on the machine.)

use crate::writes;

/// The seed of every run before seeds came from the commit: some 10,000 rounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seed_of_the_first_release() {
    writes::campaign(20_261_123).await;
}
