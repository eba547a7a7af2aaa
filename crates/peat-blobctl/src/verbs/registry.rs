//! `registry serve`: a registry by itself, over a directory: no node, no mesh, no daemon. The library's registry speaks; this
//! only opens it, binds the socket and ends it in order. Must never let whoever reaches the socket from elsewhere write.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::Response;
use clap::{Args, Subcommand};
use peat_blobcore::Error;
use peat_blobcore::clock::{Clock, SystemClock};
use peat_blobcore::content::{self, Content};
use peat_blobcore::registry::{Registry, http};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::failure::{Failure, Kind};
use crate::output::Output;

/// How long what clients are reading or writing may take once the registry is to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Its catalog, in the directory; the name is the one that a node gives it.
const CATALOG: &str = "registry.redb";

#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Serves the images of a directory, and takes those that are pushed, until it is ended by a signal.
    Serve(Serve),
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where the images are kept. Made if it is missing.
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Where it listens. Port 0 takes a free one. Other than on loopback it is served with --read-only alone.
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Takes and deletes nothing.
    #[arg(long)]
    read_only: bool,
}

pub(crate) async fn run(options: &Options, output: &Output) -> Result<(), Failure> {
    let Options::Serve(options) = options;
    serve(options, output).await
}

async fn serve(options: &Serve, output: &Output) -> Result<(), Failure> {
    if !options.listen.ip().is_loopback() && !options.read_only {
        return Err(Failure::new(Kind::REFUSED, format!("anybody who reaches {} could change the images", options.listen))
            .hint("listen on loopback, or add --read-only; a daemon's registry has a token"));
    }
    let mut terminated = signal(SignalKind::terminate()).map_err(Failure::io("cannot listen for signals"))?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(Failure::io("cannot listen for signals"))?;
    let listener =
        TcpListener::bind(options.listen).await.map_err(Failure::io(format!("cannot listen on {}", options.listen)))?;
    let bound = listener.local_addr().map_err(Failure::io("cannot tell where it listens"))?;
    let (directory, read_only) = (options.directory.clone(), options.read_only);
    let registry = blocking(move || open(&directory, read_only)).await?;

    let app = http::router(registry.clone(), http::Options { read_only, ..http::Options::default() })
        .layer(middleware::from_fn(no_pages));
    let (stop, mut stopping) = watch::channel(false);
    let stopped = async move {
        // Its sender outlives the socket; if not, there is nothing to serve for.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let mut serving = Box::pin(async move { axum::serve(listener, app).with_graceful_shutdown(stopped).await });
    output.event(&json!({ "listen": bound.to_string(), "read_only": read_only }), || format!("listening on {bound}"))?;
    let outcome = tokio::select! {
        ended = &mut serving => ended,
        _ = terminated.recv() => farewell(&stop, &mut serving).await,
        _ = interrupted.recv() => farewell(&stop, &mut serving).await,
    };
    drop(serving);
    blocking(move || {
        registry.close();
        registry.content().close().map_err(|error| Failure::from(Error::from(error)))
    })
    .await?;
    outcome.map_err(Failure::io("the socket failed"))
}

/// Takes no more connections and lets those that are open come to their end, for a while.
async fn farewell(
    stop: &watch::Sender<bool>,
    serving: &mut (impl Future<Output = std::io::Result<()>> + Unpin),
) -> std::io::Result<()> {
    stop.send_replace(true);
    tokio::time::timeout(FAREWELL, serving).await.unwrap_or(Ok(()))
}

/// Opens the registry of a directory.
pub(super) fn open(directory: &Path, read_only: bool) -> Result<Registry, Failure> {
    if directory.join("replica.redb").exists() {
        return Err(Failure::new(Kind::REFUSED, format!("{} is the data directory of a node", directory.display())).hint(
            "have its daemon serve it (registry_listen), copy from and to its socket (varlink), or name another directory",
        ));
    }
    let catalog = directory.join(CATALOG);
    if read_only && !catalog.exists() {
        return Err(Failure::new(Kind::NOT_FOUND, format!("{} has no images", directory.display())).hint(
            "name the directory of a registry; `registry serve` without --read-only makes one, to which images can be pushed",
        ));
    }
    std::fs::create_dir_all(directory).map_err(Failure::io(format!("cannot make {}", directory.display())))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let content = Content::open(&directory.join("content"), content::Options::default(), Arc::clone(&clock));
    let content = content.map_err(Error::from)?;
    Ok(Registry::open(&catalog, content, clock).map_err(Error::from)?)
}

/// Answers no page of a browser, which could be anybody's.
async fn no_pages(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::ORIGIN) {
        return http::unauthorized("Basic realm=\"peat-blobctl\"");
    }
    next.run(request).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::new(Kind::FAILED, format!("what blocks was cut off: {error}")))?
}
