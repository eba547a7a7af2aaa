//! The control stream of two admitted nodes: frames as they come, and the reconciliation that some of them belong to.

use std::sync::{Arc, LazyLock};

use peat_blobcore::clock::Clock;
use peat_blobcore::content::{Chunk, Recipe, Segment};
use peat_blobcore::document::Envelope;
use peat_blobcore::model::{Credential, EndpointId, Labels, Manifest, NodeRecord, Timestamp};
use peat_blobcore::network::compression::expand;
use peat_blobcore::network::errand::UpstreamHead;
use peat_blobcore::network::wire::{Available, BlockRequest, GROUP_BYTES, MAX_BLOCK_BYTES, Message, Request, Runs, SmallBlobs};
use peat_blobcore::replica::{Clocks, Limits, MAX_SESSION_MESSAGE_BYTES, Membership, Replica, Session, Side, Signer};

use super::fixture::{Author, Input, NOW, a_manifest};

/// Most frames of one input.
const MAX_FRAMES: usize = 64;
/// What a compressed block may come to here.
const MAX_EXPANDED_BYTES: usize = 64 * 1024;
/// Distributions in the replica: enough for ranges, which negentropy makes beyond 32 items.
const DISTRIBUTIONS: usize = 80;

/// Frames decode or not, requests for blocks cover what they say, and a reconciliation takes any message in bounded steps.
///
/// # Panics
/// When a law is broken.
pub fn wire(bytes: &[u8]) {
    let (mut initiator, mut responder) = (session(Side::Initiator).0, session(Side::Responder).0);
    let mut input = Input(bytes);
    for _ in 0..MAX_FRAMES {
        let Some(frame) = input.bytes() else { break };
        request(frame);
        available(frame);
        // What is compressed says itself how long it is.
        assert!(expand(frame, MAX_EXPANDED_BYTES).is_none_or(|plain| plain.len() <= MAX_EXPANDED_BYTES));
        runs(frame);
        recipe(frame);
        small_blobs(frame);
        upstream_head(frame);
        let Ok(message) = Message::decode(frame) else { continue };
        let encoded = message.encode();
        assert_eq!(Message::decode(&encoded).expect("what is encoded decodes"), message);
        match message {
            Message::Question(question) => responder = responder.and_then(|session| step(session, &question)),
            Message::Answer(answer) => initiator = initiator.and_then(|session| step(session, &answer)),
            Message::Envelopes(envelopes) => envelopes.iter().for_each(|envelope| drop(Envelope::open(&envelope.0))),
            _ => {}
        }
    }
}

fn request(frame: &[u8]) {
    let Ok(decoded) = Request::decode(frame) else { return };
    let encoded = decoded.encode();
    assert!(encoded.len() <= Request::MAX_BYTES);
    assert_eq!(Request::decode(&encoded).expect("what is encoded decodes"), decoded);
    if let Request::Blocks(request) = decoded {
        blocks(request);
    }
}

fn available(frame: &[u8]) {
    let Ok(available) = Available::decode(frame) else { return };
    let encoded = available.encode();
    assert!(encoded.len() <= Available::MAX_BYTES);
    assert_eq!(Available::decode(&encoded).expect("what is encoded decodes"), available);
}

fn runs(frame: &[u8]) {
    let Ok(runs) = Runs::decode(frame) else { return };
    let encoded = runs.encode();
    assert!(encoded.len() <= Runs::MAX_BYTES);
    assert_eq!(Runs::decode(&encoded).expect("what is encoded decodes"), runs);
}

fn recipe(frame: &[u8]) {
    if let Some(segments) = Segment::decode_all(frame) {
        let mut encoded = Vec::new();
        segments.into_iter().for_each(|segment| segment.encode(&mut encoded));
        assert_eq!(encoded, frame);
    }
    let Some(chunks) = Chunk::decode_all(frame) else { return };
    let mut encoded = Vec::new();
    chunks.iter().for_each(|chunk| chunk.encode(&mut encoded));
    assert_eq!(encoded, frame);
    let size = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
    if let Some(recipe) = Recipe::of_chunks(chunks, size) {
        assert!(recipe.outline().len() as u64 <= Segment::most(size));
        assert_eq!(recipe.segments().map(<[Chunk]>::len).sum::<usize>(), recipe.chunks().len());
    }
}

fn small_blobs(frame: &[u8]) {
    let Ok(blobs) = SmallBlobs::decode(frame) else { return };
    assert_eq!(SmallBlobs::decode(&blobs.encode()).expect("what is encoded decodes"), blobs);
}

fn upstream_head(frame: &[u8]) {
    let Ok(head) = UpstreamHead::decode(frame) else { return };
    assert_eq!(UpstreamHead::decode(&head.encode()).expect("what is encoded decodes"), head);
}

fn blocks(request: BlockRequest) {
    let mut next = request.start;
    for block in request.blocks().take(1000) {
        assert_eq!(block.start, next);
        assert!(block.start.is_multiple_of(GROUP_BYTES) && block.end <= request.end);
        assert!(block.end - block.start <= MAX_BLOCK_BYTES && (block.start < block.end || request.end == 0));
        next = block.end;
    }
    assert!(next == request.end || request.blocks().nth(999).is_some());
}

/// One message of a reconciliation; nothing when it ended the session.
fn step(mut session: Session, message: &[u8]) -> Option<Session> {
    let step = session.answer(message).ok()?;
    assert!(step.reply.is_none_or(|reply| reply.len() <= MAX_SESSION_MESSAGE_BYTES));
    for id in step.send {
        assert!(REPLICA.envelope(&id).expect("it reads").is_some(), "only what is here is sent");
    }
    assert!(step.need.len() <= message.len() / 32, "only what was named is asked for");
    Some(session)
}

/// A session of the fixed replica, and the initiator's first message.
pub(super) fn session(side: Side) -> (Option<Session>, Option<Vec<u8>>) {
    let clocks = Clocks { ours: NOW, theirs: NOW };
    let (session, first) = Session::start(&REPLICA, &Author::named(1).id(), clocks, side).expect("a session starts");
    (Some(session), first)
}

static REPLICA: LazyLock<Replica> = LazyLock::new(|| replica(DISTRIBUTIONS));

/// A replica with so many distributions. Its file is gone already: it lives as long as the process has it open.
pub(super) fn replica(distributions: usize) -> Replica {
    let author = Author::named(0);
    let credential = Credential::Derived { node_id: "node-a".to_owned() };
    let signer = Signer { secret: author.key.as_iroh().clone(), incarnation: author.incarnation, credential: credential.clone() };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("replica.redb");
    let replica = Replica::open(&path, signer, Arc::new(Anyone), Arc::new(Still), Limits::default()).expect("it opens");
    let record = NodeRecord {
        name: "node-a".to_owned(),
        labels: Labels::new(),
        addresses: Vec::new(),
        protocol: (1, 1),
        free_bytes: 0,
        credential,
        upstreams: None,
    };
    replica.publish_node(&record).expect("it is published");
    for number in 0..distributions {
        let manifest = Manifest { bundle: number.to_string(), ..a_manifest() };
        replica.create_distribution(&manifest).expect("it is stored");
    }
    replica
}

/// Takes anyone for a member.
struct Anyone;

impl Membership for Anyone {
    fn verify(&self, _: &EndpointId, _: &Credential, _: Timestamp) -> Result<(), String> {
        Ok(())
    }

    fn authority(&self) -> Option<EndpointId> {
        None
    }
}

/// A clock that stands still.
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        NOW
    }
}
