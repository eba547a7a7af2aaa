//! TCP connections of the API, within TLS where the daemon has a certificate. A handshake keeps nobody else waiting, and who does
//! not end his goes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::api::Daemon;

/// How long a handshake may take.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once: others wait in the system's queue.
const MAX_HANDSHAKES: usize = 256;

/// Bytes both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that somebody speaks HTTP on.
type Accepted = (Box<dyn Stream>, SocketAddr);

/// A socket that connections come in at.
pub(crate) struct Door {
    listener: TcpListener,
    daemon: Arc<Daemon>,
    handshakes: JoinSet<Option<Accepted>>,
}

impl Door {
    pub(crate) fn new(listener: TcpListener, daemon: Arc<Daemon>) -> Self {
        Self { listener, daemon, handshakes: JoinSet::new() }
    }
}

impl Listener for Door {
    type Io = Box<dyn Stream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        loop {
            tokio::select! {
                (stream, from) = Listener::accept(&mut self.listener), if self.handshakes.len() < MAX_HANDSHAKES => {
                    // Small messages must not wait for each other; if the system cannot do that, they do.
                    let _ = stream.set_nodelay(true);
                    match self.daemon.tls() {
                        None => return (Box::new(stream), from),
                        Some(config) => drop(self.handshakes.spawn(shake_hands(config, stream, from))),
                    }
                }
                Some(ended) = self.handshakes.join_next() => if let Ok(Some(accepted)) = ended {
                    return accepted;
                },
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn shake_hands(config: Arc<ServerConfig>, stream: TcpStream, from: SocketAddr) -> Option<Accepted> {
    match tokio::time::timeout(LONGEST_HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => return Some((Box::new(stream), from)),
        Ok(Err(error)) => tracing::info!(%from, %error, "a client of the API is turned away"),
        Err(_) => tracing::info!(%from, "a client of the API is turned away: it does not end its TLS handshake"),
    }
    None
}
