//! Who may use which route, looked at before a body is read.
//!
//! What a route needs stands in the route list; what is not there is closed. A key that is limited to a tenant reaches the data
//! of that tenant by its name; what works on the whole store is not for it.

use std::sync::Arc;

use axum::extract::{FromRequestParts as _, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use super::error::refusal;
use super::request_id::current_request_id;
use super::route_list::{Requirement, Requirements};
use crate::access::{Caller, Role, Scope};
use crate::app::App;
use crate::error::{Error, Kind, Result};

/// Where collections are made. A key that may only read gets from there what exists: whether it does is seen in the
/// body, so the handler decides ([`check_role`]).
const COLLECTIONS: &str = "/api/v2/tenants/{tenant}/databases/{database}/collections";
const COLLECTION: &str = "/api/v2/tenants/{tenant}/databases/{database}/collections/";

/// What [`guard`] looks at.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) app: App,
    pub(super) requirements: Arc<Requirements>,
}

/// Lets through who may, and says why not to the others. Changes by operators and admins are logged.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let Guard { app, requirements } = guard;
    let (mut parts, body) = request.into_parts();
    if let Err(error) = check_site(&app, &parts) {
        return refusal(parts.uri.path(), error);
    }
    let admitted = match admit(&app, &requirements, &mut parts).await {
        Ok(admitted) => admitted,
        Err(error) => return challenge(&parts, refusal(parts.uri.path(), error)),
    };
    let has_keys = app.access().is_required();
    let audit = admitted
        .as_ref()
        .and_then(|caller| audit(&parts, &requirements, caller, has_keys));
    if let Some(caller) = admitted {
        parts.extensions.insert(caller);
    }
    let response = next.run(Request::from_parts(parts, body)).await;
    if let Some(mut audit) = audit {
        audit.answered(&response);
    }
    response
}

/// Another site's page may not change anything with what a browser remembers, or from within a network that it
/// reaches; a browser says where a request comes from (Fetch Metadata), other clients say nothing.
fn check_site(app: &App, parts: &Parts) -> Result<()> {
    let text = |name: &str| parts.headers.get(name)?.to_str().ok();
    let foreign = matches!(text("sec-fetch-site"), Some("cross-site" | "same-site"));
    if !foreign || parts.method.is_safe() {
        return Ok(());
    }
    let origin = text("origin").unwrap_or_default();
    let allowed = &app.config().server.cors_allow_origins;
    if allowed.iter().any(|known| known == "*" || known == origin) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Forbidden,
        format!("a page of {origin:?} may change nothing here (server.cors_allow_origins)"),
    ))
}

/// The caller, where one is known.
async fn admit(
    app: &App,
    requirements: &Requirements,
    parts: &mut Parts,
) -> Result<Option<Caller>> {
    let access = app.access();
    if !access.is_required() {
        return Ok(Some(Caller::anonymous()));
    }
    let presented = presented(&parts.headers);
    let is_presented = presented.is_some();
    let caller = presented.and_then(|key| access.caller(&key));
    let route = parts.extensions.get::<MatchedPath>().cloned();
    let route = route.as_ref().map(MatchedPath::as_str);
    // What is not there is said to whoever has a key.
    let requirement = route.map_or(Requirement::Role(Role::Reader), |route| {
        requirements.of(&parts.method, route)
    });
    let (role, whole_store) = match requirement {
        Requirement::Nothing => return Ok(caller),
        Requirement::Role(role) => (role, false),
        Requirement::WholeStore(role) => (role, true),
    };
    let caller = caller.ok_or_else(|| {
        let text = if is_presented {
            "this key is not known here: it was mistyped, replaced, or is of another service"
        } else {
            "a key is needed: Authorization: Bearer KEY, or X-Chroma-Token: KEY"
        };
        Error::new(Kind::Unauthenticated, text)
    })?;
    let is_decided_later = route == Some(COLLECTIONS) && parts.method == Method::POST;
    if !is_decided_later {
        check_role(&caller, role)?;
    }
    if let Some(scope) = &caller.scope
        && whole_store
    {
        return Err(forbidden(format!(
            "this reaches the whole store, and the key {:?} is limited to the tenant {:?}",
            caller.name, scope.tenant
        )));
    }
    if let Some(route) = route {
        check_reach(app, parts, route, &caller).await?;
    }
    Ok(Some(caller))
}

/// Whether the caller has this role.
///
/// # Errors
/// `RoleTooSmall`.
pub(super) fn check_role(caller: &Caller, role: Role) -> Result<()> {
    if caller.role >= role {
        return Ok(());
    }
    Err(forbidden(format!(
        "this needs the role {}, and the key {:?} has {}",
        role.as_str(),
        caller.name,
        caller.role.as_str()
    )))
}

fn forbidden(text: String) -> Error {
    Error::new(Kind::RoleTooSmall, text)
}

/// Whether what the path names is the caller's: its tenant and database by the scope, and that a collection's
/// id is one of that database. (Without keys an id is good under every path, as in Chroma's server.)
async fn check_reach(app: &App, parts: &mut Parts, route: &str, caller: &Caller) -> Result<()> {
    let Ok(parameters) = RawPathParams::from_request_parts(parts, &()).await else {
        return Ok(());
    };
    let find = |wanted: &str| {
        let found = parameters.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value)
    };
    if let Some(crn) = find("crn") {
        return check_crn(app, crn, caller.scope.as_deref());
    }
    let Some(tenant) = find("tenant") else {
        return Ok(());
    };
    let database = find("database");
    if let Some(scope) = &caller.scope {
        // A database that is to be made has its name in the body.
        let makes = database.is_none() && parts.method == Method::POST;
        if !scope.holds(tenant, database) || (makes && scope.databases.is_some()) {
            return Err(outside(caller, scope));
        }
    }
    let (Some(database), Some(id)) = (database, find("collection_id")) else {
        return Ok(());
    };
    // Elsewhere the last part is a name.
    if !names_id(&parts.method, route) {
        return Ok(());
    }
    let Ok(id) = Uuid::parse_str(id) else {
        return Ok(());
    };
    let at = app.engine().addressed(id);
    let there = at.is_ok_and(|info| {
        let name = &info.descriptor.name;
        name.tenant == tenant && name.database == database
    });
    if there {
        Ok(())
    } else {
        let dot = if route.contains("/by-id/") { "" } else { "." };
        Err(Error::not_found(format!(
            "Collection [{id}] does not exist{dot}"
        )))
    }
}

/// Whether `{collection_id}` of this route is an id.
fn names_id(method: &Method, route: &str) -> bool {
    let rest = route.strip_prefix(COLLECTION).unwrap_or_default();
    rest != "{collection_id}" || *method == Method::PUT
}

fn check_crn(app: &App, crn: &str, scope: Option<&Scope>) -> Result<()> {
    let Some(scope) = scope else {
        return Ok(());
    };
    let mut parts = crn.split(':');
    let (tenant, database) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let resolved = app.engine().tenant_by_resource_name(tenant);
    let tenant = resolved.as_deref().unwrap_or(tenant);
    if scope.holds(tenant, Some(database)) {
        Ok(())
    } else {
        Err(Error::not_found(format!(
            "Collection [{crn}] does not exist"
        )))
    }
}

fn outside(caller: &Caller, scope: &Scope) -> Error {
    let databases = scope.databases.as_ref().map_or_else(String::new, |names| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        format!(" and its databases {}", names.join(", "))
    });
    forbidden(format!(
        "the key {:?} is limited to the tenant {:?}{databases}",
        caller.name, scope.tenant
    ))
}

/// The key that a request presents. (A browser's password prompt sends `Basic`; the user's name is not looked
/// at.)
fn presented(headers: &HeaderMap) -> Option<Vec<u8>> {
    if let Some(token) = headers.get("x-chroma-token") {
        return Some(token.as_bytes().to_vec());
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    decoded.get(colon + 1..).map(<[u8]>::to_vec)
}

/// Says how to present a key; a browser is asked to prompt for it.
fn challenge(parts: &Parts, mut response: Response) -> Response {
    if response.status() != StatusCode::UNAUTHORIZED {
        return response;
    }
    let headers = response.headers_mut();
    let bearer = HeaderValue::from_static("Bearer realm=\"vectorkeep\"");
    headers.append(header::WWW_AUTHENTICATE, bearer);
    let accept = parts.headers.get(header::ACCEPT);
    let is_browser = accept
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if is_browser {
        let basic = HeaderValue::from_static("Basic realm=\"vectorkeep\", charset=\"UTF-8\"");
        headers.append(header::WWW_AUTHENTICATE, basic);
    }
    response
}

/// A change that is logged with who made it, also where nobody waits for the answer any more.
struct Audit {
    key: Arc<str>,
    role: Role,
    action: String,
    target: String,
    /// The answer's status and the job that it names.
    outcome: Option<(u16, String)>,
    request_id: String,
}

/// Changes to the store as a whole are always logged, changes to data when an operator's or admin's key makes
/// them.
fn audit(
    parts: &Parts,
    requirements: &Requirements,
    caller: &Caller,
    has_keys: bool,
) -> Option<Audit> {
    let route = parts.extensions.get::<MatchedPath>()?.as_str();
    let needed = match requirements.of(&parts.method, route) {
        Requirement::Nothing => return None,
        Requirement::Role(role) | Requirement::WholeStore(role) => role,
    };
    let changes =
        parts.method != Method::GET && parts.method != Method::HEAD && needed >= Role::Writer;
    let by_operator = needed >= Role::Operator || (has_keys && caller.role >= Role::Operator);
    (changes && by_operator).then(|| Audit {
        key: Arc::clone(&caller.name),
        role: caller.role,
        action: format!("{} {route}", parts.method),
        target: parts.uri.path().to_owned(),
        outcome: None,
        request_id: current_request_id(),
    })
}

impl Audit {
    fn answered(&mut self, response: &Response) {
        let job = response.headers().get(header::LOCATION);
        let job = job.and_then(|job| job.to_str().ok()).unwrap_or_default();
        self.outcome = Some((response.status().as_u16(), job.to_owned()));
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let (outcome, job) = match &self.outcome {
            Some((status, job)) => (status.to_string(), job.as_str()),
            // Its client went away, or it panicked: what was begun goes on.
            None => ("abandoned".to_owned(), ""),
        };
        tracing::info!(
            target: crate::telemetry::AUDIT,
            key = %self.key,
            role = self.role.as_str(),
            action = self.action,
            target = self.target,
            outcome,
            job,
            request_id = self.request_id,
            "audit"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_three_places() {
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            presented(&headers)
        };
        let key = || Some(b"vk_x".to_vec());
        assert_eq!(with("authorization", "Bearer vk_x"), key());
        assert_eq!(with("authorization", "bearer   vk_x "), key());
        assert_eq!(with("x-chroma-token", "vk_x"), key());
        let basic = format!("Basic {}", STANDARD.encode("someone:vk_x"));
        assert_eq!(with("authorization", &basic), key());
        for other in ["vk_x", "Digest vk_x", "Basic ???", "Bearer", "Basic dmt4"] {
            assert_eq!(with("authorization", other), None, "{other}");
        }
    }
}
