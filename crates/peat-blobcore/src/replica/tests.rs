//! Whole replicas against each other and against hostile peers: what is refused, what waits, and that the sets end equal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use iroh::SecretKey;
use proptest::prelude::*;

use super::*;
use crate::clock::Clock;
use crate::document::{
    Body, Document, Edit, Envelope, EnvelopeError, Kind, MAX_SENDER_CHANGE_BYTES, Section, first_change, retirement, revocation,
};
use crate::model::*;

mod hostile;
mod sessions;
mod time;

use crate::model::encode;

const DAY: Duration = Duration::from_secs(24 * 3600);
const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

/// A clock that is set by hand.
#[derive(Clone)]
struct HandClock(Arc<AtomicU64>);

impl HandClock {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOW.as_millis())))
    }

    fn set(&self, time: Timestamp) {
        self.0.store(time.as_millis(), Ordering::SeqCst);
    }

    fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

fn authority() -> SecretKey {
    SecretKey::from_bytes(&[200; 32])
}

fn id_of(key: &SecretKey) -> EndpointId {
    EndpointId::from_bytes(*key.public().as_bytes())
}

/// Believes certificates whose signature says so, while they last; or, without an authority, any node id.
struct Formation {
    enrolled: bool,
}

impl Membership for Formation {
    fn verify(&self, author: &EndpointId, credential: &Credential, now: Timestamp) -> Result<(), String> {
        match credential {
            Credential::Certificate(certificate) if self.enrolled => {
                let body = &certificate.body;
                let good = body.endpoint == *author && certificate.signature == b"good" && body.expiry >= now;
                if good { Ok(()) } else { Err("the certificate is not good".to_owned()) }
            }
            Credential::Derived { .. } if !self.enrolled => Ok(()),
            _ => Err("the wrong sort of credential".to_owned()),
        }
    }

    fn authority(&self) -> Option<EndpointId> {
        self.enrolled.then(|| id_of(&authority()))
    }
}

fn certificate(endpoint: EndpointId, expiry: Timestamp) -> Credential {
    let formation = FormationId::from_bytes([1; 16]);
    let (name, labels, role) = ("n".to_owned(), Labels::new(), Role::Member);
    let body = CertificateBody { formation, endpoint, name, labels, role, expiry };
    Credential::Certificate(Certificate { body, signature: b"good".to_vec() })
}

/// A node with its replica in a directory of its own.
struct Node {
    replica: Replica,
    signer: Signer,
    clock: HandClock,
    directory: Arc<tempfile::TempDir>,
}

impl Node {
    fn new(number: u8) -> Self {
        Self::with(number, 1, Limits::default(), true)
    }

    fn with(number: u8, life: u8, limits: Limits, enrolled: bool) -> Self {
        let secret = SecretKey::from_bytes(&[number; 32]);
        let credential = match enrolled {
            true => certificate(id_of(&secret), NOW.plus(DAY * 400)),
            false => Credential::Derived { node_id: format!("n{number}") },
        };
        let signer = Signer { secret, incarnation: Incarnation::from_bytes([life; 16]), credential };
        let directory = Arc::new(tempfile::tempdir().expect("a directory"));
        let node = Self::open(signer, limits, enrolled, HandClock::new(), directory);
        node.publish();
        node
    }

    fn open(signer: Signer, limits: Limits, enrolled: bool, clock: HandClock, directory: Arc<tempfile::TempDir>) -> Self {
        let membership = Arc::new(Formation { enrolled });
        let path = directory.path().join("replica.redb");
        let replica = Replica::open(&path, signer.clone(), membership, Arc::new(clock.clone()), limits).expect("opens");
        Self { replica, signer, clock, directory }
    }

    /// Closes the file and opens it again.
    fn restart(self) -> Self {
        let Self { replica, signer, clock, directory } = self;
        drop(replica);
        Self::open(signer, Limits::default(), true, clock, directory)
    }

    fn id(&self) -> EndpointId {
        self.signer.id()
    }

    fn publish(&self) {
        self.replica.publish_node(&node_record(&self.signer.credential)).expect("published");
    }

    fn send(&self, name: &str) -> DistributionId {
        self.replica.create_distribution(&manifest(self.id(), name, self.clock.now())).expect("created").0
    }

    fn record(&self, id: &DistributionId, state: TargetState) {
        self.replica.record(id, Section::Targets, &target_record(state)).expect("recorded");
    }

    fn ids(&self) -> BTreeSet<EnvelopeId> {
        self.replica.store().by_expiry().expect("read").into_iter().map(|(_, id)| id).collect()
    }

    fn views(&self) -> BTreeMap<DistributionId, Arc<crate::document::Distribution>> {
        let view = |id| (id, self.replica.distribution(&id).expect("read").expect("there"));
        self.replica.distributions().into_iter().map(view).collect()
    }

    fn target(&self, id: &DistributionId, target: &EndpointId) -> Option<TargetState> {
        self.replica.distribution(id).expect("read")?.targets.get(target).map(|record| record.state)
    }

    fn refused(&self, reason: Reason) -> u64 {
        self.replica.stats().refused.get(&reason).copied().unwrap_or(0)
    }

    /// An envelope that this node signs, whether or not a replica would.
    fn sign(&self, kind: Kind, key: [u8; 32], expiry: Timestamp, body: Body) -> Bytes {
        let credential = self.signer.credential.hash();
        let incarnation = self.signer.incarnation;
        Envelope { kind, key, author: self.id(), incarnation, credential, expiry, body }.seal(&self.signer.secret).into()
    }

    fn sign_first(&self, manifest: &Manifest) -> (DistributionId, Bytes) {
        let (id, change) = first_change(manifest, &self.signer.incarnation).expect("a manifest");
        (id, self.sign(Kind::Distribution, *id.as_bytes(), manifest.expiry, Body::Change(change)))
    }
}

/// A revocation of a node, signed away from any node.
fn revoked_by(node: &Node, authority: &SecretKey) -> Bytes {
    revoked_at(node, authority, NOW)
}

fn revoked_at(node: &Node, authority: &SecretKey, time: Timestamp) -> Bytes {
    let captured = Revocation { time, reason: "captured".to_owned(), name: None };
    revocation(&node.id(), &captured, authority).expect("short")
}

fn node_record(credential: &Credential) -> NodeRecord {
    NodeRecord {
        name: "n".to_owned(),
        labels: Labels::new(),
        addresses: vec!["192.0.2.1:4433".to_owned()],
        protocol: (1, 1),
        free_bytes: 1 << 30,
        credential: credential.clone(),
        upstreams: None,
    }
}

fn target_record(state: TargetState) -> TargetRecord {
    TargetRecord { state, bytes: 1, error: None, time: NOW }
}

fn manifest(sender: EndpointId, name: &str, made_at: Timestamp) -> Manifest {
    let file = FileEntry {
        root: "docs".to_owned(),
        path: name.as_bytes().to_vec(),
        size: 1,
        blob: BlobHash::from_bytes([1; 32]),
        sha256: Sha256Digest::from_bytes([2; 32]),
        mode: 0o644,
        mtime: 0,
        content_type: None,
        display_name: None,
    };
    Manifest {
        sender,
        bundle: "b".to_owned(),
        files: Files::Inline(vec![file]),
        scope: Scope::All,
        priority: Priority::Routine,
        made_at,
        expiry: made_at.plus(Manifest::DEFAULT_LIFETIME),
        carry: Carry::Members,
        together: false,
        package: None,
        removes: false,
    }
}

/// What a session cost.
#[derive(Debug, Default)]
struct Cost {
    bytes: usize,
    messages: usize,
    envelopes: usize,
}

/// Runs a session that `a` initiates, moves the envelopes, and notes that both have reconciled.
fn sync(a: &Node, b: &Node) -> Cost {
    let (now_a, now_b) = (a.clock.now(), b.clock.now());
    a.replica.note_clock(b.id(), now_b);
    b.replica.note_clock(a.id(), now_a);
    let clocks = Clocks { ours: now_a, theirs: now_b };
    let (mut initiator, first) = Session::start(&a.replica, &b.id(), clocks, Side::Initiator).expect("starts");
    let clocks = Clocks { ours: now_b, theirs: now_a };
    let (mut responder, _) = Session::start(&b.replica, &a.id(), clocks, Side::Responder).expect("starts");
    let (mut cost, mut next) = (Cost::default(), first);
    let (mut send, mut need) = (Vec::new(), Vec::new());
    while let Some(message) = next {
        let reply = responder.answer(&message).expect("answers").reply.expect("a responder always replies");
        cost.bytes += message.len() + reply.len();
        cost.messages += 2;
        let step = initiator.answer(&reply).expect("answers");
        send.extend(step.send);
        need.extend(step.need);
        next = step.reply;
    }
    cost.envelopes = send.len() + need.len();
    let fetch = |from: &Node, ids: &[EnvelopeId]| -> Vec<Bytes> {
        ids.iter().filter_map(|id| from.replica.envelope(id).expect("read")).collect()
    };
    b.replica.accept(Some(a.id()), &fetch(a, &send)).expect("accepts");
    a.replica.accept(Some(b.id()), &fetch(b, &need)).expect("accepts");
    a.replica.mark_reconciled().expect("noted");
    b.replica.mark_reconciled().expect("noted");
    cost
}

fn assert_equal(a: &Node, b: &Node) {
    assert_eq!(a.ids(), b.ids());
    assert_eq!(a.views(), b.views());
    assert_eq!(a.replica.nodes(), b.replica.nodes());
}

#[test]
fn what_one_node_says_the_other_reads_and_both_are_quiet_then() {
    let (a, b) = (Node::new(1), Node::new(2));
    let id = a.send("file");
    sync(&a, &b);
    b.record(&id, TargetState::Delivered);
    sync(&b, &a);
    assert_equal(&a, &b);
    assert_eq!(a.target(&id, &b.id()), Some(TargetState::Delivered));
    assert_eq!(sync(&a, &b).envelopes, 0);
    let quiet = b.replica.record(&id, Section::Targets, &target_record(TargetState::Delivered)).expect("recorded");
    assert_eq!(quiet, Accepted::default());
    b.publish();
    assert_eq!(sync(&a, &b).envelopes, 0);
}

fn target(digest: &str) -> Option<TagTarget> {
    Some(TagTarget { digest: digest.to_owned(), media_type: "a/b".to_owned(), size: 7 })
}

impl Node {
    fn set_tag(&self, digest: Option<&str>) -> Accepted {
        self.replica.publish_tag("a/b", "1", digest.and_then(target)).expect("published")
    }

    /// What the tag points to, and who says so.
    fn tag(&self) -> Option<(EndpointId, Option<String>)> {
        let (author, record) = self.replica.tag("a/b", "1")?;
        assert_eq!(self.replica.tags(), [(author, record.clone())]);
        Some((author, record.target.map(|target| target.digest)))
    }
}

#[test]
fn what_is_said_of_a_tag_last_is_what_counts_whoever_said_it_first() {
    let (a, b) = (Node::new(1), Node::new(2));
    a.set_tag(Some("one"));
    assert_eq!(a.set_tag(Some("one")), Accepted::default(), "it says so already");
    sync(&a, &b);
    // Though its clock is behind, who saw the other's word says the later one.
    b.clock.set(NOW.minus(DAY / 24));
    b.set_tag(Some("two"));
    sync(&a, &b);
    assert_eq!((a.tag(), b.tag()), (Some((b.id(), Some("two".to_owned()))), a.tag()));
    a.set_tag(None);
    sync(&a, &b);
    assert_eq!(b.tag(), Some((a.id(), None)));
    assert_eq!((a.replica.tag("a/b", "2"), a.replica.tag("a/c", "1")), (None, None));
    assert_equal(&a, &b);
}

#[test]
fn a_tag_is_renewed_by_who_said_it_last_and_goes_with_who_is_expelled() {
    let (a, b) = (Node::new(1), Node::new(2));
    a.set_tag(Some("one"));
    sync(&a, &b);
    assert_eq!(a.replica.renew_tags().expect("new"), Accepted::default());
    let pass = |days: u32| {
        for node in [&a, &b] {
            (0..days).for_each(|_| {
                node.clock.advance(DAY);
                node.replica.expire().expect("expired");
            });
        }
    };
    pass(59);
    // Out of each other's reach the one sets it anew, and the other says again what it was.
    b.set_tag(Some("two"));
    pass(2);
    assert_eq!(a.replica.renew_tags().expect("renewed").changes.len(), 1);
    sync(&a, &b);
    assert_eq!((a.tag(), b.tag()), (Some((b.id(), Some("two".to_owned()))), a.tag()), "what was set last counts");
    assert_eq!(a.replica.renew_tags().expect("another's"), Accepted::default());
    a.replica.declare(revoked_by(&b, &authority())).expect("revoked");
    assert_eq!(a.tag(), Some((a.id(), Some("one".to_owned()))));
}

#[test]
fn tags_are_bounded_and_none_stands_under_the_key_of_another_or_is_set_in_the_future() {
    let limits = Limits { tags_per_author: 1, ..Limits::default() };
    let (a, b) = (Node::with(1, 1, limits, true), Node::new(2));
    a.set_tag(Some("one"));
    a.set_tag(Some("two"));
    assert!(matches!(a.replica.publish_tag("a/b", "2", target("one")), Err(ReplicaError::Refused(Reason::TooMany))));
    let record = |tag: &str, set_at| {
        let (repository, tag, target) = ("a/b".to_owned(), tag.to_owned(), target("one"));
        Body::register(NOW.as_millis(), encode(&TagRecord { repository, tag, target, set_at })).expect("small")
    };
    let sign = |record| b.sign(Kind::Tag, TagRecord::key("a/b", "1"), NOW.plus(DAY), record);
    sync(&a, &b);
    a.replica.accept(Some(b.id()), &[sign(record("2", NOW)), sign(record("1", NOW.plus(DAY)))]).expect("refused quietly");
    assert_eq!(a.replica.stats().refused.get(&Reason::NotPermitted), Some(&2));
}

#[test]
fn a_receipt_can_be_shown_to_anyone() {
    let (a, b) = (Node::new(1), Node::new(2));
    let id = a.send("file");
    sync(&a, &b);
    b.record(&id, TargetState::Fetching);
    b.record(&id, TargetState::Delivered);
    sync(&a, &b);
    let receipts = a.replica.receipts(&id).expect("read");
    let [(target, bytes)] = receipts.as_slice() else { panic!("one receipt") };
    assert_eq!((*target, Envelope::open(bytes).expect("signed").author), (b.id(), b.id()));
}

#[test]
fn everything_is_there_again_after_a_restart() {
    let (a, b) = (Node::new(1), Node::new(2));
    let id = a.send("file");
    sync(&a, &b);
    b.record(&id, TargetState::Delivered);
    a.replica.declare(retirement(&b.id(), "scrapped", NOW, &authority()).expect("short")).expect("retired");
    sync(&a, &b);
    let (ids, views, nodes) = (a.ids(), a.views(), a.replica.nodes());
    let a = a.restart();
    assert_eq!((ids, views, nodes), (a.ids(), a.views(), a.replica.nodes()));
    assert!(a.replica.retired().contains_key(&b.id()));
    assert!(a.replica.ready_to_write());
    assert_eq!(sync(&a, &b).envelopes, 0);
}

#[test]
fn a_roster_and_a_cancellation_are_written_once_and_by_the_sender() {
    let (a, b) = (Node::new(1), Node::new(2));
    let id = a.send("file");
    let roster = BTreeSet::from([b.id()]);
    a.replica.write_roster(&id, &roster).expect("the sender's");
    a.replica.cancel(&id).expect("the sender's");
    a.clock.advance(DAY);
    assert_eq!(a.replica.cancel(&id).expect("again"), Accepted::default());
    sync(&a, &b);
    assert!(matches!(b.replica.cancel(&id), Ok(accepted) if accepted == Accepted::default()), "it is cancelled already");
    assert!(matches!(b.replica.write_roster(&id, &roster), Err(ReplicaError::Change(_))));
    let view = b.replica.distribution(&id).expect("read").expect("there");
    assert_eq!((view.roster.as_ref(), view.cancelled), (Some(&roster), Some(NOW)));
}

#[test]
fn no_more_documents_than_the_limit_are_in_memory() {
    let a = Node::with(1, 1, Limits { loaded: 4, ..Limits::default() }, true);
    let ids: Vec<_> = (0..20).map(|n| a.send(&n.to_string())).collect();
    for id in &ids {
        assert!(a.replica.distribution(id).expect("read").is_some());
    }
    assert_eq!(a.replica.stats().loaded, 4);
    assert_eq!(a.replica.distributions().len(), 20);
}

#[test]
fn in_deterministic_mode_any_member_may_retire_and_nobody_revokes() {
    let (a, b) = (Node::with(1, 1, Limits::default(), false), Node::with(2, 1, Limits::default(), false));
    sync(&a, &b);
    a.replica.retire(&b.id(), "scrapped").expect("any member may");
    assert_eq!(a.replica.retire(&b.id(), "again").expect("it is so already"), Accepted::default());
    assert!(matches!(a.replica.declare(revoked_by(&b, &authority())), Err(ReplicaError::Refused(Reason::NotPermitted))));
    sync(&a, &b);
    assert_eq!(b.replica.retired().len(), 1);
}

#[tokio::test]
async fn a_closed_replica_can_be_opened_again_whatever_was_at_work_with_it() {
    let Node { replica, signer, clock, directory } = Node::new(1);
    let (at_work, (go_on, wait)) = (replica.clone(), std::sync::mpsc::channel::<()>());
    let work = tokio::task::spawn_blocking(move || {
        wait.recv().expect("told to");
        at_work.distributions()
    });
    let mut closed = std::pin::pin!(replica.close());
    let pending = closed.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending();
    assert!(pending, "something is still at work");
    go_on.send(()).expect("it waits");
    closed.await;
    drop(Node::open(signer, Limits::default(), true, clock, directory));
    work.await.expect("it ends well");
}
