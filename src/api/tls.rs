//! TLS by rustls; certificates are read again when their files change, without a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsConfig;
use crate::error::{Error, Result};

/// The certificate in force.
pub(super) struct Certificates {
    cert_file: PathBuf,
    key_file: PathBuf,
    current: ArcSwap<ServerConfig>,
    /// Hash of the files' content that is in force or was last refused.
    seen: Mutex<blake3::Hash>,
}

impl Certificates {
    /// Reads the files; `None` where none are configured.
    ///
    /// # Errors
    /// `InvalidArgument` that names the file and what is wrong with it.
    pub(super) fn open(config: &TlsConfig) -> Result<Option<Arc<Self>>> {
        let (Some(cert_file), Some(key_file)) = (&config.cert_file, &config.key_file) else {
            return Ok(None);
        };
        let (hash, current) = read(cert_file, key_file)?;
        Ok(Some(Arc::new(Self {
            cert_file: cert_file.clone(),
            key_file: key_file.clone(),
            current: ArcSwap::from_pointee(current?),
            seen: Mutex::new(hash),
        })))
    }

    /// Takes up changed files; what is wrong with them is logged once, and the certificate of before stays.
    pub(super) fn reload(&self) {
        let read = read(&self.cert_file, &self.key_file);
        let outcome = match read {
            Ok((hash, _)) if *self.seen.lock() == hash => return,
            Ok((hash, config)) => {
                *self.seen.lock() = hash;
                config
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(config) => {
                self.current.store(Arc::new(config));
                tracing::info!("the changed TLS certificate is in force");
            }
            Err(error) => {
                tracing::warn!(%error, "the TLS certificate of before stays in force");
            }
        }
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

/// The hash of both files, and what they make.
fn read(cert_file: &Path, key_file: &Path) -> Result<(blake3::Hash, Result<ServerConfig>)> {
    let cert = read_file("tls.cert_file", cert_file)?;
    let key = read_file("tls.key_file", key_file)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&cert).update(&key);
    Ok((
        hasher.finalize(),
        server_config(cert_file, &cert, key_file, &key),
    ))
}

fn read_file(setting: &str, file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file)
        .map_err(|error| Error::invalid(format!("{setting} {}: {error}", file.display())))
}

fn server_config(
    cert_file: &Path,
    cert: &[u8],
    key_file: &Path,
    key: &[u8],
) -> Result<ServerConfig> {
    let bad_cert =
        |what: String| Error::invalid(format!("tls.cert_file {}: {what}", cert_file.display()));
    let bad_key =
        |what: String| Error::invalid(format!("tls.key_file {}: {what}", key_file.display()));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| bad_cert(error.to_string()))?;
    if chain.is_empty() {
        return Err(bad_cert("it holds no certificate".to_owned()));
    }
    // The error of the parser could show a part of the key.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| bad_key("it holds no private key".to_owned()))?;
    let mut config = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal("TLS cannot be set up").because(error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| bad_cert(format!("with tls.key_file: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
