//! Kills while a collection is migrated, with writes to another one going on.

use serde_json::json;

use crate::campaign::Campaign;
use crate::checks::{End, JobWatch, State, assert_accepted, assert_names};
use crate::load::Load;
use crate::random;
use crate::records::{Known, Records, drop_collections};
use crate::service::Api;

const SOURCE_RECORDS: usize = 1_500;
/// Exists, and is replaced.
const TARGET: &str = "target";
/// Does not exist, and is dropped again where it came into being.
const NEW_TARGET: &str = "new-target";

/// A source that changes between rounds and the copy of it that was made last.
struct Scene {
    load: Load,
    source: Known,
    /// What the target holds.
    target: Records,
}

impl Scene {
    async fn create(api: &Api, seed: u64) -> Self {
        let load = Load::create(api, &["bystander"], 1, seed).await;
        let source = Known::create(api, "source", SOURCE_RECORDS).await;
        let first = json!({"source": {"collection": "source"}, "target": {"collection": TARGET}});
        let (status, job) = api.post("/migrate?wait=true", &first).await;
        assert_eq!(status, 200, "{job}");
        Self {
            load,
            target: source.records.clone(),
            source,
        }
    }

    /// Whether the migration is there; half of it is a failure. Follows what the target holds.
    fn migrated(&mut self, state: &State, target: &'static str, at: &str) -> bool {
        let there = state.names().contains(target);
        let expected = [self.source.name, TARGET]
            .into_iter()
            .chain(self.load.names());
        assert_names(
            state,
            expected.chain([target].into_iter().filter(|_| there)),
            at,
        );
        state.assert_untouched(&self.source, at);
        let migrated = there && state.holds(target, &self.source.records);
        if there {
            let equal = state.digest(target) == state.digest(self.source.name);
            assert_eq!(equal, migrated, "{at}: records and digest of {target}");
        }
        if migrated && target == TARGET {
            self.target.clone_from(&self.source.records);
        }
        assert!(
            migrated || !there || target == TARGET,
            "{at}: {target} is no copy"
        );
        assert!(
            state.holds(TARGET, &self.target),
            "{at}: {TARGET} is neither old nor new"
        );
        migrated
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_migration_leaves_the_target_old_or_new() {
    campaign(random::seed()).await;
}

/// All rounds, with this seed.
pub(crate) async fn campaign(seed: u64) {
    let mut campaign = Campaign::begin("migrations", 3, seed).await;
    let mut scene = Scene::create(&campaign.api(), seed).await;
    let mut jobs = JobWatch::new("migration");
    jobs.skip(&campaign.api(), &campaign.at()).await;
    // Published although the job's own record was not.
    let (mut migrations, mut published_only) = (0, 0);
    while campaign.next_round(jobs.is_meaningful(campaign.rounds) && migrations < campaign.round) {
        let at = campaign.at();
        let target = if campaign.round.is_multiple_of(2) {
            NEW_TARGET
        } else {
            TARGET
        };
        // Never a version of the round before: the target is always behind.
        scene
            .source
            .change(&campaign.api(), campaign.round + 1)
            .await;
        let request = json!({
            "source": {"collection": scene.source.name},
            "target": {"collection": target},
            "on_conflict": "replace",
        });
        scene.load.start(&campaign.api());
        let answer = campaign.kill_during("/migrate?wait=true", request).await;
        scene.load.finish().await;
        campaign.restart().await;
        let api = campaign.api();
        let state = State::look(&api, &at).await;
        scene.load.settle(&state, &at);
        let migrated = scene.migrated(&state, target, &at);
        assert_accepted(&answer, 200, &at);
        let end = jobs.look(&api, answer.is_some(), &at).await;
        assert!(
            migrated || end != End::Succeeded,
            "{at}: succeeded, not migrated"
        );
        assert!(!migrated || end != End::Never, "{at}: migrated by no job");
        migrations += u64::from(migrated);
        published_only += u64::from(migrated && end == End::Interrupted);
        if migrated && target == NEW_TARGET {
            drop_collections(&api, [NEW_TARGET], &at).await;
        }
    }
    campaign.report(&format!(
        "{} interrupted ({published_only} after the switch), {} succeeded; {:?}",
        jobs.interrupted,
        jobs.succeeded,
        scene.load.tally()
    ));
    jobs.assert_meaningful(campaign.rounds);
    assert!(migrations < campaign.round, "no kill left the old state");
}
