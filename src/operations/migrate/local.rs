//! This store as a source and as a target.

use uuid::Uuid;

use crate::engine::{
    CatchUp, CollectionInfo, Engine, Snapshot, SnapshotScope, StagedRecord, Staging, StoredRecord,
};
use crate::environments::{
    Batch, BatchSize, Contents, Description, Position, Source, Staged, StreamEnd, Target,
};
use crate::error::{Error, Kind, Result};
use crate::model::collection::CollectionDefinition;
use crate::model::configuration::Space;
use crate::model::names::CollectionName;
use crate::model::record::{Record, RecordView};
use crate::progress::Progress;

/// How often a migration tries to begin while the oldest deletions are forgotten.
const MAX_BEGINNINGS: usize = 100;

/// A collection of this store, read while it is written to.
pub(super) struct LocalSource {
    pub(super) engine: Engine,
    pub(super) id: Uuid,
    pub(super) catch_up: CatchUp,
}

/// Records on their way to the next batch.
struct Gathered<'a> {
    size: BatchSize,
    fresh: bool,
    since: u64,
    records: Vec<Record>,
    bytes: usize,
    emit: &'a mut dyn FnMut(Batch) -> Result<()>,
}

impl Gathered<'_> {
    /// `next` is where to go on after this record.
    fn push(&mut self, record: Record, bytes: usize, next: u64) -> Result<()> {
        self.records.push(record);
        self.bytes += bytes;
        if self.records.len() >= self.size.records || self.bytes >= self.size.bytes {
            self.flush(Vec::new(), next)?;
        }
        Ok(())
    }

    fn flush(&mut self, removed: Vec<String>, next: u64) -> Result<()> {
        self.bytes = 0;
        let records = std::mem::take(&mut self.records);
        if records.is_empty() && removed.is_empty() {
            return Ok(());
        }
        let since = self.since;
        (self.emit)(Batch {
            removed,
            records,
            fresh: self.fresh,
            position: Position { since, next },
        })
    }

    fn remove(&mut self, ids: Vec<String>) -> Result<()> {
        for ids in ids.chunks(self.size.records.max(1)) {
            self.flush(ids.to_vec(), u64::MAX)?;
        }
        Ok(())
    }
}

impl LocalSource {
    /// A snapshot of what changes from a position on, and the position.
    fn begin(&self, from: Option<Position>) -> Result<(Snapshot, Position)> {
        // A new one begins now; a deletion may come in between, but not for ever.
        for _ in 0..MAX_BEGINNINGS {
            let position = from.unwrap_or_else(|| Position {
                since: self.engine.sequence(),
                next: 0,
            });
            let scope = SnapshotScope::Collections(vec![self.id]);
            let since = [(self.id, position.since)].into();
            let snapshot = self.engine.begin_snapshot_since(scope, since)?;
            if snapshot.is_incremental(self.id) {
                return Ok((snapshot, position));
            }
            if from.is_some() {
                break;
            }
        }
        Err(Error::new(
            Kind::Conflict,
            "what was deleted since the migration was begun is not all known any more \
             (storage.max_tombstones)",
        ))
    }
}

impl Source for LocalSource {
    fn describe(&self, _: &Progress) -> Result<Description> {
        let info = self.engine.collection(self.id)?;
        Ok(Description {
            id: self.id.to_string(),
            definition: info.descriptor.definition.clone(),
            records: info.head.count,
        })
    }

    fn stream(
        &self,
        from: Option<Position>,
        size: BatchSize,
        progress: &Progress,
        emit: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<StreamEnd> {
        let (snapshot, Position { since, next }) = self.begin(from)?;
        let mut gathered = Gathered {
            size,
            fresh: true,
            since,
            records: Vec::new(),
            bytes: 0,
            emit,
        };
        self.engine.scan(self.id, next, |ordinal, stored| {
            progress.check()?;
            let (record, bytes) = owned(stored)?;
            gathered.push(record, bytes, ordinal + 1)?;
            Ok(true)
        })?;
        gathered.flush(Vec::new(), u64::MAX)?;
        // From here on every batch is of changes since then: all of them come again after a break.
        gathered.fresh = false;
        let mut last = snapshot.run(self.catch_up, progress, |_, round| {
            let removed = round.removed.iter().map(|gone| gone.id.clone());
            gathered.remove(removed.collect())?;
            round.for_each(|_, stored| {
                progress.check()?;
                let (record, bytes) = owned(stored)?;
                gathered.push(record, bytes, u64::MAX)
            })?;
            gathered.flush(Vec::new(), u64::MAX)
        })?;
        let CollectionInfo { descriptor, head } = last.take(self.id)?;
        Ok(StreamEnd {
            definition: descriptor.definition.clone(),
            contents: Some(Contents {
                records: head.count,
                digest: head.digest,
            }),
            moment: Some(last.sequence),
        })
    }

    fn lookup(&self, ids: &[&str], moment: Option<u64>, _: &Progress) -> Result<Vec<Record>> {
        let moment = moment.unwrap_or(u64::MAX);
        lookup(&self.engine, self.id, ids, moment)
    }

    fn contents(&self, _: BatchSize, progress: &Progress) -> Result<Contents> {
        contents(&self.engine, self.id, progress)
    }
}

/// Those of these records that were not written after a moment.
fn lookup(engine: &Engine, id: Uuid, ids: &[&str], moment: u64) -> Result<Vec<Record>> {
    let mut found = Vec::new();
    for wanted in ids {
        if let Some(record) = engine.find_record(id, wanted)?
            && record.sequence <= moment
        {
            found.push(RecordView::parse(&record.canonical)?.to_record()?);
        }
    }
    Ok(found)
}

fn owned(stored: &StoredRecord<'_>) -> Result<(Record, usize)> {
    Ok((stored.view.to_record()?, stored.canonical.len()))
}

/// Count and digest of what is really stored.
fn contents(engine: &Engine, id: Uuid, progress: &Progress) -> Result<Contents> {
    let mut contents = Contents::default();
    engine.scan(id, 0, |_, stored| {
        progress.check()?;
        progress.advance(1, stored.canonical.len() as u64);
        contents.records += 1;
        let hash = crate::model::digest::RecordHash::of(stored.canonical);
        contents.digest.add(&hash);
        Ok(true)
    })?;
    Ok(contents)
}

/// Staged collections of this store.
pub(super) struct LocalTarget {
    pub(super) engine: Engine,
    pub(super) staging: Staging,
}

/// # Errors
/// `Internal`: a staged id is one that was given out here.
pub(super) fn staged_id(staged: &str) -> Result<Uuid> {
    Uuid::parse_str(staged).map_err(|error| Error::internal("a staged id is none").because(error))
}

impl Target for LocalTarget {
    fn fit_collection(&self, _: &mut CollectionDefinition) -> Vec<String> {
        Vec::new()
    }

    fn fit(&self, _: Space, _: &mut Record) -> Vec<&'static str> {
        Vec::new()
    }

    fn holds(&self, _: Space, wanted: &Record, found: &Record) -> bool {
        wanted.hash() == found.hash()
    }

    fn stage(
        &self,
        name: &CollectionName,
        definition: &CollectionDefinition,
        begun: Option<&str>,
        _: &Progress,
    ) -> Result<Staged> {
        if let Some(begun) = begun
            && self.engine.is_staged(staged_id(begun)?, self.staging)
        {
            return Ok(Staged {
                id: begun.to_owned(),
                resumed: true,
            });
        }
        let id = self
            .engine
            .stage(name.clone(), definition.clone(), self.staging)?;
        Ok(Staged {
            id: id.to_string(),
            resumed: false,
        })
    }

    fn write(&self, staged: &str, batch: &Batch, _: &Progress) -> Result<()> {
        let id = staged_id(staged)?;
        let place = |record: &str| Ok(self.engine.find_record(id, record)?.map(|f| f.ordinal));
        let removed: Vec<u64> = batch
            .removed
            .iter()
            .filter_map(|gone| place(gone).transpose())
            .collect::<Result<_>>()?;
        self.engine.unstage_records(id, &removed)?;
        let info = self.engine.staged(id)?;
        let mut next = info.head.next_ordinal;
        let mut dimension = info.descriptor.definition.dimension;
        let mut places = std::collections::HashMap::new();
        let mut records = Vec::with_capacity(batch.records.len());
        for record in &batch.records {
            let found = u32::try_from(record.embedding.len()).ok();
            if found.is_none() || *dimension.get_or_insert(found.unwrap_or(0)) != found.unwrap_or(0)
            {
                return Err(Error::new(
                    Kind::RemoteUnavailable,
                    format!("the source gave {:?} another dimension", record.id),
                ));
            }
            let place = match places.get(&record.id) {
                Some(place) => Some(*place),
                None => place(&record.id)?,
            };
            let ordinal = place.unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            places.insert(record.id.clone(), ordinal);
            records.push(StagedRecord {
                ordinal,
                canonical: record.canonical(),
            });
        }
        // Of one id in a batch twice the last counts.
        let mut seen = std::collections::HashSet::new();
        records.reverse();
        records.retain(|record| seen.insert(record.ordinal));
        records.reverse();
        self.engine.stage_records(id, &records)
    }

    fn complete(
        &self,
        staged: &str,
        definition: &CollectionDefinition,
        _: &Progress,
    ) -> Result<Vec<String>> {
        let id = staged_id(staged)?;
        self.engine.finish_staging(id, definition, 0)?;
        Ok(Vec::new())
    }

    fn staged_contents(&self, staged: &str, _: BatchSize, progress: &Progress) -> Result<Contents> {
        contents(&self.engine, staged_id(staged)?, progress)
    }

    fn staged_records(
        &self,
        staged: &str,
        size: BatchSize,
        progress: &Progress,
        visit: &mut dyn FnMut(Vec<Record>) -> Result<()>,
    ) -> Result<()> {
        let mut records = Vec::new();
        self.engine.scan(staged_id(staged)?, 0, |_, stored| {
            progress.check()?;
            records.push(stored.view.to_record()?);
            if records.len() >= size.records {
                visit(std::mem::take(&mut records))?;
            }
            Ok(true)
        })?;
        visit(records)
    }

    fn staged_lookup(&self, staged: &str, ids: &[&str], _: &Progress) -> Result<Vec<Record>> {
        lookup(&self.engine, staged_id(staged)?, ids, u64::MAX)
    }

    fn discard(&self, _: &CollectionName, staged: Option<&str>, _: &Progress) -> Result<()> {
        if let Some(staged) = staged {
            self.engine.discard_staged(staged_id(staged)?);
        }
        Ok(())
    }
}
