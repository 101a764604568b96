//! Records from one environment to another: a thread reads, this one writes, and a checkpoint follows. At the
//! end the copy is read back, compared, and gets its name.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use chrono::Utc;

use super::checkpoint::Checkpoint;
use super::differences::{self, Losses};
use super::{End, MigrateOutcome, MigratePlan, MigrateSettings, check_losses, local, local_target};
use crate::engine::{Engine, Namespaces, Publication, Staging};
use crate::environments::{Batch, Contents, RemoteCollection, Source, StreamEnd, Target};
use crate::error::{Error, Kind, Result};
use crate::model::digest::RecordHash;
use crate::operations::conflict::{Action, OnConflict, RecordCounts};
use crate::operations::merge::{self, Merge};
use crate::progress::Progress;

/// Batches that may wait between the two.
const WAITING: usize = 2;
/// How often the checkpoint is kept: what was done since is done again after a crash.
const KEEP_EVERY: Duration = Duration::from_millis(200);

/// A migration between environments under way.
struct Transfer<'a> {
    engine: &'a Engine,
    plan: &'a MigratePlan,
    settings: &'a MigrateSettings,
    progress: &'a Progress,
    source: Arc<dyn Source>,
    target: Box<dyn Target>,
    checkpoint: Checkpoint,
    losses: Losses,
    outcome: MigrateOutcome,
}

pub(super) fn transfer(
    engine: &Engine,
    plan: &MigratePlan,
    settings: &MigrateSettings,
    progress: &Progress,
) -> Result<MigrateOutcome> {
    let staging = match plan.action {
        Action::Merged => Staging::ToConsult,
        _ => Staging::ToPublish,
    };
    let kept = Checkpoint::find(engine, &plan.key)?;
    let begun = kept.is_some();
    let new = || Checkpoint::new(plan, Utc::now());
    let _running = settings.running.enter(&plan.key);
    let mut transfer = Transfer {
        engine,
        plan,
        settings,
        progress,
        source: Arc::from(plan.source.source(engine, settings)?),
        target: plan.target.target(engine, staging),
        checkpoint: kept.unwrap_or_else(new),
        losses: Losses::default(),
        outcome: MigrateOutcome::default(),
    };
    if !begun {
        let most = settings.max_checkpoints.saturating_sub(1);
        super::sweep(engine, settings, most, Utc::now())?;
    }
    let done = transfer.run();
    if let Err(error) = &done {
        if !goes_on(error.kind()) {
            transfer.give_up();
        } else if let Err(error) = transfer.save() {
            tracing::warn!(?error, "how far a migration is was not kept");
        }
    }
    done.map(|()| transfer.outcome)
}

/// Whether the same request may go on where this error stopped it.
fn goes_on(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::RemoteUnavailable | Kind::Unavailable | Kind::InsufficientStorage | Kind::Canceled
    )
}

impl Transfer<'_> {
    fn run(&mut self) -> Result<()> {
        match self.checkpoint.outcome.take() {
            // All was compared, and the name is the copy's already.
            Some(outcome) if self.plan.published => {
                self.outcome = outcome;
                self.outcome.resumed = true;
                self.checkpoint.outcome = Some(self.outcome.clone());
            }
            _ => self.bring_over()?,
        }
        self.publish()?;
        self.finish()
    }

    /// Copies and compares; once more from the start where it cannot go on from the checkpoint.
    fn bring_over(&mut self) -> Result<()> {
        let attempt = self.attempt();
        match attempt {
            Err(error) if error.kind() == Kind::Conflict && self.outcome.resumed => {
                tracing::info!(%error, "a migration begins again");
                self.give_up();
                (self.outcome, self.losses) = Default::default();
                self.checkpoint = Checkpoint::new(self.plan, Utc::now());
                self.attempt()?;
            }
            attempt => attempt?,
        }
        self.progress.check()?;
        // What is free may be another name by now than when it was begun.
        self.checkpoint.target = self.plan.target.name.clone();
        self.checkpoint.action = self.plan.action;
        self.checkpoint.outcome = Some(self.outcome.clone());
        self.save()
    }

    fn attempt(&mut self) -> Result<()> {
        self.survey()?;
        let end = self.copy()?;
        let contents = end.contents.unwrap_or(self.checkpoint.read);
        self.compare(&end, contents)?;
        self.outcome.counts = self.counts(contents)?;
        Ok(())
    }

    /// Forgets how far it was. Where the same request would find its own target in the way, that is left to the next
    /// one, or to a sweep: if the process ends before the job's record says that it is done, somebody asks again.
    fn finish(&mut self) -> Result<()> {
        if self.plan.on_conflict != OnConflict::Fail || self.checkpoint.done_by.is_some() {
            return self.engine.remove_checkpoint(&self.checkpoint.key);
        }
        self.checkpoint.done_by = Some(self.settings.process);
        self.save()
    }

    /// Looks for what the target cannot hold before anything is written, where looking is cheap.
    fn survey(&mut self) -> Result<()> {
        check_losses(self.plan, &self.plan.losses)?;
        self.losses.found = self.plan.losses.clone();
        if self.plan.source.is_local() {
            let found = differences::record_losses(
                self.source.as_ref(),
                self.target.as_ref(),
                self.plan,
                self.progress,
            )?;
            check_losses(self.plan, &found)?;
        }
        Ok(())
    }

    fn copy(&mut self) -> Result<StreamEnd> {
        let mut definition = self.plan.described.definition.clone();
        self.target.fit_collection(&mut definition);
        let begun = self.checkpoint.staged.clone();
        let staging = self.checkpoint.staging.clone();
        // Whatever is made under that name from here on is known to be ours.
        self.save()?;
        let staged = self
            .target
            .stage(&staging, &definition, begun.as_deref(), self.progress)?;
        self.outcome.resumed = staged.resumed && self.checkpoint.position.is_some();
        if !staged.resumed {
            (self.checkpoint.position, self.checkpoint.read) = (None, Contents::default());
        }
        self.checkpoint.staged = Some(staged.id);
        self.save()?;
        self.progress.phase("copy", self.plan.described.records);
        let end = self.pump()?;
        self.save()?;
        Ok(end)
    }

    /// Reads on one thread and writes on this one.
    fn pump(&mut self) -> Result<StreamEnd> {
        let (batches, received) = sync_channel(WAITING);
        let from = self.checkpoint.position;
        self.progress.advance(self.checkpoint.read.records, 0);
        let (size, progress) = (self.plan.size, self.progress);
        let source = Arc::clone(&self.source);
        std::thread::scope(|scope| {
            let reading = std::thread::Builder::new()
                .name("migrate-read".to_owned())
                .spawn_scoped(scope, move || {
                    source.stream(from, size, progress, &mut |batch| send(&batches, batch))
                })
                .map_err(|error| Error::internal("a thread cannot start").because(error))?;
            let written = self.write_all(received);
            let read = reading
                .join()
                .map_err(|_| Error::internal("the reading thread panicked"))?;
            // What could not be written is why reading stopped.
            written?;
            read
        })
    }

    fn write_all(&mut self, received: Receiver<Batch>) -> Result<()> {
        let mut kept: Option<Instant> = None;
        for mut batch in received {
            self.progress.check()?;
            let mut read = self.checkpoint.read;
            for record in &mut batch.records {
                let bytes = record.canonical();
                self.outcome.read += 1;
                self.outcome.bytes += bytes.len() as u64;
                self.progress.advance(1, bytes.len() as u64);
                read.records += 1;
                read.digest.add(&RecordHash::of(&bytes));
                for what in self.target.fit(self.plan.space(), record) {
                    self.losses.note(what, &record.id);
                }
            }
            check_losses(self.plan, &self.losses.of_records())?;
            let staged = self.checkpoint.staged.clone().unwrap_or_default();
            self.target.write(&staged, &batch, self.progress)?;
            // Both or neither: what was read is what is in the target.
            (self.checkpoint.position, self.checkpoint.read) = (Some(batch.position), read);
            if kept.is_none_or(|kept| kept.elapsed() >= KEEP_EVERY) {
                self.save()?;
                kept = Some(Instant::now());
            }
        }
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        self.checkpoint.save(self.engine, &self.plan.target)
    }

    fn staged(&self) -> &str {
        self.checkpoint.staged.as_deref().unwrap_or_default()
    }

    /// Proves the copy right: definition, count and digest; where something had to be left out, record by record.
    fn compare(&mut self, end: &StreamEnd, contents: Contents) -> Result<()> {
        let (size, progress) = (self.plan.size, self.progress);
        let mut wanted = end.definition.clone();
        for what in self.target.fit_collection(&mut wanted) {
            self.losses.collection(what);
        }
        let staged = self.staged().to_owned();
        let differences = self.target.complete(&staged, &wanted, progress)?;
        for what in differences {
            self.losses.collection(what);
        }
        check_losses(self.plan, &self.losses.found)?;
        self.outcome.source_digest = Some(contents.digest);
        self.outcome.losses = self.losses.all();
        if !self.plan.verify {
            return Ok(());
        }
        progress.phase("verify", contents.records);
        if !self.plan.source.is_local() {
            let now = self.source.contents(size, progress)?;
            if now != contents {
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "{} of {} was written to while it was migrated, or holds what it does not show: \
                         {} records with digest {} were read, it has {} with {}; nothing was changed",
                        self.plan.source.name,
                        self.plan.source.environment,
                        contents.records,
                        contents.digest,
                        now.records,
                        now.digest
                    ),
                ));
            }
            progress.phase("verify", contents.records);
        }
        let found = self.target.staged_contents(&staged, size, progress)?;
        self.outcome.target_digest = Some(found.digest);
        let exact = !self.losses.has_records();
        let equal = if exact {
            found == contents
        } else {
            found.records == contents.records
        };
        if !equal || !exact {
            self.outcome.differences = differences::named(
                self.source.as_ref(),
                (self.target.as_ref(), &staged),
                end.moment,
                self.plan,
                self.settings.max_differences,
                progress,
            )?;
        }
        if !equal || !self.outcome.differences.is_empty() {
            return Err(self.unequal(contents, found));
        }
        self.outcome.verified = true;
        Ok(())
    }

    fn unequal(&self, contents: Contents, found: Contents) -> Error {
        let result = serde_json::json!({
            "verified": false,
            "source_digest": contents.digest,
            "target_digest": found.digest,
            "differences": self.outcome.differences,
        });
        // The copy is given up: going on from it would end the same way.
        Error::new(
            Kind::Conflict,
            format!(
                "the copy differs from {}: {} records with digest {} instead of {} with {}; it was given up",
                self.plan.source.name,
                found.records,
                found.digest,
                contents.records,
                contents.digest
            ),
        )
        .with("result", result)
    }

    fn publish(&mut self) -> Result<()> {
        let plan = self.plan;
        match &plan.target.remote {
            None => self.publish_here()?,
            Some(remote) => {
                self.progress.commit()?;
                let collection = plan.target.collection(remote);
                self.publish_there(&collection, &plan.target)?;
            }
        }
        Ok(())
    }

    /// From here on it is not canceled: names change.
    fn publish_there(&self, collection: &RemoteCollection, target: &End) -> Result<()> {
        let (staged, name) = (self.staged(), &target.name);
        let progress = Progress::default();
        if self.plan.action == Action::Replaced
            && !(self.plan.published && collection.replaces_at_once())
        {
            let aside = self.checkpoint.aside();
            let contents = self.outcome.source_digest.unwrap_or_default().to_string();
            return collection.replace(staged, name, &aside, &contents, &progress);
        }
        collection.publish(staged, name, &progress)
    }

    /// What becomes of records, beside those that are replaced. A merge knows more at its end.
    fn counts(&self, contents: Contents) -> Result<RecordCounts> {
        let replaces = self.plan.action == Action::Replaced;
        let Some(there) = self.plan.replaces.as_ref().filter(|_| replaces) else {
            return Ok(RecordCounts {
                inserted: contents.records,
                ..RecordCounts::default()
            });
        };
        differences::against(
            self.target.as_ref(),
            self.staged(),
            &there.id,
            there.records,
            self.plan,
            self.progress,
        )
    }

    fn publish_here(&mut self) -> Result<()> {
        let (engine, plan) = (self.engine, self.plan);
        let staged = local::staged_id(self.staged())?;
        let target = local_target(plan)?;
        if engine.collection(staged).is_ok() {
            // An earlier attempt stopped right after this.
            return Ok(());
        }
        let info = engine.staged(staged)?;
        if plan.action == Action::Merged
            && let Some(live) = target.replaces
        {
            let settings = &self.settings.restore;
            let mut merge = Merge::new(engine, info, live, plan.winner, &settings.scratch)?;
            let merges = vec![&mut merge];
            let (merged, published) = merge::run(
                engine,
                merges,
                &[],
                &Namespaces::default(),
                settings.catch_up,
                self.progress,
            )?;
            engine.published(published)?;
            merge.published();
            // In this order: a staged collection that a checkpoint owns has to be whole.
            engine.remove_checkpoint(&self.checkpoint.key)?;
            engine.discard_staged(staged);
            for merged in merged {
                self.outcome.counts = merged.counts;
                self.outcome.target_digest = Some(merged.digest);
            }
            return Ok(());
        }
        self.progress.commit()?;
        engine.publish(&[Publication {
            staged,
            name: target.name,
            replaces: target.replaces,
            keeps_id: false,
            root: None,
        }])
    }

    /// Forgets how far it was and gives the copy up, as far as the target can be reached.
    fn give_up(&mut self) {
        let progress = Progress::default();
        if let Err(error) = self.engine.remove_checkpoint(&self.checkpoint.key) {
            tracing::warn!(?error, "a checkpoint was not removed");
            return;
        }
        let Checkpoint {
            staging, staged, ..
        } = &self.checkpoint;
        if let Err(error) = self.target.discard(staging, staged.as_deref(), &progress) {
            tracing::warn!(?error, "the copy of a migration was not removed");
        }
    }
}

/// # Errors
/// `Internal` when nobody takes it: the writer says why.
fn send(batches: &SyncSender<Batch>, batch: Batch) -> Result<()> {
    batches
        .send(batch)
        .map_err(|_| Error::internal("the writing side ended"))
}
