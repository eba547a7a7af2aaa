//! Peers that say what tests want them to: strangers, and members that speak the protocol by hand.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use iroh::endpoint::{Connection, PortmapperConfig, RecvStream, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey, TransportAddr};
use peat_blobcore::Node;
use peat_blobcore::clock::{Clock, SystemClock};
use peat_blobcore::document::Section;
use peat_blobcore::identity::admission::{
    EXPORTER_LABEL, Initiator, MAX_MESSAGE_BYTES, Peer, Responder, Terms, VERSIONS, VersionRange,
};
use peat_blobcore::identity::{Formation, Identity, NodeKey, files};
use peat_blobcore::model::{
    BlobHash, Carry, Certificate, CertificateBody, DistributionId, EndpointId, FileEntry, Files, Incarnation, Labels, Manifest,
    NodeRecord, NodeRef, Package, Priority, Role, Scope, Sha256Digest, TargetRecord, TargetState, Timestamp,
};
use peat_blobcore::network::wire::{
    ALPN, BlockFrame, BlockRequest, EnvelopeBytes, GROUP_BYTES, MAX_FRAME_BYTES, Message, Request, WireError, read_frame,
    write_frame,
};
use peat_blobcore::replica::{Accepted, Clocks, Limits, Replica, Session, Side, Signer};
use sha2::Digest as _;

use crate::fleet::{DEADLINE, Fleet};

/// A clock that tests set.
#[derive(Debug)]
pub struct TestClock(AtomicU64);

impl TestClock {
    /// Starts at this time, and stands still.
    #[must_use]
    pub fn at(time: Timestamp) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(time.as_millis())))
    }

    /// Moves on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).expect("a test's while"), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Waits for what must come.
///
/// # Panics
/// With `what` when it has not come by the deadline.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// An endpoint on loopback that knows nothing of our protocol but can speak these.
///
/// # Panics
/// When it cannot be bound.
pub async fn endpoint(key: SecretKey, protocols: &[&[u8]]) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .secret_key(key)
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .alpns(protocols.iter().map(|alpn| alpn.to_vec()).collect())
        .clear_ip_transports()
        .bind_addr(SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("an address")
        .bind()
        .await
        .expect("a free port")
}

/// Where a node can be dialled.
///
/// # Panics
/// Never: a node's id is a public key.
#[must_use]
pub fn address_of(node: &Node) -> EndpointAddr {
    let id = iroh::EndpointId::from_bytes(node.id().as_bytes()).expect("a node's id is a public key");
    EndpointAddr::from_parts(id, node.listening_on().into_iter().map(TransportAddr::Ip))
}

/// Everything that a node sends on a connection, over streams of all kinds and datagrams, until the connection ends.
pub async fn everything_sent(connection: &Connection) -> Vec<u8> {
    let mut all = Vec::new();
    let mut readers = tokio::task::JoinSet::new();
    let drain = async |mut recv: RecvStream| {
        let mut bytes = Vec::new();
        while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX).await {
            bytes.extend_from_slice(&chunk);
        }
        bytes
    };
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((_send, recv)) => drop(readers.spawn(drain(recv))),
                Err(_) => break,
            },
            stream = connection.accept_uni() => match stream {
                Ok(recv) => drop(readers.spawn(drain(recv))),
                Err(_) => break,
            },
            datagram = connection.read_datagram() => match datagram {
                Ok(datagram) => all.extend_from_slice(&datagram),
                Err(_) => break,
            },
        }
    }
    while let Some(bytes) = readers.join_next().await {
        all.extend(bytes.expect("a reader does not panic"));
    }
    all
}

/// Everything that comes over a stream until it ends.
pub async fn rest_of(recv: &mut RecvStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX).await {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

/// The admission of `identity` on a connection.
///
/// # Panics
/// When the connection has no keying material.
#[must_use]
pub fn terms(identity: &Arc<Identity>, connection: &Connection, now: Timestamp) -> Terms {
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]).expect("TLS is done");
    Terms {
        identity: Arc::clone(identity),
        versions: VERSIONS,
        peer: EndpointId::from_bytes(*connection.remote_id().as_bytes()),
        exporter,
        now,
    }
}

impl Fleet {
    /// An identity with a certificate of the fleet's authority that ends then; it is in no data directory.
    ///
    /// # Panics
    /// When the authority does not sign it.
    #[must_use]
    pub fn identity_until(&self, name: &str, expiry: Timestamp) -> Identity {
        let key = NodeKey::generate();
        let certificate = self.certificate(key.endpoint_id(), name, expiry);
        let formation = Formation::enrolled(self.formation.clone(), self.authority.id());
        Identity::enrolled(key, certificate, formation, Incarnation::from_bytes([1; 16])).expect("it is its own")
    }

    /// Makes the identity of a member whose certificate ends then.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn enroll_until(&self, name: &str, expiry: Timestamp) -> Identity {
        let id = files::create_enrolled(&self.path(name), &self.formation, self.authority.id()).expect("a new member");
        files::enroll(&self.path(name), self.certificate(id, name, expiry)).expect("its own")
    }

    fn certificate(&self, endpoint: EndpointId, name: &str, expiry: Timestamp) -> Certificate {
        let body = CertificateBody {
            formation: self.formation.id(),
            endpoint,
            name: name.to_owned(),
            labels: Labels::new(),
            role: Role::Member,
            expiry,
        };
        self.authority.certify(body).expect("signed")
    }
}

/// A real member with a real replica, whose every message a test decides.
#[derive(Debug)]
pub struct RawMember {
    /// What it is.
    pub identity: Arc<Identity>,
    /// Its documents.
    pub replica: Replica,
    /// Its endpoint.
    pub endpoint: Endpoint,
    /// The versions of the protocol that it claims to speak.
    pub versions: VersionRange,
}

/// An admitted connection of a [`RawMember`], past the first message each way.
#[derive(Debug)]
pub struct Joined {
    /// The connection.
    pub connection: Connection,
    /// Its control stream.
    pub send: SendStream,
    /// Its control stream.
    pub recv: RecvStream,
    /// The node at the other end.
    pub peer: Peer,
}

impl RawMember {
    /// A member of this identity, with a replica in the fleet's directory.
    ///
    /// # Panics
    /// When the replica cannot be made.
    pub async fn new(fleet: &Fleet, identity: Identity) -> Self {
        let signer = Signer {
            secret: identity.key().as_iroh().clone(),
            incarnation: identity.incarnation(),
            credential: identity.credential().clone(),
        };
        let membership = Arc::new(identity.formation().clone());
        let path = fleet.path(&format!("{}.raw.redb", identity.id().short()));
        let replica = Replica::open(&path, signer, membership, Arc::new(SystemClock), Limits::default()).expect("a new one");
        let endpoint = endpoint(identity.key().as_iroh().clone(), &[ALPN]).await;
        Self { identity: Arc::new(identity), replica, endpoint, versions: VERSIONS }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.identity.id()
    }

    /// Dials a node, without a word of admission.
    ///
    /// # Panics
    /// When there is no connection.
    pub async fn dial(&self, node: &Node) -> Connection {
        soon("dialled", self.endpoint.connect(address_of(node), ALPN)).await.expect("dialled")
    }

    /// Dials a node and goes through admission.
    ///
    /// # Errors
    /// When the node does not admit it.
    pub async fn try_join(&self, node: &Node, now: Timestamp) -> Result<Joined, String> {
        let connection = self.dial(node).await;
        let terms = Terms { versions: self.versions, ..terms(&self.identity, &connection, now) };
        let (initiator, hello) = Initiator::new(terms);
        let talk = async {
            let (mut send, mut recv) = connection.open_bi().await?;
            write_frame(&mut send, &hello).await?;
            let answer = read_frame(&mut recv, MAX_MESSAGE_BYTES).await?;
            Ok::<_, WireError>((send, recv, answer))
        };
        let (send, recv, answer) = soon("an answer or an end", talk).await.map_err(|error| {
            // What the node says at the end tells more than that there was one.
            connection.close_reason().map_or_else(|| error.to_string(), |reason| reason.to_string())
        })?;
        let peer = initiator.finish(&answer, |_| false).map_err(|error| error.to_string())?;
        let mut joined = Joined { connection: connection.clone(), send, recv, peer };
        joined.say(&Message::Start(1)).await;
        match joined.hear().await {
            Ok(Message::Start(_)) => Ok(joined),
            other => Err(format!("{other:?}")),
        }
    }

    /// Dials a node and goes through admission.
    ///
    /// # Panics
    /// When the node does not admit it.
    pub async fn join(&self, node: &Node) -> Joined {
        self.try_join(node, SystemClock.now()).await.expect("admitted")
    }

    /// Answers a node that dials it, through admission.
    ///
    /// # Panics
    /// When nobody dials, or admission fails.
    pub async fn be_joined(&self) -> Joined {
        let incoming = soon("a dial", self.endpoint.accept()).await.expect("the endpoint is open");
        let connection = soon("a handshake", incoming.into_future()).await.expect("a handshake");
        let (mut send, mut recv) = soon("a stream", connection.accept_bi()).await.expect("a stream");
        let hello = soon("a hello", read_frame(&mut recv, MAX_MESSAGE_BYTES)).await.expect("a hello");
        let responder = Responder::new(terms(&self.identity, &connection, SystemClock.now()));
        let (peer, answer) = responder.receive(&hello, |_| false).expect("a member");
        write_frame(&mut send, &answer).await.expect("answered");
        let mut joined = Joined { connection, send, recv, peer };
        joined.say(&Message::Start(1)).await;
        assert!(matches!(joined.hear().await, Ok(Message::Start(_))));
        joined
    }

    /// Makes a distribution of an empty file for `target`.
    ///
    /// # Panics
    /// When the replica refuses.
    pub fn create(&self, target: EndpointId) -> (DistributionId, Accepted) {
        let file = FileEntry {
            root: "outbox".to_owned(),
            path: format!("file-{}", self.replica.distributions().len()).into_bytes(),
            size: 0,
            blob: BlobHash::from_bytes(*blake3::hash(b"").as_bytes()),
            sha256: Sha256Digest::from_bytes(sha2::Sha256::digest(b"").into()),
            mode: 0o644,
            mtime: 0,
            content_type: None,
            display_name: None,
        };
        self.distribute(vec![file], vec![NodeRef::Id(target)], None)
    }

    /// Claims that a file of somebody's is a package of a repository, for nobody to have.
    ///
    /// # Panics
    /// When the replica refuses.
    pub fn claim_package(&self, repository: &str, file: &FileEntry) -> Accepted {
        let digest = format!("sha256:{}", file.sha256);
        let file = FileEntry { path: digest.clone().into_bytes(), ..file.clone() };
        let package = Package { repository: repository.to_owned(), digest, subject: None, artifact_type: None };
        self.distribute(vec![file], Vec::new(), Some(package)).1
    }

    fn distribute(&self, files: Vec<FileEntry>, to: Vec<NodeRef>, package: Option<Package>) -> (DistributionId, Accepted) {
        let now = SystemClock.now();
        let manifest = Manifest {
            sender: self.id(),
            bundle: "by hand".to_owned(),
            files: Files::Inline(files),
            scope: Scope::Nodes(to),
            priority: Priority::Routine,
            made_at: now,
            expiry: now.plus(Duration::from_secs(3600)),
            carry: Carry::None,
            together: false,
            package,
            removes: false,
        };
        self.replica.create_distribution(&manifest).expect("it may")
    }

    /// Says of itself that it holds a distribution.
    ///
    /// # Panics
    /// When the replica refuses.
    pub fn claim(&self, distribution: &DistributionId, state: TargetState, bytes: u64) -> Accepted {
        let record = TargetRecord { state, bytes, error: None, time: SystemClock.now() };
        self.replica.record(distribution, Section::Targets, &record).expect("it may say so")
    }
}

impl Joined {
    /// Says something on the control stream; whether it arrives is for the test to see.
    pub async fn say(&mut self, message: &Message) {
        let _ = write_frame(&mut self.send, &message.encode()).await;
    }

    /// The next message.
    ///
    /// # Errors
    /// How the stream ended.
    pub async fn hear(&mut self) -> Result<Message, WireError> {
        soon("a message or an end", async { Message::decode(&read_frame(&mut self.recv, MAX_FRAME_BYTES).await?) }).await
    }

    /// Says envelopes of its own.
    ///
    /// # Panics
    /// When the replica cannot be read.
    pub async fn push(&mut self, member: &RawMember, accepted: &Accepted) {
        let bytes = |id| member.replica.envelope(id).expect("readable").map(|bytes| EnvelopeBytes(bytes.to_vec()));
        let envelopes = accepted.push.iter().filter_map(bytes).collect();
        self.say(&Message::Envelopes(envelopes)).await;
    }

    /// Reconciles the replicas of both, as the side that dialled, and introduces itself with a record.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn reconcile(&mut self, member: &RawMember) {
        let clocks = Clocks { ours: SystemClock.now(), theirs: self.peer.clock };
        let (mut session, question) = Session::start(&member.replica, &self.peer.id, clocks, Side::Initiator).expect("a session");
        self.say(&Message::Question(question.unwrap_or_default())).await;
        loop {
            match self.hear().await.expect("a message") {
                Message::Answer(answer) => {
                    let step = session.answer(&answer).expect("an answer");
                    self.push(member, &Accepted { push: step.send, ..Accepted::default() }).await;
                    if !step.need.is_empty() {
                        self.say(&Message::Want(step.need)).await;
                    }
                    match step.reply {
                        Some(question) => self.say(&Message::Question(question)).await,
                        None => self.say(&Message::Reconciled).await,
                    }
                }
                Message::Envelopes(envelopes) => member.take(self.peer.id, envelopes),
                Message::Reconciled => break,
                _ => {}
            }
        }
        member.replica.mark_reconciled().expect("noted");
        let record = NodeRecord {
            name: member.identity.name().to_owned(),
            labels: Labels::new(),
            addresses: Vec::new(),
            protocol: (VERSIONS.oldest, VERSIONS.newest),
            free_bytes: 0,
            credential: member.identity.credential().clone(),
            upstreams: None,
        };
        let accepted = member.replica.publish_node(&record).expect("published");
        self.push(member, &accepted).await;
    }

    /// Listens until it has heard of a distribution.
    ///
    /// # Panics
    /// When the connection ends before.
    pub async fn learn(&mut self, member: &RawMember, distribution: &DistributionId) {
        while member.replica.distribution(distribution).expect("readable").is_none() {
            if let Message::Envelopes(envelopes) = self.hear().await.expect("a message") {
                member.take(self.peer.id, envelopes);
            }
        }
    }

    /// Asks for the first group of a blob, and returns the first frame of the answer.
    ///
    /// # Errors
    /// How the connection ended.
    pub async fn ask(&self, blob: BlobHash, size: u64) -> Result<BlockFrame, WireError> {
        let (_send, mut recv) = self.request(blob, size.min(GROUP_BYTES)).await?;
        soon("an answer or an end", BlockFrame::read(&mut recv, DEADLINE)).await
    }

    /// Asks for the first bytes of a blob.
    ///
    /// # Errors
    /// How the connection ended.
    pub async fn request(&self, blob: BlobHash, end: u64) -> Result<(SendStream, RecvStream), WireError> {
        let (mut send, recv) = soon("a stream or an end", self.connection.open_bi()).await?;
        let request = Request::Blocks(BlockRequest { blob, start: 0, end, block: GROUP_BYTES, compression: None, pairs: 0 });
        write_frame(&mut send, &request.encode()).await?;
        Ok((send, recv))
    }
}

impl RawMember {
    fn take(&self, from: EndpointId, envelopes: Vec<EnvelopeBytes>) {
        let envelopes: Vec<_> = envelopes.into_iter().map(|envelope| Bytes::from(envelope.0)).collect();
        self.replica.accept(Some(from), &envelopes).expect("readable");
    }
}
