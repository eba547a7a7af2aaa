//! The sockets of the node's registry, and who may speak there. What is spoken is the library's.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use data_encoding::BASE64;
use peat_blobcore::Node;
use peat_blobcore::registry::remote::Credentials;
use peat_blobcore::registry::upstream::{Location, Upstream, Upstreams, Watching};
use peat_blobcore::registry::{Rank, http};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::Daemon;
use crate::config::UpstreamAt;
use crate::connections::{self, Bounds};
use crate::server::{bearer, is_equal};
use crate::tcp::Door;
use crate::{Config, Error, silence};

/// What is to be shown (RFC 7617): every client of images knows it, and it needs no other service beside the registry.
const CHALLENGE: &str = "Basic realm=\"peat-blobd\"";

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

/// The registries that the configuration has this node's stand before.
pub(crate) fn upstreams(config: &Config) -> Result<Vec<Upstream>, Error> {
    let credentials = |host: &String| -> Result<Option<Credentials>, Error> {
        let Some(path) = config.registry_upstream_credentials.get(host) else { return Ok(None) };
        let failed = |source| Error::Credentials { path: path.clone(), source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Ok(Some(match text.trim_ascii().split_once(':') {
            Some((user, password)) => Credentials::Basic { user: user.to_owned(), password: password.to_owned() },
            None => Credentials::Bearer(text.trim_ascii().to_owned()),
        }))
    };
    let upstream = |at: &UpstreamAt| {
        let location = |(host, insecure): &(String, bool)| {
            Ok(Location { host: host.clone(), insecure: *insecure, credentials: credentials(host)? })
        };
        let locations = at.hosts.iter().map(location).collect::<Result<_, Error>>()?;
        Upstream::new(at.name.clone(), locations, config.registry_upstream_stall).map_err(Error::Upstream)
    };
    config.registry_upstream.iter().map(upstream).collect()
}

/// Has the node's registry ask them for what neither it nor other nodes have, and the upstreams of other members for what these
/// cannot be asked for; and watches what it is to have before anybody asks.
pub(crate) fn stand_before(upstreams: Vec<Upstream>, node: &Node, config: &Config) -> Option<Watching> {
    let registry = node.registry();
    let upstreams = Upstreams::new(registry, upstreams, config.registry_upstream_keep).with_members(node.other_upstreams());
    let upstreams = Arc::new(upstreams);
    registry.add_elsewhere(Rank::Upstream, upstreams.clone());
    let watched = config.registry_watch.clone();
    (!watched.is_empty()).then(|| upstreams.watch(watched, config.registry_watch_interval))
}

/// What other members are told that this node asks for them.
pub(crate) fn spoken_for(config: &Config) -> Vec<String> {
    // One for repositories of any name would speak for those of other members too, and of other upstreams.
    config.registry_upstream.iter().filter_map(|upstream| upstream.name.clone()).collect()
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
    let config = daemon.config();
    let options = http::Options {
        read_only: config.registry_read_only,
        namespaces: config.registry_upstream.iter().filter_map(|upstream| upstream.name.clone()).collect(),
        ..http::Options::default()
    };
    let app = http::router(daemon.node.registry().clone(), options)
        .layer(middleware::from_fn_with_state(silence::LONGEST, silence::end_silent))
        .layer(middleware::from_fn_with_state(Arc::clone(daemon), admit));
    for listener in listeners {
        let (app, door) = (app.clone(), Door::Tcp(listener, Arc::clone(daemon)));
        let mut stopping = stopping.clone();
        let stopped = async move {
            // Its sender outlives the sockets; if not, the daemon has ended.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        serving.spawn(connections::serve(door, app, Bounds::default(), stopped));
    }
}

/// Lets in who has the token where there is one, and users to what they may do where there are any; where there is neither, no page of
/// a browser, which could be anybody's.
async fn admit(State(daemon): State<Arc<Daemon>>, mut request: Request, next: Next) -> Response {
    let config = daemon.config();
    if config.token.is_none() && config.registry_users.is_none() {
        return match request.headers().contains_key(header::ORIGIN) {
            true => http::unauthorized(CHALLENGE),
            false => next.run(request).await,
        };
    }
    let Some((name, secret)) = shown(request.headers()) else { return http::unauthorized(CHALLENGE) };
    if config.token.as_ref().is_some_and(|token| is_equal(&secret, token.expose())) {
        return next.run(request).await;
    }
    let Some(rights) = config.registry_users.as_ref().and_then(|users| users.rights(&name, &secret)) else {
        return http::unauthorized(CHALLENGE);
    };
    request.extensions_mut().insert(Arc::clone(rights));
    next.run(request).await
}

/// The secret that a client shows, and whose it is: clients of images have no other place for it than the password of a user. The
/// token may be that of any name, or a bearer's, which has none.
fn shown(headers: &HeaderMap) -> Option<(String, String)> {
    if let Some(token) = bearer(headers) {
        return Some((String::new(), token.to_owned()));
    }
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(BASE64.decode(given.as_bytes()).ok()?).ok()?;
    let (name, secret) = decoded.split_once(':')?;
    Some((name.to_owned(), secret.to_owned()))
}
