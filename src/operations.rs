//! The verbs. Each plans first (the plan finds conflicts and missing room before anything is touched),
//! then executes the plan. Only here engine and repository meet.

pub mod backup;
pub mod compact;
pub mod conflict;
pub mod delete;
pub mod drill;
mod duplicates;
pub mod export;
pub mod fork;
pub mod import;
mod ledger;
mod merge;
pub mod migrate;
mod namespaces;
pub mod packer;
mod proof;
pub mod prune;
pub mod restore;
mod stage;
pub mod verify;
