//! `/metrics`.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::error::Problem;
use super::tags::METRICS;
use crate::app::App;

/// Of Prometheus' text format.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics
///
/// In Prometheus' text format, from memory: no disk and no repository is asked, so it may be scraped every
/// second.
#[utoipa::path(get, path = "/metrics", tag = METRICS,
    responses((status = 200, description = "All metrics, each with its help", body = String, content_type = MEDIA_TYPE)))]
pub(super) async fn get_metrics(State(app): State<App>) -> Result<Response, Problem> {
    let text = app.on_thread(|app| Ok(app.metrics())).await?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}
