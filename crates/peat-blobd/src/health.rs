//! Whether the daemon lives and is ready, for orchestrators and the service manager. It never says so unasked of the node: a
//! daemon whose sockets answer while its node is stuck is not well.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use peat_blobcore::Node;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::api::Daemon;
use crate::config::Listen;

/// How long a node may leave a question open before it counts as stuck: longer than a slow disk holds it up.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);
/// What a daemon answers that lives.
const ALIVE: &[u8] = b"HTTP/1.1 200 ";

/// `/livez`: 200 as long as the node answers.
pub(crate) async fn live(State(daemon): State<Arc<Daemon>>) -> Response {
    answer(lives(&daemon.node, LONGEST_SILENCE).await)
}

/// `/readyz`: the same, and 503 from the moment that the daemon ends.
pub(crate) async fn ready(State(daemon): State<Arc<Daemon>>) -> Response {
    answer(is_ready(&daemon).await)
}

/// Whether calls are answered, and if not, why not.
pub(crate) async fn is_ready(daemon: &Daemon) -> Result<(), String> {
    if *daemon.stopping.borrow() {
        return Err("shutting down".to_owned());
    }
    lives(&daemon.node, LONGEST_SILENCE).await
}

/// Asks after the daemon's life, for who watches over it.
#[derive(Clone)]
pub struct Pulse {
    daemon: Arc<Daemon>,
    address: Listen,
}

impl Pulse {
    pub(crate) fn new(daemon: &Arc<Daemon>, addresses: &[Listen]) -> Self {
        let unix = addresses.iter().find(|address| matches!(address, Listen::Unix(_)));
        let address = unix.or(addresses.first()).expect("a daemon listens somewhere").clone();
        Self { daemon: Arc::clone(daemon), address }
    }

    /// Asks as a client does: over a socket of the API. A socket that is within TLS is only knocked at, since the daemon has no
    /// certificate of a client, and the node is asked itself.
    ///
    /// # Errors
    /// Why it does not live.
    pub async fn beats(&self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.address);
        match &self.address {
            Listen::Unix(path) => says_so(UnixStream::connect(path).await.map_err(failed)?).await,
            Listen::Tcp(address) => {
                let mut address = *address;
                if address.ip().is_unspecified() {
                    address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
                }
                let stream = TcpStream::connect(address).await.map_err(failed)?;
                if self.daemon.tls().is_some() {
                    return lives(&self.daemon.node, LONGEST_SILENCE).await;
                }
                says_so(stream).await
            }
        }
    }
}

/// Whether `/livez` says that the daemon lives.
async fn says_so(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("/livez: {error}");
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.map_err(failed)?;
    let mut answer = [0; ALIVE.len()];
    stream.read_exact(&mut answer).await.map_err(failed)?;
    match answer == *ALIVE {
        true => Ok(()),
        false => Err("/livez says that it does not".to_owned()),
    }
}

/// Whether the node answers within `patience`, and if not, why not.
async fn lives(node: &Node, patience: Duration) -> Result<(), String> {
    match tokio::time::timeout(patience, node.responds()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the node has ended; restart the daemon".to_owned()),
        Err(_) => Err(format!("the node has not answered for {} s", patience.as_secs_f32())),
    }
}

fn answer(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Condvar, Mutex};

    use peat_blob_tests::fleet::{DEADLINE, Fleet, eventually};
    use peat_blobcore::clock::{Clock, SystemClock};
    use peat_blobcore::model::{DistributionId, Timestamp};
    use tokio::runtime::Runtime;

    use super::*;
    use crate::Config;

    /// A clock that can be made to keep whoever looks at it, or to bring him down.
    #[derive(Default)]
    struct Trap {
        holds: Mutex<bool>,
        released: Condvar,
        kills: AtomicBool,
    }

    impl Trap {
        fn hold(&self, on: bool) {
            *self.holds.lock().expect("nothing panics here") = on;
            self.released.notify_all();
        }
    }

    impl Clock for Trap {
        fn now(&self) -> Timestamp {
            assert!(!self.kills.load(Ordering::Relaxed), "it is a trap");
            let held = self.holds.lock().expect("nothing panics here");
            drop(self.released.wait_while(held, |held| *held).expect("nothing panics here"));
            SystemClock.now()
        }
    }

    /// A daemon whose node has a runtime to itself: threads that the trap holds are not the test's.
    async fn daemon(fleet: &Fleet, trap: &Arc<Trap>) -> (Arc<Daemon>, Runtime) {
        fleet.enroll("alpha", &[]);
        let runtime = Runtime::new().expect("a runtime");
        let start = fleet.describe("alpha").clock(Arc::clone(trap) as Arc<dyn Clock>).start();
        let node = runtime.spawn(start).await.expect("nothing panics").expect("it starts");
        let (_, stopping) = tokio::sync::watch::channel(false);
        (Arc::new(Daemon::new(node, Arc::new(Config::new(fleet.path("alpha"))), stopping)), runtime)
    }

    /// What `/livez` and `/readyz` answer.
    async fn statuses(daemon: &Arc<Daemon>) -> [StatusCode; 2] {
        [live(State(Arc::clone(daemon))).await.status(), ready(State(Arc::clone(daemon))).await.status()]
    }

    /// Has the node look at its clock.
    fn look(daemon: &Arc<Daemon>) -> tokio::task::JoinHandle<()> {
        let daemon = Arc::clone(daemon);
        tokio::spawn(async move { drop(daemon.node.status(DistributionId::from_bytes([7; 32])).await) })
    }

    #[tokio::test]
    async fn a_node_that_is_held_up_does_not_live_until_it_goes_on() {
        let (fleet, trap) = (Fleet::new(), Arc::new(Trap::default()));
        let (daemon, runtime) = daemon(&fleet, &trap).await;
        lives(&daemon.node, DEADLINE).await.expect("it is idle");
        assert_eq!(statuses(&daemon).await, [StatusCode::OK; 2]);
        trap.hold(true);
        let looking = look(&daemon);
        eventually("held up", || async { lives(&daemon.node, Duration::from_millis(100)).await.is_err() }).await;
        trap.hold(false);
        lives(&daemon.node, DEADLINE).await.expect("it goes on");
        looking.await.expect("answered");
        Arc::try_unwrap(daemon).unwrap_or_else(|_| panic!("nobody uses it")).node.shutdown().await;
        runtime.shutdown_background();
    }

    #[tokio::test]
    async fn a_daemon_whose_node_has_ended_does_not_live() {
        let (fleet, trap) = (Fleet::new(), Arc::new(Trap::default()));
        let (daemon, runtime) = daemon(&fleet, &trap).await;
        assert_eq!(statuses(&daemon).await, [StatusCode::OK; 2]);
        trap.kills.store(true, Ordering::Relaxed);
        look(&daemon).await.expect("it hears of the end");
        assert_eq!(statuses(&daemon).await, [StatusCode::SERVICE_UNAVAILABLE; 2]);
        runtime.shutdown_background();
    }
}
