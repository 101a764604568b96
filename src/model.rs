//! Domain types: what collections, records, filters and digests *are*. No I/O, no HTTP, no storage.

pub mod claim;
pub mod collection;
pub mod configuration;
pub mod digest;
pub mod filter;
pub mod metadata;
pub mod names;
pub mod object;
pub mod record;
pub mod schema;
pub mod selector;
pub mod stored;
