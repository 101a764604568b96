//! HTTP: routes, extraction, errors, OpenAPI. The only layer that knows axum, tower-http and utoipa.

mod access;
mod backups;
mod bodies;
mod chroma;
mod collections;
mod compactions;
mod connections;
mod drills;
mod environments;
mod error;
mod events;
mod export;
mod extract;
mod health;
mod imports;
mod jobs;
mod keys;
mod layers;
mod measure;
mod metrics;
mod migrations;
mod newline;
mod openapi;
mod paced;
mod page;
mod prefix;
mod prunings;
mod restores;
mod routes;
mod serve;
mod tls;
mod verifications;
mod wording;

pub use openapi::spec_json;
pub use routes::router;
pub use serve::serve;
