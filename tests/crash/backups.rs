//! Kills while a backup is made, with writes going on.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::campaign::Campaign;
use crate::checks::{self, End, JobWatch, Sequences, State, assert_accepted, assert_names};
use crate::load::Load;
use crate::random;
use crate::records::Known;
use crate::service::Api;

const STILL_RECORDS: usize = 2_000;

/// The backups that are known to be complete, as they were listed first.
#[derive(Default)]
struct Shelf {
    backups: BTreeMap<String, Value>,
    sequences: Sequences,
}

impl Shelf {
    /// Checks that the earlier backups are listed as ever, and what is new in full. Returns whether there
    /// is a new one.
    async fn look(&mut self, api: &Api, load: &Load, still: &Known, at: &str) -> bool {
        let listed = checks::backups(api, at).await;
        let ids = listed.iter().map(id);
        let missing: Vec<_> = self
            .backups
            .keys()
            .filter(|id| !ids.clone().any(|listed| listed == **id))
            .collect();
        assert!(missing.is_empty(), "{at}: {missing:?} vanished");
        let before = self.backups.len();
        assert!(
            listed.len() <= before + 1,
            "{at}: more backups than were made"
        );
        for backup in listed {
            if let Some(known) = self.backups.get(id(&backup)) {
                assert_eq!(*known, backup, "{at}: a backup changed");
                continue;
            }
            assert_whole(api, &backup, load, still, at).await;
            self.sequences.observe(&backup, at);
            self.backups.insert(id(&backup).to_owned(), backup);
        }
        self.backups.len() > before
    }

    /// Reads all backups again.
    async fn assert_unharmed(&self, api: &Api, load: &Load, still: &Known, at: &str) {
        for backup in self.backups.values() {
            assert_whole(api, backup, load, still, at).await;
        }
    }
}

fn id(backup: &Value) -> &str {
    backup["id"].as_str().unwrap()
}

/// Exports a backup: it holds what it is listed with, no batch is torn in it, and what nobody wrote to is
/// there as it is.
async fn assert_whole(api: &Api, backup: &Value, load: &Load, still: &Known, at: &str) {
    let exported = checks::export(api, backup, at).await;
    assert_eq!(exported.len(), load.names().len() + 1, "{at}: {backup}");
    for (name, copy) in exported {
        if name == still.name {
            assert!(
                copy.records == still.records,
                "{at}: {name} in {}",
                id(backup)
            );
        } else {
            load.assert_copy_is_whole(&name, copy.records, at);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_backup_is_not_listed_and_harms_no_other() {
    campaign(random::seed()).await;
}

/// All rounds, with this seed.
pub(crate) async fn campaign(seed: u64) {
    let mut campaign = Campaign::begin("backups", 3, seed).await;
    let api = campaign.api();
    let mut load = Load::create(&api, &["alpha", "beta"], 1, seed).await;
    let still = Known::create(&api, "still", STILL_RECORDS).await;
    let mut shelf = Shelf::default();
    let mut jobs = JobWatch::new("backup");
    // Committed although the job's own record was not.
    let mut committed_only = 0;
    while campaign.next_round(jobs.is_meaningful(campaign.rounds)) {
        let at = campaign.at();
        load.start(&campaign.api());
        let answer = campaign.kill_during("/backups?wait=true", json!({})).await;
        load.finish().await;
        campaign.restart().await;
        let api = campaign.api();
        let state = State::look(&api, &at).await;
        assert_names(&state, load.names().into_iter().chain([still.name]), &at);
        load.settle(&state, &at);
        state.assert_untouched(&still, &at);
        assert_accepted(&answer, 201, &at);
        let end = jobs.look(&api, answer.is_some(), &at).await;
        let new = shelf.look(&api, &load, &still, &at).await;
        assert!(
            new || end != End::Succeeded,
            "{at}: the job succeeded, no backup is listed"
        );
        assert!(!new || end != End::Never, "{at}: a backup of no job");
        committed_only += u64::from(new && end == End::Interrupted);
    }
    shelf
        .assert_unharmed(&campaign.api(), &load, &still, &campaign.at())
        .await;
    campaign.report(&format!(
        "{} interrupted ({committed_only} after the commit), {} succeeded; {:?}",
        jobs.interrupted,
        jobs.succeeded,
        load.tally()
    ));
    jobs.assert_meaningful(campaign.rounds);
}
