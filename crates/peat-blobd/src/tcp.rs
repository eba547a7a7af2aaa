//! The sockets of the API and of the registry as connections come in there: over TCP within TLS where the daemon has a
//! certificate. A handshake keeps nobody else waiting, and who does not end his goes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::api::Daemon;

/// How long a handshake may take.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);
/// How long nothing comes from a caller over TCP before the system asks whether he is still there: one whose link was cut while
/// he waited for an answer would be waited for as well.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Bytes both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A socket that connections come in at.
pub(crate) enum Door {
    Tcp(TcpListener, Arc<Daemon>),
    Unix(UnixListener),
}

/// Who has come in, and has not shaken hands yet.
pub(crate) enum Caller {
    Tcp(TcpStream, SocketAddr, Option<Arc<ServerConfig>>),
    Unix(UnixStream),
}

impl Door {
    /// The next who comes in.
    pub(crate) async fn accept(&self) -> io::Result<Caller> {
        Ok(match self {
            Self::Tcp(listener, daemon) => {
                let (stream, from) = listener.accept().await?;
                // Small messages must not wait for each other; if the system cannot do that, they do.
                let _ = stream.set_nodelay(true);
                let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE);
                let _ = sockopt::set_socket_keepalive(&stream, true);
                Caller::Tcp(stream, from, daemon.tls())
            }
            Self::Unix(listener) => Caller::Unix(listener.accept().await?.0),
        })
    }
}

impl Caller {
    /// The connection, on which somebody speaks HTTP.
    pub(crate) async fn shake_hands(self) -> Option<Box<dyn Stream>> {
        let (stream, from, config) = match self {
            Self::Unix(stream) => return Some(Box::new(stream)),
            Self::Tcp(stream, _, None) => return Some(Box::new(stream)),
            Self::Tcp(stream, from, Some(config)) => (stream, from, config),
        };
        match tokio::time::timeout(LONGEST_HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => return Some(Box::new(stream)),
            Ok(Err(error)) => tracing::info!(%from, %error, "a client of the API is turned away"),
            Err(_) => tracing::info!(%from, "a client of the API is turned away: it does not end its TLS handshake"),
        }
        None
    }
}
