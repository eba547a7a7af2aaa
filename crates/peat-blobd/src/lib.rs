//! The daemon: configuration, sockets and signals around one node of `peat-blobcore`. It decides nothing that the library does
//! not decide; [`Running`] is a daemon within a process, and the program adds signals and logs.

mod api;
pub mod config;
mod connections;
mod health;
mod hook;
mod lists;
mod metrics;
mod places;
mod registry;
mod server;
mod silence;
mod tcp;
mod varlink;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use peat_blobapi::tls::{self, Pair, TlsError};
use peat_blobcore::{ErrorKind, Node};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::rustls::ServerConfig;

pub use config::Config;
pub use health::Pulse;

use api::Daemon;
use config::Listen;
use server::{Bound, FAREWELL, serve};

/// How long the node may stay in use after the last call, and how often that is looked at.
const LAST_HANDLE: Duration = Duration::from_secs(1);
const HANDLE_INTERVAL: Duration = Duration::from_millis(5);

/// Why a daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node.
    #[error(transparent)]
    Node(#[from] peat_blobcore::Error),
    /// A socket of the API or of the registry.
    #[error("cannot serve at {listen}: {source}")]
    Listen {
        /// Which.
        listen: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A certificate or key for TCP.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file that says to an upstream who asks.
    #[error("cannot read {}: {source}", .path.display())]
    Credentials {
        /// Which.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The cache of layers.
    #[error(transparent)]
    Layers(peat_blobcore::handoff::HandoffError),
    /// An upstream that can be none.
    #[error(transparent)]
    Upstream(peat_blobcore::registry::remote::RemoteError),
}

impl Error {
    /// What it means for the one who started it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Node(error) => error.kind(),
            Self::Listen { source, .. } | Self::Credentials { source, .. } | Self::Tls(TlsError::Unreadable { source, .. }) => {
                ErrorKind::of_io(source)
            }
            Self::Layers(error) => error.kind(),
            Self::Upstream(error) => error.kind(),
            Self::Tls(_) => ErrorKind::Usage,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Node(error) => error.hint(),
            Self::Listen { .. } => {
                Some("stop what holds it, or choose another with --listen, --registry-listen or --varlink".to_owned())
            }
            Self::Tls(_) => Some("name PEM files that this user may read with tls_cert, tls_key and tls_client_ca".to_owned()),
            Self::Credentials { .. } => Some("name files that this user may read with registry_upstream_credentials".to_owned()),
            Self::Layers(error) => error.hint(),
            Self::Upstream(error) => error.hint(),
        }
    }
}

/// A daemon that serves. [`Running::stop`] it in the end.
pub struct Running {
    daemon: Arc<Daemon>,
    addresses: Vec<Listen>,
    registry: Vec<SocketAddr>,
    serving: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Running {
    /// Starts the node and serves the API. It returns once both can be used.
    ///
    /// # Errors
    /// [`Error`]; nothing goes on running then.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let config = Arc::new(config);
        let (tls, upstreams) = (load_tls(&config)?, registry::upstreams(&config)?);
        let node = start_node(&config).await?;
        let watching = registry::stand_before(upstreams, &node, &config);
        match Self::serve(node, tls, &config).await {
            Ok(running) => {
                running.daemon.watch_upstreams(watching);
                Ok(running)
            }
            Err((error, node)) => {
                node.shutdown().await;
                Err(error)
            }
        }
    }

    /// Serves a node, or gives it back.
    async fn serve(node: Node, tls: Option<Arc<ServerConfig>>, config: &Arc<Config>) -> Result<Self, (Error, Node)> {
        // The node has come first, since it makes the data directory that a socket may be in, and holds it alone.
        let bound = async {
            let registry = registry::bind_all(&config.registry_listen).await?;
            Ok((bind_all(config).await?, registry, varlink::open(&node, config).await?))
        };
        let ((bound, addresses), (listeners, registry), layers) = match bound.await {
            Ok(bound) => bound,
            Err(error) => return Err((error, node)),
        };
        let (stop, stopping) = watch::channel(false);
        let daemon = Arc::new(Daemon::new(node, Arc::clone(config), stopping.clone()));
        daemon.replace_tls(tls);
        let mut serving = serve(bound, &daemon, &stopping);
        registry::serve(listeners, &daemon, &stopping, &mut serving);
        varlink::serve(layers, &stopping, &mut serving);
        tracing::info!(endpoint = %daemon.node.id(), name = daemon.node.identity().name(), "the daemon serves");
        for address in &registry {
            tracing::info!(%address, "the registry serves");
        }
        let mut running = Self { daemon, addresses, registry, serving, stop };
        running.connect(config).await;
        running.daemon.watch_outboxes(config).await;
        if let (Some(inbox), Some(program)) = (config.inbox.clone(), config.inbox_hook.clone()) {
            let program = std::path::absolute(&program).unwrap_or(program);
            let hook = hook::Hook { program, inbox, deadline: config.inbox_hook_deadline };
            running.serving.spawn(hook::run(Arc::clone(&running.daemon), hook));
        }
        Ok(running)
    }

    /// The node within.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.daemon.node
    }

    /// Where the API is served, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }

    /// Where the registry is served, with the ports that the system chose.
    #[must_use]
    pub fn registry_addresses(&self) -> &[SocketAddr] {
        &self.registry
    }

    /// Asks after the daemon's life, for who watches over it.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        Pulse::new(&self.daemon, &self.addresses)
    }

    /// Puts into force what can be changed while it runs: policy, limits, peers, roots and watches, caps, the token and certificates. The rest of
    /// `config` is what it was started with. TCP connections that are there stay as they are.
    ///
    /// # Errors
    /// [`Error::Tls`], and nothing has changed; [`Error::Node`] when the node has ended.
    pub async fn reload(&self, config: Config) -> Result<(), Error> {
        let (old, tls) = (self.daemon.config(), load_tls(&config)?);
        self.daemon.node.set_policy(config.policy()).await?;
        {
            let _turn = self.daemon.changing_limits.lock().await;
            self.daemon.node.set_limits(config.limits()).await?;
        }
        self.connect(&config).await;
        for peer in old.peers.iter().filter(|peer| !config.peers.iter().any(|kept| kept.id == peer.id)) {
            self.daemon.disconnect(peer.id).await;
        }
        self.daemon.watch_outboxes(&config).await;
        self.daemon.replace_config(Arc::new(config));
        self.daemon.replace_tls(tls);
        Ok(())
    }

    async fn connect(&self, config: &Config) {
        for peer in &config.peers {
            if let Err(error) = self.daemon.connect(peer.id, &peer.hosts).await {
                tracing::warn!(peer = %peer.id.short(), %error, "a peer that was named cannot be dialled yet");
            }
        }
    }

    /// Lets calls under way end, for three seconds at most, and shuts the node down.
    pub async fn stop(mut self) {
        self.daemon.outboxes.end().await;
        self.daemon.watch_upstreams(None);
        // Every receiver is this daemon's own.
        let _ = self.stop.send(true);
        let ended = tokio::time::timeout(FAREWELL, async { while self.serving.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!("calls are under way that do not end; they are cut off");
            self.serving.shutdown().await;
        }
        // The task of a connection gives its handle back a moment after the connection has ended.
        let only_one = async {
            while Arc::strong_count(&self.daemon) > 1 {
                tokio::time::sleep(HANDLE_INTERVAL).await
            }
        };
        let _ = tokio::time::timeout(LAST_HANDLE, only_one).await;
        match Arc::try_unwrap(self.daemon) {
            Ok(daemon) => daemon.node.shutdown().await,
            Err(_) => tracing::warn!("the node is still in use and ends as it stands; nothing that was reported is lost"),
        }
    }
}

/// Runs a daemon until `shutdown`.
///
/// # Errors
/// [`Error`] when it does not start.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let running = Running::start(config).await?;
    shutdown.await;
    running.stop().await;
    Ok(())
}

/// What TCP connections are within. A certificate that is out of date is served all the same: clients turn it down, and the node
/// goes on.
fn load_tls(config: &Config) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    let (Some(certificate), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    let tls = tls::server(Pair { certificate, key }, config.tls_client_ca.as_deref())?;
    if let Some(why) = tls::out_of_date(certificate, SystemTime::now())? {
        tracing::error!(certificate = %certificate.display(), "no client trusts the daemon's certificate: {why}");
    }
    Ok(Some(tls))
}

/// Binds every socket.
async fn bind_all(config: &Config) -> Result<(Vec<Bound>, Vec<Listen>), Error> {
    let (mut bound, mut addresses) = (Vec::new(), Vec::new());
    for listen in &config.listen {
        let socket = Bound::bind(listen).await?;
        addresses.push(socket.address().map_err(|source| Error::Listen { listen: listen.to_string(), source })?);
        bound.push(socket);
    }
    Ok((bound, addresses))
}

async fn start_node(config: &Config) -> Result<Node, peat_blobcore::Error> {
    let mut builder = Node::builder(&config.data_dir)
        .labels(config.labels.clone())
        .policy(config.policy())
        .content(config.store())
        .gossip(config.gossip)
        .mdns(config.mdns)
        .stall(config.stall)
        .sideload(config.sideload.clone(), config.sideload_interval)
        .upstreams(registry::spoken_for(config))
        .limits(config.limits());
    for relay in &config.relays {
        builder = builder.relay(relay.clone());
    }
    for client in &config.serve_stock {
        builder = builder.serve_stock(*client);
    }
    for address in &config.iroh_listen {
        builder = builder.listen(*address);
    }
    if let Some((formation, node_id)) = config.deterministic() {
        builder = builder.deterministic(formation, node_id);
    }
    if let Some((directory, policy)) = config.inbox() {
        builder = builder.inbox(directory, policy);
    }
    let node = builder.start().await?;
    // What its documents ask for has been looked through once it answers: with many of them that takes a while.
    node.responds().await?;
    Ok(node)
}
