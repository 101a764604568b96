//! `vectorkeep health`: asks a running service, for containers that carry no curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::config::Config;
use crate::environments::trusting;
use crate::error::{Error, Kind, Result};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Where a service with this configuration is reached from its own machine.
pub fn own_url(config: &Config) -> String {
    let scheme = match config.tls.cert_file {
        Some(_) => "https",
        None => "http",
    };
    let mut listen = config.server.listen;
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("{scheme}://{listen}")
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

/// Asks the service at `url` for its health and returns its status word.
///
/// # Errors
/// `Unavailable` when it does not answer or does not pass.
pub async fn health(url: &str, ca_file: Option<&Path>) -> Result<String> {
    let unreachable = |error: reqwest::Error| {
        Error::new(Kind::Unavailable, format!("{url} does not answer")).because(error)
    };
    let mut client = reqwest::Client::builder().timeout(TIMEOUT);
    let host = reqwest::Url::parse(url).ok();
    let host = host.as_ref().and_then(|url| url.host_str());
    if host.is_some_and(|host| host == "localhost" || is_loopback(host)) {
        // A proxy of the environment leads to other machines.
        client = client.no_proxy();
    }
    if let Some(file) = ca_file {
        client = trusting(client, file)
            .map_err(|error| Error::invalid(format!("{}: {error}", file.display())))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_asked_where_it_listens_on_its_own_machine() {
        let mut config = Config::baseline().unwrap();
        for (listen, url) in [
            ("0.0.0.0:8001", "http://127.0.0.1:8001"),
            ("[::]:8001", "http://[::1]:8001"),
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
