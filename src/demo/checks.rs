//! The demo's health checks, with what each looked at.

use serde_json::Value;

use super::TARGET;
use super::client::{Client, number, text};
use super::records::DemoRecord;
use super::teller::Teller;
use crate::error::{Error, Result};

/// Runs every deep check.
pub(super) async fn check(
    client: &Client,
    records: &[DemoRecord],
    teller: &mut Teller<'_>,
) -> Result<()> {
    teller.say("\n=== Health Check ===")?;
    storage(client, teller).await?;
    collections(client, records, teller).await?;
    embeddings(client, teller).await?;
    let health: Value = client.get("/health").await?;
    let verified = text(&health, "/checks/backups:last_verified_age/0/output")?;
    teller.say(&format!(
        "[OK] Service: status {}, {verified}",
        text(&health, "/status")?
    ))
}

async fn storage(client: &Client, teller: &mut Teller<'_>) -> Result<()> {
    let storage: Value = teller
        .time("check of the storage", client.get("/health/storage"))
        .await?;
    let observed = |check: &str| format!("/checks/{check}/0/observed_value");
    let free = number(&storage, &observed("storage:disk_free"))?;
    teller.say(&format!(
        "Storage: [OK] {:.1} GB available",
        free as f64 / 1e9
    ))?;
    teller.say(&format!(
        "[OK] Looked at {}: access {}, a file written, synced and read back in {} ms; {} bytes of data; repository {}",
        text(&storage, &observed("storage:data_dir"))?,
        text(&storage, &observed("storage:permissions"))?,
        number(&storage, &observed("storage:write_latency"))?,
        number(&storage, &observed("storage:used"))?,
        text(&storage, &observed("repository:reachable"))?
    ))
}

/// The sum of a number over all observations of a check.
fn sum(report: &Value, check: &str, member: &str) -> Result<u64> {
    let observations = report
        .pointer(&format!("/checks/{check}"))
        .and_then(Value::as_array);
    let pointer = format!("/observed_value/{member}");
    let observations = observations.into_iter().flatten();
    let numbers = observations.map(|observation| number(observation, &pointer));
    numbers.sum()
}

async fn collections(
    client: &Client,
    records: &[DemoRecord],
    teller: &mut Teller<'_>,
) -> Result<()> {
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
    teller.say(&format!("Collection: [OK] {checked} documents, no orphans"))?;
    let all: Value = teller
        .time(
            "check of all collections",
            client.get("/health/collections"),
        )
        .await?;
    let integrity = |member| sum(&all, "collections:integrity", member);
    teller.say(&format!(
        "[OK] Looked at {} collections: {} records and {} ids read, {} bytes hashed, {} damaged, digests recomputed",
        number(&all, "/checks/collections:checked/0/observed_value")?,
        integrity("checked_records")?,
        integrity("checked_ids")?,
        integrity("checked_bytes")?,
        integrity("damaged")?
    ))
}

async fn embeddings(client: &Client, teller: &mut Teller<'_>) -> Result<()> {
    let path = format!("/health/embeddings?collection={TARGET}");
    let report: Value = teller
        .time("check of embeddings", client.get(&path))
        .await?;
    let sample = |member| sum(&report, "embeddings:sample", member);
    let sampled = sample("checked_records")?;
    if sampled == 0 {
        return Err(Error::internal("the embeddings check looked at nothing"));
    }
    teller.say("Embeddings: [OK] Sample validation passed")?;
    teller.say(&format!("[OK] {sampled} embeddings were looked at"))?;
    teller.say(&format!(
        "[OK] Of {} records of dimension {}: all finite, {} of norm 0, {} found again by the search as their own nearest",
        sample("records")?,
        sample("dimension")?,
        sample("zero_norm")?,
        sample("self_queries")?
    ))
}
