//! The services of the API. They translate between the contract and the library, and decide nothing.

mod attachments;
mod blobs;
mod bundles;
mod convert;
mod diagnose;
pub(crate) mod errors;
mod events;
mod health;
mod images;
mod limits;
mod native;
mod outboxes;
mod packages;
mod parcels;
mod pipe;
mod progress;
mod push;
mod reflection;
mod store;
mod streams;
mod upload;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};

use connectrpc::{ConnectError, Router};
use peat_blobcore::Node;
use peat_blobcore::model::{DistributionId, EndpointId};
use peat_blobcore::registry::upstream::{WatchStatus, Watching};
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use crate::Config;
use crate::hook::Hooks;
use bundles::Bundles;
use events::Events;
use outboxes::Outboxes;

/// Addresses of one peer, and peers that users named: the node dials them over and over.
const MAX_HOSTS: usize = 64;
const MAX_NAMED: usize = 4096;

/// What every call works with.
pub(crate) struct Daemon {
    pub(crate) node: Node,
    /// What the daemon was told last.
    pub(crate) config: RwLock<Arc<Config>>,
    /// What TCP connections are within, where they are within TLS.
    tls: RwLock<Option<Arc<ServerConfig>>>,
    /// Peers that a user named, and where.
    pub(crate) named: RwLock<BTreeMap<EndpointId, Vec<String>>>,
    bundles: Bundles,
    /// What happened last.
    pub(crate) events: Arc<Events>,
    /// Held by who changes limits: they are read, and set as they are to be.
    pub(crate) changing_limits: tokio::sync::Mutex<()>,
    pub(crate) outboxes: Outboxes,
    /// How the inbox's hook does.
    pub(crate) hooks: Hooks,
    /// What brings what is new in upstreams, where it is to be brought.
    upstreams: Mutex<Option<Watching>>,
    /// True once the daemon ends: streams end with it.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// The services of a daemon, and those of gRPC that tell of them.
pub(crate) fn router(daemon: &Arc<Daemon>) -> Router {
    Router::new()
        .add_service(Arc::new(native::Native(Arc::clone(daemon))))
        .add_service(Arc::new(images::Images(Arc::clone(daemon))))
        .add_service(Arc::new(store::Store(Arc::clone(daemon))))
        .add_service(Arc::new(attachments::Attachments(Arc::clone(daemon))))
        .add_service(Arc::new(health::Healths(Arc::clone(daemon))))
        .add_service(Arc::new(reflection::v1::Service(Arc::clone(daemon))))
        .add_service(Arc::new(reflection::v1alpha::Service(Arc::clone(daemon))))
}

impl Daemon {
    pub(crate) fn new(node: Node, config: Arc<Config>, stopping: watch::Receiver<bool>) -> Self {
        let named = config.peers.iter().map(|peer| (peer.id, peer.hosts.clone())).collect();
        let (tls, events) = (RwLock::default(), Events::keep(node.events()));
        Self {
            node,
            config: RwLock::new(config),
            tls,
            named: RwLock::new(named),
            bundles: Bundles::default(),
            events,
            changing_limits: tokio::sync::Mutex::default(),
            outboxes: Outboxes::default(),
            hooks: Hooks::default(),
            upstreams: Mutex::default(),
            stopping,
        }
    }

    /// Has this watch upstreams, and nothing else.
    pub(crate) fn watch_upstreams(&self, watching: Option<Watching>) {
        *self.upstreams.lock().expect("nothing panics while it holds the watch") = watching;
    }

    /// How upstreams are watched, if they are.
    pub(crate) fn upstreams_watched(&self) -> Option<WatchStatus> {
        self.upstreams.lock().expect("nothing panics while it holds the watch").as_ref().map(Watching::status)
    }

    /// What the daemon is told to do now.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().expect("nothing panics while it holds the configuration"))
    }

    /// Keeps a connection with a peer at these hosts, `host:port` each. Names are resolved before each dial.
    pub(crate) async fn connect(&self, id: EndpointId, hosts: &[String]) -> Result<(), ConnectError> {
        if hosts.len() > MAX_HOSTS {
            return Err(errors::invalid("addresses", format_args!("{} of them, more than {MAX_HOSTS}", hosts.len())));
        }
        let (mut addresses, mut names): (Vec<SocketAddr>, _) = (Vec::new(), Vec::new());
        for (index, host) in hosts.iter().enumerate() {
            match (host.parse(), host.rsplit_once(':')) {
                (Ok(address), _) => addresses.push(address),
                (Err(_), Some((name, port))) if is_host(name) && port.parse::<u16>().is_ok() => names.push(host.clone()),
                _ => return Err(errors::invalid(&format!("addresses[{index}]"), format_args!("{host:?} is not host:port"))),
            }
        }
        {
            let mut named = self.named.write().expect("nothing panics while it holds the peers");
            if named.len() >= MAX_NAMED && !named.contains_key(&id) {
                return Err(upload::too_many(
                    format!("{MAX_NAMED} peers are named already"),
                    "disconnect some that are not needed",
                ));
            }
            named.insert(id, hosts.to_vec());
        }
        self.node.add_peer(id, addresses).await;
        if !names.is_empty() {
            self.node.add_named_peer(id, names).await;
        }
        Ok(())
    }

    /// Leaves a peer alone until it is named again; whether it was connected.
    pub(crate) async fn disconnect(&self, id: EndpointId) -> bool {
        self.named.write().expect("nothing panics while it holds the peers").remove(&id);
        self.node.remove_peer(id).await
    }

    /// What the next TCP connection is within, if it is within TLS.
    pub(crate) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.read().expect("nothing panics while it holds the certificates").clone()
    }

    /// Has TCP connections begin so from now on.
    pub(crate) fn replace_tls(&self, tls: Option<Arc<ServerConfig>>) {
        *self.tls.write().expect("nothing panics while it holds the certificates") = tls;
    }

    /// Is told otherwise from now on.
    pub(crate) fn replace_config(&self, config: Arc<Config>) {
        *self.config.write().expect("nothing panics while it holds the configuration") = config;
    }

    /// Every node that is known, connected or named; not this one.
    pub(crate) fn peers(&self) -> BTreeMap<EndpointId, Peer> {
        let mut peers: BTreeMap<EndpointId, Peer> = BTreeMap::new();
        for (id, record) in self.node.members() {
            let peer = peers.entry(id).or_default();
            peer.name = record.name;
            peer.labels = record.labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
            peer.addresses = record.addresses;
        }
        for (id, hosts) in self.named.read().expect("nothing panics while it holds the peers").iter() {
            let addresses = &mut peers.entry(*id).or_default().addresses;
            addresses.extend(hosts.iter().filter(|host| !addresses.contains(host)).cloned().collect::<Vec<_>>());
        }
        for id in self.node.peers() {
            peers.entry(id).or_default().connected = true;
        }
        peers.remove(&self.node.id());
        peers
    }

    /// The distribution that an id, or the beginning of one, names.
    fn find(&self, text: &str) -> Result<DistributionId, ConnectError> {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        if text.len() < 8 {
            return Err(errors::invalid(
                "distribution_id",
                format_args!("{text:?} is no id: give 64 hex digits, or the first 8 or more"),
            ));
        }
        let mut found = self.node.distributions().into_iter().filter(|id| id.to_string().starts_with(text));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => {
                Err(errors::invalid("distribution_id", format_args!("{text:?} begins several ids: give more of it")))
            }
            (None, _) => Err(errors::answer(
                peat_blobcore::ErrorKind::NotFound,
                format!("no distribution {text} is known here"),
                Some("check the id; ids of expired distributions are forgotten".to_owned()),
            )),
        }
    }

    /// Resolves when the daemon ends.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // Its sender outlives every call; if not, the daemon has ended.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}

/// Whether something can be the name of a host (RFC 1035, 2.3.4).
fn is_host(name: &str) -> bool {
    (1..=253).contains(&name.len())
}

/// What is known of a peer.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) labels: Vec<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) connected: bool,
}
