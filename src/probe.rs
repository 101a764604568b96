//! `vectorkeep health`: asks a running service, for containers that carry no curl.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Kind, Result};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the service at `url` for its health and returns its status word.
///
/// # Errors
/// `Unavailable` when it does not answer or does not pass.
pub async fn health(url: &str, ca_file: Option<&Path>) -> Result<String> {
    let unreachable = |error: reqwest::Error| {
        Error::new(Kind::Unavailable, format!("{url} does not answer")).because(error)
    };
    let mut client = reqwest::Client::builder().timeout(TIMEOUT);
    if let Some(file) = ca_file {
        let bad = |what: String| Error::invalid(format!("{}: {what}", file.display()));
        let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
        let certificates =
            reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
        client = client.tls_certs_merge(certificates);
    }
    let client = client.build().map_err(unreachable)?;
    let address = format!("{}/health", url.trim_end_matches('/'));
    let answer = client.get(address).send().await.map_err(unreachable)?;
    let ok = answer.status().is_success();
    let body: Value = answer.json().await.map_err(unreachable)?;
    let status = body
        .get("status")
        .and_then(Value::as_str)
        .unwrap_or("fail")
        .to_owned();
    if ok && status != "fail" {
        Ok(status)
    } else {
        Err(Error::new(
            Kind::Unavailable,
            format!("{url}: {status}: {body}"),
        ))
    }
}
