//! vectorkeep: a vector database service that can prove its data is safe.
//!
//! It stores collections of embeddings with documents and metadata in an embedded store, speaks Chroma's
//! HTTP API v2, backs up online, restores all-or-nothing, migrates with a proof of equality, and checks
//! its own health by reading real bytes.
//!
//! # Layers
//!
//! Downwards only: `api` → `app` → `jobs`, `health`, `access` → `operations` → `engine` | `repository` | `environments` →
//! `model`, `error`. The three in the middle never import each other: only `operations` joins them. Below them all, and
//! used by any: `progress` (how far work is, and its cancel), `disk`, `background`, `metrics`, `settings` (reads values). `config` is read at the top
//! and handed down as values; `access`, `health` and `telemetry` take their section of it. `cli` is the command line;
//! `demo`, `offline` and `probe` are what the program does besides serving. `tls` is what connections are made of.
//!
//! The crate `vectorkeep-kernel` below `kernel/` compares vectors; it knows nothing else.
//!
//! axum, tower-http and utoipa are named only in [`api`], sled only in `engine/store`, object_store only in
//! `repository/backend`. What is measured is named, and counted in `metrics`, where it happens: in `engine`, `jobs`, `app`
//! and `api`; nothing else names the `metrics` crates.
//!
//! # A request, traced
//!
//! `POST …/collections/{id}/query`: `api/serve` accepts the connection, `api/layers` gives the request its id, `api/access` asks
//! whether this key may, `api/bodies` receives the body before it takes one of the places. `api/extract` hands the bytes to
//! `api/chroma/reads`, which parses them on a thread for data ([`app::App::blocking`]); `api/chroma/filters` holds the
//! filter against the schema; [`engine::Engine::query`] answers: the filter picks candidates from the metadata in memory,
//! `engine/search/exact` compares their quantized codes and, in full, those that may be near; the few winners are read from the
//! store, each against its checksum. The answer is encoded on the same thread.
//!
//! A write goes the same way into [`engine::Engine::write`]: under the one write lock it is checked, hashed into the
//! collection's digest, committed as one transaction of sled and published to readers; then, without the lock, it waits for
//! the sync that it shares with others, and only then is it acknowledged.
//!
//! # A backup, traced
//!
//! `POST /backups` calls [`app::verbs::backup::plan`] (the names exist, the room is there), [`app::App::submit`] records the job, and
//! 202 is the answer; the record holds an [`app::verbs::Outcome`] at the end, and `api/outcomes` makes the answer of it. On a worker, [`operations::backup::execute`] takes the repository's lock, finds parents, and lets
//! [`engine::Engine::begin_snapshot_since`] take a snapshot of the store: round by round, while writes go on, records go through `operations/packer` into packs
//! ([`repository::pack`]), compressed on threads that give way to requests; the last round, under the write lock, is small, and
//! is the backup's moment. The store is synced up to it. The manifest is put last, create-only: that put is the commit. A
//! marker in the store says what the backup holds; the next one's snapshot starts from it.
//!
//! # A migration from another server, traced
//!
//! `POST /migrate` calls [`app::verbs::migration::plan`]: both ends are asked what is there. The job's thread reads pages
//! through an [`environments::Source`] and hands them to the one that writes into a collection without a name, behind an
//! [`environments::Target`]; a checkpoint in the store says how far that is. At the end both sides are read again, and only
//! equal digests lead to the name.

pub mod access;
pub mod api;
pub mod app;
pub(crate) mod background;
pub mod cli;
pub mod config;
pub mod demo;
pub(crate) mod disk;
pub mod engine;
pub mod environments;
pub mod error;
pub mod health;
pub mod jobs;
pub(crate) mod metrics;
pub mod model;
pub mod offline;
pub mod operations;
pub mod probe;
pub mod progress;
pub mod repository;
pub(crate) mod settings;
pub mod telemetry;
pub mod tls;
