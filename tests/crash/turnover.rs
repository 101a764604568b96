//! Collections that come, are filled and go again. The records of a dropped one are removed in the
//! background, batch after batch, so a kill also lands in there.

use serde_json::json;
use tokio::task::JoinSet;

use crate::checks::State;
use crate::load::TWICE;
use crate::random::Random;
use crate::records::{self, COLLECTIONS, Encoding, Record, Records};
use crate::service::{Answer, Api};

const RECORDS: usize = 150;
/// Of 100 operations on a collection that is there, this many drop it.
const DROPS: u64 = 50;

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Nothing,
    Empty,
    /// All records at this version.
    Filled(u64),
}

/// The owner of one name.
struct Keeper {
    name: String,
    /// Of the collection, while there is one.
    id: String,
    acknowledged: Content,
    /// What the operation under way when the service was killed would leave.
    in_flight: Option<Content>,
    version: u64,
    random: Random,
    acknowledged_operations: u64,
}

impl Keeper {
    /// Works until the service is killed.
    async fn run(mut self, api: Api) -> Self {
        while self.step(&api).await {}
        self
    }

    /// One operation; false when the outcome of what was sent is unknown.
    async fn step(&mut self, api: &Api) -> bool {
        let becomes = match self.acknowledged {
            Content::Nothing => Content::Empty,
            _ if self.random.percent(DROPS) => Content::Nothing,
            _ => {
                self.version += 1;
                Content::Filled(self.version)
            }
        };
        self.in_flight = Some(becomes);
        let answers = match becomes {
            Content::Nothing => {
                let path = format!("{COLLECTIONS}/{}", self.name);
                vec![api.try_delete(&path).await]
            }
            Content::Empty => self.create(api).await,
            Content::Filled(version) => {
                let records: Vec<_> = self.content(version).into_values().collect();
                let body = records::columns(&records, Encoding::Base64);
                let path = records::records_path(&self.id, "upsert");
                vec![api.try_post(&path, &body).await]
            }
        };
        for (status, answer) in answers.iter().flatten() {
            assert_eq!(*status, 200, "{} to {becomes:?}: {answer}", self.name);
            self.acknowledged = becomes;
            self.in_flight = None;
            self.acknowledged_operations += 1;
        }
        answers.iter().all(Option::is_some)
    }

    async fn create(&mut self, api: &Api) -> Vec<Option<Answer>> {
        let body = json!({"name": self.name, "get_or_create": true});
        let twice = self.random.percent(TWICE);
        let answers = api.try_post_times(twice, COLLECTIONS, &body).await;
        for (_, made) in answers.iter().flatten() {
            self.id = made["id"].as_str().unwrap_or_default().to_owned();
        }
        answers
    }

    fn content(&self, version: u64) -> Records {
        let id = |index| format!("{}.{index}", self.name);
        let record = |index| Record::of(&id(index), version);
        (0..RECORDS)
            .map(|index| (id(index), record(index)))
            .collect()
    }

    /// Compares what was found with what was acknowledged, and takes it as the truth from here on.
    fn settle(&mut self, state: &State, at: &str) {
        let found = self.found(state, at);
        assert!(
            found == self.acknowledged || Some(found) == self.in_flight,
            "{at}: {} was acknowledged as {:?}, found as {found:?}, in flight {:?}",
            self.name,
            self.acknowledged,
            self.in_flight
        );
        self.acknowledged = found;
        self.in_flight = None;
        if found != Content::Nothing {
            self.id = state.id(&self.name).to_owned();
        }
    }

    fn found(&self, state: &State, at: &str) -> Content {
        if !state.names().contains(self.name.as_str()) {
            return Content::Nothing;
        }
        let records = state.records(&self.name);
        let Some(version) = records.values().find_map(Record::version) else {
            return Content::Empty;
        };
        assert!(
            *records == self.content(version),
            "{at}: {} holds a part of version {version} or more",
            self.name
        );
        Content::Filled(version)
    }
}

/// All names with their owners, at work or between two rounds.
pub(crate) struct Turnover {
    keepers: Vec<Keeper>,
    running: JoinSet<Keeper>,
}

impl Turnover {
    pub(crate) fn new(names: &[&str], seed: u64) -> Self {
        let keeper = |name: &&str| Keeper {
            name: (*name).to_owned(),
            id: String::new(),
            acknowledged: Content::Nothing,
            in_flight: None,
            version: 0,
            random: Random::of((name, seed)),
            acknowledged_operations: 0,
        };
        Self {
            keepers: names.iter().map(keeper).collect(),
            running: JoinSet::new(),
        }
    }

    /// Sets the owners to work.
    pub(crate) fn start(&mut self, api: &Api) {
        for keeper in self.keepers.drain(..) {
            self.running.spawn(keeper.run(api.clone()));
        }
    }

    /// Waits until the kill has stopped every owner.
    pub(crate) async fn finish(&mut self) {
        self.keepers = std::mem::take(&mut self.running).join_all().await;
    }

    /// Checks that every acknowledged operation is there and nothing is torn.
    pub(crate) fn settle(&mut self, state: &State, at: &str) {
        for keeper in &mut self.keepers {
            keeper.settle(state, at);
        }
    }

    /// The names that lead to a collection.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let there = |keeper: &&Keeper| keeper.acknowledged != Content::Nothing;
        let keepers = self.keepers.iter().filter(there);
        keepers.map(|keeper| keeper.name.as_str())
    }

    /// Operations that were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        let operations = |keeper: &Keeper| keeper.acknowledged_operations;
        self.keepers.iter().map(operations).sum()
    }
}
