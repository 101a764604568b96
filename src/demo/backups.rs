//! The demo's backups: a full one, an incremental one, read again, and rehearsed.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::client::{Client, Export, number, text};
use super::records::DemoRecord;
use super::teller::Teller;
use super::{SOURCE, same, short};
use crate::error::{Error, Result};

/// A backup, and the digest of the collection in it.
pub(super) struct Made {
    pub(super) id: String,
    pub(super) digest: String,
    new_bytes: u64,
}

impl Made {
    fn new(backup: &Value) -> Result<Self> {
        Ok(Self {
            id: text(backup, "/id")?,
            digest: text(backup, "/collections/0/digest")?,
            new_bytes: number(backup, "/new_bytes")?,
        })
    }
}

/// Makes a full backup, and compares it with its export and with what is live.
pub(super) async fn back_up(
    client: &Client,
    records: &[DemoRecord],
    teller: &mut Teller<'_>,
) -> Result<Made> {
    teller.say("\n=== Backup Test ===")?;
    let body = json!({"labels": {"made_by": "demo"}});
    let backup = teller
        .time("full backup", client.run("/backups", &body))
        .await?;
    let made = Made::new(&backup)?;
    let id = &made.id;
    teller.say(&format!("[OK] Created backup: {id}.json"))?;
    let path = format!("/backups/{id}/export?format=json");
    let export: Export = teller.time("export as JSON", client.get(&path)).await?;
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
    teller.say(&format!("[OK] Backup contains {exported} documents"))?;
    let exported = export
        .collections
        .first()
        .map(|collection| collection.digest.clone());
    same("the export", &made.digest, &exported.unwrap_or_default())?;
    let live = client.digest(SOURCE).await?;
    same("the backup", &made.digest, &live)?;
    let (raw, stored) = (
        number(&backup, "/raw_bytes")?,
        number(&backup, "/stored_bytes")?,
    );
    teller.say(&format!(
        "[OK] Backup, export and collection are equal: digest {}, {raw} bytes stored in {stored}",
        short(&live)
    ))?;
    Ok(made)
}

/// Flips one bit in the middle of a pack, as a disk might.
pub(super) fn damage(directory: &Path, teller: &mut Teller<'_>) -> Result<()> {
    let spoil = |pack: &Path| {
        let mut bytes = fs::read(pack)?;
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        fs::write(pack, bytes)
    };
    let pack = first_pack(&directory.join("backups/packs"))?
        .ok_or_else(|| Error::internal("the backup has no pack to damage"))?;
    spoil(&pack).map_err(|error| {
        Error::internal(format!("{} cannot be changed: {error}", pack.display()))
    })?;
    teller.say(&format!(
        "[OK] Flipped one bit of {} on purpose",
        pack.display()
    ))
}

fn first_pack(packs: &Path) -> Result<Option<PathBuf>> {
    let entries = |directory: &Path| -> Result<Vec<PathBuf>> {
        let unreadable = |error: std::io::Error| {
            Error::internal(format!("{} cannot be read: {error}", directory.display()))
        };
        let entries = fs::read_dir(directory).map_err(unreadable)?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        paths.collect::<std::io::Result<_>>().map_err(unreadable)
    };
    for directory in entries(packs)? {
        if let Some(pack) = entries(&directory)?.into_iter().next() {
            return Ok(Some(pack));
        }
    }
    Ok(None)
}

/// Updates, adds and deletes one record, and backs up what changed.
pub(super) async fn increment(
    client: &Client,
    records: &[DemoRecord],
    full: &Made,
    teller: &mut Teller<'_>,
) -> Result<Made> {
    teller.say("\n=== Incremental Backup Test ===")?;
    let collection = client.collection_id(SOURCE).await?;
    let [.., updated, deleted] = records else {
        return Err(Error::internal("there are too few records for this"));
    };
    let updated = updated.with("updated", &updated.id);
    let added = deleted.with("added", &format!("{}-again", deleted.id));
    client.upsert(&collection, &[updated, added]).await?;
    client.delete(&collection, &[&deleted.id]).await?;
    teller.say("[OK] Changed 3 documents: 1 updated, 1 added, 1 deleted")?;
    let body = json!({"kind": "incremental", "labels": {"made_by": "demo"}});
    let backup = teller
        .time("incremental backup", client.run("/backups", &body))
        .await?;
    let made = Made::new(&backup)?;
    let counts = (
        text(&backup, "/parent")?,
        number(&backup, "/new_records")?,
        number(&backup, "/tombstones")?,
        number(&backup, "/records")?,
    );
    let expected = (full.id.clone(), 2, 1, records.len() as u64);
    if counts != expected {
        return Err(Error::internal(format!(
            "parent, new records, deletions and records of the backup are {counts:?} instead of {expected:?}"
        )));
    }
    let live = client.digest(SOURCE).await?;
    same("the incremental backup", &made.digest, &live)?;
    if live == full.digest {
        return Err(Error::internal("the digest did not change with the data"));
    }
    teller.say(&format!(
        "[OK] Created incremental backup: {}.json, 2 records and 1 deletion, {} bytes ({:.1} % of the full one's), digest {}",
        made.id,
        made.new_bytes,
        100.0 * made.new_bytes as f64 / full.new_bytes.max(1) as f64,
        short(&live)
    ))?;
    Ok(made)
}

/// Reads every record of a backup again.
pub(super) async fn verify(client: &Client, made: &Made, teller: &mut Teller<'_>) -> Result<()> {
    teller.say("\n=== Verification and Drill ===")?;
    let path = format!("/backups/{}/verify", made.id);
    let found = teller
        .time("verification", client.run(&path, &json!({})))
        .await?;
    let (packs, checked, bytes) = (
        number(&found, "/checked_packs")?,
        number(&found, "/checked_records")?,
        number(&found, "/checked_bytes")?,
    );
    if checked == 0 {
        return Err(Error::internal("the verification looked at nothing"));
    }
    teller.say(&format!(
        "[OK] Verified: {checked} documents in {packs} packs, {bytes} bytes read, every record hashed"
    ))
}

/// Restores a backup aside, compares, queries and drops it.
pub(super) async fn rehearse(client: &Client, made: &Made, teller: &mut Teller<'_>) -> Result<()> {
    let body = json!({"backup": made.id});
    let found = teller.time("drill", client.run("/drills", &body)).await?;
    let (checked, queries) = (
        number(&found, "/checked_records")?,
        number(&found, "/queries")?,
    );
    if checked == 0 || queries == 0 {
        return Err(Error::internal("the drill looked at nothing"));
    }
    teller.say(&format!(
        "[OK] Drill: {checked} documents restored aside and compared, {queries} queries as by brute force, first answer after {} ms",
        number(&found, "/first_query_ms")?
    ))
}
