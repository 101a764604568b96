//! Kills while two collections are restored by one request, with writes to a third going on.

use serde_json::{Value, json};

use crate::campaign::Campaign;
use crate::checks::{End, JobWatch, State, assert_accepted, assert_names};
use crate::load::Load;
use crate::random;
use crate::records::{Known, Records, drop_collections};
use crate::service::Api;

const LIVE: [&str; 2] = ["left", "right"];
const RECORDS: [usize; 2] = [900, 700];

/// Both collections as one backup holds them.
struct Generation {
    backup: String,
    content: [Records; 2],
    digests: [String; 2],
}

impl Generation {
    /// Backs both collections up as they are.
    async fn keep(api: &Api, pair: &[Known; 2]) -> Self {
        let body = json!({"collections": [{"name": pair[0].name}, {"name": pair[1].name}]});
        let (status, job) = api.post("/backups?wait=true", &body).await;
        assert_eq!(status, 201, "{job}");
        let backup = &job["result"];
        let digest = |name: &str| {
            let collections = backup["collections"].as_array().unwrap();
            let found = collections.iter().find(|found| found["name"] == name);
            found.unwrap()["digest"].as_str().unwrap().to_owned()
        };
        Self {
            backup: backup["id"].as_str().unwrap().to_owned(),
            content: [pair[0].records.clone(), pair[1].records.clone()],
            digests: [digest(pair[0].name), digest(pair[1].name)],
        }
    }

    /// Whether the collections of these names hold this; half of it is a failure.
    fn is_in(&self, state: &State, names: [&str; 2], at: &str) -> bool {
        let holds = [0, 1].map(|side| {
            let equal = state.holds(names[side], &self.content[side]);
            let digest = state.digest(names[side]) == self.digests[side];
            assert_eq!(equal, digest, "{at}: records and digest of {}", names[side]);
            equal
        });
        assert_eq!(
            holds[0], holds[1],
            "{at}: {names:?} did not switch together"
        );
        holds[0]
    }
}

/// Where a restore goes.
#[derive(Clone, Copy)]
enum Way {
    /// Over the live collections.
    Replace,
    /// Beside them, under names that the service makes.
    Rename,
    /// Beside them, under names that the request gives.
    To,
}

impl Way {
    fn of(round: u64) -> Self {
        match round % 4 {
            0 | 2 => Self::Replace,
            1 => Self::Rename,
            _ => Self::To,
        }
    }

    fn names(self) -> [&'static str; 2] {
        match self {
            Self::Replace => LIVE,
            Self::Rename => ["left-restored-1", "right-restored-1"],
            Self::To => ["copied-left", "copied-right"],
        }
    }

    fn request(self, backup: &str) -> Value {
        let [left, right] = self.names();
        match self {
            Self::Replace => json!({"backup": backup, "on_conflict": "replace"}),
            Self::Rename => json!({"backup": backup, "on_conflict": "rename"}),
            Self::To => json!({"backup": backup, "collections": [
                {"name": "left", "to": {"name": left}},
                {"name": "right", "to": {"name": right}},
            ]}),
        }
    }
}

/// The live collections hold one generation; restores bring the other.
struct Scene {
    load: Load,
    generations: [Generation; 2],
    live: usize,
}

impl Scene {
    async fn create(api: &Api, seed: u64) -> Self {
        let load = Load::create(api, &["bystander"], 1, seed).await;
        let mut pair = [
            Known::create(api, LIVE[0], RECORDS[0]).await,
            Known::create(api, LIVE[1], RECORDS[1]).await,
        ];
        let first = Generation::keep(api, &pair).await;
        for known in &mut pair {
            known.change(api, 2).await;
        }
        let second = Generation::keep(api, &pair).await;
        assert_ne!(first.digests, second.digests);
        Self {
            load,
            generations: [first, second],
            live: 1,
        }
    }

    fn other(&self) -> &Generation {
        &self.generations[1 - self.live]
    }

    /// Whether the restore is there; half of it is a failure. Follows what is live.
    fn restored(&mut self, state: &State, way: Way, at: &str) -> bool {
        let targets = way.names();
        let there = targets.iter().any(|name| state.names().contains(name));
        let expected = LIVE.into_iter().chain(self.load.names());
        assert_names(
            state,
            expected.chain(targets.into_iter().filter(|_| there)),
            at,
        );
        let restored = there && self.other().is_in(state, targets, at);
        if targets == LIVE {
            self.live = if restored { 1 - self.live } else { self.live };
        } else {
            assert_eq!(restored, there, "{at}: {targets:?} hold something else");
        }
        assert!(
            self.generations[self.live].is_in(state, LIVE, at),
            "{at}: the live collections are neither old nor new"
        );
        restored
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_restore_leaves_all_targets_old_or_all_new() {
    campaign(random::seed()).await;
}

/// All rounds, with this seed.
pub(crate) async fn campaign(seed: u64) {
    let mut campaign = Campaign::begin("restores", 3, seed).await;
    let mut scene = Scene::create(&campaign.api(), seed).await;
    let mut jobs = JobWatch::new("restore");
    // Published although the job's own record was not.
    let (mut restores, mut published_only) = (0, 0);
    while campaign.next_round(jobs.is_meaningful(campaign.rounds) && restores < campaign.round) {
        let at = campaign.at();
        let way = Way::of(campaign.round);
        let request = way.request(&scene.other().backup);
        scene.load.start(&campaign.api());
        let answer = campaign.kill_during("/restore?wait=true", request).await;
        scene.load.finish().await;
        campaign.restart().await;
        let api = campaign.api();
        let state = State::look(&api, &at).await;
        scene.load.settle(&state, &at);
        let restored = scene.restored(&state, way, &at);
        assert_accepted(&answer, 200, &at);
        let end = jobs.look(&api, answer.is_some(), &at).await;
        assert!(
            restored || end != End::Succeeded,
            "{at}: succeeded, not restored"
        );
        assert!(!restored || end != End::Never, "{at}: restored by no job");
        restores += u64::from(restored);
        published_only += u64::from(restored && end == End::Interrupted);
        if restored && way.names() != LIVE {
            drop_collections(&api, way.names(), &at).await;
        }
    }
    campaign.report(&format!(
        "{} interrupted ({published_only} after the switch), {} succeeded; {:?}",
        jobs.interrupted,
        jobs.succeeded,
        scene.load.tally()
    ));
    jobs.assert_meaningful(campaign.rounds);
    assert!(restores < campaign.round, "no kill left the old state");
}
