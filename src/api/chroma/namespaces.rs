//! Tenants and databases.

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::super::error::ChromaError;
use super::super::extract::{ChromaBody, ChromaPath, ChromaQuery};
use super::super::openapi::words::Name;
use super::super::tags::CHROMA_NAMESPACES;
use crate::access::Caller;
use crate::app::App;
use crate::engine;
use crate::error::Error;

/// A tenant to create.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::api) struct CreateTenantRequest {
    #[schema(min_length = 3, max_length = 512, example = "acme")]
    name: String,
}

/// A database to create.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::api) struct CreateDatabaseRequest {
    #[schema(value_type = Name, example = "acme")]
    name: String,
}

/// A change to a tenant.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::api) struct UpdateTenantRequest {
    #[schema(example = "acme-resource")]
    resource_name: String,
}

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenant)]
pub(in crate::api) struct TenantResponse {
    name: String,
    resource_name: Option<String>,
}

/// A database.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Database)]
pub(in crate::api) struct DatabaseResponse {
    id: Uuid,
    name: String,
    tenant: String,
}

impl From<engine::Database> for DatabaseResponse {
    fn from(database: engine::Database) -> Self {
        Self {
            id: database.id,
            name: database.name,
            tenant: database.tenant,
        }
    }
}

/// A slice of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct SliceQuery {
    limit: Option<u32>,
    offset: Option<u32>,
}

impl SliceQuery {
    /// Applies it.
    pub(super) fn of<T>(&self, items: Vec<T>) -> impl Iterator<Item = T> + use<T> {
        let limit = self.limit.map_or(usize::MAX, |limit| limit as usize);
        items
            .into_iter()
            .skip(self.offset.unwrap_or(0) as usize)
            .take(limit)
    }
}

/// Create a tenant
#[utoipa::path(post, path = "/api/v2/tenants", tag = CHROMA_NAMESPACES,
    request_body(content = CreateTenantRequest),
    responses((status = 200, body = Object), (status = 409, description = "It exists")))]
pub(in crate::api) async fn create_tenant(
    State(app): State<App>,
    body: ChromaBody,
) -> Result<Json<Value>, ChromaError> {
    app.blocking(move |app| {
        let request: CreateTenantRequest = body.parse()?;
        app.engine().create_tenant(&request.name)
    })
    .await?;
    Ok(Json(json!({})))
}

/// Get a tenant
#[utoipa::path(get, path = "/api/v2/tenants/{tenant}", tag = CHROMA_NAMESPACES,
    params(("tenant" = String, Path, example = "default_tenant")),
    responses((status = 200, body = TenantResponse), (status = 404, description = "No such tenant")))]
pub(in crate::api) async fn get_tenant(
    State(app): State<App>,
    ChromaPath(tenant): ChromaPath<String>,
) -> Result<Json<TenantResponse>, ChromaError> {
    let tenant = app.engine().tenant(&tenant)?;
    Ok(Json(TenantResponse {
        name: tenant.name,
        resource_name: tenant.resource_name,
    }))
}

/// Give a tenant a resource name
#[utoipa::path(patch, path = "/api/v2/tenants/{tenant}", tag = CHROMA_NAMESPACES,
    params(("tenant" = String, Path, example = "default_tenant")),
    request_body(content = UpdateTenantRequest),
    responses((status = 200, body = Object), (status = 404, description = "No such tenant")))]
pub(in crate::api) async fn update_tenant(
    State(app): State<App>,
    ChromaPath(tenant): ChromaPath<String>,
    body: ChromaBody,
) -> Result<Json<Value>, ChromaError> {
    app.blocking(move |app| {
        let request: UpdateTenantRequest = body.parse()?;
        app.engine()
            .set_tenant_resource_name(&tenant, request.resource_name)
    })
    .await?;
    Ok(Json(json!({})))
}

/// Create a database
///
/// A tenant that does not exist is made with it.
#[utoipa::path(post, path = "/api/v2/tenants/{tenant}/databases", tag = CHROMA_NAMESPACES,
    params(("tenant" = String, Path, example = "default_tenant")),
    request_body(content = CreateDatabaseRequest, example = json!({"name": "acme"})),
    responses((status = 200, body = Object), (status = 400, description = "A bad name"), (status = 409, description = "It exists")))]
pub(in crate::api) async fn create_database(
    State(app): State<App>,
    ChromaPath(tenant): ChromaPath<String>,
    body: ChromaBody,
) -> Result<Json<Value>, ChromaError> {
    app.blocking(move |app| {
        let request: CreateDatabaseRequest = body.parse()?;
        app.engine().create_database(&tenant, &request.name)
    })
    .await?;
    Ok(Json(json!({})))
}

/// List databases
#[utoipa::path(get, path = "/api/v2/tenants/{tenant}/databases", tag = CHROMA_NAMESPACES,
    params(("tenant" = String, Path, example = "default_tenant"), SliceQuery),
    responses((status = 200, body = Vec<DatabaseResponse>), (status = 404, description = "No such tenant")))]
pub(in crate::api) async fn list_databases(
    State(app): State<App>,
    ChromaPath(tenant): ChromaPath<String>,
    ChromaQuery(slice): ChromaQuery<SliceQuery>,
    caller: Option<Extension<Caller>>,
) -> Result<Json<Vec<DatabaseResponse>>, ChromaError> {
    let mut databases = app.engine().databases(&tenant)?;
    // A key that is limited to some sees those.
    if let Some(scope) = caller.as_ref().and_then(|caller| caller.scope.as_deref()) {
        databases.retain(|database| scope.holds(&database.tenant, Some(&database.name)));
    }
    Ok(Json(
        slice.of(databases).map(DatabaseResponse::from).collect(),
    ))
}

/// Get a database
#[utoipa::path(get, path = "/api/v2/tenants/{tenant}/databases/{database}", tag = CHROMA_NAMESPACES,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database")),
    responses((status = 200, body = DatabaseResponse), (status = 404, description = "No such database")))]
pub(in crate::api) async fn get_database(
    State(app): State<App>,
    ChromaPath((tenant, database)): ChromaPath<(String, String)>,
) -> Result<Json<DatabaseResponse>, ChromaError> {
    if database.chars().count() < 3 {
        return Err(ChromaError(Error::invalid(
            "database name must be at least 3 characters",
        )));
    }
    Ok(Json(app.engine().database(&tenant, &database)?.into()))
}

/// Delete a database with its collections
#[utoipa::path(delete, path = "/api/v2/tenants/{tenant}/databases/{database}", tag = CHROMA_NAMESPACES,
    params(("tenant" = String, Path), ("database" = String, Path)),
    responses((status = 200, body = Object), (status = 404, description = "No such database")))]
pub(in crate::api) async fn delete_database(
    State(app): State<App>,
    ChromaPath((tenant, database)): ChromaPath<(String, String)>,
) -> Result<Json<Value>, ChromaError> {
    app.blocking(move |app| app.engine().delete_database(&tenant, &database))
        .await?;
    Ok(Json(json!({})))
}
