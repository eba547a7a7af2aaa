//! Valid inputs for each target, to begin fuzzing from: bytes that only chance would make are never found otherwise.
//! `cargo run -p peat-blob-tests --example seeds` writes them into the corpora.

use std::collections::BTreeSet;

use peat_blobcore::content::{Chunk, Segment};
use peat_blobcore::document::{Body, Edit, Envelope, Hint, Kind, News, Section, first_change};
use peat_blobcore::identity::admission::{Initiator, Responder};
use peat_blobcore::model::{
    BlobHash, Carry, Credential, CredentialHash, DistributionId, EnvelopeId, FileEntry, FileList, Files, Incarnation, Labels,
    Manifest, NodeRecord, NodeRef, Retirement, Revocation, Scope, TargetState,
};
use peat_blobcore::network::compression::compress;
use peat_blobcore::network::errand::{UpstreamHead, UpstreamRequest, UpstreamWanted};
use peat_blobcore::network::wire::{
    AvailabilityRequest, Available, BlockRequest, EnvelopeBytes, GROUP_BYTES, MAX_BLOCK_BYTES, Message, RangesRequest,
    RecipeRequest, Request, Runs, SmallBlob, SmallBlobs, SmallRequest,
};
use peat_blobcore::replica::{Clocks, Session, Side};

use super::certificate::{DERIVED, ENROLLED};
use super::document::{World, record, split};
use super::envelope::step;
use super::fixture::{Author, EXPIRY, NOW, a_manifest, file, push_bytes};
use super::wire::{replica, session};

/// The seeds of a target.
///
/// # Panics
/// When there is no such target.
#[must_use]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "archive" => super::archive::archives(),
        "certificate" => certificates(),
        "envelope" => envelopes(),
        "hint" => hints(),
        "image" => super::registry::images(),
        "layer" => super::handoff::layers(),
        "manifest" => manifests(),
        "parcel" => parcels(),
        "path" => paths(),
        "request" => super::registry::requests(),
        "stock" => stock_requests(),
        "stream" => super::handoff::streams(),
        "upload" => super::registry::uploads(),
        "varlink" => super::varlink::seeds(),
        "wire" => wires(),
        other => panic!("no target {other}"),
    }
}

fn paths() -> Vec<Vec<u8>> {
    let long = "a".repeat(255);
    let good = ["a", "a/b.txt", "-rf", "ü/日本 b", "new\nline", ".hidden/...", &long];
    let bad = ["/etc/passwd", "a//b", "a/", "..", "a/../b", "./a", "a\0b", "C:\\a", &"b/".repeat(2049), &"c".repeat(256)];
    good.into_iter().chain(bad).map(|path| path.as_bytes().to_vec()).collect()
}

fn stock_requests() -> Vec<Vec<u8>> {
    // A blob; a collection; the last chunk of each in it; some chunks of a blob and of what is third in it; a kind that is pushed.
    let last = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let sizes = [&[2, 0, 1, 0, 1, 1][..], &last].concat();
    let some = [3, 0, 4, 16, 0x80, 1, 5, 1, 2, 1, 0, 1, 0];
    let gets: [&[u8]; 4] = [&[2, 0, 1, 0, 1, 0], &[1, 0, 1, 0], &sizes, &some];
    gets.iter().map(|rest| [&[0][..], &[7; 32], *rest].concat()).chain([vec![8, 5, 0]]).collect()
}

fn hints() -> Vec<Vec<u8>> {
    let author = Author::named(0);
    let hint = |news| Hint { author: author.id(), time: NOW, news };
    let news = [
        News::New(EnvelopeId::from_bytes([1; 32])),
        News::Holds(DistributionId::from_bytes([2; 32])),
        News::Addresses(vec!["192.0.2.1:4433".to_owned(), "[2001:db8::1]:4433".to_owned()]),
        News::Addresses(vec!["192.0.2.1:4433".to_owned(); 50]),
    ];
    news.map(|news| hint(news).seal(author.key.as_iroh()).expect("it is short")[64..].to_vec()).into()
}

fn manifest_values() -> Vec<Manifest> {
    let mut named = file("ü/plan.txt");
    (named.content_type, named.display_name) = (Some("text/plain".to_owned()), Some("Plan".to_owned()));
    let list = Files::List { blob: BlobHash::from_bytes([3; 32]), size: 60_000, count: 300, bytes: 1 << 40 };
    let nodes = vec![NodeRef::Id(Author::named(1).id()), NodeRef::Name("node-c".to_owned())];
    let labels = "role=edge,region in (a,b),tier!=test,gpu,!retired".parse().expect("a selector");
    let gone = ["a", "d/b"].map(|path| FileEntry::removed("outbox".to_owned(), path.into())).into();
    vec![
        a_manifest(),
        Manifest { files: Files::Inline(vec![named, file("../b"), file("-c")]), together: true, ..a_manifest() },
        Manifest { files: list, scope: Scope::Nodes(nodes), carry: Carry::None, ..a_manifest() },
        Manifest { scope: Scope::Labels(labels), carry: Carry::Nodes(vec![Author::named(2).id()]), ..a_manifest() },
        Manifest { files: Files::Inline(gone), removes: true, together: false, ..a_manifest() },
    ]
}

fn manifests() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = manifest_values().iter().map(|manifest| manifest.seal().expect("a good manifest").1).collect();
    seeds.push(FileList(vec![file("a"), file("a/b"), file("c")]).encode());
    seeds.extend(["role=edge,region in (a,b),tier!=test,gpu,!retired", "a==b, c notin (d, e)"].map(Into::into));
    seeds
}

fn certificates() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for pair in [&*ENROLLED, &*DERIVED] {
        let credential = pair.peer.credential();
        seeds.push(credential.encode());
        if let Credential::Certificate(certificate) = credential {
            seeds.push(certificate.to_base64().into_bytes());
        }
        seeds.push(admission_body(credential, &pair.peer.incarnation()));
        let (_, hello) = Initiator::new(pair.peer_terms());
        let (_, own) = Initiator::new(pair.terms());
        let (_, answer) = Responder::new(pair.peer_terms()).receive(&own, |_| false).expect("a member is admitted");
        seeds.extend([hello, answer]);
    }
    seeds
}

/// The body of a message of admission.
fn admission_body(credential: &Credential, incarnation: &Incarnation) -> Vec<u8> {
    let mut body = minicbor::Encoder::new(Vec::new());
    let credential = credential.encode();
    let written = body.map(3).and_then(|body| body.u8(0)?.bytes(&credential)?.u8(1)?.encode(NOW)?.u8(2)?.encode(incarnation));
    written.expect("memory takes it");
    body.into_writer()
}

fn envelopes() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = envelope_values().iter().map(|envelope| steps(&[payload(envelope)])).collect();
    seeds.push(steps(&[edit(1, 0, 1), edit(1, 1, 2), edit(1, 4, 3), edit(1, 3, 4), edit(2, 8, 9), edit(0, 6 << 4, 1)]));
    seeds.push(steps(&[edit(0, 7 << 4, 1), edit(4, 2, 1), edit(1, 2, 2), edit(7, 3, 3), edit(10, 3, 3), edit(13, 3, 3)]));
    let grafts = grafts();
    seeds.extend(grafts.iter().map(|(author, rest)| steps(&[graft(step::GRAFT, *author, rest)])));
    seeds.push(steps(&grafts.iter().map(|(author, rest)| graft(step::GRAFT, *author, rest)).collect::<Vec<_>>()));
    let claims = grafts.iter().flat_map(|(author, rest)| [edit(*author, 1, 1), graft(step::CLAIM, *author, rest)]);
    seeds.push(steps(&claims.collect::<Vec<_>>()));
    seeds
}

fn envelope_values() -> Vec<Envelope> {
    let sender = Author::named(0);
    let mut envelopes = Vec::new();
    for manifest in manifest_values() {
        let (id, change) = first_change(&manifest, &sender.incarnation).expect("a good manifest");
        envelopes.push(sender.envelope(id, change));
    }
    let again = Author::named(super::fixture::NODES);
    let (id, change) = first_change(&a_manifest(), &again.incarnation).expect("a good manifest");
    envelopes.push(again.envelope(id, change));
    let world = World::new();
    let record = record(TargetState::Delivered, 7);
    for author in [0, 1, 2].map(Author::named) {
        let change = world.next(&author, Edit::Record(Section::Targets, &record)).expect("it is new");
        envelopes.push(author.envelope(world.id, change));
    }
    envelopes.extend(registers());
    envelopes
}

fn registers() -> Vec<Envelope> {
    let author = Author::named(1);
    let node = NodeRecord {
        name: "node-b".to_owned(),
        labels: Labels::from([("role".to_owned(), "edge".to_owned())]),
        addresses: vec!["192.0.2.1:4433".to_owned()],
        protocol: (1, 1),
        free_bytes: 1 << 30,
        credential: ENROLLED.peer.credential().clone(),
        upstreams: Some(vec!["registry.example".to_owned(), "*".to_owned()]),
    };
    let retirement = Retirement { time: NOW, reason: "sold".to_owned() };
    let revocation = Revocation { time: NOW, reason: "lost".to_owned(), name: Some("node-b".to_owned()) };
    let encoded = [minicbor::to_vec(node), minicbor::to_vec(retirement), minicbor::to_vec(revocation)];
    let encoded = encoded.map(|value| value.expect("memory takes it"));
    let envelope = |(kind, value)| Envelope {
        kind,
        key: *author.id().as_bytes(),
        author: author.id(),
        incarnation: author.incarnation,
        credential: CredentialHash::from_bytes([0; 32]),
        expiry: EXPIRY,
        body: Body::Register { version: NOW.as_millis(), value },
    };
    [Kind::Node, Kind::Retired, Kind::Revoked].into_iter().zip(encoded).map(envelope).collect()
}

/// The ends of honest changes, with the byte that names their author.
fn grafts() -> Vec<(u8, Vec<u8>)> {
    let mut world = World::new();
    let mut grafts = Vec::new();
    let roster = BTreeSet::from([Author::named(1).id()]);
    for (named, state) in [(1, TargetState::Pending), (1, TargetState::Failed), (1, TargetState::Held), (4, TargetState::Held)] {
        for section in Section::ALL {
            let record = record(state, 3 + state as u64);
            let author = Author::named(named);
            let edit = Edit::Record(section, &record);
            if let Some(change) = world.next(&author, edit) {
                grafts.push((named, split(&change).1.to_vec()));
                world.write(&author, edit);
            }
        }
    }
    for edit in [Edit::Roster(&roster), Edit::Cancel(NOW)] {
        let change = world.next(&Author::named(0), edit).expect("the sender may");
        grafts.push((0, split(&change).1.to_vec()));
    }
    grafts
}

fn steps(steps: &[Vec<u8>]) -> Vec<u8> {
    steps.concat()
}

fn payload(envelope: &Envelope) -> Vec<u8> {
    let mut bytes = vec![step::PAYLOAD, 0];
    push_bytes(&mut bytes, &envelope.seal(Author::named(0).key.as_iroh())[64..]);
    bytes
}

fn graft(kind: u8, author: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, author];
    push_bytes(&mut bytes, rest);
    bytes
}

fn edit(author: u8, what: u8, number: u8) -> Vec<u8> {
    vec![step::EDIT, author, what, number]
}

fn parcels() -> Vec<Vec<u8>> {
    let envelopes: Vec<_> = envelope_values().iter().map(|envelope| envelope.seal(Author::named(0).key.as_iroh())).collect();
    super::parcel::seeds(&envelopes)
}

fn wires() -> Vec<Vec<u8>> {
    let ids = vec![EnvelopeId::from_bytes([1; 32]), EnvelopeId::from_bytes([2; 32])];
    let envelopes: Vec<_> = envelope_values().iter().map(|envelope| envelope.seal(Author::named(0).key.as_iroh())).collect();
    let distribution = DistributionId::from_bytes([4; 32]);
    let mut seeds: Vec<_> = [
        Message::Start(1 << 40),
        Message::Want(ids),
        Message::Envelopes(envelopes.into_iter().take(2).map(EnvelopeBytes).collect()),
        Message::Reconciled,
        Message::Again,
        Message::Progress { distribution, bytes: 7 },
    ]
    .map(|message| frames(&[message.encode()]))
    .into();
    let blob = BlobHash::from_bytes([1; 32]);
    for (start, end, block) in [(0, 0, GROUP_BYTES), (GROUP_BYTES, 100_000, 2 * GROUP_BYTES), (0, u64::MAX, MAX_BLOCK_BYTES)] {
        let request = BlockRequest { blob, start, end, block, compression: (start > 0).then_some(3), pairs: 3 };
        seeds.push(frames(&[Request::Blocks(request).encode()]));
    }
    let available = Available { runs: vec![(0, 8), (70_000, 1), (u64::MAX, u64::MAX)] };
    seeds.push(frames(&[Request::Availability(AvailabilityRequest { blob }).encode(), available.encode()]));
    // One that is as long as it may be, one that is longer, and one of which a part is missing.
    let compressed = |length| compress(&vec![7; length], 3).expect("all bytes are the same");
    seeds.extend([1 << 16, (1 << 16) + 1].map(|length| frames(&[compressed(length)])));
    let whole = compressed(1000);
    seeds.push(frames(&[whole[..whole.len() / 2].to_vec()]));
    let runs = Runs { runs: vec![(0, 1), (70_000, MAX_BLOCK_BYTES), (u64::MAX - 1, 1)] };
    for request in [Request::Recipe(RecipeRequest { blob }), Request::Ranges(RangesRequest { blob })] {
        seeds.push(frames(&[request.encode(), runs.encode(), Runs::default().encode()]));
    }
    let chunks: Vec<_> = (0..100).map(|at| Chunk { length: 16 * 1024 - at, hash: u64::from(at) << 3 }).collect();
    let (mut told, mut outline) = (Vec::new(), Vec::new());
    chunks.iter().for_each(|chunk| chunk.encode(&mut told));
    chunks.chunks(60).for_each(|chunks| Segment::of(chunks).encode(&mut outline));
    seeds.push(frames(&[outline, told]));
    for blobs in [1, SmallRequest::MAX_BLOBS] {
        seeds.push(frames(&[Request::Small(SmallRequest { blobs: vec![blob; blobs] }).encode()]));
    }
    let digest = format!("sha256:{}", "ab".repeat(32));
    for wanted in [
        UpstreamWanted::Tag("v1".to_owned()),
        UpstreamWanted::Manifest(digest.clone()),
        UpstreamWanted::Blob(digest.clone(), 70_000),
    ] {
        let request = UpstreamRequest { repository: "registry.example/team/app".to_owned(), wanted };
        let head = UpstreamHead { digest: digest.clone(), media_type: "a/b".to_owned(), size: 100_000 };
        seeds.push(frames(&[Request::Upstream(request).encode(), head.encode()]));
    }
    let blobs = vec![SmallBlob::Whole(Vec::new()), SmallBlob::Denied(1), SmallBlob::Whole(vec![7; 100])];
    seeds.push(frames(&[SmallBlobs { blobs }.encode()]));
    seeds.extend([0, 3, 40, 300].map(reconciliation));
    seeds
}

/// What two nodes say to each other, of which one is that of the target and the other has so many other distributions.
fn reconciliation(distributions: usize) -> Vec<u8> {
    let other = replica(distributions);
    let clocks = Clocks { ours: NOW, theirs: NOW };
    let mut said = Vec::new();
    for (ours, theirs) in [(Side::Initiator, Side::Responder), (Side::Responder, Side::Initiator)] {
        let (here, first_here) = session(ours);
        let (there, first_there) = Session::start(&other, &Author::named(1).id(), clocks, theirs).expect("a session starts");
        let mut sides = [(here.expect("it started"), true), (there, false)];
        let mut message = first_here.or(first_there);
        // Whoever did not speak first answers.
        let mut turn = if matches!(ours, Side::Initiator) { 1 } else { 0 };
        while let Some(bytes) = message {
            let (side, here) = &mut sides[turn];
            if *here {
                let wrap = if matches!(ours, Side::Initiator) { Message::Answer } else { Message::Question };
                said.push(wrap(bytes.clone()).encode());
            }
            message = side.answer(&bytes).expect("an honest message").reply;
            turn = 1 - turn;
        }
    }
    frames(&said)
}

fn frames(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| push_bytes(&mut bytes, frame));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seeded_change_gets_past_the_checks_of_a_document() {
        let mut world = World::new();
        for (number, (author, rest)) in grafts().into_iter().enumerate() {
            let author = Author::named(author);
            let change = world.graft(&author, &rest).expect("the author may go on");
            assert!(world.offer(&author, author.envelope(world.id, change)), "graft {number}");
        }
        world.check();
    }

    #[test]
    fn an_honest_body_that_an_insider_seals_is_admitted() {
        for pair in [&*ENROLLED, &*DERIVED] {
            let body = admission_body(pair.peer.credential(), &pair.peer.incarnation());
            assert!(pair.admits_insider(&body));
            assert!(!pair.admits_insider(&body[..body.len() - 1]));
        }
    }

    #[test]
    fn a_seeded_reconciliation_is_several_messages_long() {
        let seed = reconciliation(300);
        let mut input = super::super::fixture::Input(&seed);
        let frames: Vec<_> = std::iter::from_fn(|| input.bytes()).map(|frame| Message::decode(frame).expect("valid")).collect();
        let questions = frames.iter().filter(|frame| matches!(frame, Message::Question(_))).count();
        assert!(questions > 0 && frames.len() - questions > 1, "{questions} questions of {} frames", frames.len());
    }
}
