//! Commands that print what they find: as text for people, or as JSON for programs.

use std::io::{self, Write};

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{Exit, HealthArguments, KeyArguments, RepositoryArguments};
use crate::access::{Role, new_key};
use crate::api;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::offline::{self, Listing};
use crate::operations::verify::VerificationOutcome;
use crate::probe::{self, Probe, Question};
use crate::repository::{Restorable, Standing};

/// Prints the OpenAPI description.
///
/// # Errors
/// `Internal` when it cannot be encoded or printed.
pub fn openapi() -> Result<Exit> {
    say(&api::spec_json()?)?;
    Ok(Exit::Fine)
}

/// Makes a key and prints it.
///
/// # Errors
/// `InvalidArgument` for a name, role and scope that do not go together.
#[expect(
    clippy::print_stderr,
    reason = "the key goes where no file of keys catches it"
)]
pub fn key(arguments: KeyArguments) -> Result<Exit> {
    let KeyArguments {
        name,
        role,
        tenant,
        database,
        json,
    } = arguments;
    let databases = (!database.is_empty()).then(|| database.iter().cloned().collect());
    let key = new_key(&name, Role::parse(&role)?, tenant.clone(), databases)?;
    if json {
        let shown = json!({"name": name, "role": role, "tenant": tenant, "databases": database,
            "key": key.secret, "entry": key.entry});
        say_json(&shown)?;
    } else {
        eprintln!("{}", key.secret);
        say(&key.entry)?;
    }
    Ok(Exit::Fine)
}

/// Asks a service for its health; prints its status, and a line for each check that does not pass.
///
/// # Errors
/// `RemoteUnavailable` when it does not answer, `InvalidArgument` for a file that cannot be used.
pub async fn health(arguments: HealthArguments) -> Result<Exit> {
    let url = match &arguments.url {
        Some(url) => url.clone(),
        None => probe::own_url(&Config::load(None)?),
    };
    let key = arguments.key_file.as_ref().map(|file| {
        let unusable = |error| Error::invalid(format!("{}: {error}", file.display()));
        std::fs::read_to_string(file).map_err(unusable)
    });
    let key = key.transpose()?;
    let answer = probe::ask(&Question {
        url: &url,
        ca_file: arguments.ca_file.as_deref(),
        key: key.as_deref().map(str::trim),
        probe: arguments.probe(),
    })
    .await?;
    if arguments.json {
        say_json(&answer.body)?;
    } else {
        let reasons = answer.reasons().into_iter();
        let lines: Vec<String> = std::iter::once(answer.status.clone())
            .chain(reasons)
            .collect();
        say(&(lines.join("\n") + "\n"))?;
    }
    let reasons_asked = key.is_some() && arguments.probe() == Probe::Overview;
    if reasons_asked && answer.body.get("checks").is_none_or(Value::is_null) {
        tell(&format!(
            "{url} shows no reasons: it does not know this key, or the key is limited to a tenant"
        ));
    }
    Ok(match answer.status.as_str() {
        "pass" => Exit::Fine,
        "warn" => Exit::Warn,
        _ => Exit::Failed,
    })
}

/// Prints the backups of a repository.
///
/// # Errors
/// As [`offline::list`].
pub async fn list_backups(place: RepositoryArguments, json: bool) -> Result<Exit> {
    let listing = blocking(move |runtime| offline::list(&place.config()?, runtime)).await?;
    if json {
        say_json(&listing_json(&listing))?;
    } else {
        say(&listing_text(&listing))?;
    }
    let known = |(_, standing): &(_, Standing)| standing.restorable == Restorable::Damaged;
    Ok(
        if listing.damaged.is_empty() && !listing.backups.iter().any(known) {
            Exit::Fine
        } else {
            Exit::Damaged
        },
    )
}

/// Verifies a backup and prints what was found.
///
/// # Errors
/// As [`offline::verify`].
pub async fn verify_backup(
    place: RepositoryArguments,
    backup: String,
    level: String,
    json: bool,
) -> Result<Exit> {
    let level = offline::level(&level)?;
    let verify = move |runtime| offline::verify(&place.config()?, &backup, level, runtime);
    let outcome = blocking(verify).await?;
    if json {
        say_json(&json!(outcome))?;
    } else {
        say(&verification_text(&outcome))?;
    }
    Ok(if outcome.ok {
        Exit::Fine
    } else {
        Exit::Damaged
    })
}

fn listing_json(listing: &Listing) -> Value {
    let backups = listing.backups.iter().map(|(manifest, standing)| {
        json!({"id": manifest.id, "kind": manifest.kind, "parent": manifest.parent, "as_of": manifest.created_at,
            "requested_at": manifest.requested_at(), "created_at": manifest.created_at,
            "records": manifest.totals.records, "stored_bytes": manifest.totals.stored_bytes, "pinned": manifest.pinned,
            "labels": manifest.labels, "restorable": standing.restorable, "damaged_packs": standing.damaged_packs.len(),
            "damaged_collections": standing.damaged_collections, "verification": standing.verification})
    });
    let backups: Vec<Value> = backups.collect();
    let damaged = listing.damaged.iter();
    let damaged = damaged.map(|(id, error)| (id.clone(), Value::from(error.message())));
    json!({"backups": backups, "damaged": damaged.collect::<serde_json::Map<_, _>>()})
}

fn listing_text(listing: &Listing) -> String {
    let backups = listing.backups.iter().map(|(manifest, standing)| {
        format!(
            "{}  {:11}  {:>10} records  {:>13} bytes  {}\n",
            manifest.id,
            manifest.kind,
            manifest.totals.records,
            manifest.totals.stored_bytes,
            known(standing)
        )
    });
    let damaged = listing.damaged.iter();
    let damaged = damaged.map(|(id, error)| format!("{id}  DAMAGED: {error}\n"));
    backups.chain(damaged).collect()
}

/// What is known of a backup: damage that was found by looking at another one counts as well.
fn known(standing: &Standing) -> String {
    let seen = standing.verification.as_ref().map_or_else(
        || "never verified".to_owned(),
        |verification| {
            format!(
                "{} at {} ({:?})",
                if verification.ok { "sound" } else { "DAMAGED" },
                verification.at.format("%Y-%m-%d %H:%M:%S"),
                verification.level
            )
        },
    );
    match standing.damaged_packs.len() {
        0 => seen,
        packs => format!("DAMAGED: {packs} of its packs; {seen}"),
    }
}

fn verification_text(outcome: &VerificationOutcome) -> String {
    let id = &outcome.backup;
    let mut lines = outcome.problems.clone();
    lines.push(format!(
        "{id}: {} packs, {} records, {} bytes looked at",
        outcome.checked_packs, outcome.checked_records, outcome.checked_bytes
    ));
    let found = if outcome.ok { "sound" } else { "DAMAGED" };
    lines.push(format!("{id}: {found}\n"));
    lines.join("\n")
}

/// Reads a repository on a thread that may wait.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce(Handle) -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(|| read(Handle::current()))
        .await
        .unwrap_or_else(|error| Err(Error::internal("the command panicked").because(error)))
}

fn say_json(value: &Value) -> Result<()> {
    say(&format!("{value:#}\n"))
}

/// Something beside the result.
#[expect(clippy::print_stderr, reason = "the result goes to standard output")]
fn tell(text: &str) {
    eprintln!("vectorkeep: {text}");
}

/// A pipe that is closed (`… | head`) is an error, no panic.
fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::internal("standard output is closed").because(error))
}
