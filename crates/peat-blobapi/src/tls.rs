//! TLS for both ends of the API, from PEM files. Must never show a key, nor go on with less than was asked for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

#[cfg(feature = "client-tls")]
use {
    connectrpc::{ConnectError, client::Http2Connection},
    rustls::ProtocolVersion,
    std::{pin::Pin, task::Poll},
    tokio::io::AsyncBufRead as _,
};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, InconsistentKeys, RootCertStore};
pub use rustls::{ClientConfig, Error, ServerConfig};

/// HTTP's versions as TLS names them (RFC 7301).
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// Where an address has no port.
#[cfg(feature = "client-tls")]
const HTTPS_PORT: u16 = 443;
/// How long a server may take to say what it thinks of a client; it need not say that all is well.
#[cfg(feature = "client-tls")]
const VERDICT: Duration = Duration::from_secs(2);

/// What is wrong with a file for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no such thing in it.
    #[error("{} holds no {what} in PEM", path.display())]
    Lacks {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The certificate is another key's.
    #[error("the key in {} is not that of the first certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// It is of a kind that TLS cannot use.
    #[error("{} cannot be used: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

/// A certificate and its key.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// The file of the certificate, followed by those that lead from it to its authority.
    pub certificate: &'a Path,
    /// The file of its key.
    pub key: &'a Path,
}

/// What a server does with its certificate. With a `client_ca` nobody is let in without a certificate of that authority.
///
/// # Errors
/// [`TlsError`] of the first file with which something is wrong.
pub fn server(own: Pair<'_>, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has what these versions need");
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| unusable(path, &error))?)
        }
    };
    let config = builder.with_single_cert(certificates(own.certificate)?, key(own.key)?);
    let mut config = config.map_err(|error| of_pair(own, &error))?;
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Ok(Arc::new(config))
}

/// What a client does: it goes on with a server of the authorities in `ca` alone, and shows its own certificate when asked.
///
/// # Errors
/// [`TlsError`] of the first file with which something is wrong.
pub fn client(ca: &Path, own: Option<Pair<'_>>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has what these versions need").with_root_certificates(roots(ca)?);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let config = builder.with_client_auth_cert(certificates(own.certificate)?, key(own.key)?);
            config.map_err(|error| of_pair(own, &error))?
        }
    };
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(config))
}

/// A connection within TLS with a daemon at `https://host:port`. (`connectrpc` has one too, which brings a second implementation
/// of cryptography along.)
///
/// # Errors
/// When there is none, who answers is not to be trusted, or does not trust this client.
#[cfg(feature = "client-tls")]
pub async fn connect(uri: http::Uri, config: Arc<ClientConfig>) -> Result<Http2Connection, ConnectError> {
    let connect = move |uri: http::Uri| {
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let stream = tokio::net::TcpStream::connect((host, uri.port_u16().unwrap_or(HTTPS_PORT))).await?;
            let mut stream = connector.connect(name, stream).await?;
            if let Ok(turned_away) = tokio::time::timeout(VERDICT, verdict(&mut stream)).await {
                turned_away?;
            }
            Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    };
    Http2Connection::connect_with_connector(tower::service_fn(connect), uri).await
}

/// Waits until the server has said what it thinks of the client. In TLS 1.3 that comes after the handshake: an alert, or the
/// tickets that a server may send to who is let in. (Who writes before he has read it may never get to know why the connection
/// broke.)
#[cfg(feature = "client-tls")]
async fn verdict(stream: &mut tokio_rustls::client::TlsStream<tokio::net::TcpStream>) -> io::Result<()> {
    std::future::poll_fn(|context| match Pin::new(&mut *stream).poll_fill_buf(context) {
        Poll::Ready(Ok([])) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        Poll::Ready(read) => Poll::Ready(read.map(drop)),
        Poll::Pending => {
            let tls = stream.get_ref().1;
            let is_in = tls.tls13_tickets_received() > 0 || tls.protocol_version() != Some(ProtocolVersion::TLSv1_3);
            if is_in { Poll::Ready(Ok(())) } else { Poll::Pending }
        }
    })
    .await
}

/// Why nobody trusts the certificate at that time: it has expired, or is not valid yet.
///
/// # Errors
/// [`TlsError`] when there is none.
pub fn out_of_date(certificate: &Path, now: SystemTime) -> Result<Option<String>, TlsError> {
    let chain = certificates(certificate)?;
    let (leaf, rest) = chain.split_first().expect("there is one at least");
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates([chain.last().expect("there is one at least").clone()]);
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build() else { return Ok(None) };
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let name = ServerName::try_from("any").expect("a name");
    // Its dates are looked at before what else may not suit a server of that name.
    let verified = verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::since_unix_epoch(since_epoch));
    Ok(match verified {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after })) => {
            Some(format!("it expired {} ago", ago(time, not_after)))
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before })) => {
            Some(format!("it becomes valid in {}; or the clock is wrong", ago(not_before, time)))
        }
        _ => None,
    })
}

fn ago(later: UnixTime, earlier: UnixTime) -> String {
    let passed = Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs()));
    match passed.as_secs() / 3600 {
        hours @ 0..48 => format!("{hours} h"),
        hours => format!("{} days", hours / 24),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found.map_err(|error| of_pem(path, "certificate", error))? {
        none if Vec::is_empty(&none) => Err(TlsError::Lacks { path: path.to_owned(), what: "certificate" }),
        certificates => Ok(certificates),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| of_pem(path, "private key", error))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    Ok(roots)
}

fn of_pem(path: &Path, what: &'static str, error: pem::Error) -> TlsError {
    let path = path.to_owned();
    match error {
        pem::Error::Io(source) => TlsError::Unreadable { path, source },
        pem::Error::NoItemsFound => TlsError::Lacks { path, what },
        error => TlsError::Unusable { path, why: error.to_string() },
    }
}

fn of_pair(own: Pair<'_>, error: &Error) -> TlsError {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { certificate: own.certificate.to_owned(), key: own.key.to_owned() }
        }
        Error::InvalidCertificate(_) => unusable(own.certificate, error),
        _ => unusable(own.key, error),
    }
}

fn unusable(path: &Path, error: &impl ToString) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), why: error.to_string() }
}
