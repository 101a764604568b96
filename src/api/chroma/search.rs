//! `search`, which Chroma's single node checks and then does not offer; so it is here.

use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;

use super::super::error::ChromaError;
use super::super::extract::{ChromaBody, ChromaPath};
use super::bounds::collection_id;
use super::filters;
use crate::app::App;
use crate::error::{Error, Kind, Result};

#[derive(Deserialize)]
struct SearchRequest {
    searches: Vec<Search>,
}

#[derive(Deserialize)]
struct Search {
    filter: Option<Value>,
}

/// Refuses what could not be searched for anywhere, then everything.
pub(super) async fn search_records(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
    body: ChromaBody,
) -> Result<(), ChromaError> {
    let refusal = app
        .blocking(move |app| {
            let descriptor = app.engine().addressed(collection_id(&id)?)?.descriptor;
            let request: SearchRequest = body.parse()?;
            for filter in request.searches.iter().filter_map(|search| search.filter.as_ref()) {
                filters::ensure_indexed(app, &descriptor.definition.schema, filter)?;
            }
            Ok(Error::new(
                Kind::Unimplemented,
                "Error executing plan: Not implemented: Search operation is not implemented for local executor",
            ))
        })
        .await?;
    Err(ChromaError(refusal))
}
