//! The network's one loop: accepts, dials, and owns the task of each connection until it is drained at shutdown.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::{Incoming, IncomingAddr, ServerConfig};
use iroh::{Endpoint, Watcher};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::addresses::Addresses;
use super::dialing::Dialing;
use super::endpoint::{Gate, bind, dial, taking};
use super::failures::PeerFailure;
use super::found::Found;
use super::gossip::Hints;
use super::idle::IdleLinks;
use super::lobby::Lobby;
use super::mdns::Mdns;
use super::names::{Names, Resolver};
use super::peers::{Peers, Reached};
use super::segments::Segments;
use super::session::{self, SessionError, Shared};
use super::wire::ALPN;
use super::{NetworkError, NetworkEvent, Peer, Relay, relay, stock};
use crate::clock::Clock;
use crate::content::Content;
use crate::document::Hint;
use crate::identity::admission::VersionRange;
use crate::identity::{Admitted, Identity};
use crate::model::{EndpointId, EnvelopeId};
use crate::replica::Replica;
use crate::transfer::{Entitlement, Limiter, Traffic, serve_stock};

/// Peers that this node keeps connections with at most, those that it dials itself apart.
const MAX_ADMITTED: usize = 64;
/// Connections that this node dials for; users' peers come on top.
const MAX_DIALLED: usize = 16;
/// How long a dial may take, over the slowest link that is of use.
const DIAL_DEADLINE: Duration = Duration::from_secs(15);
/// How long the end of the last connections is waited for at shutdown.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often leases are looked at.
const LEASE_INTERVAL: Duration = Duration::from_secs(2);
/// Who is due and finds no room is looked at again after this.
const LEAST_WAIT: Duration = Duration::from_millis(100);
/// Commands that wait for the loop.
const WAITING_COMMANDS: usize = 256;

/// What a network is made of.
pub(crate) struct NetworkConfig {
    pub(crate) identity: Arc<Identity>,
    pub(crate) versions: VersionRange,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) replica: Replica,
    pub(crate) content: Content,
    pub(crate) entitlement: Arc<dyn Entitlement>,
    /// How much of blobs may cross.
    pub(crate) limiter: Limiter,
    /// Where to listen; empty for every interface and any port.
    pub(crate) listen: Vec<SocketAddr>,
    /// What resolves the names that users give to peers.
    pub(crate) resolver: Arc<dyn Resolver>,
    /// Relays that peers can be reached through.
    pub(crate) relays: Vec<Relay>,
    /// Stock iroh-blobs clients that may ask for what was named for them.
    pub(crate) serve_stock: BTreeSet<EndpointId>,
    /// Whether to spread and hear hints beyond direct neighbours.
    pub(crate) gossip: bool,
    /// Whether to look for peers on the local network, and to be found there.
    pub(crate) mdns: bool,
    /// When connections that have nothing to carry are let go.
    pub(crate) idle: IdleLinks,
    pub(crate) events: mpsc::Sender<NetworkEvent>,
    /// A number that no other run of this node has.
    pub(crate) instance: u64,
}

#[derive(Debug)]
enum Command {
    Know {
        peer: EndpointId,
        addresses: Vec<SocketAddr>,
        fixed: bool,
    },
    Forget(EndpointId),
    Leave(EndpointId),
    Dial(EndpointId),
    /// A peer is connected, `again` when it was silent.
    Stands {
        peer: EndpointId,
        again: bool,
    },
    /// Nothing is heard of a peer, whose connection is kept.
    Silent(EndpointId),
    /// A peer spreads hints beyond its direct neighbours.
    Gossips(EndpointId),
    NetworkChanged,
    Spread(Vec<u8>),
    Stop,
}

/// A handle to the running network.
pub(crate) struct Network {
    endpoint: Endpoint,
    names: Names,
    peers: Arc<Peers>,
    traffic: Arc<Traffic>,
    admitted: Admitted,
    commands: mpsc::Sender<Command>,
    run: JoinHandle<()>,
}

impl Network {
    /// Binds the endpoint and starts.
    pub(crate) async fn start(config: NetworkConfig) -> Result<Self, NetworkError> {
        let admitted = Admitted::new();
        let gate = Gate::new(admitted.clone(), Arc::clone(&config.clock), config.serve_stock);
        let lookup = MemoryLookup::new();
        let mut protocols = vec![ALPN.to_vec()];
        protocols.extend(config.gossip.then(|| iroh_gossip::ALPN.to_vec()));
        protocols.extend(gate.lets_stock_through().then(|| stock::ALPN.to_vec()));
        let endpoint =
            bind(&config.identity, &config.listen, lookup.clone(), gate.clone(), protocols.clone(), &config.relays).await?;
        let hints = config.gossip.then(|| Hints::start(&endpoint, config.identity.formation().key.topic()));
        let mdns = if config.mdns { Mdns::start(&endpoint).await.inspect_err(|error| tracing::warn!(%error)).ok() } else { None };
        let (peers, traffic) = (Arc::new(Peers::default()), Arc::new(Traffic::new(config.limiter)));
        let names = Names::new(config.resolver);
        let (commands, commanded) = mpsc::channel(WAITING_COMMANDS);
        let shared = Shared {
            identity: config.identity,
            versions: config.versions,
            clock: config.clock,
            admitted: admitted.clone(),
            replica: config.replica,
            content: config.content,
            entitlement: config.entitlement,
            traffic: Arc::clone(&traffic),
            peers: Arc::clone(&peers),
            events: config.events,
            idle: config.idle,
            segments: Segments::default(),
            instance: config.instance,
        };
        let service = Service {
            shared,
            gate,
            lookup,
            endpoint: endpoint.clone(),
            with_segments: taking(&endpoint, protocols.clone(), true),
            without_segments: taking(&endpoint, protocols, false),
            hints,
            commands: commands.clone(),
            dialing: Dialing::default(),
            addresses: BTreeMap::new(),
            names: names.clone(),
            mdns,
            relays: config.relays,
            found: Found::default(),
            asked: BTreeSet::new(),
            strangers_to_hints: BTreeSet::new(),
            own: Vec::new(),
            dials: BTreeMap::new(),
            lobby: Lobby::default(),
            untold: VecDeque::new(),
            tasks: JoinSet::new(),
        };
        let run = tokio::spawn(service.run(commanded));
        Ok(Self { endpoint, names, peers, traffic, admitted, commands, run })
    }

    /// The last failure with each peer that is not connected, as far as they are remembered.
    pub(crate) fn failures(&self) -> BTreeMap<EndpointId, PeerFailure> {
        self.peers.failures.all()
    }

    /// The sockets that it listens on.
    pub(crate) fn listening_on(&self) -> Vec<SocketAddr> {
        self.endpoint.bound_sockets()
    }

    /// Where it can be dialled.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.endpoint.addr().ip_addrs().copied().collect()
    }

    /// The admitted connection with this peer.
    pub(crate) fn peer(&self, id: &EndpointId) -> Option<Arc<Peer>> {
        self.peers.get(id)
    }

    /// All admitted connections.
    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.all()
    }

    /// Whether a peer has a connection, or had one that was let go and is made again when needed.
    pub(crate) fn is_in_reach(&self, id: &EndpointId) -> bool {
        self.peers.get(id).is_some() || self.peers.is_idle(id)
    }

    /// The peers whose connections were let go and are made again when needed.
    pub(crate) fn idle(&self) -> Vec<EndpointId> {
        self.peers.idle()
    }

    /// The admitted connection with this peer, made again if it was let go; none if the peer is out of reach.
    pub(crate) async fn reach(&self, id: &EndpointId) -> Option<Arc<Peer>> {
        self.peers.reach(id).await
    }

    /// Who is in reach, for who asks beside the driver.
    pub(crate) fn reached(&self) -> Reached {
        Reached::new(Arc::clone(&self.peers), Arc::clone(&self.traffic))
    }

    /// Makes a connection that was let go again.
    pub(crate) fn wake(&self, id: &EndpointId) {
        self.peers.wake(id);
    }

    /// The count of the bytes of blocks that cross, and their limits.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Sends envelopes of this node's own to every peer.
    pub(crate) fn push(&self, ids: &[EnvelopeId]) {
        self.peers.push(ids, None);
    }

    /// Learns where a peer can be dialled, and wants a connection with it; `fixed` when a user said so.
    pub(crate) async fn know(&self, peer: EndpointId, addresses: Vec<SocketAddr>, fixed: bool) {
        self.command(Command::Know { peer, addresses, fixed }).await;
    }

    /// Wants a connection with a peer, as a user said, and resolves these hosts before each dial.
    pub(crate) async fn know_by_name(&self, peer: EndpointId, hosts: Vec<String>) {
        self.names.add(peer, hosts);
        self.know(peer, Vec::new(), true).await;
    }

    /// Neither dials a peer any more nor keeps its addresses.
    pub(crate) async fn forget(&self, peer: EndpointId) {
        self.command(Command::Forget(peer)).await;
    }

    /// Ends the connection with a peer and takes none until a user names it again; whether there was one.
    pub(crate) async fn leave(&self, peer: EndpointId) -> bool {
        let (was_idle, connected) = (self.peers.is_idle(&peer), self.peers.leave_alone(peer));
        self.command(Command::Leave(peer)).await;
        if let Some(connected) = &connected {
            connected.connection.close(super::CloseCode::Stopped.var_int(), b"told to leave");
        }
        was_idle || connected.is_some()
    }

    /// Dials a peer now. [`NetworkEvent::DialEnded`] says what came of it.
    pub(crate) async fn dial(&self, peer: EndpointId) {
        self.command(Command::Dial(peer)).await;
    }

    /// Looks at the interfaces again and ends all pauses.
    pub(crate) async fn network_changed(&self) {
        self.command(Command::NetworkChanged).await;
    }

    /// Spreads a signed hint.
    pub(crate) async fn spread(&self, hint: Vec<u8>) {
        self.command(Command::Spread(hint)).await;
    }

    /// Cuts a peer off at once and for good.
    pub(crate) fn expel(&self, peer: EndpointId) {
        self.admitted.expel(peer);
    }

    /// Closes every connection, says so to the peers, and waits for all tasks.
    pub(crate) async fn stop(mut self) {
        self.command(Command::Stop).await;
        if let Err(error) = (&mut self.run).await {
            tracing::error!(%error, "the network loop ended badly");
        }
    }

    async fn command(&self, command: Command) {
        // The loop outlives every command but those that come after stop.
        let _ = self.commands.send(command).await;
    }
}

impl Drop for Network {
    /// Without [`Network::stop`] everything ends as it stands, as if the process had been killed.
    fn drop(&mut self) {
        self.run.abort();
    }
}

struct Service {
    shared: Shared,
    gate: Gate,
    lookup: MemoryLookup,
    endpoint: Endpoint,
    /// How connections are taken.
    with_segments: Arc<ServerConfig>,
    /// How they are taken once segments of UDP were refused.
    without_segments: Arc<ServerConfig>,
    hints: Option<Hints>,
    commands: mpsc::Sender<Command>,
    dialing: Dialing,
    addresses: BTreeMap<EndpointId, Addresses>,
    names: Names,
    mdns: Option<Mdns>,
    relays: Vec<Relay>,
    found: Found,
    /// Peers whose dial somebody wants to hear the end of.
    asked: BTreeSet<EndpointId>,
    /// Connected peers that hints go to directly alone, as long as that reaches everybody.
    strangers_to_hints: BTreeSet<EndpointId>,
    /// Where this node can be dialled, as it heard last.
    own: Vec<SocketAddr>,
    /// Drops of these end dials that have not got through.
    dials: BTreeMap<EndpointId, oneshot::Sender<()>>,
    lobby: Lobby,
    /// What the driver is to hear once it has room. The loop never waits for the driver, which may be waiting for the loop.
    untold: VecDeque<NetworkEvent>,
    tasks: JoinSet<Ended>,
}

/// A connection's task has ended.
struct Ended {
    /// With whom, if TLS got that far.
    peer: Option<EndpointId>,
    dialled: bool,
    outcome: Result<(), SessionError>,
}

impl Service {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut leases = tokio::time::interval(LEASE_INTERVAL);
        let mut departures = self.shared.admitted.departures();
        let peers = Arc::clone(&self.shared.peers);
        let events = self.shared.events.clone();
        let mut addresses = self.endpoint.watch_addr();
        loop {
            self.dial_due();
            let next_dial = self.dialing.next().map(|time| time.since(self.shared.clock.now()).max(LEAST_WAIT));
            tokio::select! {
                Some(incoming) = self.endpoint.accept() => self.accept(incoming),
                Some(command) = commands.recv() => match command {
                    Command::Stop => break,
                    command => self.handle(command).await,
                },
                Some(Ok(ended)) = self.tasks.join_next() => self.ended(ended),
                () = tokio::time::sleep(next_dial.unwrap_or(Duration::MAX)), if next_dial.is_some() => {}
                _ = leases.tick() => {
                    self.end_leases();
                    self.try_found();
                    self.join_hints().await;
                }
                () = peers.is_wanted() => peers.wanted().into_iter().for_each(|peer| self.dialing.hurry(peer)),
                Ok(()) = departures.changed() => self.end_leases(),
                // The driver outlives the network but for the last moments of a shutdown.
                Ok(room) = events.reserve(), if !self.untold.is_empty() => room.send(self.untold.pop_front().expect("not empty")),
                Some(hint) = next_hint(&mut self.hints) => self.hear(&hint),
                Some((peer, addresses)) = next_found(&mut self.mdns) => self.discovered(peer, addresses),
                Ok(address) = addresses.updated() => {
                    let own: Vec<_> = address.ip_addrs().copied().collect();
                    if own.iter().any(|address| !self.own.contains(address)) {
                        // A link has come, or come back.
                        self.dialing.hurry_all();
                    }
                    self.own.clone_from(&own);
                    self.tell(NetworkEvent::Addresses(own));
                }
            }
        }
        if let Some(hints) = &mut self.hints {
            hints.stop().await;
        }
        for peer in self.shared.peers.all() {
            peer.connection.close(super::CloseCode::Stopped.var_int(), b"stopped");
        }
        self.tasks.shutdown().await;
        // The farewells are sent by now; the rest is waiting for packets of those who have gone.
        let _ = tokio::time::timeout(FAREWELL, self.endpoint.close()).await;
    }

    fn accept(&mut self, incoming: Incoming) {
        if self.lobby.is_busy() && !incoming.remote_addr_validated() {
            // It comes again with a token if its address is true; if it is not, nothing was spent on it.
            let _ = incoming.retry();
            return;
        }
        let address = if let IncomingAddr::Ip(address) = incoming.remote_addr() { Some(address) } else { None };
        // Whoever comes through a relay shares one place.
        let mut seat = self.lobby.enter(address.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |address| address.ip()));
        let (shared, commands) = (self.shared.clone(), self.commands.clone());
        let (with_segments, without_segments) = (Arc::clone(&self.with_segments), Arc::clone(&self.without_segments));
        let gossip = self.hints.as_ref().map(|hints| hints.gossip().clone());
        self.tasks.spawn(async move {
            let nobody = |outcome| Ended { peer: None, dialled: false, outcome };
            // Later its ways are tried for all.
            let segments = address.map_or_else(|| shared.segments.are_taken(), |address| shared.segments.may_be_taken(address));
            let Ok(accepting) = incoming.accept_with(if segments { with_segments } else { without_segments }) else {
                return nobody(Ok(()));
            };
            let connection = tokio::select! {
                connection = tokio::time::timeout(DIAL_DEADLINE, accepting) => connection,
                () = seat.lost() => return nobody(Err(SessionError::Crowded)),
            };
            let Ok(Ok(connection)) = connection else { return nobody(Ok(())) };
            let peer = EndpointId::from_bytes(*connection.remote_id().as_bytes());
            if connection.alpn() == ALPN {
                let outcome =
                    session::accepted(shared, connection, segments, seat, Standing { commands, peer, most: MAX_ADMITTED }).await;
                return Ended { peer: Some(peer), dialled: false, outcome };
            }
            if connection.alpn() == stock::ALPN {
                // The gate has let it through, so the user has listed it.
                drop(seat);
                serve_stock(connection, shared.content, shared.traffic).await;
                return nobody(Ok(()));
            }
            // The gate has let it through, so the peer is admitted.
            if let Some(gossip) = gossip {
                // A full queue only delays that its hints are heard.
                let _ = commands.try_send(Command::Gossips(peer));
                if let Err(error) = gossip.handle_connection(connection).await {
                    tracing::debug!(%error, "gossip takes no connection");
                }
            }
            nobody(Ok(()))
        });
    }

    fn dial_due(&mut self) {
        let room = MAX_DIALLED.saturating_sub(self.shared.peers.len());
        for peer in self.dialing.due(self.shared.clock.now(), room) {
            let address = self.addresses.entry(peer).or_default().of(&peer).map(|address| relay::through(&self.relays, address));
            let (shared, endpoint, commands) = (self.shared.clone(), self.endpoint.clone(), self.commands.clone());
            let names = self.names.clone();
            let (wanted, given_up) = oneshot::channel();
            self.dials.insert(peer, wanted);
            self.tasks.spawn(async move {
                let outcome = async {
                    let address = address.ok_or(SessionError::NoEndpoint)?;
                    let dial = async {
                        let address = names.extend(peer, address).await;
                        address.ip_addrs().for_each(|address| shared.segments.try_towards(*address));
                        let segments = shared.segments.are_taken();
                        let dialled = tokio::time::timeout(DIAL_DEADLINE, dial(&endpoint, address, segments)).await;
                        (dialled, segments)
                    };
                    let (connection, segments) = tokio::select! {
                        connection = dial => connection,
                        _ = given_up => return Err(SessionError::Moved),
                    };
                    let connection = connection.map_err(|_| SessionError::Slow)??;
                    shared.peers.dialled(&peer, true);
                    session::dialled(shared, connection, segments, Standing { commands, peer, most: usize::MAX }).await
                }
                .await;
                Ended { peer: Some(peer), dialled: true, outcome }
            });
        }
    }

    async fn handle(&mut self, command: Command) {
        match command {
            Command::Know { peer, .. } if peer == self.shared.identity.id() => {}
            Command::Know { peer, addresses, fixed } => {
                self.found.remove(&peer);
                let known = self.addresses.entry(peer).or_default();
                let news = known.learn(addresses, fixed);
                if let Some(address) = known.of(&peer) {
                    self.lookup.set_endpoint_info(relay::through(&self.relays, address));
                }
                self.dialing.want(peer, fixed);
                if fixed {
                    self.shared.peers.want(&peer);
                }
                if news && self.dialing.moved(peer) {
                    // Its old address may be one where nobody answers; a dial that has got through is past giving up.
                    self.dials.remove(&peer);
                }
            }
            Command::Forget(peer) => {
                self.found.remove(&peer);
                self.give_up(&peer);
                if self.asked.remove(&peer) {
                    self.tell(NetworkEvent::DialEnded { peer, ok: false });
                }
                self.names.forget(&peer);
            }
            Command::Leave(peer) => {
                self.found.remove(&peer);
                self.dialing.leave(peer);
                self.dials.remove(&peer);
                self.lost(peer);
            }
            Command::Dial(peer) => {
                if self.dialing.is_left(&peer) {
                    self.tell(NetworkEvent::DialEnded { peer, ok: false });
                } else if self.shared.peers.get(&peer).is_some() || peer == self.shared.identity.id() {
                    self.tell(NetworkEvent::DialEnded { peer, ok: self.shared.peers.get(&peer).is_some() });
                } else {
                    self.asked.insert(peer);
                    self.dialing.hurry(peer);
                }
            }
            // It has another connection since.
            Command::Silent(peer) if self.shared.peers.get(&peer).is_some() => {}
            Command::Silent(peer) => {
                let (now, seed) = (self.shared.clock.now(), self.shared.instance);
                self.shared.peers.failures.note(peer, PeerFailure::new(now, false, &SessionError::Silent));
                // It may have another address, or have forgotten the connection.
                self.dialing.disconnected(&peer, now, seed);
            }
            // It has ended since, which the loop has heard of, or will.
            Command::Stands { peer, .. } if self.shared.peers.get(&peer).is_none() => {}
            Command::Stands { peer, again } => {
                self.found.remove(&peer);
                if again {
                    // A dial that has not got through is not needed any more.
                    self.dials.remove(&peer);
                }
                self.shared.peers.failures.forget(&peer);
                self.dialing.connected(peer, self.shared.clock.now());
                if self.shared.peers.len() == 1 && self.shared.peers.idle().is_empty() {
                    // The first after none: the way to the others may be open again too.
                    self.dialing.hurry_all();
                }
                if self.asked.remove(&peer) {
                    self.tell(NetworkEvent::DialEnded { peer, ok: true });
                }
                self.strangers_to_hints.insert(peer);
                self.join_hints().await;
            }
            Command::Gossips(peer) => {
                self.strangers_to_hints.remove(&peer);
                self.join(peer).await;
            }
            Command::NetworkChanged => {
                self.endpoint.network_change().await;
                self.dialing.hurry_all();
            }
            Command::Spread(hint) => {
                if let Some(hints) = &self.hints {
                    hints.spread(hint).await;
                }
            }
            Command::Stop => {}
        }
    }

    /// Spreads hints over those that are connected by more than a thin link, once there is somebody who has no connection with this
    /// node. Everybody else hears what is new from their neighbours, and gossip's connections cost as much as ours when idle.
    async fn join_hints(&mut self) {
        let peers = Arc::clone(&self.shared.peers);
        self.strangers_to_hints.retain(|peer| peers.get(peer).is_some());
        if self.strangers_to_hints.is_empty() || !self.dialing.lacks_somebody(|peer| peers.is_idle(peer)) {
            return;
        }
        let idle = self.shared.idle;
        let is_thin = |peer: &EndpointId| peers.get(peer).is_some_and(|peer| idle.is_thin(peer.round_trip()));
        let (thin, others): (_, BTreeSet<_>) = std::mem::take(&mut self.strangers_to_hints).into_iter().partition(is_thin);
        self.strangers_to_hints = thin;
        for peer in others {
            self.join(peer).await;
        }
    }

    async fn join(&mut self, peer: EndpointId) {
        if let Some(hints) = &mut self.hints
            && let Err(error) = hints.join(peer).await
        {
            tracing::warn!(%error, "hints do not reach beyond direct neighbours");
        }
    }

    /// A peer is not in reach, if it was believed to be without a connection.
    fn lost(&mut self, peer: EndpointId) {
        if self.shared.peers.lost(&peer) {
            self.tell(NetworkEvent::Down(peer));
        }
    }

    fn ended(&mut self, ended: Ended) {
        if let Err(error) = &ended.outcome {
            let peer = ended.peer.map(|peer| peer.short()).unwrap_or_default();
            match error {
                SessionError::Rejected(_) | SessionError::Protocol(_) => tracing::warn!(peer, %error, "connection ended"),
                _ => tracing::debug!(peer, %error, "connection ended"),
            }
        }
        let Some(peer) = ended.peer else { return };
        // The loop has heard of these before.
        if matches!(ended.outcome, Err(SessionError::Moved | SessionError::Gone)) {
            return;
        }
        if self.shared.peers.get(&peer).is_some() {
            return;
        }
        if let Err(error) = &ended.outcome
            && !matches!(error, SessionError::Idle | SessionError::Left | SessionError::Duplicate | SessionError::Stopped)
        {
            self.shared.peers.failures.note(peer, PeerFailure::new(self.shared.clock.now(), ended.dialled, error));
        }
        let (now, seed) = (self.shared.clock.now(), self.shared.instance);
        if matches!(ended.outcome, Err(SessionError::Idle)) {
            if !self.dialing.knows(&peer) || self.dialing.is_left(&peer) {
                // Nobody would dial it.
                return self.lost(peer);
            }
            if self.dialing.was_hasty(&peer, now, self.shared.idle.after / 2) {
                // Nothing has been silent for so long: a failed dial, whatever it says.
                return self.dialing.disconnected(&peer, now, seed);
            }
            self.dialing.rests(&peer, now, &self.shared.idle, ended.dialled);
            if self.shared.peers.wanted().contains(&peer) {
                self.dialing.hurry(peer);
            }
            return;
        }
        if ended.dialled && self.shared.peers.is_idle(&peer) {
            tracing::info!(peer = %peer.short(), "an idle peer does not answer");
            self.shared.peers.dialled(&peer, false);
            self.lost(peer);
        }
        if ended.dialled && self.found.is_tried(&peer) {
            self.found.failed(&peer, now);
            self.give_up(&peer);
        }
        let stood = !matches!(ended.outcome, Err(SessionError::Dial(_) | SessionError::Slow | SessionError::Rejected(_)));
        if stood {
            self.dialing.disconnected(&peer, now, seed);
        } else if ended.dialled {
            self.dialing.failed(&peer, now, seed);
        }
        if ended.dialled && self.asked.remove(&peer) {
            self.tell(NetworkEvent::DialEnded { peer, ok: false });
        }
    }

    /// Dials a peer no more, and forgets where it was.
    fn give_up(&mut self, peer: &EndpointId) {
        self.lost(*peer);
        self.dialing.forget(peer);
        self.dials.remove(peer);
        self.addresses.remove(peer);
        if let Ok(id) = iroh::EndpointId::from_bytes(peer.as_bytes()) {
            self.lookup.remove_endpoint_info(id);
        }
    }

    /// Somebody is on the local network. The endpoint itself tries a known peer there with the next dial, which is now.
    fn discovered(&mut self, peer: EndpointId, addresses: Vec<SocketAddr>) {
        let peers = &self.shared.peers;
        if self.shared.replica.is_revoked(&peer) || peers.get(&peer).is_some() || peers.is_idle(&peer) {
            return;
        }
        if self.dialing.knows(&peer) {
            self.dialing.hurry(peer);
        } else {
            self.found.discovered(peer, addresses);
            self.try_found();
        }
    }

    /// Dials who was found, a few at a time.
    fn try_found(&mut self) {
        for (peer, addresses) in self.found.due(self.shared.clock.now()) {
            self.addresses.entry(peer).or_default().learn(addresses, false);
            self.dialing.want(peer, false);
        }
    }

    fn end_leases(&mut self) {
        let now = self.shared.clock.now();
        self.shared.admitted.expire(now);
        self.gate.close_departed(now);
        for peer in self.shared.peers.idle() {
            if !self.shared.admitted.is_admitted(&peer, now) {
                self.lost(peer);
            }
        }
    }

    fn hear(&self, bytes: &[u8]) {
        let replica = &self.shared.replica;
        match Hint::open(bytes) {
            Ok(hint) if replica.credential(&hint.author).is_some() && !replica.is_revoked(&hint.author) => {
                // Hints may be lost, and are when there are more than the driver can take.
                let _ = self.shared.events.try_send(NetworkEvent::Hint(Box::new(hint)));
            }
            Ok(hint) => tracing::debug!(author = %hint.author.short(), "a hint of an unknown author"),
            Err(error) => tracing::debug!(%error, "a hint that does not hold"),
        }
    }

    fn tell(&mut self, event: NetworkEvent) {
        self.untold.push_back(event);
    }
}

async fn next_hint(hints: &mut Option<Hints>) -> Option<bytes::Bytes> {
    match hints {
        Some(hints) => hints.next().await,
        None => std::future::pending().await,
    }
}

async fn next_found(mdns: &mut Option<Mdns>) -> Option<(EndpointId, Vec<SocketAddr>)> {
    match mdns {
        Some(mdns) => mdns.next().await,
        None => std::future::pending().await,
    }
}

/// Tells the loop how a connection stands.
pub(super) struct Standing {
    commands: mpsc::Sender<Command>,
    peer: EndpointId,
    /// Among how many connections it may be the pair's.
    pub(super) most: usize,
}

impl Standing {
    /// It is the pair's connection, and its peer is in reach. Does not make the connection wait.
    pub(super) fn stands(&self, again: bool) {
        // A full queue only delays the next look at the peer's pause and its place in gossip.
        let _ = self.commands.try_send(Command::Stands { peer: self.peer, again });
    }

    /// Waits until the loop can be told without waiting that nothing is heard of the peer; does so when called.
    pub(super) async fn silent(&self) -> Result<impl FnOnce() + use<'_>, SessionError> {
        let permit = self.commands.reserve().await.map_err(|_| SessionError::Stopped)?;
        Ok(move || permit.send(Command::Silent(self.peer)))
    }
}
