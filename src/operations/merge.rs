//! Uniting a staged collection with a live one, record by record, while writes to the live one go on.
//!
//! The union is built aside: the live records first, each at its own place; then those that only the incoming
//! side has, at ordinals that were kept free for them; then what was written meanwhile, round by round. In the
//! last round, under the write lock, count and digest must be those of both sides less what lost, and the
//! union takes the name over. Nothing that was acknowledged up to then is missing from it.

use std::collections::HashSet;
use std::path::Path;

use uuid::Uuid;

use super::conflict::{Action, Overlap, RecordCounts, Winner};
use super::stage::Stage;
use crate::engine::{
    CatchUp, CollectionInfo, Engine, Exclusive, FoundRecord, Namespaces, Publication, Published,
    Round, SnapshotScope, StagedRecord, Staging, Tombstone,
};
use crate::error::{Error, Result};
use crate::model::digest::{Digest, RecordHash};
use crate::model::metadata::MetadataValue;
use crate::model::record::RecordView;
use crate::model::schema::IndexKind;
use crate::operations::ledger::Ledger;
use crate::progress::Progress;

/// A merge under construction.
pub(super) struct Merge<'a> {
    engine: &'a Engine,
    /// The staged collection that is brought in.
    incoming: CollectionInfo,
    /// The collection that is there.
    live: Uuid,
    winner: Winner,
    union: Stage<'a>,
    ledger: Ledger,
    keys: Keys,
    /// Where the ordinals begin that are kept free for records that only the incoming side has.
    reserved: u64,
}

/// A merge that was made visible.
pub(super) struct Merged {
    /// What came in.
    pub(super) counts: RecordCounts,
    /// Records in the union.
    pub(super) records: u64,
    /// The union's digest.
    pub(super) digest: Digest,
}

/// Metadata keys that the incoming side brings: one value of each kind.
#[derive(Default)]
struct Keys {
    seen: HashSet<(String, IndexKind)>,
    values: Vec<(String, MetadataValue)>,
}

impl Keys {
    fn note(&mut self, record: &RecordView<'_>) -> Result<()> {
        for (key, value) in record.metadata()? {
            let kind = IndexKind::of(&value);
            if self.seen.insert((key.clone(), kind)) {
                self.values.push((key, value));
            }
        }
        Ok(())
    }
}

/// Checks that two collections can be united.
///
/// # Errors
/// `Unprocessable` when their dimensions differ.
pub(super) fn check_dimensions(incoming: Option<u32>, live: &CollectionInfo) -> Result<()> {
    match (incoming, live.descriptor.definition.dimension) {
        (Some(incoming), Some(there)) if incoming != there => Err(Error::unprocessable(format!(
            "{} has {there} dimensions, what is to be merged into it {incoming}",
            live.descriptor.name
        ))),
        _ => Ok(()),
    }
}

impl<'a> Merge<'a> {
    /// Begins: `incoming` is staged and complete.
    ///
    /// # Errors
    /// `NotFound` when the live collection is gone, `Unprocessable` for another dimension, `StorageFault`.
    pub(super) fn new(
        engine: &'a Engine,
        incoming: CollectionInfo,
        live: Uuid,
        winner: Winner,
        scratch: &Path,
    ) -> Result<Self> {
        let found = engine.collection(live)?;
        check_dimensions(incoming.descriptor.definition.dimension, &found)?;
        let name = found.descriptor.name.clone();
        let definition = found.descriptor.definition.clone();
        Ok(Self {
            engine,
            incoming,
            live,
            winner,
            union: Stage::new(engine, name, definition, Staging::ToPublish)?,
            ledger: Ledger::new(scratch)?,
            keys: Keys::default(),
            reserved: 0,
        })
    }

    /// A live collection without records may get its dimension from somebody else while the merge runs.
    fn check_dimension(&self, live: &RecordView<'_>) -> Result<()> {
        let incoming = self.incoming.descriptor.definition.dimension;
        let there = live.dimension();
        match incoming {
            Some(incoming) if incoming as usize != there => Err(Error::unprocessable(format!(
                "{} has {there} dimensions by now, what is to be merged into it {incoming}",
                self.union.name()
            ))),
            _ => Ok(()),
        }
    }

    fn incoming_record(&self, id: &str) -> Result<Option<FoundRecord>> {
        self.engine.find_record(self.incoming.descriptor.id, id)
    }

    /// Takes a round of the live collection in; the last one while nobody else can write.
    ///
    /// # Errors
    /// Those of reading and staging; `Canceled`.
    pub(super) fn round(
        &mut self,
        round: &Round,
        mut exclusive: Option<&mut Exclusive<'_>>,
        progress: &Progress,
    ) -> Result<()> {
        if round.is_whole() {
            return self.base(round, progress);
        }
        check_dimensions(self.incoming.descriptor.definition.dimension, &round.info)?;
        let (gone, back) = self.after_deletions(&round.removed)?;
        self.union.remove_in(&mut exclusive, &gone)?;
        for record in back {
            self.union
                .put_in(&mut exclusive, record.ordinal, record.canonical)?;
        }
        self.union.flush_in(&mut exclusive)?;
        round.for_each(|ordinal, stored| {
            progress.check()?;
            progress.advance(1, stored.canonical.len() as u64);
            match self.taken(ordinal, &stored.view, &stored.hash, stored.canonical)? {
                Some(put) => self
                    .union
                    .put_in(&mut exclusive, put.ordinal, put.canonical),
                None => Ok(()),
            }
        })?;
        self.union.flush_in(&mut exclusive)
    }

    fn base(&mut self, round: &Round, progress: &Progress) -> Result<()> {
        // From here on new live records come after those that are kept free.
        let free = self.incoming.head.count;
        self.reserved = self.engine.reserve_ordinals(self.live, free)?;
        round.for_each(|ordinal, stored| {
            progress.check()?;
            progress.advance(1, stored.canonical.len() as u64);
            // It was written after the round was begun, so it comes in a later one.
            if ordinal >= self.reserved {
                return Ok(());
            }
            self.check_dimension(&stored.view)?;
            match self.incoming_record(stored.view.id)? {
                None => self.union.put(ordinal, stored.canonical.to_vec()),
                Some(incoming) => {
                    self.note_loss(ordinal, &incoming, &stored.hash)?;
                    let content = self.winning(incoming, stored.canonical)?;
                    self.union.put(ordinal, content)
                }
            }
        })?;
        self.union.flush()?;
        self.append_incoming(progress)
    }

    /// Puts what only the incoming side has behind what is there.
    fn append_incoming(&mut self, progress: &Progress) -> Result<()> {
        let (engine, union) = (self.engine, self.union.id());
        let mut next = self.reserved;
        let (stage, keys) = (&mut self.union, &mut self.keys);
        engine.scan(self.incoming.descriptor.id, 0, |_, stored| {
            progress.check()?;
            if engine.find_record(union, stored.view.id)?.is_none() {
                keys.note(&stored.view)?;
                stage.put(next, stored.canonical.to_vec())?;
                next += 1;
            }
            Ok(true)
        })?;
        self.union.flush()
    }

    fn note_loss(&mut self, ordinal: u64, incoming: &FoundRecord, live: &RecordHash) -> Result<()> {
        match self.winner {
            Winner::Incoming => self.ledger.set(ordinal, live, &incoming.hash),
            Winner::Existing => self.ledger.set(ordinal, &incoming.hash, live),
        }
    }

    fn winning(&mut self, incoming: FoundRecord, live: &[u8]) -> Result<Vec<u8>> {
        match self.winner {
            Winner::Incoming => {
                self.keys.note(&RecordView::parse(&incoming.canonical)?)?;
                Ok(incoming.canonical)
            }
            Winner::Existing => Ok(live.to_vec()),
        }
    }

    /// What becomes of a live record that was written since the base was read. What an id has in the union is
    /// known by then: no id comes twice in a round.
    fn taken(
        &mut self,
        ordinal: u64,
        view: &RecordView<'_>,
        hash: &RecordHash,
        canonical: &[u8],
    ) -> Result<Option<StagedRecord>> {
        self.check_dimension(view)?;
        let Some(incoming) = self.incoming_record(view.id)? else {
            return Ok(Some(StagedRecord {
                ordinal,
                canonical: canonical.to_vec(),
            }));
        };
        self.note_loss(ordinal, &incoming, hash)?;
        let there = self.engine.find_record(self.union.id(), view.id)?;
        let ordinal = there.as_ref().map_or(ordinal, |there| there.ordinal);
        let won = incoming.hash;
        let canonical = self.winning(incoming, canonical)?;
        let as_is = self.winner == Winner::Incoming && there.is_some_and(|there| there.hash == won);
        Ok((!as_is).then_some(StagedRecord { ordinal, canonical }))
    }

    /// What becomes of live records that were deleted: ids that the incoming side has fall back to its record.
    fn after_deletions(
        &mut self,
        tombstones: &[Tombstone],
    ) -> Result<(Vec<u64>, Vec<StagedRecord>)> {
        let (mut gone, mut back) = (Vec::new(), Vec::new());
        for tombstone in tombstones {
            self.ledger.clear(tombstone.ordinal)?;
            let there = self.engine.find_record(self.union.id(), &tombstone.id)?;
            let incoming = self.incoming_record(&tombstone.id)?;
            let Some(there) = there else {
                gone.push(tombstone.ordinal);
                continue;
            };
            match incoming {
                Some(incoming) => {
                    if there.ordinal != tombstone.ordinal {
                        gone.push(tombstone.ordinal);
                    }
                    if there.hash != incoming.hash {
                        self.keys.note(&RecordView::parse(&incoming.canonical)?)?;
                        back.push(StagedRecord {
                            ordinal: there.ordinal,
                            canonical: incoming.canonical,
                        });
                    }
                }
                None => gone.push(tombstone.ordinal),
            }
        }
        Ok((gone, back))
    }

    /// Completes the union and proves it right, while nobody else can write. `live`: what is there at this moment.
    ///
    /// # Errors
    /// Those of staging; `Internal` when the union is not that of both sides.
    fn finish(
        &mut self,
        live: &CollectionInfo,
        exclusive: &mut Exclusive<'_>,
    ) -> Result<(Publication, Merged)> {
        let union = self.union.id();
        let descriptor = &live.descriptor;
        let mut definition = descriptor.definition.clone();
        let incoming = self.incoming.descriptor.definition.dimension;
        definition.dimension = definition.dimension.or(incoming);
        let keys = self.keys.values.iter();
        definition
            .schema
            .discover(keys.map(|(key, value)| (key.as_str(), value)));
        let next_ordinal = live.head.next_ordinal;
        let info = exclusive.finish_staging(union, &definition, next_ordinal)?;
        self.check(live, &info)?;
        let publication = Publication {
            staged: union,
            name: descriptor.name.clone(),
            replaces: Some(self.live),
            keeps_id: true,
            root: descriptor.root,
        };
        let merged = Merged {
            counts: self.counts(),
            records: info.head.count,
            digest: info.head.digest,
        };
        Ok((publication, merged))
    }

    fn counts(&self) -> RecordCounts {
        let overlap = Overlap {
            inserted: self.incoming.head.count.saturating_sub(self.ledger.count()),
            same: self.ledger.same,
            different: self.ledger.different,
        };
        overlap.counts(Action::Merged, self.winner, 0)
    }

    /// Both sides less what lost.
    fn check(&self, live: &CollectionInfo, union: &CollectionInfo) -> Result<()> {
        let mut digest = self.incoming.head.digest;
        digest.add_all(&live.head.digest);
        digest.subtract_all(&self.ledger.digest);
        let count = self.incoming.head.count + live.head.count;
        let count = count.saturating_sub(self.ledger.count());
        if union.head.count != count || union.head.digest != digest {
            return Err(Error::internal(format!(
                "the union of both sides of {} would have {} records with digest {} instead of {count} with \
                 {digest}; nothing was changed",
                live.descriptor.name, union.head.count, union.head.digest
            )));
        }
        Ok(())
    }

    /// From now on the union is no longer given up.
    pub(super) fn published(&mut self) {
        self.union.published();
    }
}

/// Runs merges to their end: the rounds of all live sides, then, at one moment, their last rounds and the swap,
/// together with what else is to be made visible.
///
/// # Errors
/// Those of the merges, `NameConflict`, `Canceled`. Nothing is visible then.
pub(super) fn run(
    engine: &Engine,
    merges: Vec<&mut Merge<'_>>,
    others: &[Publication],
    namespaces: &Namespaces,
    catch_up: CatchUp,
    progress: &Progress,
) -> Result<(Vec<Merged>, Published)> {
    let mut merges = merges;
    let live: Vec<Uuid> = merges.iter().map(|merge| merge.live).collect();
    let records = live
        .iter()
        .map(|id| engine.collection(*id).map_or(0, |info| info.head.count));
    progress.phase("merge", records.sum());
    let merges = std::cell::RefCell::new(&mut merges);
    engine
        .begin_snapshot(SnapshotScope::Collections(live))?
        .run_to(
            catch_up,
            progress,
            |id, round, exclusive| {
                let mut merges = merges.borrow_mut();
                match merges.iter_mut().find(|merge| merge.live == id) {
                    Some(merge) => merge.round(round, exclusive, progress),
                    None => Err(Error::internal("a merge lost its collection")),
                }
            },
            |mut last, exclusive| {
                let mut publications = others.to_vec();
                let mut merged = Vec::new();
                for merge in merges.borrow_mut().iter_mut() {
                    let live = last.take(merge.live)?;
                    let (publication, outcome) = merge.finish(&live, exclusive)?;
                    publications.push(publication);
                    merged.push(outcome);
                }
                progress.commit()?;
                let published = exclusive.publish(&publications, namespaces)?;
                Ok((merged, published))
            },
        )
}
