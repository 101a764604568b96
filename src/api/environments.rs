//! `/environments`.

use axum::Json;
use axum::extract::State;
use futures::future::join_all;
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::words;
use super::tags::MIGRATE;
use crate::app::App;
use crate::environments::{EnvironmentKind, LOCAL};

/// A place that collections can be migrated from and to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Environment)]
pub(super) struct EnvironmentResponse {
    #[schema(example = "local")]
    name: String,
    /// `local`, `vectorkeep` or `chroma`.
    #[schema(value_type = words::EnvironmentKind, example = "local")]
    kind: EnvironmentKind,
    url: Option<String>,
    /// Whether it answered within `migration.probe_timeout_ms`.
    reachable: bool,
    /// What it says its version is; null also where it does not say so to our key.
    version: Option<String>,
}

/// List environments
///
/// This store and those of the configuration; each of them is asked whether it is there.
#[utoipa::path(get, path = "/environments", tag = MIGRATE,
    responses((status = 200, body = Vec<EnvironmentResponse>)))]
pub(super) async fn list_environments(State(app): State<App>) -> Json<Vec<EnvironmentResponse>> {
    let local = EnvironmentResponse {
        name: LOCAL.to_owned(),
        kind: EnvironmentKind::Local,
        url: None,
        reachable: true,
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
    };
    let asked = app.environments().iter().map(async |(name, remote)| {
        let answered = remote.probe().await;
        EnvironmentResponse {
            name: name.clone(),
            kind: remote.settings().kind,
            url: Some(remote.settings().url.clone()),
            reachable: answered.is_some(),
            version: answered.flatten(),
        }
    });
    let mut environments = vec![local];
    environments.extend(join_all(asked).await);
    Json(environments)
}
