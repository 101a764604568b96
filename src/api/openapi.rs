//! The description that is not on the handlers: title, tags, what all operations share, and the finished
//! document.

mod answers;
pub(super) mod configurations;
pub(super) mod filters;
pub(super) mod words;

use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};

use super::route_list::Requirements;
use super::tags::{
    ACCESS, BACKUPS, CHROMA_COLLECTIONS, CHROMA_NAMESPACES, CHROMA_RECORDS, CHROMA_SYSTEM,
    COLLECTIONS, COMPACTIONS, HEALTH, JOBS, METRICS, MIGRATE, RESTORE,
};

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
pub(super) fn complete(mut spec: OpenApi, requirements: &Requirements) -> OpenApi {
    answers::complete(&mut spec, requirements);
    spec
}
