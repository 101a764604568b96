//! Rounds of killing and restarting on one data directory.

use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::random::Random;
use crate::service::{Answer, Api, Home, Service};

/// So many show in minutes what there is to see on most days; `.ci/run --full` goes through hundreds.
const DEFAULT_ROUNDS: u64 = 18;
/// Fewer cannot show anything.
const LEAST_ROUNDS: u64 = 6;
/// A campaign that has shown nothing yet goes on up to so many times its rounds.
const MOST_MORE: u64 = 5;
/// Of 100 restarts, this many are killed as well, while they recover.
const KILLED_RECOVERIES: u64 = 25;
const RECOVERY: Range<Duration> = Duration::ZERO..Duration::from_millis(60);
/// How long after its start the kill comes into a commit.
const COMMIT: Range<Duration> = Duration::ZERO..Duration::from_millis(8);

/// When in a long verb the kill comes.
enum Moment {
    /// At any instant, a little after the verb's usual end included.
    Anywhere,
    /// When the verb is past its point of no return: short, and where halves would come from.
    Commit,
    /// Right after the answer: what was answered has to be there.
    AfterAnswer,
}

impl Moment {
    fn of(round: u64) -> Self {
        match round % 5 {
            1 => Self::AfterAnswer,
            2 | 4 => Self::Commit,
            _ => Self::Anywhere,
        }
    }
}

/// Whether a job is past its point of no return.
async fn commits(api: &Api) -> bool {
    let (_, found) = api.get("/jobs?state=running").await;
    let jobs = found["jobs"].as_array().map(Vec::as_slice);
    let over = |job: &Value| job["cancellable"] == false;
    jobs.unwrap_or_default().iter().any(over)
}

/// One test's rounds.
pub(crate) struct Campaign {
    name: &'static str,
    seed: u64,
    pub(crate) rounds: u64,
    pub(crate) round: u64,
    random: Random,
    home: Home,
    service: Option<Service>,
    /// How long the verb under test takes when it is left alone.
    typical: Duration,
    killed_recoveries: u64,
    started: Instant,
}

impl Campaign {
    /// Starts the service on a fresh directory. The number of rounds is that of the writes, divided.
    pub(crate) async fn begin(name: &'static str, divisor: u64, seed: u64) -> Self {
        Self::begin_in(Home::new(), name, divisor, seed).await
    }

    /// As [`Campaign::begin`], in a home that has settings of its own.
    pub(crate) async fn begin_in(home: Home, name: &'static str, divisor: u64, seed: u64) -> Self {
        let rounds = match std::env::var("VECTORKEEP_CRASH_ROUNDS") {
            Ok(text) => text
                .parse()
                .expect("VECTORKEEP_CRASH_ROUNDS must be a whole number"),
            Err(_) => DEFAULT_ROUNDS,
        };
        let mut campaign = Self {
            name,
            seed,
            rounds: (rounds / divisor).max(LEAST_ROUNDS),
            round: 0,
            random: Random::of((name, seed)),
            service: None,
            home,
            typical: Duration::ZERO,
            killed_recoveries: 0,
            started: Instant::now(),
        };
        let rounds = campaign.rounds;
        eprintln!("{name}: {rounds} rounds, VECTORKEEP_CRASH_SEED={seed}");
        campaign.service = Some(campaign.home.start(&campaign.at()).await);
        campaign
    }

    /// Goes to the next round, if there is one. Where few rounds have not shown yet what they are for (`has_shown`), more
    /// follow: kills land where they land.
    pub(crate) fn next_round(&mut self, has_shown: bool) -> bool {
        let most = if has_shown {
            self.rounds
        } else {
            self.rounds * MOST_MORE
        };
        let goes_on = self.round < most;
        self.round += u64::from(goes_on);
        goes_on
    }

    /// Where we are, for messages.
    pub(crate) fn at(&self) -> String {
        format!("{}, seed {}, round {}", self.name, self.seed, self.round)
    }

    /// A client of the running process.
    pub(crate) fn api(&self) -> Api {
        self.service.as_ref().expect("the service runs").api()
    }

    fn kill(&mut self) {
        let service = self.service.take().expect("the service runs");
        service.kill(&self.at());
    }

    /// Kills the service at a random instant from now.
    pub(crate) async fn kill_within(&mut self, range: Range<Duration>) {
        tokio::time::sleep(self.random.duration(range)).await;
        self.kill();
    }

    /// Posts a long verb and kills the service in it. `None`: it was not answered.
    pub(crate) async fn kill_during(&mut self, path: &'static str, body: Value) -> Option<Answer> {
        let api = self.api();
        let call = async move { api.try_post(path, &body).await };
        self.kill_at(Moment::of(self.round), call).await
    }

    /// Kills the service in a call that has no point of no return. `None`: it was not answered.
    pub(crate) async fn kill_in(
        &mut self,
        call: impl Future<Output = Option<Answer>> + Send + 'static,
    ) -> Option<Answer> {
        let moment = match Moment::of(self.round) {
            Moment::AfterAnswer => Moment::AfterAnswer,
            _ => Moment::Anywhere,
        };
        self.kill_at(moment, call).await
    }

    async fn kill_at(
        &mut self,
        moment: Moment,
        call: impl Future<Output = Option<Answer>> + Send + 'static,
    ) -> Option<Answer> {
        let started = Instant::now();
        let call = tokio::spawn(call);
        match moment {
            Moment::Anywhere => {
                let latest = self.typical + self.typical / 5;
                self.kill_within(Duration::ZERO..latest).await;
                call.await.unwrap()
            }
            Moment::Commit => {
                let api = self.api();
                while !call.is_finished() && !commits(&api).await {}
                self.kill_within(COMMIT).await;
                call.await.unwrap()
            }
            Moment::AfterAnswer => {
                let answer = call.await.unwrap();
                self.typical = started.elapsed();
                self.kill();
                answer
            }
        }
    }

    /// Starts the service again; some starts are killed first, while they recover.
    pub(crate) async fn restart(&mut self) {
        let at = self.at();
        if self.random.percent(KILLED_RECOVERIES) {
            let recovering = self.home.spawn();
            tokio::time::sleep(self.random.duration(RECOVERY)).await;
            // Whether it would have come up is seen at the start below.
            drop(recovering);
            self.killed_recoveries += 1;
        }
        self.service = Some(self.home.start(&at).await);
    }

    /// Where the store lies.
    pub(crate) fn store_directories(&self) -> Vec<String> {
        self.home.store_directories()
    }

    /// Files of packs in the repository.
    pub(crate) fn packs(&self) -> usize {
        self.home.packs()
    }

    /// A number below `length`.
    pub(crate) fn pick(&mut self, length: usize) -> usize {
        self.random.index(length)
    }

    /// Says what was seen.
    pub(crate) fn report(&self, seen: &str) {
        eprintln!(
            "{}: {} rounds in {:.1} s, {} more kills during recovery; {seen}",
            self.name,
            self.round,
            self.started.elapsed().as_secs_f64(),
            self.killed_recoveries
        );
    }
}
