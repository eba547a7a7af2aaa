//! Connections of the API and of the registry: HTTP/1.1 and HTTP/2 on a bounded number of them. Who says nothing makes room for who
//! comes later, and goes after a while in any case; what is asked is not looked at here.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::places::{Place, Places, Silent, Told};
use crate::silence;
use crate::tcp::{Caller, Door};

/// Connections of one socket; one more is let in, and then who owes something longest makes room.
const MAX_CONNECTIONS: usize = 256;
/// What a caller has at least for a handshake and a request.
const CHANCE: Duration = Duration::from_secs(1);
/// How long a connection may lie idle. Longer than the pools of most clients keep one, so that it is they who close it, and
/// than a call may be silent, so that its caller is told.
const LONGEST_IDLE: Duration = silence::LONGEST.saturating_mul(2);
/// How long nothing is accepted after the system could not.
const PAUSE: Duration = Duration::from_millis(200);

/// Bounds of one socket.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    connections: usize,
    chance: Duration,
    longest_idle: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: MAX_CONNECTIONS, chance: CHANCE, longest_idle: LONGEST_IDLE }
    }
}

/// Serves who comes in until `stopped`; then calls under way come to their end, and new ones do not.
pub(crate) async fn serve(door: Door, app: Router, bounds: Bounds, stopped: impl Future<Output = ()>) {
    let (places, mut connections) = (Places::default(), JoinSet::new());
    let (stop, stopping) = watch::channel(false);
    let mut stopped = std::pin::pin!(stopped);
    loop {
        let full = places.taken() > bounds.connections;
        let (silent, longest) = if full { (Silent::OrDeaf, bounds.chance) } else { (Silent::Only, bounds.longest_idle) };
        tokio::select! {
            accepted = door.accept(), if !full => match accepted {
                Ok(caller) => {
                    let (place, lost) = places.enter();
                    connections.spawn(connection(caller, app.clone(), place, lost, stopping.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a client cannot be let in");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            () = places.lose_silent(silent, longest) => {}
            () = places.left(), if full => {}
            Some(_) = connections.join_next() => {}
            () = &mut stopped => break,
        }
    }
    drop(door);
    // Each has a receiver, or has ended.
    let _ = stop.send(true);
    while connections.join_next().await.is_some() {}
}

/// One connection, until it ends, its place is lost, or the daemon stops and its calls have ended.
async fn connection(
    caller: Caller,
    app: Router,
    place: Place,
    mut lost: oneshot::Receiver<()>,
    mut stopping: watch::Receiver<bool>,
) {
    let stream = tokio::select! {
        stream = caller.shake_hands() => stream,
        _ = &mut lost => None,
        _ = stopping.wait_for(|stopping| *stopping) => None,
    };
    let Some(stream) = stream else { return };
    let http = Builder::new(TokioExecutor::new());
    let answer = service_fn(move |request| answer(app.clone(), place.clone(), request));
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), answer));
    let is_lost = tokio::select! {
        // Why one ends is the client's to know.
        _ = &mut serving => return,
        _ = &mut lost => true,
        _ = stopping.wait_for(|stopping| *stopping) => false,
    };
    serving.as_mut().graceful_shutdown();
    if is_lost {
        // The farewell goes out if it can at once.
        tokio::select! {
            biased;
            _ = serving => {}
            () = std::future::ready(()) => {}
        }
    } else {
        let _ = serving.await;
    }
}

/// Has a call answered, and notes whose turn it is.
async fn answer(app: Router, place: Place, request: hyper::Request<Incoming>) -> Result<Response<Told>, Infallible> {
    let (asked, answered) = place.begin();
    let request = request.map(|body| Body::new(Told { body: Body::new(body), part: Some(asked) }));
    let response = app.oneshot(request).await?;
    Ok(response.map(|body| Told { body, part: Some(answered) }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::sync::Notify;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const CALL: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

    /// What comes on a connection until the server ends it.
    async fn all_of(mut stream: UnixStream) -> Vec<u8> {
        let mut all = Vec::new();
        // A connection that is cut off ends with an error, which is an end too.
        let _ = stream.read_to_end(&mut all).await;
        all
    }

    #[tokio::test]
    async fn who_says_nothing_for_too_long_is_cut_off_and_who_waits_for_an_answer_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let door = Door::Unix(UnixListener::bind(&path).expect("bound"));
        let (asked, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (called, released) = (Arc::clone(&asked), Arc::clone(&release));
        let slow = get(move || async move {
            called.notify_one();
            released.notified().await;
            "at last"
        });
        let bounds = Bounds { longest_idle: Duration::from_millis(300), ..Bounds::default() };
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(door, Router::new().route("/", slow), bounds, async { drop(stopped.await) }));
        let mut waits = UnixStream::connect(&path).await.expect("it listens");
        waits.write_all(CALL).await.expect("taken");
        asked.notified().await;
        for words in [&b""[..], &CALL[..CALL.len() - 2], PREFACE] {
            let mut silent = UnixStream::connect(&path).await.expect("it listens");
            silent.write_all(words).await.expect("taken");
            assert!(!all_of(silent).await.starts_with(b"HTTP/1.1 200"));
        }
        release.notify_one();
        let answer = all_of(waits).await;
        assert!(answer.ends_with(b"at last"), "{}", String::from_utf8_lossy(&answer));
        drop(stop);
        serving.await.expect("it ends");
    }
}
