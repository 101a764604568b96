//! Extraction of bodies and queries with the errors of each family.

use axum::body::{HttpBody as _, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::{ChromaError, Problem};
use super::wording;
use crate::app::App;
use crate::error::{Error, Kind, Result};
pub(super) use crate::model::object::Object;

/// A JSON body of the operations family; an empty one stands for `{}`.
pub(super) struct OperationBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<App> for OperationBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &App) -> Result<Self, Self::Rejection> {
        // An empty one is taken whatever its content type says.
        let bytes = match request.body().is_end_stream() {
            true => Bytes::new(),
            false => read_json(request).await?,
        };
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let parsed = parse_json(text).map_err(|bad| {
            // serde_json calls a number in the place of a word bad JSON.
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok();
            if bad.is_shape || is_json {
                Error::unprocessable(wording::of_shape(&bad.path, &bad.what))
            } else {
                Error::invalid(wording::of_syntax(&bad.what))
            }
        });
        let Object(value) = parsed?;
        Ok(Self(value))
    }
}

/// A JSON body on `/api/v2`, not yet parsed: parsing a large one is work for a blocking thread.
pub(super) struct ChromaBody(Bytes);

impl ChromaBody {
    /// Parses the body.
    ///
    /// # Errors
    /// `InvalidArgument` when it is not JSON, `Unprocessable` when it has the wrong shape.
    pub(super) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        parse_json(&self.0).map_err(|bad| {
            // Its own words: clients look for them.
            let text = match bad.path.as_str() {
                "" | "." | "?" => bad.what,
                path => format!("{path}: {}", bad.what),
            };
            if bad.is_shape {
                Error::unprocessable(format!(
                    "Failed to deserialize the JSON body into the target type: {text}"
                ))
            } else {
                Error::invalid(format!("Failed to parse the request body as JSON: {text}"))
            }
        })
    }
}

impl FromRequest<App> for ChromaBody {
    type Rejection = ChromaError;

    async fn from_request(request: Request, _: &App) -> Result<Self, Self::Rejection> {
        Ok(Self(read_json(request).await?))
    }
}

async fn read_json(request: Request) -> Result<Bytes> {
    if !is_json(request.headers()) {
        return Err(Error::new(
            Kind::UnsupportedMediaType,
            "Expected request with `Content-Type: application/json`",
        ));
    }
    // It is there as a whole, and not too long: see `bodies`.
    to_bytes(request.into_body(), usize::MAX)
        .await
        .map_err(|error| {
            Error::invalid("the request body did not arrive whole").because(error.into_inner())
        })
}

/// JSON by its content type; one that is absent counts.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let essence = value
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// What is wrong with a JSON body, in the parser's words.
struct BadJson {
    /// It is JSON, of another shape than is wanted.
    is_shape: bool,
    /// Where, if the parser got as far; "." is the whole.
    path: String,
    what: String,
}

fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BadJson> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    // Only the path to what is wrong needs the slower way.
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    let (path, error) = match parsed {
        Err(error) => (error.path().to_string(), error.into_inner()),
        Ok(value) => match deserializer.end() {
            Ok(()) => return Ok(value),
            Err(error) => (String::new(), error),
        },
    };
    Err(BadJson {
        is_shape: error.is_data(),
        path,
        what: error.to_string(),
    })
}

/// A parameter in the path of the operations family.
pub(super) struct OperationPath(pub(super) String);

impl FromRequestParts<App> for OperationPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Self::Rejection> {
        match Path::<String>::from_request_parts(parts, app).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(rejection) => Err(Problem(Error::invalid(rejection.body_text()))),
        }
    }
}

/// Parameters in the path on `/api/v2`.
pub(super) struct ChromaPath<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for ChromaPath<T> {
    type Rejection = ChromaError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Self::Rejection> {
        match Path::from_request_parts(parts, app).await {
            Ok(Path(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(ChromaError(Error::invalid(rejection.body_text()))),
        }
    }
}

/// A query string of the operations family.
pub(super) struct OperationQuery<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<App> for OperationQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Self::Rejection> {
        match Query::from_request_parts(parts, app).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let text = rejection.body_text();
                let what = text.strip_prefix("Failed to deserialize query string: ");
                let what = wording::of_shape("", what.unwrap_or(&text));
                Err(Problem(Error::unprocessable(what)))
            }
        }
    }
}

/// A query string on `/api/v2`.
pub(super) struct ChromaQuery<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<App> for ChromaQuery<T> {
    type Rejection = ChromaError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Self::Rejection> {
        match Query::from_request_parts(parts, app).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(ChromaError(Error::invalid(rejection.body_text()))),
        }
    }
}
