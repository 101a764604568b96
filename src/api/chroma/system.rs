//! Heartbeat, identity, reset, and what is not offered.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::super::error::ChromaError;
use super::super::tags::CHROMA_SYSTEM;
use crate::access::{Caller, Scope};
use crate::app::App;
use crate::config::Config;
use crate::error::{Error, Kind};
use crate::model::names::{DEFAULT_DATABASE, DEFAULT_TENANT};

/// The protocol's version, constant as in Chroma's server.
const PROTOCOL_VERSION: &str = "1.0.0";
/// What a record is taken to need in a request: 1,024 dimensions are 5,464 bytes in base64, which leaves some 2 KiB for its
/// id, text and metadata.
const USUAL_RECORD_BYTES: usize = 7_680;

/// Records per request that clients are told to keep to: as many usual ones as the body may hold (server.max_body_bytes),
/// and no more than a request may write (query.max_batch_records). A body of 40 MiB leads to Chroma's own number.
fn max_batch_size(config: &Config) -> usize {
    let fitting = config.server.max_body_bytes / USUAL_RECORD_BYTES;
    fitting.clamp(1, config.query.max_batch_records)
}

/// Heartbeat
#[utoipa::path(get, path = "/api/v2/heartbeat", tag = CHROMA_SYSTEM,
    responses((status = 200, description = "The server's clock in nanoseconds", body = Object)))]
pub(in crate::api) async fn get_heartbeat() -> Json<Value> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Json(json!({"nanosecond heartbeat": nanoseconds}))
}

/// Healthcheck
#[utoipa::path(get, path = "/api/v2/healthcheck", tag = CHROMA_SYSTEM,
    responses((status = 200, body = Object), (status = 503, description = "Not ready", body = Object)))]
pub(in crate::api) async fn get_healthcheck(State(app): State<App>) -> Response {
    let ready = !app.is_draining() && app.engine().fault().is_none();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(json!({"is_executor_ready": ready, "is_log_client_ready": ready})),
    )
        .into_response()
}

/// Protocol version
#[utoipa::path(get, path = "/api/v2/version", tag = CHROMA_SYSTEM,
    responses((status = 200, body = String, content_type = "application/json", example = json!("1.0.0"))))]
pub(in crate::api) async fn get_version() -> Json<&'static str> {
    Json(PROTOCOL_VERSION)
}

/// What clients should keep to
#[utoipa::path(get, path = "/api/v2/pre-flight-checks", tag = CHROMA_SYSTEM,
    responses((status = 200, body = Object)))]
pub(in crate::api) async fn get_pre_flight_checks(State(app): State<App>) -> Json<Value> {
    let max_batch_size = max_batch_size(app.config());
    Json(json!({"max_batch_size": max_batch_size, "supports_base64_encoding": true}))
}

/// Drop everything
///
/// Only where `server.allow_reset` is set.
#[utoipa::path(post, path = "/api/v2/reset", tag = CHROMA_SYSTEM,
    responses((status = 200, body = bool, content_type = "application/json"), (status = 403, description = "Not allowed by the configuration")))]
pub(in crate::api) async fn reset_server(
    State(app): State<App>,
) -> Result<Json<bool>, ChromaError> {
    if !app.config().server.allow_reset {
        return Err(ChromaError(Error::new(
            Kind::Forbidden,
            "Reset is disabled by config",
        )));
    }
    app.blocking(|app| app.engine().reset()).await?;
    Ok(Json(true))
}

/// Who the caller is
///
/// The tenant and databases that a key is limited to; the default ones without a limit.
#[utoipa::path(get, path = "/api/v2/auth/identity", tag = CHROMA_SYSTEM,
    responses((status = 200, body = Object)))]
pub(in crate::api) async fn get_identity(
    State(app): State<App>,
    caller: Option<Extension<Caller>>,
) -> Result<Json<Value>, ChromaError> {
    let Some(Extension(caller)) = caller.filter(|_| app.access().is_required()) else {
        return Ok(Json(
            json!({"user_id": "", "tenant": DEFAULT_TENANT, "databases": [DEFAULT_DATABASE]}),
        ));
    };
    let (tenant, databases) = match caller.scope.as_deref() {
        None => (DEFAULT_TENANT.to_owned(), json!([DEFAULT_DATABASE])),
        Some(Scope { tenant, databases }) => match databases {
            Some(databases) => (tenant.clone(), json!(databases)),
            None => (tenant.clone(), json!(["*"])),
        },
    };
    Ok(Json(
        json!({"user_id": *caller.name, "tenant": tenant, "databases": databases}),
    ))
}

/// 501 with a text.
pub(in crate::api) async fn not_offered(text: &'static str) -> ChromaError {
    ChromaError(Error::new(Kind::Unimplemented, text))
}

/// No function is ever attached.
pub(in crate::api) async fn no_function() -> ChromaError {
    ChromaError(Error::not_found("Attached function not found"))
}

/// The old API.
pub(in crate::api) async fn v1_is_gone() -> Response {
    let body = json!({"error": "Unimplemented", "message": "The v1 API is deprecated. Please use /v2 apis"});
    (StatusCode::GONE, Json(body)).into_response()
}
