//! Records on their way into packs: what backups and imports write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::background;
use crate::error::{Error, Result};
use crate::model::record::RecordView;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::format::{LayerReference, PackReference};
use crate::repository::pack::{self, PackRow, PackTombstone};

/// Rows per pack, whatever their size.
const MAX_PACK_ROWS: u64 = 1 << 16;

/// Settings of packs.
#[derive(Clone, Copy, Debug)]
pub struct PackSettings {
    /// zstd level.
    pub compression_level: i32,
    /// Bytes of records that a pack aims at; up to twice this is gathered.
    pub pack_bytes: u64,
    /// Threads that compress and store packs while the next ones are gathered.
    pub threads: usize,
}

/// Puts packs into a repository and counts what was put. Packs are compressed and stored on threads of its
/// own, which give way to the service's; few packs are under way at a time.
pub(super) struct Packer<'a> {
    repository: &'a Repository,
    settings: PackSettings,
    progress: &'a Progress,
    pub(super) new_records: u64,
    pub(super) tombstones: u64,
    pub(super) new_bytes: u64,
    tasks: Option<SyncSender<Task>>,
    threads: Vec<JoinHandle<()>>,
}

/// Rows of one pack.
struct Task {
    rows: Vec<PackRow>,
    dimension: u32,
    bytes: u64,
    stored: Sender<Result<PackReference>>,
}

impl<'a> Packer<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        settings: PackSettings,
        progress: &'a Progress,
    ) -> Result<Self> {
        // Nothing waits in between: who has the next pack ready waits for a thread.
        let (tasks, waiting) = mpsc::sync_channel(0);
        let waiting = Arc::new(Mutex::new(waiting));
        let threads = (0..settings.threads)
            .map(|_| {
                let (repository, progress) = (repository.clone(), progress.clone());
                let waiting = Arc::clone(&waiting);
                background::spawn("packs", move || {
                    store_packs(&repository, settings, &progress, &waiting);
                })
                .map_err(|error| Error::internal("a thread cannot be started").because(error))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            repository,
            settings,
            progress,
            new_records: 0,
            tombstones: 0,
            new_bytes: 0,
            tasks: Some(tasks),
            threads,
        })
    }

    /// Hands the rows of a pack over; what it became is received later.
    fn submit(
        &self,
        rows: Vec<PackRow>,
        dimension: u32,
        bytes: u64,
    ) -> Result<Receiver<Result<PackReference>>> {
        let (stored, receiver) = mpsc::channel();
        let task = Task {
            rows,
            dimension,
            bytes,
            stored,
        };
        let tasks = self.tasks.as_ref().ok_or_else(ended)?;
        tasks.send(task).map_err(|_| ended())?;
        Ok(receiver)
    }
}

impl Drop for Packer<'_> {
    fn drop(&mut self) {
        self.tasks = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that stores packs panicked");
            }
        }
    }
}

fn ended() -> Error {
    Error::internal("the threads that store packs have ended")
}

fn store_packs(
    repository: &Repository,
    settings: PackSettings,
    progress: &Progress,
    waiting: &Mutex<Receiver<Task>>,
) {
    loop {
        let next = waiting.lock().recv();
        let Ok(task) = next else { return };
        let stored = store_pack(repository, settings, &task);
        if stored.is_ok() {
            progress.advance(task.rows.len() as u64, task.bytes);
        }
        // Nobody receives it any more where another pack has failed.
        let _ = task.stored.send(stored);
    }
}

fn store_pack(
    repository: &Repository,
    settings: PackSettings,
    task: &Task,
) -> Result<PackReference> {
    let (Some(first), Some(last)) = (task.rows.first(), task.rows.last()) else {
        return Err(Error::internal("a pack without rows"));
    };
    // The first write after a layer began may have fixed the dimension since.
    let dimension = match task.dimension {
        0 => row_dimension(first)?,
        dimension => dimension,
    };
    let bytes = pack::encode_records(&task.rows, dimension, settings.compression_level)?;
    let ordinals = (first.ordinal, last.ordinal);
    repository.put_pack(bytes.into(), task.rows.len() as u64, ordinals)
}

/// Rows of one layer, cut into packs at fixed ordinal ranges, so that an unchanged range gives the same
/// pack again.
pub(super) struct LayerWriter<'p, 'a> {
    packer: &'p mut Packer<'a>,
    dimension: u32,
    /// Ordinals per pack, a power of two.
    range: u64,
    rows: Vec<PackRow>,
    bytes: u64,
    /// Packs that are being stored, in order.
    under_way: VecDeque<Receiver<Result<PackReference>>>,
    reference: LayerReference,
}

impl<'p, 'a> LayerWriter<'p, 'a> {
    /// A layer of records of about `average` bytes; without a dimension the first row says it.
    pub(super) fn new(packer: &'p mut Packer<'a>, dimension: Option<u32>, average: u64) -> Self {
        let rows = (packer.settings.pack_bytes / average.max(1)).clamp(1, MAX_PACK_ROWS);
        Self {
            packer,
            dimension: dimension.unwrap_or(0),
            range: 1 << rows.ilog2(),
            rows: Vec::new(),
            bytes: 0,
            under_way: VecDeque::new(),
            reference: LayerReference::default(),
        }
    }

    /// Takes the next row, in ordinal order.
    pub(super) fn row(&mut self, row: PackRow) -> Result<()> {
        let another = self
            .rows
            .first()
            .is_some_and(|first| first.ordinal / self.range != row.ordinal / self.range);
        // Records much larger than the average must not gather in memory either.
        if another || self.bytes >= 2 * self.packer.settings.pack_bytes {
            self.flush()?;
        }
        self.bytes += row.canonical.len() as u64;
        self.rows.push(row);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.packer.progress.check()?;
        let rows = std::mem::take(&mut self.rows);
        let bytes = std::mem::take(&mut self.bytes);
        // Those that are there already: an error must not wait for the end.
        while let Some(stored) = self.under_way.front().and_then(|next| next.try_recv().ok()) {
            self.under_way.pop_front();
            self.count(stored?);
        }
        let stored = self.packer.submit(rows, self.dimension, bytes)?;
        self.under_way.push_back(stored);
        Ok(())
    }

    fn count(&mut self, pack: PackReference) {
        self.packer.new_records += pack.records;
        self.packer.new_bytes += pack.size_bytes;
        self.reference.packs.push(pack);
    }

    /// Puts the deletions, which count before the layer's rows.
    pub(super) fn tombstones(&mut self, tombstones: &[PackTombstone]) -> Result<()> {
        let ordinals = tombstones.iter().map(|tombstone| tombstone.ordinal);
        let (Some(first), Some(last)) = (ordinals.clone().min(), ordinals.max()) else {
            return Ok(());
        };
        let bytes = pack::encode_tombstones(tombstones, self.packer.settings.compression_level)?;
        let count = tombstones.len() as u64;
        self.packer.tombstones += count;
        self.packer.new_bytes += bytes.len() as u64;
        let pack = self
            .packer
            .repository
            .put_pack(bytes.into(), count, (first, last))?;
        self.reference.tombstones.push(pack);
        Ok(())
    }

    /// Puts what is left.
    pub(super) fn finish(mut self) -> Result<LayerReference> {
        self.flush()?;
        while let Some(next) = self.under_way.pop_front() {
            self.count(next.recv().map_err(|_| ended())??);
        }
        Ok(self.reference)
    }
}

fn row_dimension(row: &PackRow) -> Result<u32> {
    let view = RecordView::parse(&row.canonical)?;
    u32::try_from(view.dimension()).map_err(|_| Error::internal("too many dimensions"))
}
