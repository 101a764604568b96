//! `vectorkeep health`: asks a running service, for containers that carry no curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::config::Config;
use crate::environments::trusting;
use crate::error::{Error, Kind, Result};
use crate::tls::client_builder;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Where a service with this configuration is reached from its own machine.
pub fn own_url(config: &Config) -> String {
    let scheme = match config.tls.cert_file {
        Some(_) => "https",
        None => "http",
    };
    let listen = &config.server.listen;
    match listen.to_string().parse() {
        Ok(SocketAddr::V4(address)) if address.ip().is_unspecified() => {
            format!("{scheme}://{}:{}", Ipv4Addr::LOCALHOST, address.port())
        }
        Ok(SocketAddr::V6(address)) if address.ip().is_unspecified() => {
            format!("{scheme}://[{}]:{}", Ipv6Addr::LOCALHOST, address.port())
        }
        _ => format!("{scheme}://{listen}"),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

/// What a service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// How everything is.
    Overview,
    /// Whether it is alive.
    Live,
    /// Whether it is ready to be used.
    Ready,
}

impl Probe {
    fn path(self) -> &'static str {
        match self {
            Self::Overview => "/health",
            Self::Live => "/health/live",
            Self::Ready => "/health/ready",
        }
    }
}

/// Which service is asked, how and for what.
#[derive(Debug)]
pub struct Question<'a> {
    /// Where it runs.
    pub url: &'a str,
    /// Certificates in PEM that are trusted beside the system's.
    pub ca_file: Option<&'a Path>,
    /// A key.
    pub key: Option<&'a str>,
    /// For what.
    pub probe: Probe,
}

/// What a service says of its health.
#[derive(Debug)]
pub struct Answer {
    /// `pass`, `warn` or `fail`.
    pub status: String,
    /// All of it.
    pub body: Value,
}

impl Answer {
    /// Checks that do not pass, each with what it says.
    pub fn reasons(&self) -> Vec<String> {
        let checks = self.body.get("checks").and_then(Value::as_object);
        let observations = checks.into_iter().flatten().flat_map(|(name, all)| {
            let all = all.as_array().into_iter().flatten();
            all.map(move |observation| (name, observation))
        });
        let text = |observation: &Value, member: &str| match observation.get(member) {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        };
        observations
            .filter(|(_, observation)| text(observation, "status") != "pass")
            .map(|(name, observation)| {
                let output = text(observation, "output");
                let said = if output.is_empty() {
                    let value = text(observation, "observed_value");
                    format!("{value} {}", text(observation, "observed_unit"))
                } else {
                    output
                };
                format!("{name}: {}: {}", text(observation, "status"), said.trim())
            })
            .collect()
    }
}

/// Asks a service for its health.
///
/// # Errors
/// `RemoteUnavailable` when it does not answer, or something else answers; `InvalidArgument` for an address or a
/// file that cannot be used.
pub async fn ask(question: &Question<'_>) -> Result<Answer> {
    let url = question.url.trim_end_matches('/');
    let unreachable = |error: reqwest::Error| {
        Error::new(
            Kind::RemoteUnavailable,
            format!("{url} does not answer as vectorkeep does"),
        )
        .because(error)
    };
    let mut client = client_builder().timeout(TIMEOUT);
    let host = reqwest::Url::parse(url)
        .map_err(|error| Error::invalid(format!("{url} is no address: {error}")))?;
    if let Some(host) = host.host_str()
        && (host == "localhost" || is_loopback(host))
    {
        // A proxy of the environment leads to other machines.
        client = client.no_proxy();
    }
    if let Some(file) = question.ca_file {
        client = trusting(client, file)
            .map_err(|error| Error::invalid(format!("{}: {error}", file.display())))?;
    }
    let client = client.build().map_err(unreachable)?;
    let mut request = client.get(format!("{url}{}", question.probe.path()));
    if let Some(key) = question.key {
        request = request.bearer_auth(key);
    }
    let answer = request.send().await.map_err(unreachable)?;
    let ok = answer.status().is_success();
    let body: Value = answer.json().await.map_err(unreachable)?;
    let said = body.get("status").and_then(Value::as_str);
    let status = said.filter(|said| ok || *said == "fail").unwrap_or("fail");
    Ok(Answer {
        status: status.to_owned(),
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_pass_is_said_with_its_reason() {
        let body = serde_json::json!({"status": "warn", "checks": {
            "storage:disk_free": [{"status": "warn", "observed_value": 5, "observed_unit": "bytes"}],
            "storage:writable": [{"status": "pass", "output": "fine"}],
            "backups:last_verified_age": [{"status": "fail", "output": "no backup yet"}],
        }});
        let answer = Answer {
            status: "warn".to_owned(),
            body,
        };
        let expected = [
            "storage:disk_free: warn: 5 bytes",
            "backups:last_verified_age: fail: no backup yet",
        ];
        assert_eq!(answer.reasons(), expected);
    }

    #[test]
    fn a_service_is_asked_where_it_listens_on_its_own_machine() {
        let mut config = Config::baseline().unwrap();
        for (listen, url) in [
            ("0.0.0.0:8001", "http://127.0.0.1:8001"),
            ("[::]:8001", "http://[::1]:8001"),
            ("localhost:8000", "http://localhost:8000"),
            ("10.1.2.3:80", "http://10.1.2.3:80"),
        ] {
            config.server.listen = listen.parse().unwrap();
            assert_eq!(own_url(&config), url);
        }
        config.tls.cert_file = Some("cert.pem".into());
        assert_eq!(own_url(&config), "https://10.1.2.3:80");
        assert!(is_loopback("127.0.0.1") && is_loopback("[::1]") && !is_loopback("10.1.2.3"));
    }
}
