//! `vectorkeep demo`: starts the service in this process and drives it over HTTP as a client would,
//! printing what really happened: persist and reopen, back up, verify, rehearse, restore, migrate, check.

mod backups;
mod checks;
mod client;
mod migrations;
mod next;
mod records;
mod restores;
mod service;
mod teller;

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use client::{Client, number, text};
use records::DemoRecord;
use service::Service;
use teller::Teller;

const BATCH: usize = 500;
const SOURCE: &str = "source";
const TARGET: &str = "target";
/// The other instance, as the configuration names it.
const ELSEWHERE: &str = "elsewhere";

/// What the demo may be told.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArguments {
    /// Where to work; emptied when an earlier demo made it, refused when something else did.
    #[arg(long, default_value = "./demo_data")]
    pub data_dir: PathBuf,
    /// Records to load instead of the 50 bundled ones: `.jsonl` or `.jsonl.zst`, at least 20.
    #[arg(long)]
    pub records: Option<PathBuf>,
    /// Flip one bit of the backup after it was made: the demo then has to notice it and fail.
    #[arg(long)]
    pub damage_backup: bool,
}

/// The demo's steps, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Load, stop, reopen.
    Persist,
    /// Back up and export.
    Backup,
    /// Change three records and back up what changed.
    Increment,
    /// Read the backup again, and rehearse its restore.
    Verify,
    /// Lose records and restore them, all and one.
    Restore,
    /// Copy to another name, and to another instance and back.
    Migrate,
    /// Check everything.
    Check,
}

/// Runs the demo on standard output.
///
/// # Errors
/// The reason that was printed after `[FAIL]`.
pub async fn run(arguments: DemoArguments) -> Result<()> {
    run_with(&arguments, &mut std::io::stdout(), |_, _| {}).await
}

/// Runs the demo; `after` is called after each step with the demo's directory.
///
/// # Errors
/// The reason that was printed after `[FAIL]`.
pub async fn run_with(
    arguments: &DemoArguments,
    out: &mut impl Write,
    after: impl FnMut(Step, &Path),
) -> Result<()> {
    let mut teller = Teller::new(out);
    teller.say("=== Persistent Deployment Exercise ===\n")?;
    match story(arguments, &mut teller, after).await {
        Ok(()) => {
            teller.summary()?;
            teller.say("\n[OK] Persistent deployment configured successfully!")?;
            teller.say(&next::steps(&arguments.data_dir))
        }
        Err(error) => {
            let cause = error
                .cause_text()
                .map(|cause| format!(" ({cause})"))
                .unwrap_or_default();
            teller.say(&format!("[FAIL] {error}{cause}"))?;
            Err(error)
        }
    }
}

async fn story(
    arguments: &DemoArguments,
    teller: &mut Teller<'_>,
    mut after: impl FnMut(Step, &Path),
) -> Result<()> {
    let directory = &arguments.data_dir;
    let records = match &arguments.records {
        None => records::bundled()?,
        Some(file) => records::from_file(file)?,
    };
    service::prepare(directory)?;
    let elsewhere = Service::start(&directory.join(ELSEWHERE), None).await?;
    let outcome = at_home(arguments, &records, &elsewhere, teller, &mut after).await;
    let stopped = elsewhere.stop().await;
    outcome.and(stopped)
}

/// The story, with another instance that runs.
async fn at_home(
    arguments: &DemoArguments,
    records: &[DemoRecord],
    elsewhere: &Service,
    teller: &mut Teller<'_>,
    after: &mut impl FnMut(Step, &Path),
) -> Result<()> {
    let directory = &arguments.data_dir;
    let service = Service::start(directory, Some(elsewhere)).await?;
    teller.say(&format!(
        "[OK] Persistent client initialized at {}",
        directory.display()
    ))?;
    let loaded = load(&service.client, records, teller).await;
    // Stopped for real, so that what comes next is read from the disk.
    let stopped = service.stop().await;
    let before = loaded.and_then(|loaded| stopped.map(|()| loaded))?;
    let service = teller
        .time(
            "stopped and reopened",
            Service::start(directory, Some(elsewhere)),
        )
        .await?;
    let outcome = drive(
        arguments,
        records,
        &before,
        &service.client,
        &elsewhere.client,
        teller,
        after,
    )
    .await;
    let stopped = service.stop().await;
    outcome.and(stopped)
}

/// Count and digest of what was loaded.
struct Loaded {
    count: u64,
    digest: String,
}

async fn load(client: &Client, records: &[DemoRecord], teller: &mut Teller<'_>) -> Result<Loaded> {
    let collection = client.create_collection(SOURCE).await?;
    let all = async {
        for batch in records.chunks(BATCH) {
            client.add(&collection, batch).await?;
        }
        Ok(())
    };
    let what = format!("{} documents loaded, each batch synced", records.len());
    teller.time(&what, all).await?;
    let found = client.integrity(SOURCE).await?;
    let loaded = Loaded {
        count: number(&found, "/count")?,
        digest: text(&found, "/digest")?,
    };
    teller.say(&format!(
        "[OK] Loaded {} documents into '{SOURCE}'",
        loaded.count
    ))?;
    Ok(loaded)
}

async fn reopened(client: &Client, before: &Loaded, teller: &mut Teller<'_>) -> Result<()> {
    let found = client.integrity(SOURCE).await?;
    let digest = text(&found, "/recomputed_digest")?;
    same("after a restart, the content", &before.digest, &digest)?;
    teller.say(&format!(
        "[OK] Stopped and reopened: {} documents, digest {} unchanged",
        number(&found, "/count")?,
        short(&digest)
    ))
}

async fn drive(
    arguments: &DemoArguments,
    records: &[DemoRecord],
    before: &Loaded,
    client: &Client,
    elsewhere: &Client,
    teller: &mut Teller<'_>,
    after: &mut impl FnMut(Step, &Path),
) -> Result<()> {
    let directory = arguments.data_dir.as_path();
    let mut done = |step| after(step, directory);
    reopened(client, before, teller).await?;
    done(Step::Persist);
    let full = backups::back_up(client, records, teller).await?;
    if arguments.damage_backup {
        backups::damage(directory, teller)?;
    }
    done(Step::Backup);
    let newest = backups::increment(client, records, &full, teller).await?;
    done(Step::Increment);
    backups::verify(client, &newest, teller).await?;
    backups::rehearse(client, &newest, teller).await?;
    done(Step::Verify);
    restores::restore(client, records, &newest, teller).await?;
    restores::undelete(client, records, &newest, teller).await?;
    done(Step::Restore);
    migrations::migrate(client, records, &newest.digest, teller).await?;
    migrations::out_and_back(client, elsewhere, &newest.digest, teller).await?;
    done(Step::Migrate);
    checks::check(client, records, teller).await?;
    done(Step::Check);
    Ok(())
}

/// The digest that two things must share.
fn same(what: &str, expected: &str, found: &str) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        Err(Error::internal(format!(
            "{what} differs: {found} instead of {expected}"
        )))
    }
}

/// The beginning of a digest, for people.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
