//! `vectorkeep demo`: starts the service in this process and drives it over HTTP as a client would,
//! printing what really happened: persist and reopen, back up, restore, migrate, check.

mod client;
mod records;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api;
use crate::app::App;
use crate::config::Config;
use crate::error::{Error, Result};
use client::{Client, Export, number, text};
use records::DemoRecord;

/// The demo's own file in its directory: only a directory that has it is ever emptied.
const MARKER: &str = ".vectorkeep-demo";
const BATCH: usize = 500;
const SOURCE: &str = "source";
const TARGET: &str = "target";

/// What the demo may be told.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArguments {
    /// Where to work; emptied when an earlier demo made it, refused when something else did.
    #[arg(long, default_value = "./demo_data")]
    pub data_dir: PathBuf,
    /// Records to load instead of the 50 bundled ones: `.jsonl` or `.jsonl.zst`.
    #[arg(long)]
    pub records: Option<PathBuf>,
}

/// The demo's steps, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Load, stop, reopen.
    Persist,
    /// Back up and export.
    Backup,
    /// Lose records and restore them.
    Restore,
    /// Copy to another name.
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
    say(out, "=== Persistent Deployment Exercise ===\n")?;
    match story(arguments, out, after).await {
        Ok(()) => say(out, "\n[OK] Persistent deployment configured successfully!"),
        Err(error) => {
            let cause = error
                .cause_text()
                .map(|cause| format!(" ({cause})"))
                .unwrap_or_default();
            say(out, &format!("[FAIL] {error}{cause}"))?;
            Err(error)
        }
    }
}

fn say(out: &mut impl Write, line: &str) -> Result<()> {
    writeln!(out, "{line}")
        .map_err(|error| Error::internal("standard output is closed").because(error))
}

async fn story(
    arguments: &DemoArguments,
    out: &mut impl Write,
    mut after: impl FnMut(Step, &Path),
) -> Result<()> {
    let directory = &arguments.data_dir;
    let records = match &arguments.records {
        None => records::bundled()?,
        Some(file) => records::from_file(file)?,
    };
    prepare(directory)?;
    let service = Service::start(directory).await?;
    say(
        out,
        &format!(
            "[OK] Persistent client initialized at {}",
            directory.display()
        ),
    )?;
    let service = persist(service, directory, &records, out).await?;
    after(Step::Persist, directory);
    let outcome = drive(&service.client, &records, out, |step| {
        after(step, directory)
    })
    .await;
    let stopped = service.stop().await;
    outcome.and(stopped)
}

/// Makes the directory empty, if that is allowed.
fn prepare(directory: &Path) -> Result<()> {
    let unusable = |error: std::io::Error| {
        Error::storage(format!("{} cannot be used: {error}", directory.display()))
    };
    fs::create_dir_all(directory).map_err(unusable)?;
    let entries = fs::read_dir(directory)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .map_err(unusable)?;
    let ours = entries.iter().any(|entry| entry.file_name() == MARKER);
    if !entries.is_empty() && !ours {
        return Err(Error::invalid(format!(
            "{} is not empty and was not made by a demo; choose another --data-dir",
            directory.display()
        )));
    }
    for entry in entries.iter().filter(|entry| entry.file_name() != MARKER) {
        let path = entry.path();
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(unusable)?;
    }
    fs::write(
        directory.join(MARKER),
        "made by vectorkeep demo, which may empty this directory\n",
    )
    .map_err(unusable)
}

/// A service in this process.
struct Service {
    client: Client,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<()>>,
}

impl Service {
    async fn start(directory: &Path) -> Result<Self> {
        let mut config = Config::baseline()?;
        config.storage.data_dir = directory.join("data");
        config.repository.url = directory.join("backups").display().to_string();
        config.server.shutdown_grace_ms = 5_000;
        let app = tokio::task::spawn_blocking(|| App::open(config, Handle::current()))
            .await
            .unwrap_or_else(|error| {
                Err(Error::internal("opening the store panicked").because(error))
            })?;
        let unbound = |error| Error::internal("no port can be bound").because(error);
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(unbound)?;
        let address = listener.local_addr().map_err(unbound)?;
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(api::serve(app, listener, async {
            let _ = stopped.await;
        }));
        Ok(Self {
            client: Client::new(address),
            stop,
            served,
        })
    }

    async fn stop(self) -> Result<()> {
        drop(self.client);
        let _ = self.stop.send(());
        self.served
            .await
            .unwrap_or_else(|error| Err(Error::internal("the service panicked").because(error)))
    }
}

/// Loads everything, then stops the service for real and opens it again.
async fn persist(
    service: Service,
    directory: &Path,
    records: &[DemoRecord],
    out: &mut impl Write,
) -> Result<Service> {
    let client = &service.client;
    let collection = client.create_collection(SOURCE).await?;
    for batch in records.chunks(BATCH) {
        client.add(&collection, batch).await?;
    }
    let before = client.integrity(SOURCE).await?;
    say(
        out,
        &format!(
            "[OK] Loaded {} documents into '{SOURCE}'",
            number(&before, "/count")?
        ),
    )?;
    service.stop().await?;
    let service = Service::start(directory).await?;
    let after = service.client.integrity(SOURCE).await?;
    same(
        "after a restart, the content",
        &text(&before, "/digest")?,
        &text(&after, "/digest")?,
    )?;
    say(
        out,
        &format!(
            "[OK] Stopped and reopened: {} documents, digest {} unchanged",
            number(&after, "/count")?,
            short(&text(&after, "/recomputed_digest")?)
        ),
    )?;
    Ok(service)
}

async fn drive(
    client: &Client,
    records: &[DemoRecord],
    out: &mut impl Write,
    mut after: impl FnMut(Step),
) -> Result<()> {
    let digest = back_up(client, records, out).await?;
    after(Step::Backup);
    restore(client, records, &digest, out).await?;
    after(Step::Restore);
    migrate(client, records, &digest, out).await?;
    after(Step::Migrate);
    check(client, records, out).await?;
    after(Step::Check);
    Ok(())
}

/// Returns the digest of what was backed up.
async fn back_up(client: &Client, records: &[DemoRecord], out: &mut impl Write) -> Result<String> {
    say(out, "\n=== Backup Test ===")?;
    let backup = client
        .run("/backups", &json!({"labels": {"made_by": "demo"}}))
        .await?;
    let id = text(&backup, "/id")?;
    say(out, &format!("[OK] Created backup: {id}.json"))?;
    let export: Export = client
        .get(&format!("/backups/{id}/export?format=json"))
        .await?;
    let exported: usize = export
        .collections
        .iter()
        .map(|collection| collection.records.len())
        .sum();
    if exported != records.len() {
        return Err(Error::internal(format!(
            "the backup contains {exported} of {} documents",
            records.len()
        )));
    }
    say(out, &format!("[OK] Backup contains {exported} documents"))?;
    let digest = text(&backup, "/collections/0/digest")?;
    let exported = export
        .collections
        .first()
        .map(|collection| collection.digest.clone());
    same("the export", &digest, &exported.unwrap_or_default())?;
    let live = client.integrity(SOURCE).await?;
    same("the backup", &digest, &text(&live, "/recomputed_digest")?)?;
    let (raw, stored) = (
        number(&backup, "/raw_bytes")?,
        number(&backup, "/stored_bytes")?,
    );
    say(
        out,
        &format!(
            "[OK] Backup, export and collection are equal: digest {}, {raw} bytes stored in {stored}",
            short(&digest)
        ),
    )?;
    Ok(digest)
}

async fn restore(
    client: &Client,
    records: &[DemoRecord],
    digest: &str,
    out: &mut impl Write,
) -> Result<()> {
    say(out, "\n=== Restore Test ===")?;
    let collection = client.collection_id(SOURCE).await?;
    let lost: Vec<&str> = records
        .iter()
        .take(10)
        .map(|record| record.id.as_str())
        .collect();
    client.delete(&collection, &lost).await?;
    let left = client.count(&collection).await?;
    say(
        out,
        &format!(
            "[OK] Lost {} documents on purpose: {left} are left",
            lost.len()
        ),
    )?;
    let outcome = client
        .run(
            "/restore",
            &json!({"backup": "latest", "on_conflict": "replace"}),
        )
        .await?;
    let restored = number(&outcome, "/collections/0/records")?;
    let collection = client.collection_id(SOURCE).await?;
    let counted = client.count(&collection).await?;
    if restored != records.len() as u64 || counted != restored {
        return Err(Error::internal(format!(
            "{restored} of {} documents were restored, {counted} are there",
            records.len()
        )));
    }
    say(
        out,
        &format!("[OK] Restored {restored} documents from backup"),
    )?;
    let live = client.integrity(SOURCE).await?;
    same(
        "the restored collection",
        digest,
        &text(&live, "/recomputed_digest")?,
    )?;
    say(
        out,
        &format!(
            "[OK] Restored collection equals the backup: digest {}",
            short(digest)
        ),
    )
}

async fn migrate(
    client: &Client,
    records: &[DemoRecord],
    digest: &str,
    out: &mut impl Write,
) -> Result<()> {
    say(out, "\n=== Migration Test ===")?;
    let body = json!({"source": {"collection": SOURCE}, "target": {"collection": TARGET}});
    let outcome = client.run("/migrate", &body).await?;
    let migrated = number(&outcome, "/inserted")?;
    if migrated != records.len() as u64 {
        return Err(Error::internal(format!(
            "{migrated} of {} documents were migrated",
            records.len()
        )));
    }
    say(
        out,
        &format!("[OK] Migrated {migrated} documents from '{SOURCE}' to '{TARGET}'"),
    )?;
    let live = client.integrity(TARGET).await?;
    same(
        "the migrated collection",
        digest,
        &text(&live, "/recomputed_digest")?,
    )?;
    let target = client.collection_id(TARGET).await?;
    for record in records.iter().take(10) {
        let found = client.nearest(&target, &record.embedding).await?;
        same(
            "the nearest neighbour of a stored vector",
            &record.id,
            &found,
        )?;
    }
    say(
        out,
        &format!(
            "[OK] Both collections are equal and searchable: digest {}",
            short(digest)
        ),
    )
}

async fn check(client: &Client, records: &[DemoRecord], out: &mut impl Write) -> Result<()> {
    say(out, "\n=== Health Check ===")?;
    let storage: Value = client.get("/health/storage").await?;
    let free = number(&storage, "/checks/storage:disk_free/0/observed_value")?;
    say(
        out,
        &format!("Storage: [OK] {:.1} GB available", free as f64 / 1e9),
    )?;
    let found = client.integrity(TARGET).await?;
    let (checked, orphans) = (
        number(&found, "/checked_records")?,
        number(&found, "/orphans")?,
    );
    if checked != records.len() as u64 || orphans != 0 {
        return Err(Error::internal(format!(
            "the check found {checked} documents and {orphans} orphans"
        )));
    }
    say(
        out,
        &format!("Collection: [OK] {checked} documents, no orphans"),
    )?;
    let embeddings: Value = client
        .get(&format!("/health/embeddings?collection={TARGET}"))
        .await?;
    let sampled = number(
        &embeddings,
        "/checks/embeddings:sample/0/observed_value/checked_records",
    )?;
    if sampled == 0 {
        return Err(Error::internal("the embeddings check looked at nothing"));
    }
    say(out, "Embeddings: [OK] Sample validation passed")?;
    say(out, &format!("[OK] {sampled} embeddings were looked at"))
}

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
