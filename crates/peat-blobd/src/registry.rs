//! The sockets of the node's registry, and who may speak there. What is spoken is the library's.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use data_encoding::BASE64;
use peat_blobcore::registry::http;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::Daemon;
use crate::server::{bearer, is_equal};
use crate::tcp::Door;
use crate::{Error, silence};

/// Binds every socket, and says where each listens.
pub(crate) async fn bind_all(addresses: &[SocketAddr]) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), Error> {
    let (mut listeners, mut bound) = (Vec::new(), Vec::new());
    for address in addresses {
        let failed = |source| Error::Listen { listen: address.to_string(), source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        bound.push(listener.local_addr().map_err(failed)?);
        listeners.push(listener);
    }
    Ok((listeners, bound))
}

/// Serves the registry on every socket until `stopping`.
pub(crate) fn serve(
    listeners: Vec<TcpListener>,
    daemon: &Arc<Daemon>,
    stopping: &watch::Receiver<bool>,
    serving: &mut JoinSet<()>,
) {
    if listeners.is_empty() {
        return;
    }
    let options = http::Options { read_only: daemon.config().registry_read_only, ..http::Options::default() };
    let app = http::router(daemon.node.registry().clone(), options)
        .layer(middleware::from_fn_with_state(silence::LONGEST, silence::end_silent))
        .layer(middleware::from_fn_with_state(Arc::clone(daemon), admit));
    for listener in listeners {
        let (app, door) = (app.clone(), Door::new(listener, Arc::clone(daemon)));
        let mut stopping = stopping.clone();
        let stopped = async move {
            // Its sender outlives the sockets; if not, the daemon has ended.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        serving.spawn(async move {
            if let Err(error) = axum::serve(door, app).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "a socket of the registry has failed");
            }
        });
    }
}

/// Lets in who has the token where there is one, and where there is none no page of a browser, which could be anybody's.
async fn admit(State(daemon): State<Arc<Daemon>>, request: Request, next: Next) -> Response {
    let admitted = match &daemon.config().token {
        Some(token) => shown(request.headers()).is_some_and(|given| is_equal(&given, token.expose())),
        None => !request.headers().contains_key(header::ORIGIN),
    };
    if admitted {
        return next.run(request).await;
    }
    http::unauthorized("Basic realm=\"peat-blobd\"")
}

/// The token that a client shows: clients of images have no other place for it than the password of a user, who may be anybody.
fn shown(headers: &HeaderMap) -> Option<String> {
    if let Some(token) = bearer(headers) {
        return Some(token.to_owned());
    }
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(BASE64.decode(given.as_bytes()).ok()?).ok()?;
    Some(decoded.split_once(':')?.1.to_owned())
}
