//! One connection from its first byte to its last: admission, then envelopes until both have the same, then what comes to
//! be, and blocks all along. Until admission holds both ways nothing but admission is read or sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use iroh::endpoint::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::congestion;
use super::endpoint::{CloseCode, widen};
use super::hearing::{Hearing, SILENT_LOOKS};
use super::idle::IdleLinks;
use super::lobby::Seat;
use super::pairs::{Entered, Origin};
use super::peers::{Peer, Peers};
use super::queue::Next;
use super::segments::Segments;
use super::service::Standing;
use super::wire::{
    ENVELOPE_BATCH_BYTES, EnvelopeBytes, MAX_FRAME_BYTES, MAX_WANTED, Message, WireError, read_frame, write_frame,
};
use super::{NetworkEvent, queue::SendQueue};
use crate::clock::Clock;
use crate::content::Content;
use crate::identity::admission::{self, EXPORTER_LABEL, Initiator, MAX_MESSAGE_BYTES, Responder, Terms, VersionRange};
use crate::identity::{Admitted, Identity, Rejection};
use crate::model::{EndpointId, EnvelopeId, Timestamp};
use crate::replica::{self, Clocks, Replica, ReplicaError, Session, Side, Step};
use crate::transfer::{Entitlement, Traffic, Turns, serve};

/// How long admission may take, over the slowest link that is of use.
const ADMISSION_DEADLINE: Duration = Duration::from_secs(20);
/// How long a peer stays admitted after its admission. It is renewed with each connection.
const LEASE: Duration = Duration::from_secs(24 * 3600);
/// Envelopes of one frame at most; they also end at [`ENVELOPE_BATCH_BYTES`].
const ENVELOPE_BATCH: usize = 1024;
/// What was written before this has been heard, or the connection has ended.
const UNHEARD: Duration = Duration::from_secs(60);
/// How often to look whether a connection is used.
const UNUSED_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often to look whether who was silent is heard again.
const BACK_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The control stream goes before all streams of blocks.
const CONTROL_PRIORITY: i32 = 100;

/// What every session of a node shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) identity: Arc<Identity>,
    /// The versions of the protocol that this node says it speaks.
    pub(crate) versions: VersionRange,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) admitted: Admitted,
    pub(crate) replica: Replica,
    pub(crate) content: Content,
    pub(crate) entitlement: Arc<dyn Entitlement>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) events: mpsc::Sender<NetworkEvent>,
    /// When connections are let go.
    pub(crate) idle: IdleLinks,
    pub(crate) segments: Segments,
    /// Drawn when the node started.
    pub(crate) instance: u64,
}

/// The stream that messages go over, both ways.
struct Control {
    send: SendStream,
    recv: RecvStream,
}

/// A connection that was admitted, before it is the pair's own.
struct Started {
    peer: Arc<Peer>,
    /// The time there, when it was admitted.
    clock: Timestamp,
    version: u16,
    control: Control,
    dialled: bool,
    /// It was made with segments of UDP.
    segments: bool,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("admission failed: {0}")]
    Rejected(#[from] Rejection),
    #[error("admission took too long")]
    Slow,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no such endpoint can exist: the id is not a public key")]
    NoEndpoint,
    #[error("the peer is to be dialled elsewhere")]
    Moved,
    #[error("cannot connect: {0}")]
    Dial(String),
    #[error("the connection has no keying material")]
    Exporter,
    #[error("the pair has another connection")]
    Duplicate,
    #[error("this node has as many connections as it keeps")]
    Full,
    #[error("this node was told to leave the peer alone")]
    Left,
    #[error("others wait to be admitted")]
    Crowded,
    #[error("there is nothing to say over a thin link")]
    Idle,
    #[error("segments of UDP are refused on one of the machines: to be dialled anew, without")]
    Segments,
    #[error("nothing is heard of it")]
    Silent,
    #[error("nothing was heard of it any more")]
    Gone,
    #[error("the peer is not admitted any more")]
    Expelled,
    #[error("the peer breaks the protocol: {0}")]
    Protocol(&'static str),
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error(transparent)]
    Session(#[from] replica::SessionError),
    #[error("stopped")]
    Stopped,
}

impl SessionError {
    fn close_code(&self) -> CloseCode {
        match self {
            Self::Rejected(_) | Self::Slow | Self::Exporter | Self::Expelled => CloseCode::NotAdmitted,
            Self::NoEndpoint | Self::Moved | Self::Dial(_) => CloseCode::Stopped,
            Self::Duplicate => CloseCode::Duplicate,
            Self::Full | Self::Crowded | Self::Left => CloseCode::Full,
            Self::Wire(_) | Self::Protocol(_) | Self::Session(_) => CloseCode::Protocol,
            Self::Idle => CloseCode::Idle,
            Self::Replica(_) | Self::Stopped | Self::Segments | Self::Silent | Self::Gone => CloseCode::Stopped,
        }
    }

    /// What the peer may know. A stranger learns nothing about why.
    fn for_peer(&self) -> String {
        match self {
            Self::Rejected(rejection) => rejection.for_peer(),
            Self::Replica(_) | Self::Session(_) => "internal error".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Runs a connection that this node dialled until it ends.
pub(crate) async fn dialled(
    shared: Shared,
    connection: Connection,
    segments: bool,
    standing: Standing,
) -> Result<(), SessionError> {
    let outcome = async {
        let admission = async {
            let terms = shared.terms(&connection)?;
            if shared.replica.is_revoked(&terms.peer) {
                // It must not even get the hello, which says who this node is to everybody who knows the formation key.
                return Err(Rejection::Revoked.into());
            }
            let (mut send, mut recv) = connection.open_bi().await.map_err(WireError::from)?;
            let (initiator, hello) = Initiator::new(terms);
            write_frame(&mut send, &hello).await?;
            let answer = read_frame(&mut recv, MAX_MESSAGE_BYTES).await?;
            let peer = initiator.finish(&answer, |id| shared.replica.is_revoked(id))?;
            shared.start(peer, &connection, Control { send, recv }, true, segments).await
        };
        let session = tokio::time::timeout(ADMISSION_DEADLINE, admission).await.map_err(|_| SessionError::Slow)??;
        shared.enter(&session.peer, &standing, false).await?;
        shared.run(session, &standing).await
    }
    .await;
    close(&connection, outcome)
}

/// Runs a connection that a peer dialled until it ends. It gives its seat back once it stands.
pub(crate) async fn accepted(
    shared: Shared,
    connection: Connection,
    segments: bool,
    mut seat: Seat,
    standing: Standing,
) -> Result<(), SessionError> {
    let outcome = async {
        let admission = async {
            let (mut send, mut recv) = connection.accept_bi().await.map_err(WireError::from)?;
            let responder = Responder::new(shared.terms(&connection)?);
            let hello = read_frame(&mut recv, MAX_MESSAGE_BYTES).await?;
            let (peer, answer) = responder.receive(&hello, |id| shared.replica.is_revoked(id))?;
            write_frame(&mut send, &answer).await?;
            shared.start(peer, &connection, Control { send, recv }, false, segments).await
        };
        let session = tokio::select! {
            admission = tokio::time::timeout(ADMISSION_DEADLINE, admission) => admission.map_err(|_| SessionError::Slow)??,
            () = seat.lost() => return Err(SessionError::Crowded),
        };
        shared.enter(&session.peer, &standing, false).await?;
        drop(seat);
        shared.run(session, &standing).await
    }
    .await;
    close(&connection, outcome)
}

fn close(connection: &Connection, outcome: Result<(), SessionError>) -> Result<(), SessionError> {
    let (code, reason) = match &outcome {
        Ok(()) => (CloseCode::Stopped, String::new()),
        Err(error) => (error.close_code(), error.for_peer()),
    };
    connection.close(code.var_int(), reason.as_bytes());
    outcome
}

impl Shared {
    fn terms(&self, connection: &Connection) -> Result<Terms, SessionError> {
        let mut exporter = [0; 32];
        connection.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]).map_err(|_| SessionError::Exporter)?;
        Ok(Terms {
            identity: Arc::clone(&self.identity),
            versions: self.versions,
            peer: EndpointId::from_bytes(*connection.remote_id().as_bytes()),
            exporter,
            now: self.clock.now(),
        })
    }

    /// Begins to speak with a peer that was admitted.
    async fn start(
        &self,
        peer: admission::Peer,
        connection: &Connection,
        mut control: Control,
        dialled: bool,
        segments: bool,
    ) -> Result<Started, SessionError> {
        let now = self.clock.now();
        if !self.admitted.admit(peer.id, peer.lease_end(now, LEASE)) {
            return Err(SessionError::Expelled);
        }
        self.replica.note_clock(peer.id, peer.clock);
        // A stream's priority can only be refused once the stream has ended, which the next write says better.
        let _ = control.send.set_priority(CONTROL_PRIORITY);
        write_frame(&mut control.send, &Message::Start(self.instance).encode()).await?;
        let Message::Start(instance) = Message::decode(&read_frame(&mut control.recv, MAX_FRAME_BYTES).await?)? else {
            return Err(SessionError::Protocol("its first message is not a start"));
        };
        let smaller_dialled = (self.identity.id() < peer.id) == dialled;
        let entry = Arc::new(Peer {
            id: peer.id,
            connection: connection.clone(),
            queue: SendQueue::default(),
            origin: Origin { smaller_dialled, instance },
            in_use: Arc::default(),
            since: Instant::now(),
        });
        Ok(Started { peer: entry, clock: peer.clock, version: peer.version, control, dialled, segments })
    }

    /// Makes a connection the pair's own, if it is the one to stay; `again` where it was silent.
    async fn enter(&self, entry: &Arc<Peer>, standing: &Standing, again: bool) -> Result<(), SessionError> {
        // Before it stands, since this may be dropped wherever it waits, and then nobody would hear of it.
        let mut events = self.events.reserve_many(2).await.map_err(|_| SessionError::Stopped)?;
        let mut tell = |event| {
            if let Some(permit) = events.next() {
                permit.send(event);
            }
        };
        let (replaced, known) = match self.peers.enter(entry, standing.most, again) {
            Entered::Stays { replaced, instance } => (replaced, instance),
            Entered::Loses => return Err(SessionError::Duplicate),
            Entered::Full => return Err(SessionError::Full),
            Entered::Left => return Err(SessionError::Left),
        };
        if let Some(old) = &replaced {
            old.queue.close();
            old.connection.close(CloseCode::Duplicate.var_int(), b"replaced");
        }
        widen(&entry.connection);
        standing.stands(again);
        // A peer that has restarted was gone, noticed or not, and is back.
        let restarted = known.is_some_and(|instance| instance != entry.origin.instance);
        if restarted {
            tell(NetworkEvent::Down(entry.id));
        }
        if known.is_none() || restarted {
            tell(NetworkEvent::Up(entry.id));
        }
        Ok(())
    }

    async fn run(&self, session: Started, standing: &Standing) -> Result<(), SessionError> {
        let Started { peer: entry, clock, version, control: Control { mut send, mut recv }, dialled, segments } = session;
        tracing::info!(peer = %entry.id.short(), dialled, version, "connected");
        let mut reader = Reader { shared: self.clone(), peer: Arc::clone(&entry), clock, initiator: dialled, session: None };
        let outcome = tokio::select! {
            outcome = reader.run(&mut recv) => outcome,
            outcome = self.write(&entry, &mut send) => outcome,
            outcome = self.serve(&entry) => outcome,
            () = self.has_nothing_to_carry(&entry), if !dialled => Err(SessionError::Idle),
            () = self.ask_whether_it_is_back(&entry) => Ok(()),
            outcome = self.watch_for_silence(&entry, standing) => outcome,
            () = self.segments.are_refused(&entry.connection), if segments => Err(SessionError::Segments),
            () = self.admitted.departed(entry.id) => Err(SessionError::Expelled),
        };
        // Whoever lets it go has waited longer than a message takes: what the other has said since then was not heard.
        let is_told = || entry.queue.is_told(self.idle.after / 2);
        entry.queue.close();
        let is_idle = matches!(outcome, Err(SessionError::Idle)) || was_let_go(&entry.connection);
        if is_idle && self.peers.rest(&entry, is_told) {
            return Err(SessionError::Idle);
        }
        let was_silent = self.peers.is_silent(&entry);
        if self.peers.leave(&entry) {
            self.tell(NetworkEvent::Down(entry.id)).await?;
        }
        if was_silent && matches!(outcome, Err(SessionError::Wire(_))) { Err(SessionError::Gone) } else { outcome }
    }

    /// Takes the peer for out of reach when nothing is heard of it for a while, and for back when something is. The connection goes
    /// on meanwhile: where an outage ends, nobody has to dial and be admitted before payload flows again.
    async fn watch_for_silence(&self, peer: &Arc<Peer>, standing: &Standing) -> Result<(), SessionError> {
        let mut hearing = Hearing::default();
        loop {
            while hearing.look(&peer.connection) < SILENT_LOOKS {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            // All at once, since this may be dropped wherever it waits. The loop, which may wait for the driver, waits for no event.
            let event = self.events.reserve().await.map_err(|_| SessionError::Stopped)?;
            let tell_loop = standing.silent().await?;
            if hearing.has_news(&peer.connection) {
                continue;
            }
            if !self.peers.fall_silent(peer) {
                return Err(SessionError::Silent);
            }
            tell_loop();
            event.send(NetworkEvent::Down(peer.id));
            tracing::info!(peer = %peer.id.short(), "nothing is heard of it");
            while !hearing.has_news(&peer.connection) {
                tokio::time::sleep(BACK_LOOK_INTERVAL).await;
            }
            self.enter(peer, standing, true).await?;
            tracing::info!(peer = %peer.id.short(), "heard again");
        }
    }

    /// Ends when nothing has been said or asked for a while over a thin link. The side that was dialled looks: unlike the other it
    /// may find that it cannot dial, and then keeps the connection.
    async fn has_nothing_to_carry(&self, peer: &Arc<Peer>) {
        let (mut frames, mut quiet) = (0, Instant::now());
        let mut look = tokio::time::interval((self.idle.after / 4).max(Duration::from_millis(1)));
        while quiet.elapsed() < self.idle.after {
            look.tick().await;
            let stats = peer.connection.stats();
            let carried = stats.frame_tx.stream + stats.frame_rx.stream;
            let is_used = Arc::strong_count(&peer.in_use) > 1 || !peer.queue.is_told(Duration::ZERO);
            let is_used = is_used || self.peers.is_silent(peer);
            if carried != frames || is_used || !self.idle.is_thin(peer.round_trip()) || self.peers.is_inward(&peer.id) {
                (frames, quiet) = (carried, Instant::now());
            }
        }
    }

    /// Says something empty at short intervals while the connection is used, or its peer is out of reach, what was sent waits for an
    /// answer, and nothing comes: the link is off, and goes on soon after it is back. Never ends.
    async fn ask_whether_it_is_back(&self, peer: &Arc<Peer>) {
        let (mut answers, mut asked) = (0, Instant::now());
        loop {
            let is_silent = self.peers.is_silent(peer);
            let is_used = is_silent || Arc::strong_count(&peer.in_use) > 1 || !peer.queue.is_told(UNHEARD);
            tokio::time::sleep(if is_used { congestion::LOOK_INTERVAL } else { UNUSED_LOOK_INTERVAL }).await;
            let came = peer.connection.stats().frame_rx;
            // What the other side says by itself is no answer.
            let before = std::mem::replace(&mut answers, came.acks + came.path_acks);
            // Where nothing waits for an answer, as on a connection that was idle, there is to be something that does.
            let is_due = is_silent && asked.elapsed() >= UNUSED_LOOK_INTERVAL;
            let is_to_be_asked = is_due || congestion::is_to_be_asked(&peer.connection);
            if is_used && answers == before && peer.queue.is_told(Duration::ZERO) && is_to_be_asked {
                asked = Instant::now();
                peer.queue.message(Message::Envelopes(Vec::new()));
            }
        }
    }

    /// Writes what is queued.
    async fn write(&self, peer: &Arc<Peer>, send: &mut SendStream) -> Result<(), SessionError> {
        loop {
            match peer.queue.next(ENVELOPE_BATCH).await {
                Next::Closed => return Ok(()),
                Next::Message(message) => write_frame(send, &message.encode()).await?,
                Next::Envelopes(ids) => {
                    if let Some(frame) = ids.iter().map(|id| self.replica.recent(id)).collect::<Option<Vec<_>>>() {
                        let frame = frame.into_iter().map(|envelope| EnvelopeBytes(envelope.into())).collect();
                        write_frame(send, &Message::Envelopes(frame).encode()).await?;
                        continue;
                    }
                    let mut ids = VecDeque::from(ids);
                    while !ids.is_empty() {
                        let replica = self.replica.clone();
                        let (rest, frame) = blocking(move || {
                            let frame = fill_frame(&mut ids, |id| replica.envelope(id))?;
                            Ok::<_, ReplicaError>((ids, frame))
                        })
                        .await?;
                        ids = rest;
                        if !frame.is_empty() {
                            write_frame(send, &Message::Envelopes(frame).encode()).await?;
                        }
                    }
                }
            }
        }
    }

    /// Answers requests, each on a stream of its own.
    async fn serve(&self, peer: &Arc<Peer>) -> Result<(), SessionError> {
        let (mut streams, turns, mut priority) = (JoinSet::new(), Arc::new(Turns::new()), 0_i32);
        loop {
            tokio::select! {
                stream = peer.connection.accept_bi() => {
                    let (send, recv) = stream.map_err(WireError::from)?;
                    // One answer after the other: were all sent in turns, a cut would leave a part of a block of each, in vain.
                    let _ = send.set_priority(priority);
                    priority = priority.saturating_sub(1);
                    let (entitlement, traffic) = (Arc::clone(&self.entitlement), Arc::clone(&self.traffic));
                    let (content, turns, in_use) = (self.content.clone(), Arc::clone(&turns), Arc::clone(&peer.in_use));
                    let served = serve(peer.id, content, entitlement, traffic, turns, send, recv);
                    streams.spawn(async move {
                        let _in_use = in_use;
                        served.await
                    });
                }
                Some(ended) = streams.join_next() => {
                    if let Ok(Err(error)) = ended {
                        tracing::debug!(peer = %peer.id.short(), %error, "a request ended early");
                    }
                }
            }
        }
    }

    async fn tell(&self, event: NetworkEvent) -> Result<(), SessionError> {
        self.events.send(event).await.map_err(|_| SessionError::Stopped)
    }
}

/// Whether the peer has closed this connection for having nothing to carry.
fn was_let_go(connection: &Connection) -> bool {
    let reason = connection.close_reason();
    matches!(reason, Some(ConnectionError::ApplicationClosed(close)) if close.error_code == CloseCode::Idle.var_int())
}

/// Takes as many envelopes as one frame is filled with, and no more of them into memory. Those that are gone are left out.
fn fill_frame<E>(
    ids: &mut VecDeque<EnvelopeId>,
    mut look_up: impl FnMut(&EnvelopeId) -> Result<Option<Bytes>, E>,
) -> Result<Vec<EnvelopeBytes>, E> {
    let (mut frame, mut bytes) = (Vec::new(), 0);
    while bytes < ENVELOPE_BATCH_BYTES
        && let Some(id) = ids.pop_front()
    {
        if let Some(envelope) = look_up(&id)? {
            bytes += envelope.len();
            frame.push(EnvelopeBytes(envelope.into()));
        }
    }
    Ok(frame)
}

async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, SessionError>
where
    T: Send + 'static,
    E: Send + 'static,
    SessionError: From<E>,
{
    // Only a runtime that shuts down cancels blocking work.
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| SessionError::Stopped)??)
}

/// The reading side of the control stream.
struct Reader {
    shared: Shared,
    peer: Arc<Peer>,
    clock: Timestamp,
    initiator: bool,
    /// The reconciliation under way.
    session: Option<Session>,
}

impl Reader {
    async fn run(&mut self, recv: &mut RecvStream) -> Result<(), SessionError> {
        if self.initiator {
            self.ask().await?;
        }
        loop {
            let message = Message::decode(&read_frame(recv, MAX_FRAME_BYTES).await?)?;
            self.handle(message).await?;
        }
    }

    async fn handle(&mut self, message: Message) -> Result<(), SessionError> {
        match message {
            Message::Start(_) => Err(SessionError::Protocol("a second start")),
            Message::Question(question) => self.answer(question).await,
            Message::Answer(answer) => self.go_on(answer).await,
            Message::Want(ids) if ids.len() <= MAX_WANTED => {
                self.peer.queue.envelopes(ids);
                Ok(())
            }
            Message::Want(_) => Err(SessionError::Protocol("it wants too many envelopes at once")),
            // It asks whether this side is there, which QUIC has answered.
            Message::Envelopes(envelopes) if envelopes.is_empty() => Ok(()),
            Message::Envelopes(envelopes) => self.accept(envelopes).await,
            Message::Reconciled => {
                if !self.initiator {
                    self.peer.queue.reconciled();
                    self.session = None;
                }
                self.shared.tell(NetworkEvent::Reconciled(self.peer.id)).await
            }
            Message::Again if self.initiator => self.ask().await,
            Message::Again => {
                self.session = None;
                self.say(Message::Again)
            }
            Message::Progress { distribution, bytes } => {
                self.shared.tell(NetworkEvent::Progress { peer: self.peer.id, distribution, bytes }).await
            }
        }
    }

    fn say(&self, message: Message) -> Result<(), SessionError> {
        if self.peer.queue.message(message) { Ok(()) } else { Err(SessionError::Protocol("it asks without reading the answers")) }
    }

    /// Begins a reconciliation, as the side that dialled.
    async fn ask(&mut self) -> Result<(), SessionError> {
        let question = self.begin(Side::Initiator).await?;
        self.say(Message::Question(question.unwrap_or_default()))
    }

    /// Answers a question, as the side that was dialled.
    async fn answer(&mut self, question: Vec<u8>) -> Result<(), SessionError> {
        if self.session.is_none() {
            self.begin(Side::Responder).await?;
        }
        match self.step(question).await?.reply {
            Some(answer) => self.say(Message::Answer(answer)),
            None => Ok(()),
        }
    }

    /// Goes on with a reconciliation, as the side that dialled.
    async fn go_on(&mut self, answer: Vec<u8>) -> Result<(), SessionError> {
        let step = self.step(answer).await?;
        self.peer.queue.envelopes(step.send);
        for wanted in step.need.chunks(MAX_WANTED) {
            self.say(Message::Want(wanted.to_vec()))?;
        }
        match step.reply {
            Some(question) => self.say(Message::Question(question)),
            None => {
                self.session = None;
                self.peer.queue.reconciled();
                Ok(())
            }
        }
    }

    /// Takes a sealed look at the replica for a session.
    async fn begin(&mut self, side: Side) -> Result<Option<Vec<u8>>, SessionError> {
        let (replica, peer) = (self.shared.replica.clone(), self.peer.id);
        let clocks = Clocks { ours: self.shared.clock.now(), theirs: self.clock };
        let (session, first) = blocking(move || Session::start(&replica, &peer, clocks, side)).await?;
        self.session = Some(session);
        Ok(first)
    }

    async fn step(&mut self, message: Vec<u8>) -> Result<Step, SessionError> {
        let Some(mut session) = self.session.take() else {
            return Err(SessionError::Protocol("an answer to no question"));
        };
        let (session, step) = blocking(move || session.answer(&message).map(|step| (session, step))).await?;
        self.session = Some(session);
        Ok(step)
    }

    /// Takes envelopes in. What has been taken in is passed on and told even if the connection ends meanwhile: nobody would
    /// send it again.
    async fn accept(&mut self, envelopes: Vec<EnvelopeBytes>) -> Result<(), SessionError> {
        let (replica, peers, events) = (self.shared.replica.clone(), Arc::clone(&self.shared.peers), self.shared.events.clone());
        let from = self.peer.id;
        let envelopes = envelopes.into_iter().filter(|envelope| !replica.came_again(&envelope.0));
        let envelopes: Vec<_> = envelopes.map(|envelope| Bytes::from(envelope.0)).collect();
        if envelopes.is_empty() {
            return Ok(());
        }
        blocking(move || {
            let accepted = replica.accept(Some(from), &envelopes)?;
            peers.push(&accepted.push, Some(&from));
            events.blocking_send(NetworkEvent::Accepted(accepted)).map_err(|_| SessionError::Stopped)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_envelopes_are_read_than_a_frame_holds_and_all_are_sent() {
        let largest = 301 * 1024;
        let envelopes: Vec<usize> = vec![ENVELOPE_BATCH_BYTES - 1, largest, 10, 0, largest, 10];
        let mut ids: VecDeque<_> = (0..6).map(|number| EnvelopeId::from_bytes([number; 32])).collect();
        let mut lengths = Vec::new();
        while !ids.is_empty() {
            let frame = fill_frame(&mut ids, |id| {
                let length = envelopes[usize::from(id.as_bytes()[0])];
                Ok::<_, ()>((length > 0).then(|| Bytes::from(vec![0; length])))
            });
            let frame = frame.expect("nothing fails");
            lengths.push(frame.iter().map(|envelope| envelope.0.len()).collect::<Vec<_>>());
            assert!(Message::Envelopes(frame).encode().len() <= MAX_FRAME_BYTES);
        }
        assert_eq!(lengths, [vec![ENVELOPE_BATCH_BYTES - 1, largest], vec![10, largest], vec![10]]);
    }
}
