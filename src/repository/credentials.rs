//! How an object store is reached: settings from the environment and from a file. What is secret among them
//! appears in no message.

use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::providers::{Format as _, Toml};

use crate::error::{Error, Result};

/// Names and values that an object store's client is set up with.
pub(super) struct Settings {
    /// In lower case; false: from the environment, where much else stands.
    values: BTreeMap<String, (String, bool)>,
}

impl Settings {
    pub(super) fn load(scheme: &str, file: Option<&Path>) -> Result<Self> {
        let prefix = match scheme {
            "s3" => "AWS_",
            "gs" => "GOOGLE_",
            _ => "AZURE_",
        };
        let mut values = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            if let (Some(name), Some(value)) = (name.to_str(), value.to_str())
                && name.starts_with(prefix)
            {
                values.insert(name.to_ascii_lowercase(), (value.to_owned(), false));
            }
        }
        if let Some(file) = file {
            // Errors of the parser quote what they found: it may be a secret.
            let bad = |what: &str| {
                Error::invalid(format!(
                    "repository.credentials_file {}: {what}",
                    file.display()
                ))
            };
            let text = std::fs::read_to_string(file)
                .map_err(|error| bad(&format!("cannot be read: {error}")))?;
            let pairs: BTreeMap<String, String> = Figment::from(Toml::string(&text))
                .extract()
                .map_err(|_| bad("expected lines such as AWS_ACCESS_KEY_ID = \"…\""))?;
            for (name, value) in pairs {
                values.insert(name.to_ascii_lowercase(), (value, true));
            }
        }
        Ok(Self { values })
    }

    /// The settings that the client knows by these names.
    pub(super) fn known<N>(&self, name_of: impl Fn(&str) -> Option<N>) -> Result<Vec<(N, String)>> {
        let mut known = Vec::new();
        for (name, (value, must_be_known)) in &self.values {
            match name_of(name) {
                Some(found) => known.push((found, value.clone())),
                None if *must_be_known => {
                    return Err(Error::invalid(format!(
                        "repository.credentials_file: {name} is no setting of this kind of object store"
                    )));
                }
                None => {}
            }
        }
        Ok(known)
    }

    pub(super) fn secrets(&self) -> Vec<String> {
        let telling = ["key", "secret", "token", "password", "sas"];
        let secret = |name: &str| telling.iter().any(|part| name.contains(part));
        // An address may carry a password.
        self.values
            .iter()
            .filter(|(name, (value, _))| (secret(name) && value.len() > 4) || value.contains('@'))
            .map(|(_, (value, _))| value.clone())
            .collect()
    }
}

/// An error's text and that of its causes, without what must not be seen.
pub(super) fn redacted(secrets: &[String], error: &object_store::Error) -> String {
    let mut text = error.to_string();
    for secret in secrets {
        text = text.replace(secret.as_str(), "***");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credentials_file_is_read_and_never_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("credentials.toml");
        let load = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Settings::load("s3", Some(&file))
        };
        let settings = load("AWS_SECRET_ACCESS_KEY = \"hunter2\"\naws_region = \"r\"").unwrap();
        let known = settings
            .known(|name| name.parse::<object_store::aws::AmazonS3ConfigKey>().ok())
            .unwrap();
        assert!(known.iter().any(|(_, value)| value == "hunter2"));
        assert!(settings.secrets().contains(&"hunter2".to_owned()));
        let error = object_store::Error::Generic {
            store: "S3",
            source: "denied: hunter2".into(),
        };
        assert!(!redacted(&settings.secrets(), &error).contains("hunter2"));
        for bad in [
            "hunter2",
            "AWS_SECRET_ACCESS_KEY = 5",
            "[a]\nb = \"hunter2\"",
        ] {
            let error = load(bad).err().unwrap();
            assert!(!error.message().contains("hunter2"), "{error}");
        }
        let typo = load("AWS_SECRET_ACESS_KEY = \"hunter2\"").unwrap();
        let error = typo
            .known(|name| name.parse::<object_store::aws::AmazonS3ConfigKey>().ok())
            .unwrap_err();
        assert!(
            error.message().contains("aws_secret_acess_key")
                && !error.message().contains("hunter2")
        );
    }
}
