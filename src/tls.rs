//! What TLS is made of, for everything that connects or listens: one implementation of its cryptography, ring.
//!
//! How a service listens with TLS is not here (`api/tls`), nor which certificates an environment trusts.

use std::sync::{Arc, Once};

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

/// The cryptography of TLS connections.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Makes it the one that libraries take which ask the process: object stores' clients and [`client_builder`]'s.
pub(crate) fn install_provider() {
    static INSTALLED: Once = Once::new();
    // An error says that the process has one already, which serves as well.
    INSTALLED.call_once(|| drop(ring::default_provider().install_default()));
}

/// A builder of HTTP clients. `reqwest::Client::builder` alone finds no cryptography and panics.
pub fn client_builder() -> reqwest::ClientBuilder {
    install_provider();
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that prepares what it needs"
    )]
    reqwest::Client::builder()
}
