//! Kills while a collection is migrated to another service or from there, with writes to a third one going on.
//! The other service is not killed: what it was asked for before the kill comes to its end there.

use std::time::Duration;

use serde_json::{Value, json};

use crate::campaign::Campaign;
use crate::checks::{
    End, JobWatch, State, assert_accepted, assert_names, assert_nothing_staged, ended_jobs,
};
use crate::load::Load;
use crate::random;
use crate::records::{Known, Records, drop_collections};
use crate::service::{Api, Home, Service};

/// The other service by its kind, and as if it were Chroma's.
const SECOND: &str = "second";
const CHROMA: &str = "chroma";

const NEAR_SOURCE: &str = "near";
const FAR_SOURCE: &str = "far";
/// Exists on both sides, and is replaced.
const TARGET: &str = "target";
/// Does not exist, and is dropped again where it came into being.
const NEW_TARGET: &str = "new-target";
/// What a migration that nobody kills is of.
const TOKEN: &str = "token";

const SOURCE_RECORDS: usize = 1_000;
const TARGET_RECORDS: usize = 300;
const TOKEN_RECORDS: usize = 20;
/// Small, so that a migration is many requests.
const BATCH: usize = 10;
/// So many rounds repeat what was killed; of as many after them those that were to bring something here do not:
/// it is forgotten.
const TURN: u64 = 8;

/// What a migration makes in a remote target on its way has names that begin so.
const STAGING: &str = "vectorkeep-staging-";
const REPLACED: &str = "vectorkeep-replaced-";

/// The other service.
struct Other {
    service: Service,
    /// Goes after the process.
    _home: Home,
}

impl Other {
    async fn start() -> Self {
        let home = Home::new();
        Self {
            service: home.start("the other service").await,
            _home: home,
        }
    }

    /// Makes it known to the one that is killed.
    fn settings(&self) -> Vec<(String, String)> {
        let url = self.service.api().base().to_owned();
        let mut settings = vec![
            ("NO_PROXY".to_owned(), "127.0.0.1".to_owned()),
            // One that is begun takes the place of one that nobody went on with.
            (
                "VECTORKEEP__MIGRATION__MAX_CHECKPOINTS".to_owned(),
                "1".to_owned(),
            ),
            ("VECTORKEEP__JOBS__WORKERS".to_owned(), "1".to_owned()),
        ];
        for (name, kind) in [(SECOND, "vectorkeep"), (CHROMA, "chroma")] {
            let section = format!("VECTORKEEP__ENVIRONMENTS__{}", name.to_uppercase());
            settings.push((format!("{section}__KIND"), kind.to_owned()));
            settings.push((format!("{section}__URL"), url.clone()));
        }
        settings
    }
}

/// Waits until nothing is under way in a service.
async fn at_rest(api: &Api, at: &str) {
    // What waits comes to run, so it is waited for first.
    for state in ["queued", "running"] {
        loop {
            let (status, found) = api.get(&format!("/jobs?state={state}")).await;
            assert_eq!(status, 200, "{at}: {found}");
            if found["jobs"] == json!([]) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Both services as they were found.
struct Seen {
    near: State,
    far: State,
}

impl Seen {
    async fn look(near: &Api, far: &Api, at: &str) -> Self {
        let found = State::look(near, at).await;
        at_rest(far, at).await;
        Self {
            near: found,
            far: State::look(far, &format!("{at}, the other service")).await,
        }
    }

    /// Where a migration comes from, and where it goes.
    fn ends(&self, way: Way) -> (&State, &State) {
        if way.out {
            (&self.near, &self.far)
        } else {
            (&self.far, &self.near)
        }
    }
}

/// Where a migration goes.
#[derive(Clone, Copy, Debug)]
struct Way {
    environment: &'static str,
    /// To the other service, rather than from there.
    out: bool,
    replaces: bool,
}

impl Way {
    fn of(round: u64) -> Self {
        let number = round / 2 % 4;
        Self {
            environment: if round.is_multiple_of(2) {
                SECOND
            } else {
                CHROMA
            },
            out: number < 2,
            replaces: !number.is_multiple_of(2),
        }
    }

    fn target(self) -> &'static str {
        if self.replaces { TARGET } else { NEW_TARGET }
    }

    /// Whether the target's name leads nowhere for a moment: Chroma's server can only rename.
    fn gaps(self) -> bool {
        self.out && self.replaces && self.environment == CHROMA
    }

    fn request(self) -> Value {
        let near = |collection: &str| json!({"collection": collection});
        let far =
            |collection: &str| json!({"environment": self.environment, "collection": collection});
        let (source, target) = if self.out {
            (near(NEAR_SOURCE), far(self.target()))
        } else {
            (far(FAR_SOURCE), near(self.target()))
        };
        let on_conflict = if self.replaces { "replace" } else { "fail" };
        json!({"source": source, "target": target, "on_conflict": on_conflict, "batch_size": BATCH})
    }
}

/// The collections of one service.
struct Side {
    source: Known,
    /// What the collection holds that is replaced.
    target: Records,
}

impl Side {
    async fn create(api: &Api, source: &'static str) -> Self {
        Self {
            source: Known::create(api, source, SOURCE_RECORDS).await,
            target: Known::create(api, TARGET, TARGET_RECORDS).await.records,
        }
    }
}

/// Both services' collections.
struct Scene {
    load: Load,
    near: Side,
    far: Side,
}

impl Scene {
    async fn create(near: &Api, far: &Api, seed: u64) -> Self {
        Known::create(far, TOKEN, TOKEN_RECORDS).await;
        Self {
            load: Load::create(near, &["bystander"], 1, seed).await,
            near: Side::create(near, NEAR_SOURCE).await,
            far: Side::create(far, FAR_SOURCE).await,
        }
    }

    /// Changes what is migrated: the target is always behind.
    async fn change(&mut self, (near, far): (&Api, &Api), way: Way, version: u64) {
        if way.out {
            self.near.source.change(near, version).await;
        } else {
            self.far.source.change(far, version).await;
        }
    }

    /// Fails unless the collections exist that have to. Until a migration is `done`, there may be what it makes
    /// on its way, but only where that can be seen.
    fn assert_names(&self, seen: &Seen, way: Way, done: bool, at: &str) {
        let (_, to) = seen.ends(way);
        let made = to.names().contains(way.target()).then_some(way.target());
        let (near, far) = if way.out { (None, made) } else { (made, None) };
        let names = seen.far.names();
        let gap = !done && way.gaps() && !names.contains(TARGET);
        let on_the_way = names.iter().copied().filter(|name| {
            let aside = way.gaps() && name.starts_with(REPLACED);
            !done && way.out && (aside || name.starts_with(STAGING))
        });
        let expected = [FAR_SOURCE, TOKEN].into_iter().chain(on_the_way);
        let expected = expected.chain((!gap).then_some(TARGET)).chain(far);
        assert_names(&seen.far, expected, &format!("{at}, the other service"));
        let expected = [NEAR_SOURCE, TARGET].into_iter().chain(near);
        assert_names(&seen.near, expected.chain(self.load.names()), at);
    }

    /// Whether the migration is there; a part of it is a failure. Follows what the target holds.
    fn migrated(&mut self, seen: &Seen, way: Way, at: &str) -> bool {
        let (from, to) = seen.ends(way);
        let (source, side) = if way.out {
            (&self.near.source, &mut self.far)
        } else {
            (&self.far.source, &mut self.near)
        };
        let target = way.target();
        let there = to.names().contains(target);
        let migrated = there && to.holds(target, &source.records);
        if there {
            let equal = to.digest(target) == from.digest(source.name);
            assert_eq!(equal, migrated, "{at}: records and digest of {target}");
        }
        assert!(
            migrated || !there || way.replaces,
            "{at}: {target} is no copy"
        );
        if migrated && way.replaces {
            side.target.clone_from(&source.records);
        }
        for (side, state) in [(&self.near, &seen.near), (&self.far, &seen.far)] {
            state.assert_untouched(&side.source, at);
            let there = state.names().contains(TARGET);
            assert!(
                !there || state.holds(TARGET, &side.target),
                "{at}: {TARGET} beside {} is neither old nor new",
                side.source.name
            );
        }
        migrated
    }

    /// The same request again: it succeeds, or it is refused where it was done and said to be. Returns whether
    /// it went on from where it was.
    async fn repeat(
        &mut self,
        (near, far): (&Api, &Api),
        way: Way,
        (migrated, end): (bool, End),
        at: &str,
    ) -> bool {
        let (status, job) = near.post("/migrate?wait=true", &way.request()).await;
        let taken = migrated && !way.replaces;
        let result = &job["result"];
        if status == 409 {
            assert!(
                taken && end == End::Succeeded,
                "{at}: {way:?}: refused, there: {migrated}, the first one ended as {end:?}: {job}"
            );
        } else {
            assert!(
                status == 200 && result["verified"] == true && result["differences"] == json!([]),
                "{at}: {way:?}: {status}: {job}"
            );
            // Else the name that is taken would be a conflict.
            assert!(!taken || result["resumed"] == true, "{at}: {job}");
        }
        let seen = Seen::look(near, far, at).await;
        self.assert_names(&seen, way, true, at);
        let migrated = self.migrated(&seen, way, at);
        assert!(migrated, "{at}: {way:?}: answered, not migrated: {job}");
        let (_, to) = seen.ends(way);
        let digest = to.digest(way.target());
        assert!(
            status == 409 || result["target_digest"] == digest,
            "{at}: {digest} instead of what was answered: {job}"
        );
        result["resumed"] == true
    }
}

/// Begins another migration, for which the one that was killed is forgotten: what can be seen stays.
async fn forget((near, far): (&Api, &Api), before: &Seen, at: &str) {
    let source = json!({"environment": SECOND, "collection": TOKEN});
    let request = json!({"source": source, "target": {"collection": TOKEN}});
    let (status, job) = near.post("/migrate?wait=true", &request).await;
    assert_eq!(status, 200, "{at}: {job}");
    drop_collections(near, [TOKEN], at).await;
    let seen = Seen::look(near, far, at).await;
    let at = format!("{at}, when it was forgotten");
    for (state, before) in [(&seen.near, &before.near), (&seen.far, &before.far)] {
        assert_names(state, before.names(), &at);
        state.assert_same(before, before.names(), &at);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_migration_between_services_goes_on_and_leaves_nothing_behind() {
    campaign(random::seed()).await;
}

/// All rounds, with this seed.
pub(crate) async fn campaign(seed: u64) {
    let other = Other::start().await;
    let far = other.service.api();
    let home = Home::with(other.settings());
    let mut campaign = Campaign::begin_in(home, "environments", 3, seed).await;
    let mut scene = Scene::create(&campaign.api(), &far, seed).await;
    let mut jobs = JobWatch::new("migration");
    // There although the job's own record does not say so; gone on with from a checkpoint.
    let (mut migrations, mut published_only, mut resumed) = (0, 0, 0);
    while campaign.next_round(jobs.is_meaningful(campaign.rounds) && migrations < campaign.round) {
        let at = campaign.at();
        let way = Way::of(campaign.round);
        let near = campaign.api();
        let version = campaign.round + 1;
        scene.change((&near, &far), way, version).await;
        scene.load.start(&near);
        let answer = campaign
            .kill_during("/migrate?wait=true", way.request())
            .await;
        scene.load.finish().await;
        campaign.restart().await;
        let near = campaign.api();
        let seen = Seen::look(&near, &far, &at).await;
        scene.load.settle(&seen.near, &at);
        scene.assert_names(&seen, way, false, &at);
        let mut migrated = scene.migrated(&seen, way, &at);
        assert_accepted(&answer, 200, &at);
        let end = jobs.look(&near, answer.is_some(), &at).await;
        assert!(
            migrated || end != End::Succeeded,
            "{at}: {way:?}: succeeded, not migrated"
        );
        assert!(!migrated || end != End::Never, "{at}: migrated by no job");
        migrations += u64::from(migrated);
        published_only += u64::from(migrated && end == End::Interrupted);
        if !way.out && campaign.round / TURN % 2 == 1 {
            forget((&near, &far), &seen, &at).await;
        } else {
            let first = (migrated, end);
            let went_on = scene.repeat((&near, &far), way, first, &at).await;
            resumed += u64::from(went_on);
            migrated = true;
        }
        jobs.skip(&near, &at).await;
        if migrated && !way.replaces {
            let target = if way.out { &far } else { &near };
            drop_collections(target, [NEW_TARGET], &at).await;
        }
    }
    let (near, at) = (campaign.api(), campaign.at());
    for job in ended_jobs(&far, "migration", &at).await {
        assert_eq!(job["state"], "succeeded", "{at}: {job}");
    }
    campaign.report(&format!(
        "{} interrupted ({published_only} with all of it there), {} succeeded, {resumed} gone on with; {:?}",
        jobs.interrupted,
        jobs.succeeded,
        scene.load.tally()
    ));
    jobs.assert_meaningful(campaign.rounds);
    assert!(migrations < campaign.round, "no kill left the old state");
    assert_nothing_staged(&near, &at).await;
    assert_nothing_staged(&far, &at).await;
}
