//! `GET /keys`: who may do what. Keys are made and withdrawn in the configuration, never over HTTP.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::tags::ACCESS;
use crate::access::{Caller, Role};
use crate::app::App;

/// A key, without anything that could be used as one.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Key)]
pub(super) struct KeyResponse {
    #[schema(example = "app")]
    name: String,
    /// `reader`, `writer`, `operator` or `admin`.
    #[schema(value_type = String, example = "writer")]
    role: Role,
    /// The tenant that it is limited to.
    tenant: Option<String>,
    /// The databases of that tenant that it is limited to.
    databases: Option<BTreeSet<String>>,
}

impl From<Caller> for KeyResponse {
    fn from(caller: Caller) -> Self {
        let scope = caller.scope.as_deref();
        Self {
            name: caller.name.to_string(),
            role: caller.role,
            tenant: scope.map(|scope| scope.tenant.clone()),
            databases: scope.and_then(|scope| scope.databases.clone()),
        }
    }
}

/// All keys.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeysResponse {
    /// Whether callers need one.
    required: bool,
    /// By name.
    keys: Vec<KeyResponse>,
    /// Why the file of keys could not be read again; those of before are in force.
    stale: Option<String>,
}

/// List keys
///
/// Names, roles and scopes; neither keys nor their hashes.
#[utoipa::path(get, path = "/keys", tag = ACCESS,
    responses((status = 200, body = KeysResponse)))]
pub(super) async fn list_keys(State(app): State<App>) -> Json<KeysResponse> {
    let access = app.access();
    Json(KeysResponse {
        required: access.is_required(),
        keys: access
            .callers()
            .into_iter()
            .map(KeyResponse::from)
            .collect(),
        stale: access.stale(),
    })
}
