//! Behind a path prefix (`server.base_path`): what comes with it is routed without, and what is answered leads to it.

use std::sync::Arc;

use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use uuid::Uuid;

use super::request_id::REQUEST_ID;

/// The prefix under which clients see the service; empty where there is none.
#[derive(Clone)]
pub(super) struct Prefix(Arc<str>);

impl Prefix {
    pub(super) fn new(base_path: &str) -> Self {
        Self(Arc::from(base_path))
    }

    /// The request as the routes know it. A proxy may have taken the prefix away already.
    ///
    /// # Errors
    /// The answer where the prefix stands alone: relative links need the slash at its end.
    #[expect(
        clippy::result_large_err,
        reason = "the answer goes to the client as it is"
    )]
    pub(super) fn strip<B>(&self, mut request: Request<B>) -> Result<Request<B>, Response> {
        let asked = request
            .uri()
            .path_and_query()
            .map_or("/", PathAndQuery::as_str);
        let rest = match asked.strip_prefix(&*self.0) {
            Some(rest) if !self.0.is_empty() => rest.to_owned(),
            _ => return Ok(request),
        };
        if rest.is_empty() || rest.starts_with('?') {
            let location = format!("{}/{rest}", self.0);
            let id = Uuid::now_v7().simple().to_string();
            let headers = [(header::LOCATION, location), (REQUEST_ID, id)];
            return Err((StatusCode::PERMANENT_REDIRECT, headers).into_response());
        }
        if rest.starts_with('/')
            && let Ok(path_and_query) = rest.parse()
        {
            let mut parts = request.uri().clone().into_parts();
            parts.path_and_query = Some(path_and_query);
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
        Ok(request)
    }

    /// The answer as clients see it: a `Location` on this service begins with the prefix.
    pub(super) fn put(&self, mut response: Response) -> Response {
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let seen = match location {
            // That is right behind any prefix.
            Some("/docs/") => "docs/".to_owned(),
            Some(path) if path.starts_with('/') && !self.0.is_empty() => {
                format!("{}{path}", self.0)
            }
            _ => return response,
        };
        if let Ok(seen) = HeaderValue::from_str(&seen) {
            response.headers_mut().insert(header::LOCATION, seen);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_taken_away_and_nothing_else() {
        let routed = |base: &str, uri: &str| {
            let request = Request::builder().uri(uri).body(()).unwrap();
            let routed = Prefix::new(base).strip(request);
            routed
                .map(|request| request.uri().to_string())
                .map_err(|response| {
                    response.headers()[header::LOCATION]
                        .to_str()
                        .unwrap()
                        .to_owned()
                })
        };
        for (base, uri, expected) in [
            ("", "/backups?limit=1", Ok("/backups?limit=1")),
            (
                "/vectors",
                "/vectors/backups?limit=1",
                Ok("/backups?limit=1"),
            ),
            ("/vectors", "/vectors/", Ok("/")),
            ("/vectors", "/backups", Ok("/backups")),
            ("/vectors", "/vectors-2/x", Ok("/vectors-2/x")),
            ("/vectors", "/vectors", Err("/vectors/")),
            ("/vectors", "/vectors?a=1", Err("/vectors/?a=1")),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(routed(base, uri), expected, "{base} {uri}");
        }
    }
}
