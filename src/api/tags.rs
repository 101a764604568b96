//! Words that the descriptions of routes have in common.

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
