//! `/jobs/{id}/events`: server-sent events, one per change.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Serialize;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::error::Problem;
use super::extract::OperationPath;
use super::jobs::{JobResponse, whole};
use super::tags::JOBS;
use crate::app::App;
use crate::error::{Error, Kind, Result};

/// An event of a job.
#[derive(Serialize, ToSchema)]
struct JobEvent {
    event: JobEventName,
    /// The job, as JSON.
    data: String,
}

/// What happened to a job: it changed, or it ended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "it describes what is sent")]
enum JobEventName {
    Progress,
    End,
}

/// Follow a job
///
/// Server-sent events: `progress` with the job now and on every change (no more often than
/// `jobs.event_interval_ms`), then `end` with the job as it ended; the stream closes after it, and when the
/// service stops.
#[utoipa::path(get, path = "/jobs/{id}/events", tag = JOBS, params(("id" = String, Path)),
    responses(
        (status = 200, description = "Events; the data of each is the job", content_type = "text/event-stream", body = JobEvent),
        (status = 404, description = "No such job"),
        (status = 429, description = "Too many clients follow jobs"),
    ))]
pub(super) async fn get_events(
    State(app): State<App>,
    OperationPath(id): OperationPath,
) -> Result<Response, Problem> {
    app.jobs().get(&id)?;
    let permit = Arc::clone(app.event_streams()).try_acquire_owned();
    let too_many = "too many clients follow jobs (jobs.max_event_streams)";
    let permit = permit.map_err(|_| Error::new(Kind::Overloaded, too_many))?;
    let interval = Duration::from_millis(app.config().jobs.event_interval_ms.max(1));
    let follower = Follower {
        app,
        id,
        interval,
        last: None,
        ended: false,
        _permit: permit,
    };
    let events = stream::unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

struct Follower {
    app: App,
    id: String,
    interval: Duration,
    /// The job as it was sent last.
    last: Option<JobResponse>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// The next event; `None` after the last.
    async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        loop {
            if self.last.is_some() {
                // Returns at the end of the job or of the interval, whichever comes first.
                let _ = self.app.jobs().wait(&self.id, self.interval).await;
            }
            // Forgotten since: there is nothing more to say.
            let record = self.app.jobs().get(&self.id).ok()?;
            let is_final = record.state.is_final();
            let job = JobResponse::from(whole(&self.app, record).await.ok()?);
            if !is_final && self.app.is_draining() {
                return None;
            }
            if is_final && self.last.is_some() {
                self.ended = true;
                return event("end", &job);
            }
            if self.last.as_ref() != Some(&job) {
                let event = event("progress", &job);
                self.last = Some(job);
                return event;
            }
        }
    }
}

fn event(name: &str, job: &JobResponse) -> Option<Event> {
    Event::default().event(name).json_data(json!(job)).ok()
}
