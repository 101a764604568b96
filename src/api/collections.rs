//! `GET /collections`: what is stored, over all tenants, with counts and digests. (Chroma's API lists one
//! database at a time, and knows no digests.)

use axum::extract::State;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;
use super::extract::OperationQuery;
use super::jobs::page_limit;
use super::outcomes::CollectionSummary;
use super::tags::COLLECTIONS;
use crate::access::Caller;
use crate::app::App;
use crate::engine::CollectionInfo;
use crate::error::{Error, Result};
use crate::model::names::CollectionName;

/// Which collections to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListCollectionsQuery {
    /// At most this many, 1 to 1000; 100 without.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of collections.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CollectionsResponse {
    /// By tenant, database and name.
    collections: Vec<CollectionSummary>,
    /// Where the next page begins; null on the last.
    next_cursor: Option<String>,
}

/// List collections of all tenants, with digests
///
/// From memory. Each line is true by itself; the page is not of one moment. A limited key sees what it may
/// reach.
#[utoipa::path(get, path = "/collections", tag = COLLECTIONS, params(ListCollectionsQuery),
    responses((status = 200, body = CollectionsResponse), (status = 422, description = "A bad parameter")))]
pub(super) async fn list_all_collections(
    State(app): State<App>,
    OperationQuery(query): OperationQuery<ListCollectionsQuery>,
    caller: Option<Extension<Caller>>,
) -> Result<Json<CollectionsResponse>, Problem> {
    let limit = page_limit(query.limit)?;
    let after = query.cursor.as_deref().map(name_at).transpose()?;
    let scope = caller.as_ref().and_then(|caller| caller.scope.as_deref());
    let mut page = app
        .engine()
        .collections_after(after.as_ref(), limit + 1, |name| {
            scope.is_none_or(|scope| scope.holds(&name.tenant, Some(&name.database)))
        });
    let more = page.len() > limit;
    page.truncate(limit);
    Ok(Json(CollectionsResponse {
        next_cursor: page
            .last()
            .filter(|_| more)
            .map(|last| cursor_at(&last.descriptor.name)),
        collections: page
            .iter()
            .map(CollectionInfo::held)
            .map(CollectionSummary::from)
            .collect(),
    }))
}

/// A place in the order of names. It stays one when that collection goes.
fn cursor_at(name: &CollectionName) -> String {
    URL_SAFE_NO_PAD.encode(json!([name.tenant, name.database, name.name]).to_string())
}

fn name_at(cursor: &str) -> Result<CollectionName> {
    let decoded = URL_SAFE_NO_PAD.decode(cursor).ok();
    let parts = decoded.and_then(|json| serde_json::from_slice::<[String; 3]>(&json).ok());
    let [tenant, database, name] = parts
        .ok_or_else(|| Error::unprocessable("cursor: not one that a page answered; begin again"))?;
    Ok(CollectionName::new(tenant, database, name))
}
