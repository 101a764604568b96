//! Crash tests: the real binary under load, killed by SIGKILL at random instants, started again on the
//! same data directory and repository, and looked at over HTTP. Round after round on the same data.
//!
//! What is proven after every kill:
//! - Every acknowledged write is there with exactly its content, every acknowledged delete stays deleted;
//!   of what was under way, each batch is there whole or not at all ([`load`]). The same of collections
//!   that are created and dropped ([`turnover`]).
//! - Count, digest, ids, records and memory of every collection agree, nothing is orphaned, and exactly
//!   the expected collections exist ([`checks`]).
//! - A fresh backup and its export have the collections' digests and records, and the sequence never goes
//!   down ([`writes`]).
//! - Killed while it makes a backup: only complete backups are listed, earlier ones are unharmed, and no
//!   batch is torn inside one ([`backups`]).
//! - Killed while it restores or migrates: all targets of the request are old or all are new, jobs do not
//!   stay running, nothing staged is left ([`restores`], [`migrations`]).
//! - Killed while it merges a backup into what is being written to: the same, and no write is lost ([`merges`]).
//! - Killed while it drills: nothing that is visible changes, and no backup counts as rehearsed that was not
//!   ([`drills`]).
//! - Killed while it migrates to another service or from there: the same as here, and the same request goes on
//!   and leaves nothing behind on either side ([`environments`]).
//! - Killed while it deletes and prunes backups: every listed backup is whole, what had to stay is there, and
//!   nothing that nobody needs stays for ever ([`retention`]).
//! - Killed while it compacts: nothing is lost, and one store directory is left ([`compactions`]).
//!
//! Every connection that breaks after the kill is an unknown outcome; one that breaks before is a failure.
//!
//! `VECTORKEEP_CRASH_ROUNDS` sets the number of rounds of [`writes`] (the others run a third of it),
//! `VECTORKEEP_CRASH_SEED` the seed of everything that is random (`.ci/run` takes it from the commit). Where a kill lands
//! depends on the machine too, so a seed repeats the load and the delays, not the instant. A seed that failed is kept in
//! [`pinned`].

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests: a panic is the failure, and what they saw is worth reading"
)]

#[path = "crash/backups.rs"]
mod backups;
#[path = "crash/campaign.rs"]
mod campaign;
#[path = "crash/checks.rs"]
mod checks;
#[path = "crash/compactions.rs"]
mod compactions;
#[path = "crash/drills.rs"]
mod drills;
#[path = "crash/environments.rs"]
mod environments;
#[path = "crash/load.rs"]
mod load;
#[path = "crash/merges.rs"]
mod merges;
#[path = "crash/migrations.rs"]
mod migrations;
#[path = "crash/pinned.rs"]
mod pinned;
#[path = "crash/random.rs"]
mod random;
#[path = "crash/records.rs"]
mod records;
#[path = "crash/restores.rs"]
mod restores;
#[path = "crash/retention.rs"]
mod retention;
#[path = "crash/service.rs"]
mod service;
#[path = "crash/turnover.rs"]
mod turnover;
#[path = "crash/writes.rs"]
mod writes;
