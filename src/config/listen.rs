//! Where the service listens: an address or a name, and a port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::error::{Error, Result};

/// `server.listen`: a host, which may be a name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// An IPv6 address without its brackets.
    host: String,
    port: u16,
}

impl ListenAddress {
    /// The addresses that it stands for, those of IPv4 first: a client that is told `127.0.0.1` finds a service on
    /// `localhost`. Blocks where a name has to be asked for.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that nobody knows.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>> {
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let mut addresses: Vec<SocketAddr> = found
            .map_err(|error| {
                Error::invalid(format!(
                    "configuration server.listen: {self} cannot be resolved: {error}"
                ))
            })?
            .collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        addresses.dedup();
        Ok(addresses)
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no address and port: such as 127.0.0.1:8000, localhost:8000 or [::1]:8000"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let in_brackets = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match in_brackets {
            Some(address) => address
                .parse::<Ipv6Addr>()
                .map_err(|_| wrong())?
                .to_string(),
            None => host.to_owned(),
        };
        let is_name = !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.');
        if !is_name && in_brackets.is_none() {
            return Err(wrong());
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse() {
            Ok(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_taken_with_their_port() {
        for text in [
            "127.0.0.1:8000",
            "localhost:8000",
            "[::1]:80",
            "db.internal:1",
            "0.0.0.0:0",
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in [
            "8000",
            ":8000",
            "localhost",
            "localhost:",
            "localhost:99999",
            "::1:8000",
            "http://a:1",
            "[x]:1",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
        let local: ListenAddress = "localhost:8000".parse().unwrap();
        let addresses = local.resolve().unwrap();
        assert_eq!(addresses.first().unwrap().to_string(), "127.0.0.1:8000");
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    }
}
