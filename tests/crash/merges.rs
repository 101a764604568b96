//! Kills while a backup is merged into two live collections by one request, with writes to both going on.

use serde_json::{Value, json};

use crate::campaign::Campaign;
use crate::checks::{End, JobWatch, State, assert_accepted, assert_names, assert_nothing_staged};
use crate::load::Load;
use crate::random::{self, Random};
use crate::records::{Known, Record, Records, differences};
use crate::service::Api;

const LIVE: [&str; 2] = ["left", "right"];
const RECORDS: [usize; 2] = [900, 700];
/// Ids of each collection that the backup does not have.
const EXTRA: usize = 100;

/// Whose records stay where both sides have an id.
#[derive(Clone, Copy, Debug)]
enum Winner {
    Backup,
    Live,
}

impl Winner {
    fn of(round: u64) -> Self {
        if round.is_multiple_of(2) {
            Self::Backup
        } else {
            Self::Live
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Live => "live",
        }
    }
}

/// One of the two collections.
struct Side {
    /// What it holds beside the writers' records.
    live: Known,
    /// What the backup has of it.
    kept: Records,
}

impl Side {
    async fn create(api: &Api, name: &'static str, count: usize) -> Self {
        let live = Known::create(api, name, count).await;
        Self {
            kept: live.records.clone(),
            live,
        }
    }

    /// Makes it differ from the backup: of each ten ids one goes and some get this version, and ids that the
    /// backup does not have come and go.
    async fn diverge(&mut self, api: &Api, version: u64) {
        let name = self.live.name;
        let mut random = Random::of((name, version));
        let (mut gone, mut put) = (Vec::new(), Vec::new());
        for id in self.kept.keys() {
            match random.within(0..10) {
                0 => gone.push(id.clone()),
                1..4 => put.push(Record::of(id, version)),
                _ => {}
            }
        }
        for index in 0..EXTRA {
            let id = format!("{name}-extra-{index}");
            if random.percent(50) {
                gone.push(id);
            } else {
                put.push(Record::of(&id, version));
            }
        }
        gone.retain(|id| self.live.records.contains_key(id));
        self.live.remove(api, gone).await;
        self.live.put(api, put).await;
    }

    /// What a merge makes of both sides.
    fn union(&self, winner: Winner) -> Records {
        let (losing, winning) = match winner {
            Winner::Backup => (&self.live.records, &self.kept),
            Winner::Live => (&self.kept, &self.live.records),
        };
        let mut union = losing.clone();
        union.extend(winning.clone());
        union
    }

    /// Whether the merge is in it: then it is the union of both sides, else what it was. Its id stays. `found` is what
    /// it holds beside the writers' records.
    fn merged(&mut self, state: &State, found: &Records, winner: Winner, at: &str) -> bool {
        let name = self.live.name;
        assert_eq!(state.id(name), self.live.id, "{at}: {name} has another id");
        let union = self.union(winner);
        let merged = *found == union;
        let expected = if merged {
            union
        } else {
            self.live.records.clone()
        };
        assert!(
            *found == expected,
            "{at}: {name}, merged: {merged}, {winner:?} wins: it differs at {:?}",
            differences(found, &expected)
        );
        self.live.records = expected;
        merged
    }
}

/// The live collections, the backup that is merged into them, and those who write to them.
struct Scene {
    load: Load,
    sides: [Side; 2],
    backup: String,
}

impl Scene {
    async fn create(api: &Api, seed: u64) -> Self {
        let sides = [
            Side::create(api, LIVE[0], RECORDS[0]).await,
            Side::create(api, LIVE[1], RECORDS[1]).await,
        ];
        // Before anybody writes: no id is the writers' and the backup's.
        let (status, job) = api.post("/backups?wait=true", &json!({})).await;
        assert_eq!(status, 201, "{job}");
        let live = sides
            .iter()
            .map(|side| (side.live.name, side.live.id.clone()));
        let load = Load::beside(live, 1, seed);
        Self {
            load,
            sides,
            backup: job["result"]["id"].as_str().unwrap().to_owned(),
        }
    }

    async fn diverge(&mut self, api: &Api, version: u64) {
        for side in &mut self.sides {
            side.diverge(api, version).await;
        }
    }

    fn request(&self, winner: Winner) -> Value {
        json!({"backup": self.backup, "on_conflict": "merge", "merge_winner": winner.name()})
    }

    /// Whether the merge is there; half of it or a lost write is a failure. Follows what is live.
    fn merged(&mut self, state: &State, winner: Winner, at: &str) -> bool {
        assert_names(state, LIVE, at);
        let others = self.load.settle_theirs(state, at);
        let [left, right] = &mut self.sides;
        let merged = [left, right].map(|side| {
            let found = &others[side.live.name];
            side.merged(state, found, winner, at)
        });
        assert_eq!(
            merged[0], merged[1],
            "{at}: {LIVE:?} did not switch together"
        );
        merged[0]
    }

    /// The same request again, while nobody writes.
    async fn repeat(&mut self, api: &Api, winner: Winner, at: &str) {
        let request = self.request(winner);
        let (status, job) = api.post("/restore?wait=true", &request).await;
        assert_eq!(status, 200, "{at}: {job}");
        let state = State::look(api, at).await;
        let merged = self.merged(&state, winner, at);
        assert!(merged, "{at}: succeeded, not merged: {job}");
        let restored = job["result"]["collections"].as_array().unwrap();
        assert_eq!(restored.len(), LIVE.len(), "{at}: {job}");
        for restored in restored {
            let name = restored["name"].as_str().unwrap();
            let records = state.records(name).len();
            assert!(
                restored["action"] == "merged"
                    && restored["verified"] == true
                    && restored["records"] == records
                    && restored["digest"] == state.digest(name),
                "{at}: {records} records in {name}: {restored}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_merge_leaves_both_targets_old_or_both_new_and_loses_no_write() {
    campaign(random::seed()).await;
}

/// All rounds, with this seed.
pub(crate) async fn campaign(seed: u64) {
    let mut campaign = Campaign::begin("merges", 3, seed).await;
    let mut scene = Scene::create(&campaign.api(), seed).await;
    let mut jobs = JobWatch::new("restore");
    // Published although the job's own record was not.
    let (mut merges, mut published_only) = (0, 0);
    while campaign.next_round(jobs.is_meaningful(campaign.rounds) && merges < campaign.round) {
        let at = campaign.at();
        let winner = Winner::of(campaign.round);
        // Never the backup's version.
        scene.diverge(&campaign.api(), campaign.round + 1).await;
        let request = scene.request(winner);
        scene.load.start(&campaign.api());
        let answer = campaign.kill_during("/restore?wait=true", request).await;
        scene.load.finish().await;
        campaign.restart().await;
        let api = campaign.api();
        let state = State::look(&api, &at).await;
        let merged = scene.merged(&state, winner, &at);
        assert_accepted(&answer, 200, &at);
        let end = jobs.look(&api, answer.is_some(), &at).await;
        assert!(
            merged || end != End::Succeeded,
            "{at}: succeeded, not merged"
        );
        assert!(!merged || end != End::Never, "{at}: merged by no job");
        merges += u64::from(merged);
        published_only += u64::from(merged && end == End::Interrupted);
        scene.repeat(&api, winner, &at).await;
        jobs.skip(&api, &at).await;
    }
    let tally = scene.load.tally();
    campaign.report(&format!(
        "{} interrupted ({published_only} after the switch), {} succeeded; {tally:?}",
        jobs.interrupted, jobs.succeeded
    ));
    jobs.assert_meaningful(campaign.rounds);
    assert!(merges < campaign.round, "no kill left the old state");
    assert!(
        tally.acknowledged >= campaign.rounds,
        "nobody wrote: {tally:?}"
    );
    assert_nothing_staged(&campaign.api(), &campaign.at()).await;
}
