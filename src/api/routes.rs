//! The routes of the service, and what surrounds them.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};
use utoipa::openapi::{OpenApi, Server};
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config as SwaggerConfig, SwaggerUi};

use super::access::Guard;
use super::layers::{self, Bounds};
use super::route_list::Requirement::{Nothing, Role, WholeStore};
use super::route_list::{Requirements, RouteList};
use super::{
    access, backups, chroma, collections, compactions, drills, environments, events, export,
    health, imports, jobs, keys, metrics, migrations, openapi, page, prunings, restores,
    verifications,
};
use super::{measure, newline};
use crate::access::Role::{Admin, Operator, Reader};
use crate::app::App;
use crate::error::{Error, Result};

/// All routes of the operations family.
fn operations(routes: RouteList) -> RouteList {
    let (open, reader, operator) = (Nothing, Role(Reader), WholeStore(Operator));
    routes
        // A limited key is shown what it may reach.
        .described(reader, routes!(collections::list_all_collections))
        .described(
            operator,
            routes!(backups::create_backup, backups::list_backups),
        )
        .described(operator, routes!(imports::import_backup))
        .described(operator, routes!(prunings::prune_backups))
        .described(
            operator,
            routes!(
                backups::get_backup,
                backups::update_backup,
                backups::delete_backup
            ),
        )
        .described(operator, routes!(verifications::verify_backup))
        .described(operator, routes!(export::export_backup))
        .described(operator, routes!(restores::restore_backup))
        .described(operator, routes!(drills::create_drill))
        .described(operator, routes!(migrations::migrate_collection))
        .described(operator, routes!(compactions::create_compaction))
        .described(operator, routes!(environments::list_environments))
        .described(WholeStore(Admin), routes!(keys::list_keys))
        .described(operator, routes!(jobs::list_jobs))
        .described(operator, routes!(jobs::get_job))
        .described(operator, routes!(jobs::cancel_job))
        .described(operator, routes!(events::get_events))
        .described(open, routes!(health::get_health))
        .described(open, routes!(health::get_liveness))
        .described(open, routes!(health::get_readiness))
        .described(WholeStore(Reader), routes!(health::check_storage))
        .described(WholeStore(Reader), routes!(health::check_collections))
        .described(WholeStore(Reader), routes!(health::check_collection))
        .described(WholeStore(Reader), routes!(health::check_embeddings))
        .described(WholeStore(Reader), routes!(metrics::get_metrics))
}

/// The page, its files, and Swagger UI.
fn pages(routes: RouteList) -> RouteList {
    let reader = Role(Reader);
    page::files()
        .fold(routes, |routes, (path, file)| {
            routes.plain(reader, path, file)
        })
        .plain(reader, "/", get(page::index))
        .foreign(
            reader,
            &["/openapi.json", "/docs", "/docs/", "/docs/{*rest}"],
        )
}

/// Routes, their description, and who may use what.
fn listed() -> (Router<App>, OpenApi, Requirements) {
    let list = pages(chroma::routes(operations(RouteList::new(openapi::base()))));
    let (routes, spec, requirements) = list.finish();
    let spec = openapi::complete(spec, &requirements);
    (routes, spec, requirements)
}

/// The whole service as a router.
pub fn router(app: &App) -> Router {
    measure::start();
    let (routes, mut spec, requirements) = listed();
    let requirements = Arc::new(requirements);
    let base_path = &app.config().server.base_path;
    if !base_path.is_empty() {
        spec.servers = Some(vec![Server::new(base_path)]);
    }
    // Seen from /docs/, wherever that is.
    let swagger = SwaggerUi::new("/docs")
        .config(SwaggerConfig::new(["../openapi.json"]))
        .url("/openapi.json", spec);
    let guard = Guard {
        app: app.clone(),
        requirements: Arc::clone(&requirements),
    };
    let routes = routes
        .merge(swagger)
        .layer(axum::middleware::from_fn_with_state(
            Bounds::new(app, requirements),
            layers::bound,
        ))
        .layer(axum::middleware::from_fn_with_state(guard, access::guard));
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

/// The whole description as JSON, as `openapi/openapi.json` holds it.
///
/// # Errors
/// `Internal` when it cannot be encoded.
pub fn spec_json() -> Result<String> {
    let (_, spec, _) = listed();
    let mut text = spec
        .to_pretty_json()
        .map_err(|error| Error::internal("the description cannot be encoded").because(error))?;
    text.push('\n');
    Ok(text)
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
