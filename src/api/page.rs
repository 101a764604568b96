//! `GET /`: the operations page. Its files are built into the program and hold nobody's data: the page
//! asks the service's own routes for that, with the key that its reader has.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

/// Nothing from elsewhere, and nothing within the text itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, media type and content of each.
macro_rules! files {
    ($($media_type:ident $name:literal),* $(,)?) => {
        [$((concat!("/page/", $name), $media_type, include_str!(concat!("page/", $name)))),*]
    };
}

/// What the page loads.
const FILES: [(&str, &str, &str); 12] = files![
    STYLE "operations.css",
    SCRIPT "backups.js",
    SCRIPT "collections.js",
    SCRIPT "elements.js",
    SCRIPT "health.js",
    SCRIPT "jobs.js",
    SCRIPT "messages.js",
    SCRIPT "operations.js",
    SCRIPT "restore.js",
    SCRIPT "service.js",
    SCRIPT "timeline.js",
    SCRIPT "units.js",
];

/// The files beside the page.
pub(super) fn files() -> impl Iterator<Item = (&'static str, MethodRouter<crate::app::App>)> {
    FILES
        .into_iter()
        .map(|(path, media_type, content)| (path, get(async move || file(media_type, content))))
}

/// The page. A client that says nothing about what it accepts gets what Chroma's server answers here: nothing.
pub(super) async fn index(headers: HeaderMap) -> Response {
    if headers.contains_key(header::ACCEPT) {
        file(HTML, include_str!("page/index.html"))
    } else {
        StatusCode::NOT_FOUND.into_response()
    }
}

fn file(media_type: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The next version of the program may have another page.
        (header::CACHE_CONTROL, "no-cache"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)));
    (headers, content).into_response()
}
