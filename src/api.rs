//! HTTP: routes, extraction, errors, OpenAPI. The only layer that knows axum, tower-http and utoipa.

mod backups;
mod chroma;
mod compactions;
mod drills;
mod environments;
mod error;
mod events;
mod export;
mod extract;
mod health;
mod imports;
mod jobs;
mod layers;
mod measure;
mod metrics;
mod migrations;
mod openapi;
mod prunings;
mod restores;
mod routes;
mod verifications;

use std::future::Future;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;

use crate::app::App;
use crate::error::{Error, Result};

pub use openapi::spec_json;
pub use routes::router;

/// Serves until `shutdown` resolves, then finishes running requests within the configured grace period
/// and closes the application.
///
/// # Errors
/// `Internal` when the listener fails, `StorageFault` when the last sync fails.
pub async fn serve(
    app: App,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let draining = app.clone();
    let signal = async move {
        shutdown.await;
        tracing::info!("stopping: no new connections; finishing running requests");
        draining.start_draining();
        stopping.send_replace(true);
    };
    // Small answers must not wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
    });
    let server = axum::serve(listener, router(&app)).with_graceful_shutdown(signal);
    let grace = Duration::from_millis(app.config().server.shutdown_grace_ms);
    let overdue = async {
        let _ = stopped.wait_for(|stopping| *stopping).await;
        tokio::time::sleep(grace).await;
    };
    let served = tokio::select! {
        served = server => served.map_err(|error| Error::internal("the listener failed").because(error)),
        () = overdue => {
            tracing::warn!("requests were still running when the grace period ended");
            Ok(())
        }
    };
    app.close(grace).await?;
    tracing::info!("stopped");
    served
}
