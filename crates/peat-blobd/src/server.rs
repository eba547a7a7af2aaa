//! The sockets of the API: who may speak, and what is served beside the services. It knows nothing of what they do.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{self, Daemon};
use crate::config::Listen;
use crate::connections::{self, Bounds};
use crate::tcp::Door;
use crate::{Error, health, lists, metrics, silence};

/// How long calls under way may take to end once the daemon ends.
pub(crate) const FAREWELL: Duration = Duration::from_secs(3);

/// The call that asks what `/readyz` does.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// A socket that is bound.
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, std::path::PathBuf),
}

impl Bound {
    /// Binds, and removes the socket file of a daemon that is gone.
    pub(crate) async fn bind(listen: &Listen) -> Result<Self, Error> {
        let failed = |source| Error::Listen { listen: listen.to_string(), source };
        match listen {
            Listen::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp).map_err(failed),
            Listen::Unix(path) => {
                match tokio::net::UnixStream::connect(path).await {
                    Ok(_) => return Err(failed(std::io::ErrorKind::AddrInUse.into())),
                    // A file of another kind refuses too, and is somebody's.
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused && is_socket(path) => {
                        std::fs::remove_file(path).map_err(failed)?;
                    }
                    Err(_) if path.exists() => return Err(failed(std::io::ErrorKind::AlreadyExists.into())),
                    Err(_) => {}
                }
                // Made under another name and moved there once only its owner may use it: it is never open to others.
                let made = path.with_extension("new");
                let _ = std::fs::remove_file(&made);
                let listener = UnixListener::bind(&made).map_err(failed)?;
                let only_owner = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
                std::fs::set_permissions(&made, only_owner).map_err(failed)?;
                std::fs::rename(&made, path).map_err(failed)?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    /// Where it listens, with the port that the system chose.
    pub(crate) fn address(&self) -> std::io::Result<Listen> {
        Ok(match self {
            Self::Tcp(listener) => Listen::Tcp(listener.local_addr()?),
            Self::Unix(_, path) => Listen::Unix(path.clone()),
        })
    }
}

fn is_socket(path: &std::path::Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()))
}

/// Serves on every socket until `stopping`.
pub(crate) fn serve(bound: Vec<Bound>, daemon: &Arc<Daemon>, stopping: &watch::Receiver<bool>) -> JoinSet<()> {
    let mut serving = JoinSet::new();
    for bound in bound {
        let mut stopping = stopping.clone();
        let stopped = async move {
            // Its sender outlives the sockets; if not, the daemon has ended.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        let app = app(daemon, silence::LONGEST);
        let daemon = Arc::clone(daemon);
        serving.spawn(async move {
            match bound {
                Bound::Tcp(listener) => {
                    let app = app.layer(middleware::from_fn_with_state(Arc::clone(&daemon), admit));
                    connections::serve(Door::Tcp(listener, daemon), app, Bounds::default(), stopped).await;
                }
                Bound::Unix(listener, path) => {
                    connections::serve(Door::Unix(listener), app, Bounds::default(), stopped).await;
                    let _ = std::fs::remove_file(path);
                }
            }
        });
    }
    serving
}

/// The longest request, and message of a stream: a call takes in 4 MiB, which JSON makes a third longer.
pub(crate) const MAX_REQUEST_BYTES: usize = 6 * 1024 * 1024;

pub(crate) fn app(daemon: &Arc<Daemon>, longest_silence: Duration) -> Router {
    let limits =
        connectrpc::Limits::default().with_max_request_body_size(MAX_REQUEST_BYTES).with_max_message_size(MAX_REQUEST_BYTES);
    Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::show))
        .with_state(Arc::clone(daemon))
        .fallback_service(api::router(daemon).into_axum_service().with_limits(limits))
        .layer(middleware::from_fn(lists::refuse_long))
        .layer(middleware::from_fn_with_state(longest_silence, silence::end_silent))
}

/// Lets in who may speak over TCP: who has the token where there is one, and where there is none no page of a browser, which
/// could be anybody's. Whether the daemon lives is for all to know.
async fn admit(State(daemon): State<Arc<Daemon>>, request: Request, next: Next) -> Response {
    let config = daemon.config();
    let admitted = match &config.token {
        Some(token) => bearer(request.headers()).is_some_and(|given| is_equal(given, token.expose())),
        None => !request.headers().contains_key(header::ORIGIN),
    };
    if admitted || matches!(request.uri().path(), "/livez" | "/readyz" | HEALTH_CHECK) {
        return next.run(request).await;
    }
    let what = match config.token {
        Some(_) => "a token is needed: authorization: Bearer ...\n",
        None => "pages of a browser are let in with a token only\n",
    };
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], what).into_response()
}

pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Compares hashes, so that how long it takes says nothing of the token.
pub(crate) fn is_equal(given: &str, token: &str) -> bool {
    blake3::hash(given.as_bytes()) == blake3::hash(token.as_bytes())
}
