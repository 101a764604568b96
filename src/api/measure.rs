//! Counts and times requests, by route, method and status.
//!
//! A route is the template that matched, such as `/backups/{id}`, never the path: whatever clients ask for,
//! there are only so many series.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use metrics::{Counter, Gauge, Histogram};
use parking_lot::RwLock;

use crate::metrics::{REQUEST_DURATION, counter, gauge, histogram, record_since};

/// The route of a path that there is not.
const UNMATCHED: &str = "unmatched";

static IN_FLIGHT: LazyLock<Gauge> = LazyLock::new(|| {
    gauge(
        "vectorkeep_http_requests_in_flight",
        "Requests that are being answered; streams only until they begin.",
    )
});

static REFUSED: LazyLock<Counter> = LazyLock::new(|| {
    counter(
        "vectorkeep_http_requests_refused_total",
        "Requests that were answered 503 because too many were running (server.max_concurrent_requests).",
        &[],
    )
});

static ABANDONED: LazyLock<Counter> = LazyLock::new(|| {
    counter(
        "vectorkeep_http_requests_abandoned_total",
        "Requests whose client was gone before the answer.",
        &[],
    )
});

/// Makes what has no route, so that it is there, at zero, before anything happens.
pub(super) fn start() {
    LazyLock::force(&IN_FLIGHT);
    LazyLock::force(&REFUSED);
    LazyLock::force(&ABANDONED);
}

/// Counts a request that is refused because too many are running.
pub(super) fn count_refused() {
    REFUSED.increment(1);
}

/// The handles of a route and method, so that a request makes no new one.
struct Series {
    route: String,
    method: &'static str,
    duration: Histogram,
    answers: RwLock<Vec<(u16, Counter)>>,
}

type Routes = HashMap<String, Arc<Series>>;

/// By method, then route.
static SERIES: LazyLock<RwLock<HashMap<&'static str, Routes>>> = LazyLock::new(RwLock::default);

impl Series {
    fn of(route: &str, method: &'static str) -> Arc<Self> {
        let known = SERIES.read();
        if let Some(series) = known.get(method).and_then(|routes| routes.get(route)) {
            return Arc::clone(series);
        }
        drop(known);
        let mut known = SERIES.write();
        let series = known
            .entry(method)
            .or_default()
            .entry(route.to_owned())
            .or_insert_with(|| Arc::new(Self::new(route, method)));
        Arc::clone(series)
    }

    fn new(route: &str, method: &'static str) -> Self {
        let duration = histogram(
            REQUEST_DURATION,
            "How long requests took until their answer began.",
            &[("route", route.to_owned()), ("method", method.to_owned())],
        );
        Self {
            route: route.to_owned(),
            method,
            duration,
            answers: RwLock::default(),
        }
    }

    fn count(&self, status: u16) {
        let known = self.answers.read();
        if let Some((_, answers)) = known.iter().find(|(known, _)| *known == status) {
            answers.increment(1);
            return;
        }
        drop(known);
        let answers = counter(
            "vectorkeep_http_requests_total",
            "Requests that were answered, by route, method and status.",
            &[
                ("route", self.route.clone()),
                ("method", self.method.to_owned()),
                ("status", status.to_string()),
            ],
        );
        answers.increment(1);
        // Two at the same time may both put it here; it is the same counter.
        self.answers.write().push((status, answers));
    }
}

/// Methods that no route takes are one: clients may make them up.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// A request that is being answered.
struct InFlight {
    answered: bool,
}

impl InFlight {
    fn begin() -> Self {
        IN_FLIGHT.increment(1.0);
        Self { answered: false }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        IN_FLIGHT.decrement(1.0);
        if !self.answered {
            ABANDONED.increment(1);
        }
    }
}

/// Measures a request. Around everything else, so that refusals count as well.
pub(super) async fn measure(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = known_method(request.method());
    let started = Instant::now();
    let mut in_flight = InFlight::begin();
    let response = next.run(request).await;
    in_flight.answered = true;
    let series = Series::of(
        route.as_ref().map_or(UNMATCHED, MatchedPath::as_str),
        method,
    );
    record_since(&series.duration, started);
    series.count(response.status().as_u16());
    response
}
