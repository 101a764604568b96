//! Requests to another server: timed, bounded, repeated where that is safe. Everything that is asked here may
//! be repeated: who asks sees to it that doing it twice is the same as doing it once.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::{RemoteLimits, RemoteSettings, TokenHeader};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::tls::client_builder;

/// The first pause before a request is repeated; each one is twice as long, up to the last, and somewhat longer by
/// chance: not all ask again at the same moment.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A pause is looked up from so often: the job may have been canceled.
const SLICE: Duration = Duration::from_millis(50);
/// Of an answer that is no success, so much is shown.
const SHOWN_CHARS: usize = 300;

/// A client of one server.
pub(super) struct Http {
    client: Client,
    base: Url,
    /// Name and address, for messages.
    shown: String,
    token: Option<(HeaderName, HeaderValue)>,
    limits: RemoteLimits,
    places: Arc<Semaphore>,
    runtime: Handle,
}

/// An answer below 500.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Answer {
    /// What the server says went wrong.
    pub(super) fn message(&self) -> String {
        let parsed: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = ["message", "detail"]
            .iter()
            .find_map(|member| parsed.get(member)?.as_str());
        let text = text.map_or_else(|| String::from_utf8_lossy(&self.body), Into::into);
        text.chars().take(SHOWN_CHARS).collect()
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// A request.
struct RemoteRequest<'a> {
    method: &'a Method,
    url: &'a Url,
    body: Option<Bytes>,
    /// Makes it one request however often it comes.
    key: Option<&'a str>,
}

/// Why an attempt failed.
struct Failed {
    why: String,
    kind: Kind,
    again: bool,
    /// When the server wants to be asked again, if it says so.
    after: Option<Duration>,
}

impl Http {
    pub(super) fn open(
        name: &str,
        settings: &RemoteSettings,
        limits: RemoteLimits,
        runtime: Handle,
    ) -> Result<Self> {
        let bad = |what: String| Error::invalid(format!("environments.{name}: {what}"));
        let base = Url::parse(&settings.url).map_err(|error| bad(format!("url: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(bad("url must be http://… or https://…".to_owned()));
        }
        if !base.username().is_empty() || base.password().is_some() || base.query().is_some() {
            return Err(bad(
                "url must hold no user, password or query; a secret goes to token_env or token_file"
                    .to_owned(),
            ));
        }
        let path = base.path().trim_end_matches('/');
        if let Some(at) = ["/api/v2", "/api/v1"]
            .iter()
            .find_map(|api| path.strip_suffix(api))
        {
            let mut meant = base.clone();
            meant.set_path(at);
            return Err(bad(format!(
                "url must not end in the path of the API, which is put behind it: give {}",
                meant.as_str().trim_end_matches('/')
            )));
        }
        let mut client = client_builder()
            .timeout(limits.request_timeout)
            .connect_timeout(limits.request_timeout)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(file) = &settings.ca_file {
            let unusable =
                |error: &dyn std::fmt::Display| bad(format!("ca_file {}: {error}", file.display()));
            client = trusting(client, file).map_err(|error| unusable(&error))?;
        }
        let token = settings.token.as_ref().map(|token| -> Result<_> {
            let (header, text) = match token.header {
                TokenHeader::Authorization => (AUTHORIZATION, format!("Bearer {}", token.secret)),
                TokenHeader::XChromaToken => (
                    HeaderName::from_static("x-chroma-token"),
                    token.secret.clone(),
                ),
            };
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| bad("the token has characters that no header can hold".to_owned()))?;
            value.set_sensitive(true);
            Ok((header, value))
        });
        let client = client.build();
        Ok(Self {
            client: client.map_err(|error| bad(format!("no client: {error}")))?,
            shown: format!("{name} ({})", settings.url),
            base,
            token: token.transpose()?,
            places: Arc::new(Semaphore::new(limits.max_requests)),
            limits,
            runtime,
        })
    }

    /// Bytes of records that one request may carry.
    pub(super) fn max_request_bytes(&self) -> usize {
        self.limits.max_request_bytes
    }

    /// Name and address.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The address of a path, each of whose segments may hold any character.
    pub(super) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// Asks until there is an answer below 500 that is no "later", and waits for it. Blocks.
    ///
    /// # Errors
    /// `RemoteUnavailable`, `Canceled`.
    pub(super) fn call(
        &self,
        method: &Method,
        url: &Url,
        body: Option<Bytes>,
        progress: &Progress,
    ) -> Result<Answer> {
        let request = RemoteRequest {
            method,
            url,
            body,
            key: None,
        };
        self.ask(&request, progress)
    }

    fn ask(&self, request: &RemoteRequest<'_>, progress: &Progress) -> Result<Answer> {
        let began = Instant::now();
        let mut pauses = ExponentialBuilder::new()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_max_times(self.limits.max_retries)
            .with_jitter()
            .build();
        loop {
            progress.check()?;
            let Failed {
                why,
                kind,
                again,
                after,
            } = match self.runtime.block_on(self.once(request)) {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let in_time = |pause: &Duration| {
                began.elapsed().saturating_add(*pause) <= self.limits.retry_timeout
            };
            let pause = pauses.next().filter(|_| again);
            let Some(wait) = pause
                .map(|pause| after.map_or(pause, |after| after.max(pause)))
                .filter(in_time)
            else {
                let what = format!("{} {}: {why}", request.method, request.url.path());
                return Err(self.error(kind, &what));
            };
            tracing::debug!(remote = self.shown, why, ?wait, "a request is repeated");
            let until = Instant::now() + wait;
            while Instant::now() < until {
                progress.check()?;
                std::thread::sleep(SLICE.min(until - Instant::now().min(until)));
            }
        }
    }

    /// As [`Http::read`], of a request that is done once however often it comes: it has a key.
    ///
    /// # Errors
    /// As there.
    pub(super) fn read_keyed<T: DeserializeOwned>(
        &self,
        url: &Url,
        body: Bytes,
        key: &str,
        progress: &Progress,
    ) -> Result<T> {
        let request = RemoteRequest {
            method: &Method::POST,
            url,
            body: Some(body),
            key: Some(key),
        };
        self.decoded(&request, progress)
    }

    /// As [`Http::call`]: a success, decoded. One that cannot be decoded is asked for again once.
    ///
    /// # Errors
    /// `RemoteUnavailable`, also where the answer is a refusal; `Canceled`.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        method: &Method,
        url: &Url,
        body: Option<Bytes>,
        progress: &Progress,
    ) -> Result<T> {
        let request = RemoteRequest {
            method,
            url,
            body,
            key: None,
        };
        self.decoded(&request, progress)
    }

    fn decoded<T: DeserializeOwned>(
        &self,
        request: &RemoteRequest<'_>,
        progress: &Progress,
    ) -> Result<T> {
        let mut last = String::new();
        for _ in 0..2 {
            let answer = self.ask(request, progress)?;
            if !answer.is_success() {
                return Err(self.refused(&answer));
            }
            match serde_json::from_slice(&answer.body) {
                Ok(read) => return Ok(read),
                Err(error) => last = error.to_string(),
            }
        }
        Err(self.unavailable(&format!("an answer that cannot be read: {last}")))
    }

    /// As [`Http::call`], where only success counts.
    ///
    /// # Errors
    /// `RemoteUnavailable`, also where the answer is a refusal; `Canceled`.
    pub(super) fn done(
        &self,
        method: &Method,
        url: &Url,
        body: Bytes,
        progress: &Progress,
    ) -> Result<()> {
        let answer = self.call(method, url, Some(body), progress)?;
        if answer.is_success() {
            return Ok(());
        }
        Err(self.refused(&answer))
    }

    /// The error for an answer that is a refusal.
    pub(super) fn refused(&self, answer: &Answer) -> Error {
        self.unavailable(&format!("{}: {}", answer.status, answer.message()))
    }

    pub(super) fn unavailable(&self, why: &str) -> Error {
        self.error(Kind::RemoteUnavailable, why)
    }

    fn error(&self, kind: Kind, why: &str) -> Error {
        Error::new(kind, format!("the environment {}: {why}", self.shown))
    }

    async fn once(&self, asked: &RemoteRequest<'_>) -> std::result::Result<Answer, Failed> {
        let _place = self.places.acquire().await;
        let lost = |error: reqwest::Error| Failed {
            // Its address is said already.
            why: chain(&error.without_url()),
            kind: Kind::RemoteUnavailable,
            again: true,
            after: None,
        };
        let mut request = self.client.request(asked.method.clone(), asked.url.clone());
        if let Some((name, value)) = &self.token {
            request = request.header(name, value);
        }
        if let Some(key) = asked.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = asked.body.clone() {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let mut response = request.send().await.map_err(lost)?;
        let status = response.status().as_u16();
        // Seconds; nobody sends a date to a machine.
        let after = response.headers().get(RETRY_AFTER);
        let after = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let after = after.map(Duration::from_secs);
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > self.limits.max_answer_bytes {
                let most = self.limits.max_answer_bytes;
                return Err(Failed {
                    why: format!(
                        "an answer of more than {most} bytes (migration.max_answer_bytes)"
                    ),
                    kind: Kind::TooLarge,
                    again: false,
                    after: None,
                });
            }
            body.extend_from_slice(&chunk);
        }
        let answer = Answer {
            status,
            body: body.freeze(),
        };
        if status >= 500 || status == 429 || status == 408 {
            return Err(Failed {
                why: format!("{status}: {}", answer.message()),
                kind: Kind::RemoteUnavailable,
                again: true,
                after,
            });
        }
        Ok(answer)
    }

    /// Asks once, for a short time, whether the server is there. For use on the runtime.
    pub(super) async fn probe(&self, url: Url) -> Option<Bytes> {
        let request = RemoteRequest {
            method: &Method::GET,
            url: &url,
            body: None,
            key: None,
        };
        let asked = self.once(&request);
        let answer = tokio::time::timeout(self.limits.probe_timeout, asked).await;
        let answer = answer.ok()?.ok()?;
        answer.is_success().then_some(answer.body)
    }
}

/// Trusts the certificates of a file in PEM beside the system's.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn trusting(
    client: reqwest::ClientBuilder,
    file: &Path,
) -> std::result::Result<reqwest::ClientBuilder, String> {
    let pem = std::fs::read(file).map_err(|error| error.to_string())?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| error.to_string())?;
    Ok(client.tls_certs_merge(certificates))
}

/// An error and its causes: the first alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
