//! The JSON answers of the operations family end with a newline, so that a terminal's prompt stands on a line of its own.
//! (Below `/api/v2` they are as Chroma's server has them; downloads are as they were written.)

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

/// Ends the answer's text, where it is JSON of the operations family.
pub(super) async fn end_with_newline(request: Request, next: Next) -> Response {
    let is_chroma = request.uri().path().starts_with("/api/");
    let is_head = *request.method() == Method::HEAD;
    let mut response = next.run(request).await;
    let headers = response.headers();
    if is_chroma || !is_json(headers) || headers.contains_key(header::CONTENT_DISPOSITION) {
        return response;
    }
    let is_empty = response.body().size_hint().exact() == Some(0);
    if is_empty && !is_head {
        return response;
    }
    let headers = response.headers_mut();
    if let Some(length) = length(headers) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length + 1));
    }
    match is_empty {
        true => response,
        false => response.map(|body| {
            Body::new(Ended {
                body,
                is_done: false,
            })
        }),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE);
    let media_type = media_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// A body and a newline.
struct Ended {
    body: Body,
    /// Whether the newline was handed on.
    is_done: bool,
}

impl HttpBody for Ended {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_done {
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            None => {
                self.is_done = true;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"\n")))))
            }
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_done
    }

    fn size_hint(&self) -> SizeHint {
        longer_by(&self.body.size_hint(), u64::from(!self.is_done))
    }
}

/// The hint of a body to which so many bytes are added.
pub(super) fn longer_by(hint: &SizeHint, bytes: u64) -> SizeHint {
    let mut longer = SizeHint::new();
    longer.set_lower(hint.lower() + bytes);
    if let Some(upper) = hint.upper() {
        longer.set_upper(upper + bytes);
    }
    longer
}
