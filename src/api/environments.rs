//! `/environments`.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::MIGRATE;
use crate::operations::migrate::LOCAL;

/// A place that collections can be migrated from and to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Environment)]
pub(super) struct EnvironmentResponse {
    name: &'static str,
    /// `local`
    kind: &'static str,
    url: Option<String>,
    reachable: bool,
    version: &'static str,
}

/// List environments
#[utoipa::path(get, path = "/environments", tag = MIGRATE,
    responses((status = 200, body = Vec<EnvironmentResponse>)))]
pub(super) async fn list_environments() -> Json<Vec<EnvironmentResponse>> {
    Json(vec![EnvironmentResponse {
        name: LOCAL,
        kind: LOCAL,
        url: None,
        reachable: true,
        version: env!("CARGO_PKG_VERSION"),
    }])
}
