//! Describes a node and starts it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};

use super::data::DataDirectory;
use super::errand::{Errands, Fleet};
use super::package::{Mesh, Reach};
use super::send::Job;
use super::{Node, blocking, outbox, sideload};
use crate::Error;
use crate::clock::{Clock, SystemClock};
use crate::content::{Content, Options};
use crate::driver::{Driver, Parts, Progress, SharedNodes};
use crate::exchange::{Inbox, InboxPolicy, Ledger, WatchLimit};
use crate::identity::admission::{VERSIONS, VersionRange};
use crate::identity::{Formation, Identity, files};
use crate::model::{BlobHash, Credential, DistributionId, EndpointId, Labels, NodeRecord, Priority, Timestamp};
use crate::network::errand::{UpstreamHead, UpstreamRequest};
use crate::network::wire::Denial;
use crate::network::{IdleLinks, Network, NetworkConfig, Relay, Resolver, SystemResolver};
use crate::reconcile::{self, Policy};
use crate::registry::sideload::{Pattern, Sideload};
use crate::registry::{Answer, Claims, Elsewhere, Pieces, Rank, Registry};
use crate::replica::{Limits, Membership, Replica, Signer};
use crate::transfer::{Entitlement, Limiter, Limits as RateLimits};

/// Events that wait for a slow listener before it misses some.
const WAITING_EVENTS: usize = 1024;
/// Requests and network events that wait for the driver.
const WAITING_REQUESTS: usize = 256;

/// Describes a node. Only the data directory and an identity are needed.
#[must_use = "a node runs once it is started"]
pub struct NodeBuilder {
    data: PathBuf,
    deterministic: Option<(Formation, String)>,
    listen: Vec<SocketAddr>,
    peers: Vec<(EndpointId, Vec<SocketAddr>)>,
    named_peers: Vec<(EndpointId, Vec<String>)>,
    resolver: Arc<dyn Resolver>,
    inbox: Option<(PathBuf, InboxPolicy)>,
    labels: Labels,
    policy: Policy,
    content: Options,
    versions: VersionRange,
    relays: Vec<Relay>,
    serve_stock: BTreeSet<EndpointId>,
    gossip: bool,
    mdns: bool,
    idle: IdleLinks,
    stall: Duration,
    limits: RateLimits,
    sideload: (Vec<Pattern>, Duration),
    upstreams: Option<Vec<String>>,
    clock: Arc<dyn Clock>,
}

impl NodeBuilder {
    pub(super) fn new(data: PathBuf) -> Self {
        Self {
            data,
            deterministic: None,
            listen: Vec::new(),
            peers: Vec::new(),
            named_peers: Vec::new(),
            resolver: Arc::new(SystemResolver),
            inbox: None,
            labels: Labels::new(),
            policy: Policy::default(),
            content: Options::default(),
            versions: VERSIONS,
            relays: Vec::new(),
            serve_stock: BTreeSet::new(),
            gossip: true,
            mdns: false,
            idle: IdleLinks::default(),
            stall: Duration::from_secs(45),
            limits: RateLimits::default(),
            sideload: (Vec::new(), Duration::from_secs(30)),
            upstreams: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// Uses the identity that derives from the formation key and this node id, unless the data directory has a certificate.
    /// It authenticates the formation, not the node: each member can derive every key.
    pub fn deterministic(mut self, formation: Formation, node_id: impl Into<String>) -> Self {
        self.deterministic = Some((formation, node_id.into()));
        self
    }

    /// Listens on this UDP address, and on no other but those given likewise. Without any: every interface, any port.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen.push(address);
        self
    }

    /// Keeps a connection with this peer.
    pub fn peer(mut self, id: EndpointId, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.peers.push((id, addresses.into_iter().collect()));
        self
    }

    /// Keeps a connection with this peer, which is to be found at these hosts: each a name and a port with a colon between.
    /// They are resolved before each dial, so that a name that changes is followed; all their records are used.
    pub fn named_peer(mut self, id: EndpointId, hosts: impl IntoIterator<Item = String>) -> Self {
        self.named_peers.push((id, hosts.into_iter().collect()));
        self
    }

    /// Resolves the names of peers with this; by default with the resolver of the system.
    pub fn resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = resolver;
        self
    }

    /// Delivers what is meant for this node into this directory. Without one the node sends and carries only.
    pub fn inbox(mut self, directory: impl Into<PathBuf>, policy: InboxPolicy) -> Self {
        self.inbox = Some((directory.into(), policy));
        self
    }

    /// Labels that selectors match. A certificate's labels win over them.
    pub fn labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// What this node is willing to do.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Limits of the store.
    pub fn content(mut self, options: Options) -> Self {
        self.content = options;
        self
    }

    /// Reaches peers through this relay too, and is reached through it; all nodes of a fleet name the same ones. Peers that can
    /// reach each other directly do. Without any, no relay is used: none is built in.
    pub fn relay(mut self, relay: Relay) -> Self {
        self.relays.push(relay);
        self
    }

    /// Lets this stock client of iroh-blobs (sendme, say) fetch what [`Node::allow_stock`] names, and nothing else. It need not
    /// be a member, and is not admitted to anything by this. By default no such client is served, and the protocol is not
    /// spoken.
    pub fn serve_stock(mut self, client: EndpointId) -> Self {
        self.serve_stock.insert(client);
        self
    }

    /// Whether to spread hints beyond direct neighbours; on by default. They are never spread over thin links.
    pub fn gossip(mut self, on: bool) -> Self {
        self.gossip = on;
        self
    }

    /// Whether to look for members on the local network by multicast DNS, and to be found there; off by default. It announces
    /// the endpoint id and the addresses to everybody on that network, and nothing of the formation.
    pub fn mdns(mut self, on: bool) -> Self {
        self.mdns = on;
        self
    }

    /// When connections that have nothing to carry are let go, to be dialled again by whichever side has something to say.
    pub fn idle_links(mut self, idle: IdleLinks) -> Self {
        self.idle = idle;
        self
    }

    /// How long a source may send nothing before another is asked: 45 seconds by default. Longer than the outages of a link
    /// that are to be ridden out.
    pub fn stall(mut self, longest: Duration) -> Self {
        self.stall = longest;
        self
    }

    /// How much of blobs may cross from the start on: see [`Node::set_limits`].
    pub fn limits(mut self, limits: RateLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Serves the files that these patterns match as images, here and to other nodes, and looks this often for new, changed and
    /// removed ones.
    pub fn sideload(mut self, patterns: Vec<Pattern>, interval: Duration) -> Self {
        self.sideload = (patterns, interval);
        self
    }

    /// Says that it speaks these versions of the protocol, whatever it speaks: for tests of fleets of which not all nodes are
    /// upgraded yet.
    #[doc(hidden)]
    pub fn claim_versions(mut self, versions: VersionRange) -> Self {
        self.versions = versions;
        self
    }

    /// Tells other members that this node asks these registries on their behalf: those whose repositories are beneath a name here.
    /// What they are is for `registry::upstream::Upstreams`.
    pub fn upstreams(mut self, names: Vec<String>) -> Self {
        self.upstreams = Some(names).filter(|names| !names.is_empty());
        self
    }

    /// Takes the time from this clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the data directory, starts the node and returns once it can be dialled.
    ///
    /// # Errors
    /// [`Error`] when the data directory is in use or of another version, the identity is missing or does not hold, the
    /// store or the replica cannot be opened, or the address is in use.
    pub async fn start(self) -> Result<Node, Error> {
        let Self {
            data,
            deterministic,
            listen,
            peers,
            named_peers,
            resolver,
            inbox,
            labels,
            policy,
            content: options,
            versions,
            relays,
            serve_stock,
            gossip,
            mdns,
            idle,
            stall,
            limits,
            sideload: (patterns, interval),
            upstreams,
            clock,
        } = self;
        let opened_clock = Arc::clone(&clock);
        let opened = blocking(move || open(&data, deterministic, inbox, options, patterns, opened_clock)).await??;
        let Opened { data, identity, replica, content, registry, sideload, ledger, inbox } = opened;
        let identity = Arc::new(identity);
        let seed = rand_u64();
        let (network_events, heard) = mpsc::channel(WAITING_REQUESTS);
        let (requests, requested) = mpsc::channel(WAITING_REQUESTS);
        let (watchers, _) = broadcast::channel(WAITING_EVENTS);
        let nodes = SharedNodes::default();
        let claims = Claims::default();
        let limiter = Limiter::new(Arc::clone(&clock), {
            let nodes = Arc::clone(&nodes);
            Box::new(move |id| {
                nodes.read().expect("nothing panics while it holds the nodes").get(id).map(|node| node.name.clone())
            })
        });
        let policy = Policy { metered: limits.metered, ..policy };
        limiter.set(limits);
        let network = Network::start(NetworkConfig {
            identity: Arc::clone(&identity),
            versions,
            clock: Arc::clone(&clock),
            replica: replica.clone(),
            content: content.clone(),
            entitlement: Arc::new(Entitled {
                replica: replica.clone(),
                content: content.clone(),
                nodes: Arc::clone(&nodes),
                claims: claims.clone(),
                registry: registry.clone(),
                errands: Errands::new(registry.clone()),
                sideload: sideload.clone(),
            }),
            limiter,
            listen,
            resolver,
            relays,
            serve_stock,
            gossip,
            mdns,
            idle,
            events: network_events,
            instance: seed,
        })
        .await?;
        let network = Arc::new(network);
        for (id, addresses) in peers {
            network.know(id, addresses, true).await;
        }
        for (id, hosts) in named_peers {
            network.know_by_name(id, hosts).await;
        }
        let progress = Arc::new(Progress::default());
        let record = NodeRecord {
            name: identity.name().to_owned(),
            labels,
            addresses: Vec::new(),
            protocol: (versions.oldest, versions.newest),
            free_bytes: 0,
            credential: identity.credential().clone(),
            upstreams,
        };
        let fleet = Arc::new(Fleet::new(identity.id(), Arc::clone(&nodes), network.reached()));
        let parts = Parts {
            identity: Arc::clone(&identity),
            clock: Arc::clone(&clock),
            replica: replica.clone(),
            content: content.clone(),
            inbox: inbox.clone(),
            ledger: ledger.clone(),
            network: Arc::clone(&network),
            policy,
            stall,
            record,
            progress: Arc::clone(&progress),
            nodes,
            claims: claims.clone(),
            registry: registry.clone(),
            watchers: watchers.clone(),
            seed,
        };
        let runtime = tokio::runtime::Handle::current();
        // On a thread that may block: looking at documents and writing records touch the disk.
        let driver = tokio::task::spawn_blocking(move || runtime.block_on(Driver::new(parts).run(requested, heard)));
        let job = Job {
            me: identity.id(),
            content: content.clone(),
            replica: replica.clone(),
            ledger: ledger.clone(),
            now: clock.now(),
        };
        let mesh = Arc::new(Mesh::new(Arc::clone(&clock), job, registry.clone(), claims.clone(), requests.clone()));
        registry.add_elsewhere(Rank::Mesh, Arc::<Mesh>::clone(&mesh) as Arc<dyn Elsewhere>);
        let sideload = sideload.map(|sideload| {
            registry.add_elsewhere(Rank::Sideload, Arc::new(sideload.clone()));
            sideload::Watch::start(sideload, Arc::clone(&mesh), interval)
        });
        Ok(Node {
            identity,
            clock,
            replica,
            content,
            registry,
            ledger,
            inbox,
            network,
            requests,
            watchers,
            progress,
            claims,
            mesh: Reach(mesh),
            fleet,
            sideload,
            outboxes: outbox::Turns::default(),
            watches: Arc::new(WatchLimit::of_this_machine()),
            driver,
            bundles: AtomicU64::new(0),
            _data: data,
        })
    }
}

struct Opened {
    data: DataDirectory,
    identity: Identity,
    replica: Replica,
    content: Content,
    registry: Registry,
    sideload: Option<Sideload>,
    ledger: Ledger,
    inbox: Option<Inbox>,
}

fn open(
    path: &std::path::Path,
    deterministic: Option<(Formation, String)>,
    inbox: Option<(PathBuf, InboxPolicy)>,
    options: Options,
    patterns: Vec<Pattern>,
    clock: Arc<dyn Clock>,
) -> Result<Opened, Error> {
    let data = DataDirectory::open(path)?;
    if !data.join("replica.redb").exists() {
        // The documents of an earlier life are gone: what this node wrote in it must not be taken for what it writes now.
        files::renew_incarnation(data.path())?;
    }
    let fallback = deterministic.as_ref().map(|(formation, node_id)| (formation.clone(), node_id.as_str()));
    let (identity, warnings) = files::open(data.path(), fallback)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let signer = Signer {
        secret: identity.key().as_iroh().clone(),
        incarnation: identity.incarnation(),
        credential: identity.credential().clone(),
    };
    let membership = Arc::new(identity.formation().clone());
    let replica = Replica::open(&data.join("replica.redb"), signer, membership, Arc::clone(&clock), Limits::default())?;
    let content = Content::open(&data.join("content"), options, Arc::clone(&clock))?;
    let registry = Registry::open(&data.join("registry.redb"), content.clone(), clock)?;
    let index = data.join("sideload.redb");
    // Without patterns too, where there is one: others are told that what was served is not any more.
    let sideload = match patterns.is_empty() && !index.exists() {
        true => None,
        false => Some(Sideload::open(&index, registry.clone(), identity.id(), patterns)?),
    };
    let ledger = Ledger::open(&data.join("exchange.redb"))?;
    let inbox = inbox.map(|(directory, policy)| Inbox::open(&directory, ledger.clone(), policy)).transpose()?;
    Ok(Opened { data, identity, replica, content, registry, sideload, ledger, inbox })
}

impl Membership for Formation {
    fn verify(&self, author: &EndpointId, credential: &Credential, now: Timestamp) -> Result<(), String> {
        Formation::verify(self, author, credential, now).map_err(|rejection| rejection.to_string())
    }

    fn authority(&self) -> Option<EndpointId> {
        self.authority
    }
}

/// Who may have what, by the pins of the store, what packages it is part of, and the documents that these are for.
struct Entitled {
    replica: Replica,
    content: Content,
    nodes: SharedNodes,
    claims: Claims,
    registry: Registry,
    errands: Errands,
    sideload: Option<Sideload>,
}

impl Entitlement for Entitled {
    fn entitle(&self, peer: &EndpointId, blobs: &[BlobHash]) -> Vec<Option<Priority>> {
        let nodes = self.nodes.read().expect("nothing panics while it holds the nodes");
        let pinned = self.content.distributions_of(blobs).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot look up pins");
            vec![Vec::new(); blobs.len()]
        });
        // Blobs that are asked for together are mostly of one distribution.
        let mut known = BTreeMap::new();
        // Whether it is known to be a package, and how urgent what entitles the peer is.
        let mut look = |id: &DistributionId| {
            *known.entry(*id).or_insert_with(|| {
                let found = self.replica.distribution(id).ok().flatten();
                let is_package = found.as_ref().is_some_and(|found| found.manifest.package.is_some());
                let entitled = found.filter(|found| reconcile::is_entitled(&nodes, found, peer));
                (is_package, entitled.map(|found| found.manifest.priority))
            })
        };
        let mut entitled = Vec::with_capacity(blobs.len());
        for (blob, ids) in blobs.iter().zip(&pinned) {
            let mut best = ids.iter().filter_map(|id| look(id).1).max();
            // A package is a claim that any member can make of any blob. It opens what a repository here has under its name, and
            // never what is kept for a distribution of files, whose own manifest says who may have it.
            if best.is_none() && ids.iter().all(|id| look(id).0) {
                let packages = self.claims.packages_of(blob).into_iter();
                let mut true_here = packages.filter(|(_, repository, digest)| {
                    let lies_here = |sideload: &Sideload| sideload.has_hash(repository, digest, blob);
                    self.sideload.as_ref().is_some_and(lies_here)
                        || self.registry.has_hash(repository, digest, blob).unwrap_or_else(|error| {
                            tracing::error!(%error, "cannot look into the registry");
                            false
                        })
                });
                best = true_here.find_map(|(id, ..)| look(&id).1);
            }
            entitled.push(best);
        }
        entitled
    }

    fn supply<'a>(&'a self, blobs: &'a [BlobHash]) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            if let Some(sideload) = &self.sideload {
                sideload.supply(blobs).await;
            }
        })
    }

    fn errand<'a>(&'a self, request: &'a UpstreamRequest) -> Answer<'a, Result<(UpstreamHead, Pieces), Denial>> {
        Box::pin(self.errands.run(request))
    }
}

fn rand_u64() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    u64::from_le_bytes(bytes)
}
