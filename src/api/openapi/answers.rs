//! What many operations may answer, said once: the bodies of errors by family, the statuses that come from
//! what surrounds the handlers, and headers. What is particular to an operation stands at its handler.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use axum::http::Method;
use serde::Serialize;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::schema::{Components, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, Response};
use utoipa::{PartialSchema as _, ToSchema};

use super::{BACKUPS, RESTORE};
use crate::api::route_list::{Requirements, operations};

/// An error of the operations family: RFC 9457 with Chroma's two members, and those of the case.
#[derive(Serialize, ToSchema)]
struct Problem {
    /// What kind of error it is.
    #[schema(pattern = "^/problems/[a-z-]+$", example = "/problems/name-conflict")]
    r#type: String,
    #[schema(example = "Name conflict")]
    title: String,
    /// The answer's status.
    #[schema(minimum = 400, maximum = 599, example = 409)]
    status: u16,
    /// What happened.
    detail: String,
    /// Chroma's name for it.
    #[schema(example = "ChromaError")]
    error: String,
    /// As `detail`.
    message: String,
    /// The answer's `x-request-id`.
    request_id: String,
}

/// An error on `/api/v2`.
#[derive(Serialize, ToSchema)]
struct ChromaError {
    #[schema(example = "NotFoundError")]
    error: String,
    /// What happened.
    #[schema(example = "Collection [articles] does not exist")]
    message: String,
}

/// Which of the two error bodies an operation has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Operations,
    Chroma,
}

impl Family {
    fn of(path: &str) -> Self {
        if path.starts_with("/api/") {
            Self::Chroma
        } else {
            Self::Operations
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Operations => "application/problem+json",
            Self::Chroma => "application/json",
        }
    }

    fn schema(self) -> &'static str {
        match self {
            Self::Operations => "Problem",
            Self::Chroma => "ChromaError",
        }
    }

    /// What the description of a common answer is called.
    fn response(self, status: &str) -> String {
        format!("{}{status}", self.schema())
    }

    fn error(self) -> Content {
        Content::new(Some(Ref::from_schema_name(self.schema())))
    }
}

/// What decides which common answers an operation has.
struct Facts {
    family: Family,
    /// It is answered whatever else happens.
    is_probe: bool,
    has_path_parameter: bool,
    has_query: bool,
    has_body: bool,
    /// A long verb that may be waited for.
    waits: bool,
    /// It asks the repository, which may be on another machine.
    asks_repository: bool,
    /// It waits for its turn among the deep checks.
    is_deep_check: bool,
    /// It stores something, if only a job.
    writes: bool,
}

impl Facts {
    fn of(method: &Method, path: &str, operation: &Operation, requirements: &Requirements) -> Self {
        let parameters: Vec<&Parameter> = operation
            .parameters
            .iter()
            .flatten()
            .filter_map(|parameter| match parameter {
                RefOr::T(parameter) => Some(parameter),
                RefOr::Ref(_) => None,
            })
            .collect();
        let has = |place: ParameterIn| parameters.iter().any(|p| p.parameter_in == place);
        let tags = operation.tags.as_deref().unwrap_or_default();
        let id = operation.operation_id.as_deref().unwrap_or_default();
        Self {
            family: Family::of(path),
            is_probe: requirements.is_open(path),
            has_path_parameter: has(ParameterIn::Path),
            has_query: has(ParameterIn::Query),
            has_body: operation.request_body.is_some(),
            waits: parameters.iter().any(|p| p.name == "wait"),
            asks_repository: tags.iter().any(|tag| tag == BACKUPS || tag == RESTORE),
            is_deep_check: path.starts_with("/health/") && !requirements.is_open(path),
            writes: *method != Method::GET && !["get_records", "query_records"].contains(&id),
        }
    }
}

/// An answer that all operations have to which it applies.
struct Common {
    status: &'static str,
    description: &'static str,
    applies: fn(&Facts) -> bool,
}

const COMMON: [Common; 15] = [
    Common {
        status: "400",
        description: "The path, the query or the body cannot be read",
        applies: |facts| {
            facts.has_path_parameter
                || facts.has_body
                || (facts.has_query && facts.family == Family::Chroma)
        },
    },
    Common {
        status: "401",
        description: "No valid key, where keys are configured",
        applies: |facts| !facts.is_probe,
    },
    Common {
        status: "403",
        description: "The key's role does not allow it",
        applies: |facts| !facts.is_probe,
    },
    Common {
        status: "408",
        description: "The body came too slowly",
        applies: |facts| facts.has_body,
    },
    Common {
        status: "409",
        description: "What it works on is in use, or it was canceled (with `wait`)",
        applies: |facts| facts.waits,
    },
    Common {
        status: "413",
        description: "The body is over its bound",
        applies: |facts| facts.has_body,
    },
    Common {
        status: "415",
        description: "The body has a media type that is not read here",
        applies: |facts| facts.has_body,
    },
    Common {
        status: "422",
        description: "Of a wrong shape, or not possible as asked",
        applies: |facts| facts.has_body || (facts.has_query && facts.family == Family::Operations),
    },
    Common {
        status: "429",
        description: "Too many requests ask the repository, or too many jobs or checks wait",
        applies: |facts| facts.asks_repository || facts.is_deep_check,
    },
    Common {
        status: "500",
        description: "A storage fault, or a defect of the service",
        applies: |facts| !facts.is_probe,
    },
    Common {
        status: "502",
        description: "The repository's machine cannot be reached, or answers badly",
        applies: |facts| facts.asks_repository,
    },
    Common {
        status: "503",
        description: "Too many requests are running, the service stops, or it takes no writes after a storage fault",
        applies: |facts| !facts.is_probe,
    },
    Common {
        status: "504",
        description: "It took too long; it is stopped where that can be done, and the message says whether what was asked for may still take effect",
        applies: |facts| !facts.is_probe,
    },
    Common {
        status: "507",
        description: "Not enough room on the disk",
        applies: |facts| facts.writes,
    },
    // Chroma's protocol has a kind of metadata value that no single node stores.
    Common {
        status: "501",
        description: "Sparse vectors are not offered",
        applies: |facts| facts.family == Family::Chroma && facts.writes && facts.has_body,
    },
];

/// Completes the description of every operation.
pub(super) fn complete(spec: &mut OpenApi, requirements: &Requirements) {
    let components = spec.components.get_or_insert_default();
    describe(components);
    let mut used = BTreeSet::new();
    for (path, item) in &mut spec.paths.paths {
        for (method, operation) in operations(item) {
            let facts = Facts::of(&method, path, operation, requirements);
            if !facts.is_probe {
                add_security(&method, path, operation, requirements);
            }
            used.extend(add_common(&facts, operation));
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response {
                    if response.description.is_empty() {
                        response.description = "What was asked for".to_owned();
                    }
                    if !facts.is_probe {
                        add_body(facts.family, status, response);
                    }
                    add_headers(facts.waits, status, response);
                }
            }
            if facts.family == Family::Operations {
                let is_optional = |name: &str| all_optional(components, name);
                relax_body(operation, is_optional);
            }
        }
    }
    components.responses.retain(|name, _| used.contains(name));
}

const BEARER: &str = "bearer";
const TOKEN: &str = "x_chroma_token";

/// Who may: a key of a role, or nobody in particular where no keys are configured.
fn add_security(
    method: &Method,
    path: &str,
    operation: &mut Operation,
    requirements: &Requirements,
) {
    let none: [&str; 0] = [];
    operation.security = Some(vec![
        SecurityRequirement::new(BEARER, none),
        SecurityRequirement::new(TOKEN, none),
        SecurityRequirement::default(),
    ]);
    let Some(sentence) = requirements.describe(method, path) else {
        return;
    };
    let description = operation.description.get_or_insert_default();
    if !description.is_empty() {
        description.push_str("\n\n");
    }
    description.push_str(&sentence);
}

/// Returns what the answers are called.
fn add_common(facts: &Facts, operation: &mut Operation) -> Vec<String> {
    let mut names = Vec::new();
    for common in COMMON.iter().filter(|common| (common.applies)(facts)) {
        let described = &mut operation.responses.responses;
        if let Entry::Vacant(entry) = described.entry(common.status.to_owned()) {
            let name = facts.family.response(common.status);
            entry.insert(RefOr::Ref(Ref::from_response_name(&name)));
            names.push(name);
        }
    }
    names
}

fn is_error(status: &str) -> bool {
    status.starts_with(['4', '5'])
}

/// An error has its family's body. A failed check answers with what it found; where one can also be refused,
/// with either.
fn add_body(family: Family, status: &str, response: &mut Response) {
    if is_error(status) {
        response
            .content
            .entry(family.media_type().to_owned())
            .or_insert_with(|| RefOr::T(family.error()));
    }
}

const REQUEST_ID: &str = "x-request-id";
const TRACE_ID: &str = "chroma-trace-id";
const LOCATION: &str = "location";
const RETRY_AFTER: &str = "retry-after";

fn add_headers(waits: bool, status: &str, response: &mut Response) {
    let wanted = [
        (REQUEST_ID, true),
        (TRACE_ID, is_error(status)),
        (LOCATION, waits && ["200", "201", "202"].contains(&status)),
        (RETRY_AFTER, ["202", "429", "503"].contains(&status)),
    ];
    for (name, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
        let reference = Ref::new(format!("#/components/headers/{name}"));
        response
            .headers
            .entry(name.to_owned())
            .or_insert(RefOr::Ref(reference));
    }
}

fn describe(components: &mut Components) {
    let bearer = Http::new(HttpAuthScheme::Bearer);
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    let token = ApiKey::Header(ApiKeyValue::new("X-Chroma-Token"));
    components.add_security_scheme(TOKEN, SecurityScheme::ApiKey(token));
    let schemas = &mut components.schemas;
    schemas.insert(Problem::name().into_owned(), Problem::schema());
    schemas.insert(ChromaError::name().into_owned(), ChromaError::schema());
    let text = |pattern| {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(pattern))
    };
    let seconds = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0));
    let headers = [
        (
            REQUEST_ID,
            "The request's own `x-request-id`, or a new one",
            text("^.+$"),
        ),
        (TRACE_ID, "Of every error", text("^[0-9a-f]{32}$")),
        (
            LOCATION,
            "The job, behind `server.base_path` where there is one",
            text("^.*/jobs/.+$"),
        ),
        (RETRY_AFTER, "Seconds after which to ask again", seconds),
    ];
    for (name, description, schema) in headers {
        let header: Header = HeaderBuilder::new()
            .description(Some(description))
            .schema(Some(schema))
            .build();
        components.headers.insert(name.to_owned(), RefOr::T(header));
    }
    for family in [Family::Operations, Family::Chroma] {
        for Common {
            status,
            description,
            ..
        } in COMMON
        {
            let mut response = Response::new(description);
            add_body(family, status, &mut response);
            add_headers(false, status, &mut response);
            let response = RefOr::T(response);
            components
                .responses
                .insert(family.response(status), response);
        }
    }
}

/// Whether the schema is an object's of which no member is required.
fn all_optional(components: &Components, name: &str) -> bool {
    match components.schemas.get(name) {
        Some(RefOr::T(Schema::Object(object))) => object.required.is_empty(),
        _ => false,
    }
}

/// An empty body stands for `{}`: where that is allowed, none is required.
fn relax_body(operation: &mut Operation, is_optional: impl Fn(&str) -> bool) {
    let Some(RefOr::T(body)) = &mut operation.request_body else {
        return;
    };
    let schemas = body.content.values().filter_map(|content| match content {
        RefOr::T(Content {
            schema: Some(RefOr::Ref(reference)),
            ..
        }) => reference.ref_location.strip_prefix("#/components/schemas/"),
        _ => None,
    });
    if schemas.map(is_optional).reduce(|all, one| all && one) == Some(true) {
        body.required = Some(Required::False);
    }
}
