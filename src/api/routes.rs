//! THE route list: it makes both the router and the OpenAPI description.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};
use utoipa::openapi::{OpenApi, Server};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config as SwaggerConfig, SwaggerUi};

use super::layers::{self, Bounds};
use super::{
    access, backups, chroma, collections, compactions, drills, environments, events, export,
    health, imports, jobs, keys, metrics, migrations, openapi, page, prunings, restores,
    verifications,
};
use super::{measure, newline};
use crate::app::App;

/// All routes of the operations family.
fn operations() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(collections::list_all_collections))
        .routes(routes!(backups::create_backup, backups::list_backups))
        .routes(routes!(imports::import_backup))
        .routes(routes!(prunings::prune_backups))
        .routes(routes!(
            backups::get_backup,
            backups::update_backup,
            backups::delete_backup
        ))
        .routes(routes!(verifications::verify_backup))
        .routes(routes!(export::export_backup))
        .routes(routes!(restores::restore_backup))
        .routes(routes!(drills::create_drill))
        .routes(routes!(migrations::migrate_collection))
        .routes(routes!(compactions::create_compaction))
        .routes(routes!(environments::list_environments))
        .routes(routes!(keys::list_keys))
        .routes(routes!(jobs::list_jobs))
        .routes(routes!(jobs::get_job))
        .routes(routes!(jobs::cancel_job))
        .routes(routes!(events::get_events))
        .routes(routes!(health::get_health))
        .routes(routes!(health::get_liveness))
        .routes(routes!(health::get_readiness))
        .routes(routes!(health::check_storage))
        .routes(routes!(health::check_collections))
        .routes(routes!(health::check_collection))
        .routes(routes!(health::check_embeddings))
        .routes(routes!(metrics::get_metrics))
}

/// Routes and their description.
pub(super) fn described() -> (Router<App>, OpenApi) {
    let (routes, spec) = OpenApiRouter::with_openapi(openapi::base())
        .merge(operations())
        .merge(chroma::routes())
        .split_for_parts();
    (routes, openapi::complete(spec))
}

/// The whole service as a router.
pub fn router(app: &App) -> Router {
    measure::start();
    let (routes, mut spec) = described();
    let base_path = &app.config().server.base_path;
    if !base_path.is_empty() {
        spec.servers = Some(vec![Server::new(base_path)]);
    }
    // Seen from /docs/, wherever that is.
    let swagger = SwaggerConfig::new(["../openapi.json"]);
    let routes = page::files()
        .fold(
            routes.route("/", get(page::index)),
            |routes, (path, file)| routes.route(path, file),
        )
        .merge(chroma::undocumented())
        .merge(
            SwaggerUi::new("/docs")
                .config(swagger)
                .url("/openapi.json", spec),
        );
    let routes = routes
        .layer(axum::middleware::from_fn_with_state(
            Bounds::new(app),
            layers::bound,
        ))
        .layer(axum::middleware::from_fn_with_state(
            app.clone(),
            access::guard,
        ));
    // A browser asks what is allowed before it sends a key.
    let routes = match cors(&app.config().server.cors_allow_origins) {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(axum::middleware::from_fn(layers::identify))
        .layer(axum::middleware::from_fn(newline::end_with_newline))
        .layer(axum::middleware::from_fn(measure::measure))
        .with_state(app.clone())
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    // "Any" header would not cover Authorization (Fetch standard, 3.3.5).
    let layer = CorsLayer::new()
        .allow_methods(Any)
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            header::LOCATION,
            header::RETRY_AFTER,
            header::CONTENT_DISPOSITION,
            HeaderName::from_static("x-request-id"),
        ]);
    Some(if origins.iter().any(|origin| origin == "*") {
        layer.allow_origin(Any)
    } else {
        let origins: Vec<HeaderValue> = origins
            .iter()
            .filter_map(|origin| origin.parse().ok())
            .collect();
        layer.allow_origin(origins)
    })
}
