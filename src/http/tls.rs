//! What TLS on the callback listener runs on, made anew as a whole whenever a file of it changes.
//!
//! Sessions are not resumed: senders keep their connections, and a session from before a change would pass by a new check of client
//! certificates.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem;
use rustls::pki_types::pem::PemObject;
use rustls::server::NoServerSessionStorage;
use rustls::server::VerifierBuilderError;
use rustls::server::WebPkiClientVerifier;

/// Files of PEM, as they were read.
#[derive(Clone, Copy)]
pub(crate) struct Pems<'p> {
    /// The certificate of this server, and those between it and its root.
    pub(crate) certificate: &'p [u8],
    pub(crate) key: &'p [u8],
    /// Where there is one, only clients with a certificate below one of these are served.
    pub(crate) client_ca: Option<&'p [u8]>,
}

/// Why files cannot be used for TLS. Shows nothing of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadTls {
    /// The file with the certificate has none, or one that cannot be read.
    #[error("read the certificate")]
    Certificate(#[source] pem::Error),
    /// The file with the key has none, or one that cannot be read.
    #[error("read the key")]
    Key(#[source] pem::Error),
    /// The file with the certificates of clients' authorities has none, or one that cannot be read.
    #[error("read the certificates of the clients' authorities")]
    ClientCa(#[source] pem::Error),
    /// One of them is no authority's.
    #[error("use the certificates of the clients' authorities")]
    ClientRoot(#[source] rustls::Error),
    /// They make no check.
    #[error("use the certificates of the clients' authorities")]
    ClientCheck(#[source] VerifierBuilderError),
    /// Each can be read, but certificate and key do not belong together, or are of a kind that is not known.
    #[error("use the certificate with the key")]
    Pair(#[source] rustls::Error),
}

/// Makes a configuration, or says what is wrong with the files.
pub(crate) fn build(pems: Pems<'_>) -> Result<ServerConfig, BadTls> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(BadTls::Pair)?;
    let builder = match pems.client_ca {
        None => builder.with_no_client_auth(),
        Some(client_ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(client_ca).map_err(BadTls::ClientCa)? {
                roots.add(certificate).map_err(BadTls::ClientRoot)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(BadTls::ClientCheck)?)
        }
    };
    let chain = certificates(pems.certificate).map_err(BadTls::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(pems.key).map_err(BadTls::Key)?;
    let mut config = builder.with_single_cert(chain, key).map_err(BadTls::Pair)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// All certificates of a file, at least one.
fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(bytes).collect::<Result<_, _>>()?;
    if certificates.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(certificates) }
}
