//! vectorkeep: a vector database service that can prove its data is safe.
//!
//! It stores collections of embeddings with documents and metadata in an embedded store, speaks Chroma's
//! HTTP API v2, backs up online, restores all-or-nothing, migrates with a proof of equality, and checks
//! its own health by reading real bytes.
//!
//! # Layers
//!
//! Downwards only: `api` → `app` → `jobs`, `health`, `access` → `operations` → `engine` | `repository` | `environments` →
//! `model`, `error`. The three in the middle never import each other: only `operations` joins them. axum,
//! tower-http and utoipa are named only in [`api`], sled only in `engine/store`, object_store only in
//! `repository/backend`. What is measured is named, and counted in [`meters`], where it happens: in `engine`, `jobs`, `app`
//! and `api`; nothing else names the `metrics` crates.
//!
//! # A query, traced
//!
//! `POST …/collections/{id}/query` passes `api/layers` (request id, bounds), is extracted as bytes by
//! `api/extract`, parsed on a blocking thread by `api/chroma/reads`, held against the schema by
//! `api/chroma/filters`, answered by [`engine::Engine::query`]: the filter picks candidates, `search`
//! compares their rounded vectors in memory and in full those that may be near, the few winners are read
//! from the store and checked; the answer is encoded on the same thread.
//!
//! # A backup, traced
//!
//! `POST /backups` makes a [`operations::backup::plan`], submits a job and answers 202. The job calls
//! [`operations::backup::execute`]: an [`engine::Cut`] copies collections while writes go on, layer by
//! layer, into packs ([`repository::pack`]); its last round under the write lock is the backup's moment;
//! the store is synced up to it; the manifest is put last, create-only, and that put is the commit. The
//! store then keeps a marker of what the backup holds, which the next one's cut starts from.

//!
//! # A migration from another server, traced
//!
//! `POST /migrate` makes a [`operations::migrate::plan`]: both ends are asked what is there. The job's thread reads pages
//! through an [`environments::Source`] and hands them to the one that writes into a collection without a name, behind an
//! [`environments::Target`]; a checkpoint in the store says how far that is. At the end both sides are read again, and only
//! equal digests lead to the name.

pub mod access;
pub mod api;
pub mod app;
pub mod background;
pub mod config;
pub mod demo;
pub mod disk;
pub mod engine;
pub mod environments;
pub mod error;
pub mod health;
pub mod jobs;
pub mod meters;
pub mod model;
pub mod offline;
pub mod operations;
pub mod probe;
pub mod progress;
pub mod repository;
pub mod telemetry;
