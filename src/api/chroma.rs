//! Chroma's HTTP API v2: one file per resource. What its server does on the wire is what is done here,
//! also where it is odd; where it is wrong (panics, lost connections) something better is.

mod bounds;
mod collections;
mod columns;
mod filters;
mod namespaces;
mod reads;
mod records;
mod search;
mod system;
mod wire;

use axum::routing::{MethodFilter, get, on};
use utoipa_axum::routes;

pub(super) use self::bounds::check_ids;
use super::route_list::Requirement::{Role, WholeStore};
use super::route_list::RouteList;
use crate::access::Role::{Admin, Operator, Reader, Writer};

/// All routes of Chroma's.
pub(super) fn routes(routes: RouteList) -> RouteList {
    records(collections(namespaces(system(routes))))
}

fn system(routes: RouteList) -> RouteList {
    let reader = Role(Reader);
    let retired = MethodFilter::GET
        .or(MethodFilter::PUT)
        .or(MethodFilter::PATCH)
        .or(MethodFilter::DELETE)
        .or(MethodFilter::HEAD)
        .or(MethodFilter::OPTIONS);
    routes
        .described(reader, routes!(system::get_heartbeat))
        .described(reader, routes!(system::get_healthcheck))
        .described(reader, routes!(system::get_version))
        .described(reader, routes!(system::get_pre_flight_checks))
        .described(reader, routes!(system::get_identity))
        .described(WholeStore(Admin), routes!(system::reset_server))
        .plain(reader, "/api/v2", get(system::get_heartbeat))
        // What is gone is said to whoever has a key.
        .plain(reader, "/api/v1/{*path}", on(retired, system::v1_is_gone))
}

fn namespaces(routes: RouteList) -> RouteList {
    let (reader, writer) = (Role(Reader), Role(Writer));
    routes
        .described(WholeStore(Writer), routes!(namespaces::create_tenant))
        .described(reader, routes!(namespaces::get_tenant))
        // A resource name is an alias that all tenants share.
        .described(WholeStore(Operator), routes!(namespaces::update_tenant))
        .described(writer, routes!(namespaces::create_database))
        .described(reader, routes!(namespaces::list_databases))
        .described(reader, routes!(namespaces::get_database))
        .described(writer, routes!(namespaces::delete_database))
}

fn collections(routes: RouteList) -> RouteList {
    let (reader, writer) = (Role(Reader), Role(Writer));
    routes
        // A key that may only read gets from there what exists: the handler decides.
        .described(writer, routes!(collections::create_collection))
        .described(reader, routes!(collections::list_collections))
        .described(reader, routes!(collections::count_collections))
        .described(reader, routes!(collections::get_collection))
        .described(
            writer,
            routes!(
                collections::update_collection,
                collections::delete_collection
            ),
        )
        .described(reader, routes!(collections::get_collection_by_id))
        .described(reader, routes!(collections::get_collection_by_crn))
        .described(writer, routes!(collections::fork_collection))
        .described(reader, routes!(collections::count_forks))
        .described(reader, routes!(collections::get_indexing_status))
}

fn records(routes: RouteList) -> RouteList {
    const COLLECTION: &str =
        "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}";
    let (reader, writer) = (Role(Reader), Role(Writer));
    let not_offered = || {
        let text = "Attached functions are not implemented";
        on(MethodFilter::POST, move || system::not_offered(text))
    };
    let below = |rest: &str| format!("{COLLECTION}/{rest}");
    let search = on(MethodFilter::POST, search::search_records);
    routes
        .described(writer, routes!(records::add_records))
        .described(writer, routes!(records::upsert_records))
        .described(writer, routes!(records::update_records))
        .described(writer, routes!(records::delete_records))
        .described(reader, routes!(reads::count_records))
        .described(reader, routes!(reads::get_records))
        .described(reader, routes!(reads::query_records))
        // Answer only that they are not offered.
        .plain(reader, &below("search"), search)
        .plain(writer, &below("functions/attach"), not_offered())
        .plain(reader, &below("functions/{name}"), get(system::no_function))
        .plain(
            writer,
            &below("attached_functions/{name}/detach"),
            not_offered(),
        )
}
