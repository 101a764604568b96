//! Chroma's HTTP API v2: one file per resource. What its server does on the wire is what is done here,
//! also where it is odd; where it is wrong (panics, lost connections) something better is.

mod collections;
mod columns;
mod filters;
mod namespaces;
mod reads;
mod records;
mod search;
mod system;
mod wire;

use axum::Router;
use axum::routing::{MethodFilter, get, on};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::error::{Error, Kind, Result};

/// All routes below `/api/v2`.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(system::get_heartbeat))
        .routes(routes!(system::get_healthcheck))
        .routes(routes!(system::get_version))
        .routes(routes!(system::get_pre_flight_checks))
        .routes(routes!(system::reset_server))
        .routes(routes!(system::get_identity))
        .routes(routes!(namespaces::create_tenant))
        .routes(routes!(namespaces::get_tenant, namespaces::update_tenant))
        .routes(routes!(
            namespaces::create_database,
            namespaces::list_databases
        ))
        .routes(routes!(
            namespaces::get_database,
            namespaces::delete_database
        ))
        .routes(routes!(
            collections::create_collection,
            collections::list_collections
        ))
        .routes(routes!(collections::count_collections))
        .routes(routes!(
            collections::get_collection,
            collections::update_collection,
            collections::delete_collection
        ))
        .routes(routes!(collections::get_collection_by_id))
        .routes(routes!(collections::get_collection_by_crn))
        .routes(routes!(collections::fork_collection))
        .routes(routes!(collections::count_forks))
        .routes(routes!(collections::get_indexing_status))
        .routes(routes!(records::add_records))
        .routes(routes!(records::upsert_records))
        .routes(routes!(records::update_records))
        .routes(routes!(records::delete_records))
        .routes(routes!(reads::count_records))
        .routes(routes!(reads::get_records))
        .routes(routes!(reads::query_records))
}

/// Routes that answer only that they are not offered; not part of the description.
pub(super) fn undocumented() -> Router<App> {
    let collection = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}";
    let post = |text: &'static str| on(MethodFilter::POST, move || system::not_offered(text));
    let retired = MethodFilter::GET
        .or(MethodFilter::PUT)
        .or(MethodFilter::PATCH)
        .or(MethodFilter::DELETE)
        .or(MethodFilter::HEAD)
        .or(MethodFilter::OPTIONS);
    Router::new()
        .route("/api/v2", get(system::get_heartbeat))
        .route(
            &format!("{collection}/search"),
            on(MethodFilter::POST, search::search_records),
        )
        .route(
            &format!("{collection}/functions/attach"),
            post("Attached functions are not implemented"),
        )
        .route(
            &format!("{collection}/functions/{{name}}"),
            get(system::no_function),
        )
        .route(
            &format!("{collection}/attached_functions/{{name}}/detach"),
            post("Attached functions are not implemented"),
        )
        .route("/api/v1/{*path}", on(retired, system::v1_is_gone))
}

/// The collection id of a record route.
fn collection_id(text: &str) -> Result<Uuid> {
    Uuid::parse_str(text).map_err(|_| Error::invalid("Collection ID is not a valid UUIDv4"))
}

/// Bounds the ids of a request.
pub(super) fn check_ids(app: &App, ids: Option<&[String]>) -> Result<()> {
    let most = app.config().query.max_ids;
    if ids.is_some_and(|ids| ids.len() > most) {
        return Err(Error::new(
            Kind::TooLarge,
            format!("a request may name {most} ids (query.max_ids)"),
        ));
    }
    Ok(())
}
