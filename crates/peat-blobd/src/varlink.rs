//! The socket at which other stores of this machine get layers and give them. What is spoken there is the library's.

use std::time::Duration;

use peat_blobcore::Node;
use peat_blobcore::handoff::varlink::{Service, ServiceOptions};
use peat_blobcore::handoff::{CacheOptions, LayerCache};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Listen;
use crate::server::{Bound, FAREWELL};
use crate::{Config, Error};

/// How long calls may take to end once the daemon ends.
const LAST_CALLS: Duration = FAREWELL.saturating_sub(Duration::from_millis(500));
/// How often it is looked whether layers that were put have waited for long enough.
const EXPIRY: Duration = Duration::from_secs(60);
/// How long nothing is accepted after the system could not.
const PAUSE: Duration = Duration::from_millis(200);

/// A socket that is bound, and what is served at it.
pub(crate) struct Layers {
    bound: Bound,
    service: Service,
}

/// Binds the socket and opens the cache of layers, where there is to be one.
pub(crate) async fn open(node: &Node, config: &Config) -> Result<Option<Layers>, Error> {
    let Some(path) = &config.varlink else { return Ok(None) };
    let listen = Listen::Unix(path.clone());
    let bound = Bound::bind(&listen).await?;
    let failed = |source| Error::Listen { listen: listen.to_string(), source };
    let (registry, data_dir) = (node.registry().clone(), config.data_dir.clone());
    let options = CacheOptions { quota: config.layer_cache_quota, reserve: config.store_reserve, ..CacheOptions::default() };
    let opened = tokio::task::spawn_blocking(move || {
        let cache = LayerCache::open(&data_dir.join("layers"), options, Arc::new(peat_blobcore::clock::SystemClock))?;
        Ok(Service::new(registry, cache, ServiceOptions::new(data_dir)))
    });
    let opened: Result<_, peat_blobcore::handoff::HandoffError> = opened.await.map_err(|panic| failed(panic.into()))?;
    Ok(Some(Layers { bound, service: opened.map_err(Error::Layers)?.map_err(failed)? }))
}

/// Serves at the socket until `stopping`.
pub(crate) fn serve(layers: Option<Layers>, stopping: &watch::Receiver<bool>, serving: &mut JoinSet<()>) {
    let Some(Layers { bound: Bound::Unix(listener, path), service }) = layers else { return };
    tracing::info!(path = %path.display(), "layers are handed over");
    let mut stopping = stopping.clone();
    serving.spawn(async move {
        tokio::select! {
            () = accept(&listener, &service) => {}
            // Its sender outlives the sockets; if not, the daemon has ended.
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        let _ = std::fs::remove_file(path);
        let ended = tokio::task::spawn_blocking(move || service.stop(LAST_CALLS)).await;
        if !ended.unwrap_or_default() {
            tracing::warn!("a layer is still being handed over and is cut off");
        }
    });
}

async fn accept(listener: &UnixListener, service: &Service) {
    let mut expiry = tokio::time::interval(EXPIRY);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = expiry.tick() => {
                service.expire();
                continue;
            }
        };
        let accepted = match accepted {
            Ok((stream, _)) => stream.into_std(),
            Err(error) => Err(error),
        };
        match accepted {
            Ok(stream) => {
                if let Err(error) = service.serve(stream) {
                    tracing::info!(%error, "a client of layers is turned away");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a client of layers cannot be let in");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
