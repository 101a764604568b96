//! A server between two services: it remembers what came by, and lets requests fail, wait or lose their answers.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use vectorkeep::tls::client_builder;

use crate::harness::eventually;

/// A request that came by.
#[derive(Clone, Debug)]
pub(super) struct Passing {
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Passing {
    /// Whether it goes to this one of the routes of records.
    pub(super) fn is(&self, verb: &str) -> bool {
        self.method == "POST" && self.path.ends_with(&format!("/{verb}"))
    }

    /// The body; null where there is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether it reads records from this place in their order, or from a later one.
    pub(super) fn reads_from(&self, place: u64) -> bool {
        let offset = self.json()["offset"].as_u64();
        self.is("get") && offset.is_some_and(|offset| offset >= place)
    }

    /// Whether it gives a collection this name.
    pub(super) fn renames_to(&self, name: &str) -> bool {
        self.method == "PUT" && self.json()["new_name"] == name
    }

    pub(super) fn says(&self, part: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(part)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Passes,
    /// It is not done, and answered with this status and text.
    Answered(u16, &'static str),
    /// It is not done; the connection breaks in the place of an answer.
    Cut,
    /// It is done; the connection breaks in the place of its answer.
    Lost,
    /// It is done once it is let go.
    Held,
}

type Rule = Arc<dyn Fn(&Passing) -> Fate + Send + Sync>;

struct Inner {
    /// Where requests go on to.
    base: String,
    client: reqwest::Client,
    rule: Mutex<Rule>,
    seen: Mutex<Vec<Passing>>,
    held: watch::Sender<usize>,
    let_go: watch::Sender<bool>,
}

pub(super) struct Proxy {
    inner: Arc<Inner>,
    pub(super) url: String,
    serving: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Proxy {
    /// In front of the server at `base`.
    pub(super) async fn start(base: &str) -> Self {
        let passes: Rule = Arc::new(|_: &Passing| Fate::Passes);
        let inner = Arc::new(Inner {
            base: base.to_owned(),
            client: client_builder().no_proxy().build().unwrap(),
            rule: Mutex::new(passes),
            seen: Mutex::new(Vec::new()),
            held: watch::Sender::new(0),
            let_go: watch::Sender::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::clone(&inner);
        let router = Router::new().fallback(forward).with_state(state);
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self {
            inner,
            url,
            serving,
        }
    }

    /// From now on requests fare as this says.
    pub(super) fn rule(&self, rule: impl Fn(&Passing) -> Fate + Send + Sync + 'static) {
        *self.inner.rule.lock() = Arc::new(rule);
    }

    /// From now on every request passes.
    pub(super) fn mend(&self) {
        self.rule(|_| Fate::Passes);
    }

    /// What came by since the last call of this.
    pub(super) fn take_seen(&self) -> Vec<Passing> {
        std::mem::take(&mut *self.inner.seen.lock())
    }

    /// Waits until a request is held.
    pub(super) async fn holds_one(&self) {
        eventually("a request to be held", async || {
            (*self.inner.held.borrow() > 0).then_some(())
        })
        .await;
    }

    /// Lets go what is held, and holds nothing any more.
    pub(super) fn let_go(&self) {
        self.mend();
        self.inner.let_go.send_replace(true);
    }
}

async fn forward(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().unwrap().as_str().to_owned();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let passing = Passing {
        method: parts.method.as_str().to_owned(),
        path,
        headers: parts.headers,
        body,
    };
    let rule = Arc::clone(&inner.rule.lock());
    let fate = rule(&passing);
    inner.seen.lock().push(passing.clone());
    match fate {
        Fate::Answered(status, text) => {
            let status = StatusCode::from_u16(status).unwrap();
            return (status, text).into_response();
        }
        Fate::Cut => return broken(),
        Fate::Held => {
            let mut let_go = inner.let_go.subscribe();
            inner.held.send_modify(|held| *held += 1);
            let_go.wait_for(|let_go| *let_go).await.unwrap();
        }
        Fate::Passes | Fate::Lost => {}
    }
    let answer = pass(&inner, passing).await;
    if matches!(fate, Fate::Lost) {
        return broken();
    }
    answer
}

/// An answer that breaks off before its first byte.
fn broken() -> Response {
    let nothing = async { Err::<Bytes, _>(std::io::Error::other("cut")) };
    Body::from_stream(futures::stream::once(nothing)).into_response()
}

async fn pass(inner: &Inner, passing: Passing) -> Response {
    let method = reqwest::Method::from_bytes(passing.method.as_bytes()).unwrap();
    let url = format!("{}{}", inner.base, passing.path);
    let mut headers = passing.headers;
    for of_this_connection in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION] {
        headers.remove(of_this_connection);
    }
    let request = inner.client.request(method, url).headers(headers);
    let answer = async {
        let answer = request.body(passing.body).send().await?;
        let status = answer.status();
        let media_type = answer.headers().get(header::CONTENT_TYPE).cloned();
        Ok::<_, reqwest::Error>((status, media_type, answer.bytes().await?))
    };
    let Ok((status, media_type, bytes)) = answer.await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let mut response = (status, bytes).into_response();
    if let Some(media_type) = media_type {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, media_type);
    }
    response
}
