//! The demo's restores: a whole collection, then a single record.

use serde_json::json;

use super::backups::Made;
use super::client::{Client, number};
use super::records::DemoRecord;
use super::teller::Teller;
use super::{SOURCE, same, short};
use crate::error::{Error, Result};

/// How many documents are lost.
const LOST: usize = 10;

/// Loses documents and brings the collection back as it was.
pub(super) async fn restore(
    client: &Client,
    records: &[DemoRecord],
    made: &Made,
    teller: &mut Teller<'_>,
) -> Result<()> {
    teller.say("\n=== Restore Test ===")?;
    let collection = client.collection_id(SOURCE).await?;
    let lost: Vec<&str> = records
        .iter()
        .take(LOST)
        .map(|record| record.id.as_str())
        .collect();
    client.delete(&collection, &lost).await?;
    let left = client.count(&collection).await?;
    teller.say(&format!(
        "[OK] Lost {} documents on purpose: {left} are left",
        lost.len()
    ))?;
    let body = json!({"backup": "latest", "on_conflict": "replace"});
    let outcome = teller
        .time("restore", client.run("/restore", &body))
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
    teller.say(&format!("[OK] Restored {restored} documents from backup"))?;
    let live = client.digest(SOURCE).await?;
    same("the restored collection", &made.digest, &live)?;
    teller.say(&format!(
        "[OK] Restored collection equals the backup: digest {}",
        short(&live)
    ))
}

/// Deletes one document and brings just that one back into the live collection.
pub(super) async fn undelete(
    client: &Client,
    records: &[DemoRecord],
    made: &Made,
    teller: &mut Teller<'_>,
) -> Result<()> {
    let collection = client.collection_id(SOURCE).await?;
    let Some(deleted) = records.first() else {
        return Err(Error::internal("there are too few records for this"));
    };
    client.delete(&collection, &[&deleted.id]).await?;
    let body = json!({
        "backup": made.id,
        "collections": [{"name": SOURCE}],
        "on_conflict": "merge",
        "merge_winner": "live",
        "ids": [deleted.id],
    });
    let outcome = teller
        .time("undelete of one document", client.run("/restore", &body))
        .await?;
    let inserted = number(&outcome, "/collections/0/inserted")?;
    if inserted != 1 {
        return Err(Error::internal(format!(
            "{inserted} documents were brought back instead of 1"
        )));
    }
    let live = client.digest(SOURCE).await?;
    same(
        "the collection with the document brought back",
        &made.digest,
        &live,
    )?;
    teller.say(&format!(
        "[OK] Deleted document {} and brought it back alone: digest {}",
        deleted.id,
        short(&live)
    ))
}
