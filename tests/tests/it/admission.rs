//! Who is not, or no longer, a member gets nothing over any protocol that a node's endpoint speaks; who is a member gets
//! only what it is entitled to.

use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{ApplicationClose, Connection, ConnectionError};
use peat_blob_tests::fleet::{Fleet, connected, eventually};
use peat_blob_tests::raw::{Joined, RawMember, TestClock, address_of, endpoint, everything_sent, rest_of, soon, terms};
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::identity::admission::{Initiator, Terms};
use peat_blobcore::identity::{Formation, FormationKey, Identity, NodeKey};
use peat_blobcore::model::{BlobHash, Carry, Incarnation, NodeRef, Scope, Timestamp};
use peat_blobcore::network::CloseCode;
use peat_blobcore::network::wire::{ALPN, BlockFrame, BlockRequest, Denial, GROUP_BYTES, Message, Request, write_frame};
use peat_blobcore::{Node, SendRequest};

/// Within how long a member that is expelled is cut off.
const CUT_OFF: Duration = Duration::from_secs(20);

const HOUR: Duration = Duration::from_secs(3600);

fn stranger() -> Identity {
    other_formation("stranger")
}

fn other_formation(name: &str) -> Identity {
    let formation = Formation::deterministic(FormationKey::generate());
    Identity::derived(formation, name, Incarnation::from_bytes([1; 16])).expect("a name")
}

/// A node that has something to keep, what that is, and who must not get it.
struct Besieged {
    fleet: Fleet,
    node: Node,
    member: RawMember,
    blob: BlobHash,
    size: u64,
}

impl Besieged {
    /// The distribution is for everybody, so nothing but admission stands between a blob and who asks for it.
    async fn new() -> Self {
        let fleet = Fleet::new();
        let root = fleet.write("outbox", &[("secret", b"nobody else's business".repeat(10_000).as_slice())]);
        fleet.enroll("alpha", &[]);
        let node = fleet.describe("alpha").gossip(true).start().await.expect("it starts");
        let member = RawMember::new(&fleet, fleet.identity_until("member", SystemClock.now().plus(HOUR))).await;
        let sent = node.send(SendRequest::new(&root)).await.expect("sent");
        let (blob, size) = (sent.files[0].blob, sent.files[0].size);
        Self { fleet, node, member, blob, size }
    }

    /// One of each kind that is not a member.
    async fn outsiders(&self) -> Vec<(&'static str, RawMember)> {
        let now = SystemClock.now();
        let revoked = self.fleet.identity_until("revoked", now.plus(HOUR));
        self.node.revoke(revoked.id(), "captured", &self.fleet.authority).await.expect("the authority may");
        let mut outsiders = Vec::new();
        for (kind, identity) in [
            ("stranger", stranger()),
            ("other formation", other_formation("member")),
            ("expired", self.fleet.identity_until("expired", now.minus(Duration::from_secs(1)))),
            ("revoked", revoked),
        ] {
            outsiders.push((kind, RawMember::new(&self.fleet, identity).await));
        }
        outsiders
    }

    fn request(&self) -> Vec<u8> {
        Request::Blocks(BlockRequest {
            blob: self.blob,
            start: 0,
            end: GROUP_BYTES,
            block: GROUP_BYTES,
            compression: None,
            pairs: 0,
        })
        .encode()
    }
}

/// The node has ended the connection; with which code.
async fn ended(connection: &Connection) -> u64 {
    match soon("the node ends it", connection.closed()).await {
        ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. }) => error_code.into_inner(),
        other => panic!("the node did not end it: {other}"),
    }
}

/// Sends these bytes first on a stream, and asserts that the node answers with nothing but the end of the connection.
async fn gets_nothing_for(what: &str, outsider: &RawMember, node: &Node, first: impl FnOnce(&Connection) -> Vec<u8>) {
    let connection = outsider.dial(node).await;
    let bytes = first(&connection);
    let talk = async {
        let Ok((mut send, mut recv)) = connection.open_bi().await else { return Vec::new() };
        let _ = send.write_all(&bytes).await;
        rest_of(&mut recv).await
    };
    let (answer, rest, code) = tokio::join!(talk, everything_sent(&connection), ended(&connection));
    assert_eq!((answer.len(), rest.len()), (0, 0), "{what}");
    assert!(code == CloseCode::NotAdmitted as u64 || code == CloseCode::Protocol as u64, "{what}: {code}");
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("short").to_le_bytes(), bytes].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_a_member_gets_nothing_on_our_protocol() {
    let besieged = Besieged::new().await;
    let node = &besieged.node;
    // What a member once said, on a connection of its own.
    let overheard = {
        let connection = besieged.member.dial(node).await;
        Initiator::new(terms(&besieged.member.identity, &connection, SystemClock.now())).1
    };
    for (kind, outsider) in besieged.outsiders().await {
        let now = SystemClock.now();
        let own = |connection: &Connection| framed(&Initiator::new(terms(&outsider.identity, connection, now)).1);
        gets_nothing_for(&format!("{kind}: its own hello"), &outsider, node, own).await;
        gets_nothing_for(&format!("{kind}: a replayed hello"), &outsider, node, |_| framed(&overheard)).await;
        gets_nothing_for(&format!("{kind}: a request"), &outsider, node, |_| framed(&besieged.request())).await;
        gets_nothing_for(&format!("{kind}: a message"), &outsider, node, |_| framed(&Message::Start(1).encode())).await;
        gets_nothing_for(&format!("{kind}: garbage"), &outsider, node, |_| framed(&[0xff; 1000])).await;
        gets_nothing_for(&format!("{kind}: a long frame"), &outsider, node, |_| vec![0xff; 1000]).await;
        gets_nothing_for(&format!("{kind}: an empty frame"), &outsider, node, |_| framed(&[])).await;
        assert!(!node.peers().contains(&outsider.id()), "{kind}");
    }
    // The same words from a member are answered: what was tried above would have worked.
    let mut joined = besieged.member.join(node).await;
    joined.reconcile(&besieged.member).await;
    assert!(matches!(served(&joined, &besieged).await, BlockFrame::Block(_)));
    besieged.node.shutdown().await;
}

async fn served(joined: &Joined, besieged: &Besieged) -> BlockFrame {
    // The node has to read who the member is before it serves it as a target.
    let answer = std::cell::Cell::new(None);
    eventually("the member is known", || async {
        let frame = joined.ask(besieged.blob, besieged.size).await.expect("an answer");
        let known = matches!(frame, BlockFrame::Block(_));
        answer.set(Some(frame));
        known
    })
    .await;
    answer.into_inner().expect("asked at least once")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_a_member_cannot_ask_beside_an_admission_that_does_not_end() {
    let besieged = Besieged::new().await;
    for (kind, outsider) in besieged.outsiders().await {
        let connection = outsider.dial(&besieged.node).await;
        // The first stream is the one of admission: half a frame keeps it waiting.
        let (mut send, mut recv) = connection.open_bi().await.expect("the first stream");
        send.write_all(&[200, 0, 0, 0, 1, 2, 3]).await.expect("written");
        let beside = async {
            let mut answers = Vec::new();
            while let Ok((mut send, mut recv)) = connection.open_bi().await {
                let _ = write_frame(&mut send, &besieged.request()).await;
                answers.extend(rest_of(&mut recv).await);
            }
            answers
        };
        let unasked = async {
            let _ = connection.open_uni().await.expect("a stream").write_all(&besieged.request()).await;
            let _ = connection.send_datagram(besieged.request().into());
        };
        let in_time = tokio::time::Instant::now();
        let (answer, rest, beside, (), code) =
            tokio::join!(rest_of(&mut recv), everything_sent(&connection), beside, unasked, async {
                // It is the deadline of admission that ends this; nothing here may hasten it, so let a request do so.
                let hurry = async {
                    let _ = send.write_all(&[0xff; 300]).await;
                };
                tokio::join!(ended(&connection), hurry).0
            });
        assert_eq!((answer.len(), rest.len(), beside.len()), (0, 0, 0), "{kind}");
        assert_eq!(code, CloseCode::NotAdmitted as u64, "{kind}");
        assert!(in_time.elapsed() < Duration::from_secs(30), "{kind}");
    }
    besieged.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_hears_nothing_and_is_sent_away() {
    let besieged = Besieged::new().await;
    let outsiders = besieged.outsiders().await;
    let mut waiting = Vec::new();
    for (kind, outsider) in &outsiders {
        let connection = outsider.dial(&besieged.node).await;
        waiting.push(async move {
            let (sent, code) = tokio::join!(everything_sent(&connection), ended(&connection));
            assert_eq!((sent.len(), code), (0, CloseCode::NotAdmitted as u64), "{kind}");
        });
    }
    let mut waiting = waiting.into_iter();
    tokio::join!(
        waiting.next().expect("a stranger"),
        waiting.next().expect("of another formation"),
        waiting.next().expect("one with an expired certificate"),
        waiting.next().expect("one that was revoked"),
    );
    besieged.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_is_closed_to_who_is_not_a_member_and_nothing_else_is_spoken() {
    let besieged = Besieged::new().await;
    let address = address_of(&besieged.node);
    for (kind, outsider) in besieged.outsiders().await {
        let connection = soon("a handshake", outsider.endpoint.connect(address.clone(), iroh_gossip::ALPN)).await;
        if let Ok(connection) = connection {
            let talk = async {
                if let Ok(mut stream) = connection.open_uni().await {
                    let _ = stream.write_all(&[0; 64]).await;
                }
            };
            let (sent, code, ()) = tokio::join!(everything_sent(&connection), ended(&connection), talk);
            assert_eq!((sent.len(), code), (0, CloseCode::NotAdmitted as u64), "{kind}");
        }
        for unknown in ["", "h3", "/iroh-bytes/4", "/iroh-gossip/0", "peat-blob/0", "peat-blob/2", "peat-blob"] {
            let refused = soon("an answer", outsider.endpoint.connect(address.clone(), unknown.as_bytes())).await;
            assert!(refused.is_err(), "{kind} speaks {unknown:?}");
        }
    }
    // A member that was admitted may gossip, so it is admission that the others lack.
    let _joined = besieged.member.join(&besieged.node).await;
    let gossip = besieged.member.endpoint.connect(address, iroh_gossip::ALPN).await.expect("open to members");
    assert!(gossip.close_reason().is_none());
    besieged.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dials_an_impostor_tells_it_nothing_but_its_versions() {
    let besieged = Besieged::new().await;
    for (kind, outsider) in besieged.outsiders().await {
        besieged.node.add_peer(outsider.id(), outsider.endpoint.bound_sockets()).await;
        if kind == "revoked" {
            // A handshake may take place; not a byte follows.
            let incoming = soon("a dial", outsider.endpoint.accept()).await.expect("the endpoint is open");
            if let Ok(connection) = incoming.into_future().await {
                let (sent, code) = tokio::join!(everything_sent(&connection), ended(&connection));
                assert_eq!((sent.len(), code), (0, CloseCode::NotAdmitted as u64));
            }
            continue;
        }
        let incoming = soon("a dial", outsider.endpoint.accept()).await.expect("the endpoint is open");
        let connection = soon("a handshake", incoming.into_future()).await.expect("a handshake");
        let (mut send, mut recv) = soon("a stream", connection.accept_bi()).await.expect("a stream");
        let mut length = [0; 4];
        recv.read_exact(&mut length).await.expect("a hello");
        let mut hello = vec![0; u32::from_le_bytes(length) as usize];
        recv.read_exact(&mut hello).await.expect("a hello");
        let secret = besieged.node.identity().credential().encode();
        for part in [secret.as_slice(), b"alpha", besieged.node.id().as_bytes()] {
            assert!(!hello.windows(part.len()).any(|window| window == part), "{kind}: the hello names {part:?}");
        }
        // It answers as well as it can: with the node's own words, and with its own.
        send.write_all(&framed(&hello)).await.expect("answered");
        let (rest, more, code) = tokio::join!(rest_of(&mut recv), everything_sent(&connection), ended(&connection));
        assert_eq!((rest.len(), more.len(), code), (0, 0, CloseCode::NotAdmitted as u64), "{kind}");
        assert!(besieged.node.peers().is_empty());
    }
    besieged.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_not_entitled_learns_not_even_that_a_blob_is_there() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("secret", b"for bravo".repeat(10_000).as_slice())]);
    let bravo = fleet.enroll("bravo", &[]);
    let alpha = fleet.start("alpha", &[]).await;
    let scope = Scope::Nodes(vec![NodeRef::Id(bravo.id())]);
    let request = SendRequest { scope, carry: Carry::None, ..SendRequest::new(&root) };
    let sent = alpha.send(request).await.expect("sent");
    let member = RawMember::new(&fleet, fleet.identity_until("member", SystemClock.now().plus(HOUR))).await;
    let mut joined = member.join(&alpha).await;
    joined.reconcile(&member).await;
    joined.learn(&member, &sent.distribution).await;
    let there = joined.ask(sent.files[0].blob, sent.files[0].size).await.expect("answered");
    let nowhere = joined.ask(BlobHash::from_bytes([9; 32]), sent.files[0].size).await.expect("answered");
    assert_eq!(there, BlockFrame::Denied(Denial::NotAvailable));
    assert_eq!(there, nowhere);
    // It says that it holds and carries: a record of one's own announces, it never entitles.
    let claimed = member.replica.record(
        &sent.distribution,
        peat_blobcore::document::Section::Carriers,
        &peat_blobcore::model::TargetRecord {
            state: peat_blobcore::model::TargetState::Fetching,
            bytes: 0,
            error: None,
            time: SystemClock.now(),
        },
    );
    if let Ok(accepted) = claimed {
        joined.push(&member, &accepted).await;
    }
    assert_eq!(joined.ask(sent.files[0].blob, sent.files[0].size).await.expect("answered"), nowhere);
    // It says that the blob is an image of its own: nor does that.
    joined.push(&member, &member.claim_package("team/mine", &sent.files[0])).await;
    eventually("alpha has heard of it", || async { !alpha.claims().all().is_empty() }).await;
    assert_eq!(joined.ask(sent.files[0].blob, sent.files[0].size).await.expect("answered"), nowhere);
    // Also when nothing keeps the blob for the distribution any more, and it lies in the store.
    alpha.cancel(sent.distribution).await.expect("cancelled");
    let unpinned = || async { alpha.content().distributions_of(&[sent.files[0].blob]).expect("readable")[0].is_empty() };
    eventually("it is pinned no more", unpinned).await;
    assert!(alpha.content().holds(&sent.files[0].blob).expect("readable"));
    assert_eq!(joined.ask(sent.files[0].blob, sent.files[0].size).await.expect("answered"), nowhere);
    alpha.shutdown().await;
}

/// Asserts that a node has cut a member off on every connection within seconds, and does not let it back.
async fn is_cut_off(
    node: &Node,
    member: &RawMember,
    joined: &Joined,
    gossip: &Connection,
    since: tokio::time::Instant,
    now: Timestamp,
) {
    assert_eq!(ended(&joined.connection).await, CloseCode::NotAdmitted as u64);
    assert_eq!(ended(gossip).await, CloseCode::NotAdmitted as u64);
    assert!(since.elapsed() < CUT_OFF, "cut off after {:?}", since.elapsed());
    eventually("it is no peer", || async { !node.peers().contains(&member.id()) }).await;
    for _ in 0..3 {
        assert!(member.try_join(node, now).await.is_err(), "it must not come back");
        if let Ok(gossip) = member.endpoint.connect(address_of(node), iroh_gossip::ALPN).await {
            assert_eq!(ended(&gossip).await, CloseCode::NotAdmitted as u64);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_expelled_in_mid_transfer_is_cut_off_by_whoever_serves_it() {
    let fleet = Fleet::new();
    let large = vec![7; 64 * 1024 * 1024];
    let root = fleet.write("outbox", &[("large", large.as_slice())]);
    fleet.enroll("alpha", &[]);
    let alpha = fleet.describe("alpha").gossip(true).start().await.expect("it starts");
    // Somebody else revokes; alpha hears of it.
    let bravo = fleet.start("bravo", &[&alpha]).await;
    connected(&alpha, bravo.id()).await;
    let captured = RawMember::new(&fleet, fleet.identity_until("captured", SystemClock.now().plus(HOUR))).await;
    let mut joined = captured.join(&alpha).await;
    joined.reconcile(&captured).await;
    let scope = Scope::Nodes(vec![NodeRef::Id(captured.id())]);
    let request = SendRequest { scope, carry: Carry::None, ..SendRequest::new(&root) };
    let sent = alpha.send(request).await.expect("sent");
    joined.learn(&captured, &sent.distribution).await;
    let gossip = captured.endpoint.connect(address_of(&alpha), iroh_gossip::ALPN).await.expect("open to members");
    let (blob, size) = (sent.files[0].blob, sent.files[0].size);
    let (_send, mut recv) = joined.request(blob, size).await.expect("asked");
    assert!(matches!(BlockFrame::read(&mut recv, CUT_OFF).await.expect("served"), BlockFrame::Block(_)));
    let since = tokio::time::Instant::now();
    bravo.revoke(captured.id(), "captured", &fleet.authority).await.expect("the authority may");
    is_cut_off(&alpha, &captured, &joined, &gossip, since, SystemClock.now()).await;
    let got = rest_of(&mut recv).await.len();
    assert!(got < large.len(), "{got} bytes came in spite of it");
    assert!(joined.ask(blob, size).await.is_err(), "nothing is asked over a connection that ended");
    for node in [alpha, bravo] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ends_while_its_node_is_connected_ends_the_connection() {
    let fleet = Fleet::new();
    let clock = TestClock::at(SystemClock.now());
    fleet.enroll("alpha", &[]);
    let alpha = fleet.describe("alpha").gossip(true).clock(clock.clone()).start().await.expect("it starts");
    let member = RawMember::new(&fleet, fleet.identity_until("member", clock.now().plus(HOUR))).await;
    let mut joined = member.join(&alpha).await;
    joined.reconcile(&member).await;
    let gossip = member.endpoint.connect(address_of(&alpha), iroh_gossip::ALPN).await.expect("open to members");
    clock.advance(HOUR / 2);
    assert!(matches!(joined.ask(BlobHash::from_bytes([9; 32]), 1).await, Ok(BlockFrame::Denied(_))), "it still counts");
    let since = tokio::time::Instant::now();
    clock.advance(HOUR);
    is_cut_off(&alpha, &member, &joined, &gossip, since, clock.now()).await;
    alpha.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_counts_for_one_connection_and_one_direction_only() {
    let besieged = Besieged::new().await;
    let thief = endpoint(NodeKey::generate().as_iroh().clone(), &[ALPN]).await;
    // The member's own hello, made for exactly this node, but said by another endpoint.
    let connection = soon("dialled", thief.connect(address_of(&besieged.node), ALPN)).await.expect("dialled");
    let stolen: Terms = terms(&Arc::clone(&besieged.member.identity), &connection, SystemClock.now());
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    write_frame(&mut send, &Initiator::new(stolen).1).await.expect("said");
    let (answer, code) = tokio::join!(rest_of(&mut recv), ended(&connection));
    assert_eq!((answer.len(), code), (0, CloseCode::NotAdmitted as u64));
    besieged.node.shutdown().await;
}
