//! Making a backup of a document.

use chrono::Utc;
use tempfile::TempPath;

use super::{BackupOutcome, Outcome, Planned};
use crate::app::App;
use crate::disk::check_room;
use crate::error::Result;
use crate::jobs::JobKind;
use crate::operations::import::{self, DocumentFormat};

/// A document that has arrived whole.
pub struct ImportRequest {
    /// The file that it is in.
    pub document: TempPath,
    /// How long it is.
    pub bytes: u64,
    /// How it is written; by its looks without.
    pub format: Option<DocumentFormat>,
}

/// Plans an import. The document is read when it runs.
///
/// # Errors
/// Where the repository takes nothing, or has not the room.
pub fn plan(app: &App, request: ImportRequest) -> Result<Planned> {
    let received_at = Utc::now();
    let (repository, settings) = (app.repository()?, app.import_settings());
    repository.probe()?;
    check_room(repository.available_bytes()?, request.bytes)?;
    Ok(Planned::new(JobKind::Import, "", move |progress| {
        let (path, format) = (&*request.document, request.format);
        let manifest =
            import::execute(&repository, path, format, &settings, received_at, progress)?;
        Ok(Outcome::Backup(Box::new(BackupOutcome::from(&manifest))))
    }))
}
