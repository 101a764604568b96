//! Ids in requests.

use uuid::Uuid;

use crate::app::App;
use crate::error::{Error, Kind, Result};

/// The collection id of a record route.
pub(super) fn collection_id(text: &str) -> Result<Uuid> {
    Uuid::parse_str(text).map_err(|_| Error::invalid("Collection ID is not a valid UUIDv4"))
}

/// Bounds the ids of a request.
pub(in crate::api) fn check_ids(app: &App, ids: Option<&[String]>) -> Result<()> {
    let most = app.config().query.max_ids;
    if ids.is_some_and(|ids| ids.len() > most) {
        return Err(Error::new(
            Kind::TooLarge,
            format!("a request may name {most} ids (query.max_ids)"),
        ));
    }
    Ok(())
}
