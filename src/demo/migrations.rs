//! The demo's migrations: to another name, and to another instance and back.

use serde_json::json;

use super::client::{Client, number, text};
use super::records::DemoRecord;
use super::teller::Teller;
use super::{ELSEWHERE, SOURCE, TARGET, same, short};
use crate::error::{Error, Result};

const RETURNED: &str = "returned";

/// Copies the collection to another name of the same store.
pub(super) async fn migrate(
    client: &Client,
    records: &[DemoRecord],
    digest: &str,
    teller: &mut Teller<'_>,
) -> Result<()> {
    teller.say("\n=== Migration Test ===")?;
    let body = json!({"source": {"collection": SOURCE}, "target": {"collection": TARGET}});
    let outcome = teller
        .time("migration to another name", client.run("/migrate", &body))
        .await?;
    let migrated = number(&outcome, "/inserted")?;
    if migrated != records.len() as u64 {
        return Err(Error::internal(format!(
            "{migrated} of {} documents were migrated",
            records.len()
        )));
    }
    teller.say(&format!(
        "[OK] Migrated {migrated} documents from '{SOURCE}' to '{TARGET}'"
    ))?;
    let live = client.digest(TARGET).await?;
    same("the migrated collection", digest, &live)?;
    let target = client.collection_id(TARGET).await?;
    for record in records.iter().take(10) {
        let found = client.nearest(&target, &record.embedding).await?;
        same(
            "the nearest neighbour of a stored vector",
            &record.id,
            &found,
        )?;
    }
    teller.say(&format!(
        "[OK] Both collections are equal and searchable: digest {}",
        short(&live)
    ))
}

/// Copies the collection to another instance, and from there back under a third name.
pub(super) async fn out_and_back(
    client: &Client,
    elsewhere: &Client,
    digest: &str,
    teller: &mut Teller<'_>,
) -> Result<()> {
    let there = json!({"environment": ELSEWHERE, "collection": SOURCE});
    let legs = [
        (
            "migration to another instance",
            json!({"source": {"collection": SOURCE}, "target": there}),
        ),
        (
            "migration back from it",
            json!({"source": there, "target": {"collection": RETURNED}}),
        ),
    ];
    let mut moved = Vec::new();
    for (what, body) in &legs {
        let outcome = teller.time(what, client.run("/migrate", body)).await?;
        same(what, digest, &text(&outcome, "/source_digest")?)?;
        same(what, digest, &text(&outcome, "/target_digest")?)?;
        moved.push(number(&outcome, "/inserted")?);
    }
    // Not what the migrations say of themselves.
    for (what, client, name) in [
        ("the collection elsewhere", elsewhere, SOURCE),
        ("the collection that came back", client, RETURNED),
    ] {
        same(what, digest, &client.digest(name).await?)?;
    }
    let [out, back] = moved[..] else {
        return Err(Error::internal("two migrations were made"));
    };
    teller.say(&format!(
        "[OK] Migrated {out} documents to another instance and {back} back: all digests {}",
        short(digest)
    ))
}
