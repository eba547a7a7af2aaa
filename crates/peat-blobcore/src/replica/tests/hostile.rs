//! One test for each thing that a hostile or broken peer may try.

use super::*;

/// A change of `author`'s to a document, made as an honest node makes it, then signed by `signer`.
fn change(of: &Node, id: DistributionId, author: EndpointId, state: TargetState) -> Vec<u8> {
    let envelopes = of.replica.envelopes_of(Kind::Distribution, id.as_bytes()).expect("read");
    let opened = envelopes.into_iter().map(|(id, bytes)| (id, Envelope::open(&bytes).expect("good")));
    let (document, _) = Document::load(id, opened);
    let record = target_record(state);
    let life = of.signer.incarnation;
    document.next_change(&author, &life, Edit::Record(Section::Targets, &record)).expect("may").expect("new")
}

fn signed_change(signer: &Node, id: DistributionId, change: Vec<u8>) -> Bytes {
    signer.sign(Kind::Distribution, *id.as_bytes(), NOW.plus(Manifest::DEFAULT_LIFETIME), Body::Change(change))
}

/// Two nodes that know each other and a distribution of the first's.
fn pair() -> (Node, Node, DistributionId) {
    let (a, b) = (Node::new(1), Node::new(2));
    let id = a.send("file");
    sync(&a, &b);
    (a, b, id)
}

#[test]
fn a_forged_actor_is_refused_and_the_owner_still_writes() {
    let (a, b, id) = pair();
    let forged = signed_change(&a, id, change(&b, id, b.id(), TargetState::Delivered));
    b.replica.accept(Some(a.id()), &[forged]).expect("refused quietly");
    assert_eq!(b.refused(Reason::Change), 1);
    b.record(&id, TargetState::Delivered);
    sync(&a, &b);
    assert_eq!(a.target(&id, &b.id()), Some(TargetState::Delivered));
}

#[test]
fn a_huge_counter_is_refused_and_the_document_stays_writable() {
    let (a, b, id) = pair();
    let honest = change(&b, id, b.id(), TargetState::Delivered);
    let mut expanded = automerge::Change::from_bytes(honest).expect("a change").decode();
    expanded.start_op = u64::from(u32::MAX - 1).try_into().expect("not zero");
    let huge = signed_change(&b, id, automerge::Change::from(expanded).raw_bytes().to_vec());
    a.replica.accept(Some(b.id()), &[huge]).expect("refused quietly");
    assert_eq!(a.refused(Reason::Change), 1);
    b.record(&id, TargetState::Delivered);
    sync(&a, &b);
    assert_eq!(a.target(&id, &b.id()), Some(TargetState::Delivered));
}

#[test]
fn a_key_of_another_is_not_written() {
    let (a, b, id) = pair();
    let c = Node::new(3);
    sync(&a, &c);
    let honest = change(&c, id, c.id(), TargetState::Delivered);
    let mut expanded = automerge::Change::from_bytes(honest).expect("a change").decode();
    expanded.operations[0].key = automerge::legacy::Key::Map(b.id().to_string().into());
    let foreign = signed_change(&c, id, automerge::Change::from(expanded).raw_bytes().to_vec());
    a.replica.accept(Some(c.id()), &[foreign]).expect("refused quietly");
    assert_eq!((a.refused(Reason::Change), a.target(&id, &b.id())), (1, None));
}

#[test]
fn oversized_envelopes_are_refused() {
    let (a, b, id) = pair();
    let large = signed_change(&b, id, vec![0; MAX_SENDER_CHANGE_BYTES + 10_000]);
    a.replica.accept(Some(b.id()), &[large]).expect("refused quietly");
    assert_eq!(a.refused(Reason::Malformed), 1);
    let long = NodeRecord { addresses: vec!["x".repeat(9000)], ..node_record(&a.signer.credential) };
    assert!(matches!(a.replica.publish_node(&long), Err(ReplicaError::Envelope(EnvelopeError::TooLarge(_)))));
}

#[test]
fn replayed_envelopes_change_nothing() {
    let (a, b, id) = pair();
    b.record(&id, TargetState::Delivered);
    sync(&a, &b);
    let all: Vec<Bytes> = b.ids().iter().map(|id| b.replica.envelope(id).expect("read").expect("there")).collect();
    let before = (a.ids(), a.views());
    let accepted = a.replica.accept(Some(b.id()), &[all.clone(), all].concat()).expect("accepts");
    assert_eq!(accepted, Accepted::default());
    assert_eq!(before, (a.ids(), a.views()));
}

#[test]
fn an_older_register_does_not_replace_a_newer_one() {
    let (a, b, _) = pair();
    let old = b.replica.envelopes_of(Kind::Node, b.id().as_bytes()).expect("read").remove(0).1;
    b.clock.advance(Duration::from_secs(1));
    let newer = NodeRecord { free_bytes: 7, ..node_record(&b.signer.credential) };
    b.replica.publish_node(&newer).expect("published");
    sync(&a, &b);
    a.replica.accept(Some(b.id()), &[old]).expect("accepts");
    assert_eq!((a.replica.nodes()[&b.id()].free_bytes, a.replica.stats().stale), (7, 1));
    assert_equal(&a, &b);
}

#[test]
fn a_clone_that_writes_the_same_place_is_reported_and_honest_nodes_agree() {
    let (a, b, id) = pair();
    let c = Node::new(3);
    sync(&a, &c);
    let one = signed_change(&b, id, change(&b, id, b.id(), TargetState::Fetching));
    let two = signed_change(&b, id, change(&b, id, b.id(), TargetState::Delivered));
    a.replica.accept(Some(b.id()), std::slice::from_ref(&one)).expect("accepts");
    c.replica.accept(Some(b.id()), std::slice::from_ref(&two)).expect("accepts");
    let accepted = a.replica.accept(Some(c.id()), &[two]).expect("accepts");
    assert_eq!(accepted.clones, vec![b.id()]);
    c.replica.accept(Some(a.id()), &[one]).expect("accepts");
    assert_equal(&a, &c);
    assert_eq!((a.replica.stats().clones, c.replica.stats().clones), (1, 1));
}

#[test]
fn two_live_incarnations_of_one_id_are_reported_as_a_clone() {
    let (a, b, _) = pair();
    let twin = Node::with(2, 9, Limits::default(), true);
    for (turn, node) in [&twin, &b, &twin].into_iter().enumerate() {
        node.clock.set(NOW.plus(Duration::from_secs(turn as u64 + 1)));
        let record = NodeRecord { free_bytes: turn as u64, ..node_record(&node.signer.credential) };
        node.replica.publish_node(&record).expect("published");
        let envelope = node.replica.envelopes_of(Kind::Node, node.id().as_bytes()).expect("read").remove(0).1;
        let clones = a.replica.accept(Some(node.id()), &[envelope]).expect("accepts").clones;
        assert_eq!(clones.len(), usize::from(turn > 0), "a new life alone is no clone");
    }
}

#[test]
fn an_envelope_of_a_stranger_that_a_member_passes_on_waits_and_is_never_stored() {
    let (a, b, id) = pair();
    let mut stranger = Node::new(7);
    stranger.signer.credential = match certificate(stranger.id(), NOW.plus(DAY)) {
        Credential::Certificate(good) => Credential::Certificate(Certificate { signature: b"bad".to_vec(), ..good }),
        other => other,
    };
    let record = Body::Register { version: NOW.as_millis(), value: encode(&node_record(&stranger.signer.credential)) };
    let register = stranger.sign(Kind::Node, *stranger.id().as_bytes(), NOW.plus(DAY), record);
    let first = stranger.sign_first(&manifest(stranger.id(), "theirs", NOW)).1;
    let third = signed_change(&stranger, id, vec![1, 2, 3]);
    let accepted = a.replica.accept(Some(b.id()), &[first, third, register]).expect("accepts");
    assert_eq!(accepted, Accepted { refused: 1, ..Accepted::default() });
    assert_eq!((a.refused(Reason::NotMember), a.replica.stats().waiting), (1, 2));
    assert_equal(&a, &b);
}

#[test]
fn an_expired_certificate_admits_nothing_new_and_what_was_accepted_stands() {
    let (a, b, id) = pair();
    b.record(&id, TargetState::Fetching);
    sync(&a, &b);
    let later = signed_change(&b, id, change(&b, id, b.id(), TargetState::Delivered));
    let strict = DAY * 401;
    a.clock.set(NOW.plus(strict));
    b.clock.set(NOW.plus(strict));
    a.replica.note_clock(b.id(), a.clock.now());
    let fresh = b.sign_first(&manifest(b.id(), "late", a.clock.now())).1;
    a.replica.accept(Some(b.id()), &[fresh, later]).expect("refused quietly");
    assert_eq!((a.refused(Reason::NotMember), a.refused(Reason::Expired)), (1, 1));
    assert_eq!(a.target(&id, &b.id()), Some(TargetState::Fetching));
}

#[test]
fn a_renewed_certificate_lets_in_what_was_refused_before() {
    let (a, b, _) = pair();
    a.clock.set(NOW.plus(DAY * 401));
    a.replica.note_clock(b.id(), a.clock.now());
    let late = manifest(b.id(), "late", a.clock.now());
    let (_, first) = b.sign_first(&late);
    a.replica.accept(Some(b.id()), std::slice::from_ref(&first)).expect("refused quietly");
    assert_eq!(a.refused(Reason::NotMember), 1);
    let renewed = certificate(b.id(), NOW.plus(DAY * 800));
    let signer = Signer { credential: renewed, ..b.signer.clone() };
    let b = Node { signer, ..b };
    let record = Body::Register { version: a.clock.now().as_millis(), value: encode(&node_record(&b.signer.credential)) };
    let register = b.sign(Kind::Node, *b.id().as_bytes(), a.clock.now().plus(DAY), record);
    a.replica.accept(Some(b.id()), &[register, first]).expect("accepts");
    assert_eq!(a.replica.stats().documents, 2);
}

#[test]
fn a_revoked_author_leaves_nothing_is_refused_and_stays_so_after_a_restart() {
    let (a, b, id) = pair();
    b.record(&id, TargetState::Delivered);
    let theirs = b.send("theirs");
    sync(&a, &b);
    a.record(&theirs, TargetState::Delivered);
    assert!(a.ids().iter().all(|id| a.replica.recent(id).is_some()), "all of it has just come");
    let accepted = a.replica.declare(revoked_by(&b, &authority())).expect("revoked");
    assert!(accepted.changes.contains(&Change::Revoked(b.id())) && accepted.changes.contains(&Change::Distribution(theirs)));
    assert_eq!((a.target(&id, &b.id()), a.replica.distribution(&theirs).expect("read")), (None, None));
    assert!(!a.replica.nodes().contains_key(&b.id()) && a.replica.credential(&b.id()).is_none());
    let everything: Vec<Bytes> = b.ids().iter().map(|id| b.replica.envelope(id).expect("read").expect("there")).collect();
    let before = a.ids();
    let has = |id: &EnvelopeId| before.contains(id) == a.replica.recent(id).is_some();
    assert!(b.ids().iter().all(has), "what has gone is not remembered either");
    let a = a.restart();
    assert!(a.replica.is_revoked(&b.id()));
    a.replica.accept(Some(b.id()), &everything).expect("refused quietly");
    assert_eq!(a.ids(), before);
    assert_eq!(a.refused(Reason::Revoked), 3, "its record, its receipt and its distribution");
    let c = Node::new(3);
    sync(&b, &c);
    sync(&c, &a);
    assert!(c.replica.is_revoked(&b.id()));
    assert_equal(&a, &c);
}

#[test]
fn only_the_authority_revokes_and_retires() {
    let (a, b, _) = pair();
    let forged = |kind| {
        let value = encode(&Revocation { time: NOW, reason: String::new(), name: None });
        b.sign(kind, *a.id().as_bytes(), NOW.plus(DAY), Body::Register { version: 1, value })
    };
    a.replica.accept(Some(b.id()), &[forged(Kind::Revoked), forged(Kind::Retired)]).expect("refused quietly");
    assert_eq!(a.refused(Reason::NotPermitted), 2);
    assert!(matches!(a.replica.declare(revoked_by(&a, &b.signer.secret)), Err(ReplicaError::Refused(Reason::NotPermitted))));
    assert!(a.replica.revoked().is_empty() && a.replica.retired().is_empty());
}

#[test]
fn an_older_declaration_changes_nothing_and_one_from_the_future_waits_for_its_day() {
    let (a, b, _) = pair();
    let c = Node::new(3);
    let of = |node: &Node, time| revoked_at(node, &authority(), time);
    a.replica.declare(of(&b, NOW)).expect("revoked");
    let before = a.ids();
    assert_eq!(a.replica.declare(of(&b, NOW.minus(DAY * 400))).expect("older"), Accepted::default());
    assert_eq!(a.ids(), before);
    let future = of(&c, NOW.plus(DAY * 2));
    assert!(matches!(a.replica.declare(future.clone()), Err(ReplicaError::HeldBack)));
    let accepted = a.replica.accept(None, &[future]).expect("held back quietly");
    assert_eq!((accepted.held.len(), accepted.refused, a.replica.is_revoked(&c.id())), (1, 0, false));
    a.clock.advance(DAY);
    a.replica.expire().expect("tried again");
    assert!(a.replica.is_revoked(&c.id()));
    // A clock that is years behind signs what counts all the same.
    let d = Node::new(4);
    assert_eq!(a.replica.accept(None, &[of(&d, Timestamp::from_millis(1))]).expect("accepted").push.len(), 1);
    assert!(a.replica.is_revoked(&d.id()));
}

#[test]
fn a_record_in_another_nodes_name_is_refused() {
    let (a, b, _) = pair();
    let value = encode(&node_record(&b.signer.credential));
    let stolen = b.sign(Kind::Node, *a.id().as_bytes(), NOW.plus(DAY), Body::Register { version: u64::from(u32::MAX), value });
    a.replica.accept(Some(b.id()), &[stolen]).expect("refused quietly");
    assert_eq!(a.refused(Reason::NotPermitted), 1);
}

#[test]
fn a_copy_with_a_broken_signature_does_not_block_the_honest_envelope() {
    let (a, b, id) = pair();
    b.record(&id, TargetState::Delivered);
    let honest: Vec<Bytes> =
        b.ids().difference(&a.ids()).map(|id| b.replica.envelope(id).expect("read").expect("there")).collect();
    let mut broken = honest[0].to_vec();
    broken[5] ^= 1;
    a.replica.accept(Some(b.id()), &[broken.into()]).expect("refused quietly");
    assert_eq!(a.refused(Reason::Malformed), 1);
    sync(&a, &b);
    assert_eq!(a.target(&id, &b.id()), Some(TargetState::Delivered));
}

#[test]
fn the_waiting_set_is_bounded_and_one_peer_does_not_push_out_another() {
    let limits = Limits { waiting: 16, ..Limits::default() };
    let (a, b, c) = (Node::with(1, 1, limits, true), Node::new(2), Node::new(3));
    sync(&a, &b);
    sync(&a, &c);
    let unknown = Node::new(9);
    let (id, early) = unknown.sign_first(&manifest(unknown.id(), "honest", NOW));
    a.replica.accept(Some(c.id()), &[early]).expect("waits");
    let flood: Vec<Bytes> = (0..100).map(|n| unknown.sign_first(&manifest(unknown.id(), &n.to_string(), NOW)).1).collect();
    a.replica.accept(Some(b.id()), &flood).expect("waits");
    assert_eq!(a.replica.stats().waiting, 16);
    let register = unknown.replica.envelopes_of(Kind::Node, unknown.id().as_bytes()).expect("read").remove(0).1;
    a.replica.accept(Some(c.id()), &[register]).expect("accepts");
    assert!(a.replica.distribution(&id).expect("read").is_some(), "the honest peer's offer was still there");
    assert_eq!((a.replica.stats().waiting, a.replica.stats().documents), (0, 16));
}

#[test]
fn the_refused_set_is_bounded_durable_and_counts_as_had_by_the_peer_that_offered() {
    let limits = Limits { refused: 8, ..Limits::default() };
    let (a, b) = (Node::with(1, 1, limits, true), Node::new(2));
    sync(&a, &b);
    let broken: Vec<Bytes> = (0..50_u8).map(|n| Bytes::from(vec![n; 100])).collect();
    a.replica.accept(Some(b.id()), &broken).expect("refused quietly");
    assert_eq!((a.refused(Reason::Malformed), a.replica.stats().refused_ids), (50, 8));
    let a = a.restart();
    assert_eq!(a.replica.stats().refused_ids, 8);
    let last = Envelope::id_of(&broken[49]);
    assert_eq!(a.replica.wanted(vec![last]).expect("read"), Vec::new());
    let clocks = Clocks { ours: NOW, theirs: NOW };
    let message =
        |peer: &EndpointId| Session::start(&a.replica, peer, clocks, Side::Initiator).expect("starts").1.expect("first");
    let had = |message: Vec<u8>| message.windows(32).any(|window| window == last.as_bytes());
    assert!(had(message(&b.id())), "it is part of the set for the one that offered it");
    assert!(!had(message(&a.id())), "and for nobody else");
}

#[test]
fn a_sender_has_a_bounded_number_of_distributions() {
    let limits = Limits { documents_per_sender: 3, ..Limits::default() };
    let (a, b) = (Node::with(1, 1, limits, true), Node::new(2));
    (0..5).for_each(|n| {
        b.send(&n.to_string());
    });
    sync(&a, &b);
    assert_eq!((a.replica.stats().documents, a.refused(Reason::TooMany)), (3, 2));
    assert_eq!(sync(&a, &b).envelopes, 0, "what was refused is not fetched again");
}

#[test]
fn an_envelope_of_a_later_kind_is_forgotten_as_refused_when_this_node_is_upgraded() {
    let (a, b, _) = pair();
    let mut later = b.replica.envelopes_of(Kind::Node, b.id().as_bytes()).expect("read").remove(0).1.to_vec();
    assert_eq!(later[67..69], [1, 2], "key 1, kind 2");
    later[68] = 7;
    a.replica.accept(Some(b.id()), &[later.into()]).expect("refused quietly");
    assert_eq!((a.refused(Reason::Unknown), a.replica.stats().refused_ids), (1, 1));
    assert_eq!(a.restart().replica.stats().refused_ids, 0);
}
