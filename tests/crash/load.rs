//! Concurrent writers, each with ids of its own and a memory of what was acknowledged.
//!
//! A writer owns slots. A slot is a set of ids that are always written and deleted together, in one
//! request, under one version that only grows: what is found after a crash must be the slot as it was
//! acknowledged last, or as the one operation under way would leave it, and never a part of either.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::checks::State;
use crate::random::Random;
use crate::records::{self, COLLECTIONS, Encoding, Record, Records};
use crate::service::{Answer, Api};

/// What a slot holds: all its ids at this version, or none of them.
type Content = Option<u64>;

struct Slot {
    ids: Vec<String>,
    acknowledged: Content,
    /// What the operation under way when the service was killed would leave.
    in_flight: Option<Content>,
    /// The operation that was acknowledged last, for messages.
    last: String,
}

/// Habits of a writer.
#[derive(Clone, Copy)]
struct Habits {
    slots: usize,
    smallest: u64,
    largest: u64,
    /// Of 100 operations on a slot that is there, this many delete it.
    deletes: u64,
    encoding: Encoding,
}

/// Of 100 requests, this many are sent twice at once.
pub(crate) const TWICE: u64 = 15;

const BATCHES: Habits = Habits {
    slots: 4,
    smallest: 20,
    largest: 50,
    deletes: 10,
    encoding: Encoding::Base64,
};
const SINGLES: Habits = Habits {
    slots: 20,
    smallest: 1,
    largest: 1,
    deletes: 10,
    encoding: Encoding::Numbers,
};
const DELETES: Habits = Habits {
    slots: 8,
    smallest: 1,
    largest: 12,
    deletes: 60,
    encoding: Encoding::Numbers,
};

struct Writer {
    /// The collection's name.
    collection: &'static str,
    /// Its id, as far as this writer knows: another collection may take the name over.
    id: String,
    slots: Vec<Slot>,
    version: u64,
    encoding: Encoding,
    deletes: u64,
    random: Random,
    tally: Tally,
}

/// What happened, added up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Writes and deletes that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Operations whose outcome the kill left unknown: found done, found not done.
    pub(crate) done: u64,
    pub(crate) undone: u64,
}

impl Tally {
    /// Operations that a kill interrupted.
    pub(crate) fn interrupted(self) -> u64 {
        self.done + self.undone
    }
}

enum Operation {
    /// The verb of a write and its version.
    Put(&'static str, u64),
    /// An add of ids that exist: changes nothing.
    AddAgain(u64),
    Delete,
}

impl Writer {
    fn new(name: &str, (collection, id): (&'static str, &str), habits: Habits, seed: u64) -> Self {
        let mut random = Random::of((name, seed));
        let slots = (0..habits.slots)
            .map(|slot| {
                let size = random.within(habits.smallest..habits.largest + 1);
                Slot {
                    ids: (0..size)
                        .map(|index| format!("{name}.{slot}.{index}"))
                        .collect(),
                    acknowledged: None,
                    in_flight: None,
                    last: String::new(),
                }
            })
            .collect();
        Self {
            collection,
            id: id.to_owned(),
            slots,
            version: 0,
            encoding: habits.encoding,
            deletes: habits.deletes,
            random,
            tally: Tally::default(),
        }
    }

    /// Writes until the service is killed.
    async fn run(mut self, api: Api) -> Self {
        while self.step(&api).await {}
        self
    }

    fn choose(&mut self, present: bool) -> Operation {
        self.version += 1;
        match (present, self.random.within(0..100)) {
            (false, 0..5) => Operation::Delete,
            (false, 5..70) => Operation::Put("add", self.version),
            (true, 0..5) => Operation::AddAgain(self.version),
            (true, chance) if chance < 5 + self.deletes => Operation::Delete,
            (true, chance) if chance.is_multiple_of(3) => Operation::Put("update", self.version),
            _ => Operation::Put("upsert", self.version),
        }
    }

    /// One operation on one slot; false when its outcome is unknown.
    async fn step(&mut self, api: &Api) -> bool {
        let index = self.random.index(self.slots.len());
        let present = self.slots[index].acknowledged.is_some();
        let operation = self.choose(present);
        let slot = &mut self.slots[index];
        let (verb, version, becomes) = match operation {
            Operation::Put(verb, version) => (verb, Some(version), Some(version)),
            Operation::AddAgain(version) => ("add", Some(version), slot.acknowledged),
            Operation::Delete => ("delete", None, None),
        };
        let body = match version {
            None => json!({"ids": slot.ids}),
            Some(version) => {
                let records: Vec<_> = slot.ids.iter().map(|id| Record::of(id, version)).collect();
                records::columns(&records, self.encoding)
            }
        };
        slot.in_flight = Some(becomes);
        let answers = self.send(api, verb, &body).await;
        let slot = &mut self.slots[index];
        let expected = if verb == "add" { 201 } else { 200 };
        for (status, answer) in answers.iter().flatten() {
            assert_eq!(*status, expected, "{verb} on {}: {answer}", slot.ids[0]);
        }
        let answered = answers.iter().flatten().count();
        if answered > 0 {
            slot.acknowledged = becomes;
            slot.in_flight = None;
            slot.last = format!("{verb}, {answered} of {} answered", answers.len());
            self.tally.acknowledged += 1;
        }
        answered == answers.len()
    }

    /// Sends a request until it is not refused because another collection has taken the name over: under the
    /// old id nothing was done then.
    async fn send(&mut self, api: &Api, verb: &str, body: &Value) -> Vec<Option<Answer>> {
        // Some clients send again what they think was lost: each answer has to be as good as the other.
        let twice = self.random.percent(TWICE);
        loop {
            let path = records::records_path(&self.id, verb);
            let mut answers = api.try_post_times(twice, &path, body).await;
            let sent = answers.len();
            answers.retain(|answer| !matches!(answer, Some((404, _))));
            if answers.len() == sent {
                return answers;
            }
            if !self.follow(api).await {
                answers.push(None);
            }
            if !answers.is_empty() {
                return answers;
            }
        }
    }

    /// Looks for the collection that has the name now; false when the service was killed first.
    async fn follow(&mut self, api: &Api) -> bool {
        let path = format!("{COLLECTIONS}/{}", self.collection);
        let Some((status, found)) = api.try_get(&path).await else {
            return false;
        };
        assert_eq!(status, 200, "{}: {found}", self.collection);
        let Some(id) = found["id"].as_str() else {
            return false;
        };
        assert_ne!(id, self.id, "{} is there and was not", self.collection);
        id.clone_into(&mut self.id);
        true
    }

    /// Compares what was found with what was acknowledged, and takes it as the truth from here on. What
    /// belongs to this writer is taken out of `found`.
    fn settle(&mut self, found: &mut Records, at: &str) {
        for slot in &mut self.slots {
            let content = slot.whole(found, at);
            if content == slot.acknowledged {
                self.tally.undone += u64::from(slot.in_flight.is_some());
            } else {
                assert_eq!(
                    Some(content),
                    slot.in_flight,
                    "{at}: {} was acknowledged at {:?} ({}), found at {content:?}, in flight {:?}",
                    slot.ids[0],
                    slot.acknowledged,
                    slot.last,
                    slot.in_flight
                );
                self.tally.done += 1;
            }
            slot.acknowledged = content;
            slot.in_flight = None;
        }
    }
}

impl Slot {
    /// Takes the slot's records out of `found`: all of them at one version with exactly its content, or
    /// none.
    fn whole(&self, found: &mut Records, at: &str) -> Content {
        let records: Vec<_> = self.ids.iter().map(|id| found.remove(id)).collect();
        let version = records.iter().flatten().find_map(Record::version);
        let versions = || -> Vec<_> {
            let version = |record: &Option<Record>| record.as_ref().and_then(Record::version);
            records.iter().map(version).collect()
        };
        for (id, record) in self.ids.iter().zip(&records) {
            let expected = version.map(|version| Record::of(id, version));
            assert!(
                *record == expected,
                "{at}: torn or wrong at {id}: {:?}; versions in the batch: {:?}",
                record,
                versions()
            );
        }
        version
    }
}

/// All writers, at work or between two rounds.
pub(crate) struct Load {
    writers: Vec<Writer>,
    running: JoinSet<Writer>,
    collections: BTreeSet<&'static str>,
}

impl Load {
    /// Creates the collections and this many writers of each kind in each.
    pub(crate) async fn create(
        api: &Api,
        collections: &[&'static str],
        per_kind: usize,
        seed: u64,
    ) -> Self {
        let mut made = Vec::new();
        for name in collections {
            made.push((*name, records::create_collection(api, name).await));
        }
        Self::beside(made, per_kind, seed)
    }

    /// This many writers of each kind in each of these collections, which may hold other records too.
    pub(crate) fn beside(
        collections: impl IntoIterator<Item = (&'static str, String)>,
        per_kind: usize,
        seed: u64,
    ) -> Self {
        let mut load = Self {
            writers: Vec::new(),
            running: JoinSet::new(),
            collections: BTreeSet::new(),
        };
        for (name, id) in collections {
            let kinds = [
                ("batches", BATCHES),
                ("singles", SINGLES),
                ("deletes", DELETES),
            ];
            for (kind, habits) in kinds {
                for number in 0..per_kind {
                    let writer = format!("{name}.{kind}{number}");
                    let collection = (name, id.as_str());
                    load.writers
                        .push(Writer::new(&writer, collection, habits, seed));
                }
            }
            load.collections.insert(name);
        }
        load
    }

    /// Sets the writers to work.
    pub(crate) fn start(&mut self, api: &Api) {
        for writer in self.writers.drain(..) {
            self.running.spawn(writer.run(api.clone()));
        }
    }

    /// Waits until the kill has stopped every writer.
    pub(crate) async fn finish(&mut self) {
        self.writers = std::mem::take(&mut self.running).join_all().await;
    }

    /// Checks that every acknowledged operation is there and nothing is torn.
    pub(crate) fn settle(&mut self, state: &State, at: &str) {
        for (name, others) in self.settle_theirs(state, at) {
            let unknown: Vec<_> = others.keys().take(5).collect();
            assert!(unknown.is_empty(), "{at}: {name} holds {unknown:?}");
        }
    }

    /// The same of collections that hold other records too; returns those.
    pub(crate) fn settle_theirs(
        &mut self,
        state: &State,
        at: &str,
    ) -> BTreeMap<&'static str, Records> {
        let mut others = BTreeMap::new();
        for name in &self.collections {
            let mut found = state.records(name).clone();
            let theirs = self
                .writers
                .iter_mut()
                .filter(|writer| writer.collection == *name);
            for writer in theirs {
                state.id(name).clone_into(&mut writer.id);
                writer.settle(&mut found, at);
            }
            others.insert(*name, found);
        }
        others
    }

    /// Checks that a copy of a writers' collection, made at some moment before now, holds whole batches
    /// only, and none that is newer than what is live.
    pub(crate) fn assert_copy_is_whole(&self, name: &str, mut copy: Records, at: &str) {
        if !self.collections.contains(name) {
            return;
        }
        let theirs = self
            .writers
            .iter()
            .filter(|writer| writer.collection == name);
        for slot in theirs.flat_map(|writer| &writer.slots) {
            let copied = slot.whole(&mut copy, at);
            assert!(
                slot.acknowledged.is_none() || copied <= slot.acknowledged,
                "{at}: {} is at {copied:?} in the copy and at {:?} live",
                slot.ids[0],
                slot.acknowledged
            );
        }
        assert!(copy.is_empty(), "{at}: the copy of {name} holds too much");
    }

    /// Names of the collections.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.collections.iter().copied().collect()
    }

    pub(crate) fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for Writer { tally, .. } in &self.writers {
            sum.acknowledged += tally.acknowledged;
            sum.done += tally.done;
            sum.undone += tally.undone;
        }
        sum
    }
}
