//! The description that is not on the handlers: title, tags, what all operations share, and the finished
//! document.

mod answers;
pub(super) mod configurations;
pub(super) mod filters;
pub(super) mod words;

use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};

use crate::error::{Error, Result};

/// What stands in a path where a backup is meant.
pub(super) const SELECTOR: &str = "A backup's id, `latest` (the newest restorable one), or `before:` and an RFC 3339 time (the newest restorable one of that moment or before)";

/// Tags, as Swagger UI groups by them.
pub(super) const COLLECTIONS: &str = "Collections";
pub(super) const BACKUPS: &str = "Backups";
pub(super) const RESTORE: &str = "Restore";
pub(super) const MIGRATE: &str = "Migrate";
pub(super) const COMPACTIONS: &str = "Compactions";
pub(super) const JOBS: &str = "Jobs";
pub(super) const HEALTH: &str = "Health";
pub(super) const ACCESS: &str = "Access";
pub(super) const METRICS: &str = "Metrics";
pub(super) const CHROMA_SYSTEM: &str = "Chroma: system";
pub(super) const CHROMA_NAMESPACES: &str = "Chroma: tenants and databases";
pub(super) const CHROMA_COLLECTIONS: &str = "Chroma: collections";
pub(super) const CHROMA_RECORDS: &str = "Chroma: records";

pub(super) fn base() -> OpenApi {
    let tags = [
        (COLLECTIONS, "What is stored, over all tenants."),
        (BACKUPS, "Consistent online backups: make, list, export."),
        (
            RESTORE,
            "Built aside, proved equal to the backup, made visible in one step.",
        ),
        (
            MIGRATE,
            "Copy a collection to another name or environment, proved equal.",
        ),
        (
            COMPACTIONS,
            "Give back space that the store no longer needs.",
        ),
        (JOBS, "Every long verb is a job."),
        (
            HEALTH,
            "Checks that read real bytes and say how much they looked at.",
        ),
        (ACCESS, "Who may do what."),
        (METRICS, "For Prometheus, and alerts that are built on it."),
        (CHROMA_SYSTEM, "Chroma's HTTP API v2."),
        (CHROMA_NAMESPACES, "Chroma's HTTP API v2."),
        (CHROMA_COLLECTIONS, "Chroma's HTTP API v2."),
        (CHROMA_RECORDS, "Chroma's HTTP API v2."),
    ]
    .map(|(name, description)| {
        TagBuilder::new()
            .name(name)
            .description(Some(description))
            .build()
    });
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("vectorkeep")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(env!("CARGO_PKG_DESCRIPTION")))
                .license(Some(
                    LicenseBuilder::new()
                        .name("Apache-2.0")
                        .identifier(Some("Apache-2.0"))
                        .build(),
                ))
                .build(),
        )
        .tags(Some(tags))
        .build()
}

/// Adds what all operations share.
pub(super) fn complete(mut spec: OpenApi) -> OpenApi {
    answers::complete(&mut spec);
    spec
}

/// The whole description as JSON, as `openapi/openapi.json` holds it.
///
/// # Errors
/// `Internal` when it cannot be encoded.
pub fn spec_json() -> Result<String> {
    let (_, spec) = super::routes::described();
    let mut text = spec
        .to_pretty_json()
        .map_err(|error| Error::internal("the description cannot be encoded").because(error))?;
    text.push('\n');
    Ok(text)
}
