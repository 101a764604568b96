//! Integration tests: a real service on a free port, with its own directories, spoken to over HTTP.
//!
//! One file per resource. What is true of the world is looked at through the interface or in the files;
//! expectations come from brute force, from a model, or from recorded truth, never from the code itself.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod access;
mod backups;
mod chroma;
mod collections;
mod compactions;
mod conventions;
mod demo;
mod documents;
mod drills;
mod environments;
mod formats;
mod harness;
mod health;
mod jobs;
mod metrics;
mod migrate;
mod model;
mod openapi;
mod restore;
mod start;
