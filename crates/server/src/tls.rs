use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Why there is no TLS: it names the flag and the file at fault.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// A certificate and its key: what a server proves itself with.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads a chain of certificates, the server's own one first, and its private key, both PEM.
    ///
    /// # Errors
    /// A file that cannot be read or is not such, and a key of another certificate.
    pub fn from_files(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        let certificate_error = |reason: String| at("--ssl-certfile", certificates, reason);
        let key_error = |reason: String| at("--ssl-keyfile", key, reason);
        let read = |path| std::fs::read(path).map_err(|error| error.to_string());
        let chain = parse_chain(&read(certificates).map_err(certificate_error)?);
        let chain = chain.map_err(certificate_error)?;
        let private = PrivateKeyDer::from_pem_slice(&read(key).map_err(key_error)?)
            .map_err(|_| key_error("expected a private key in PEM, without a password".into()))?;
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(error.to_string()))?
            .with_no_client_auth();
        let mut config = config.with_single_cert(chain, private).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let other = certificates.display();
                key_error(format!("is not the key of --ssl-certfile {other}"))
            }
            rustls::Error::InvalidCertificate(_) => certificate_error(error.to_string()),
            error => key_error(error.to_string()),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Begins a connection: `stream` is encrypted from here on.
    pub(crate) async fn accept<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.0.accept(stream).await
    }
}

fn at(flag: &str, path: &Path, reason: String) -> TlsError {
    TlsError(format!("{flag} {}: {reason}", path.display()))
}

fn parse_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err("expected certificates in PEM".into()),
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("expected certificates in PEM: {error}")),
    }
}
