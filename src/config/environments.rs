//! Settings of the places that collections migrate from and to.

use std::path::PathBuf;

use serde::Deserialize;

use crate::environments::{EnvironmentKind, LOCAL, RemoteSettings, Token, TokenHeader};
use crate::error::{Error, Result};
use crate::model::names::{DEFAULT_DATABASE, DEFAULT_TENANT};

/// `[environments.NAME]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct EnvironmentConfig {
    pub kind: EnvironmentKind,
    pub url: String,
    pub tenant: Option<String>,
    pub database: Option<String>,
    pub token_env: Option<String>,
    pub token_file: Option<PathBuf>,
    #[serde(default)]
    pub token_header: TokenHeader,
    pub ca_file: Option<PathBuf>,
}

impl EnvironmentConfig {
    /// Another instance, without a key.
    pub fn vectorkeep(url: &str) -> Self {
        Self {
            kind: EnvironmentKind::Vectorkeep,
            url: url.to_owned(),
            tenant: None,
            database: None,
            token_env: None,
            token_file: None,
            token_header: TokenHeader::default(),
            ca_file: None,
        }
    }

    /// How the place of this name is reached, with its secret.
    ///
    /// # Errors
    /// `InvalidArgument` that names what is wrong, and never the secret.
    pub fn settings(&self, name: &str) -> Result<RemoteSettings> {
        let bad = |what: String| Error::invalid(format!("environments.{name}: {what}"));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name == LOCAL || name.is_empty() || !name.chars().all(plain) {
            return Err(bad(
                "a name is letters, digits, - and _, and \"local\" is this store".to_owned(),
            ));
        }
        if self.kind == EnvironmentKind::Local {
            return Err(bad("kind must be \"vectorkeep\" or \"chroma\"".to_owned()));
        }
        let secret = match (&self.token_env, &self.token_file) {
            (Some(_), Some(_)) => {
                return Err(bad("token_env and token_file exclude each other".to_owned()));
            }
            (Some(variable), None) => Some(
                std::env::var(variable)
                    .map_err(|_| bad(format!("token_env: there is no variable {variable}")))?,
            ),
            (None, Some(file)) => Some(
                std::fs::read_to_string(file)
                    .map_err(|error| bad(format!("token_file {}: {error}", file.display())))?,
            ),
            (None, None) => None,
        };
        let secret = secret.map(|secret| secret.trim().to_owned());
        if secret.as_ref().is_some_and(String::is_empty) {
            return Err(bad("the token is empty".to_owned()));
        }
        let or = |given: &Option<String>, default: &str| {
            given.clone().unwrap_or_else(|| default.to_owned())
        };
        Ok(RemoteSettings {
            kind: self.kind,
            url: self.url.clone(),
            tenant: or(&self.tenant, DEFAULT_TENANT),
            database: or(&self.database, DEFAULT_DATABASE),
            token: secret.map(|secret| Token {
                secret,
                header: self.token_header,
            }),
            ca_file: self.ca_file.clone(),
        })
    }
}
