//! Clocks that are wrong, things that expire, and disks that are lost.

use super::*;

#[test]
fn a_node_whose_clock_says_2099_neither_drops_nor_spoils_anything() {
    let (a, b) = (Node::new(1), Node::new(2));
    let id = a.send("file");
    sync(&a, &b);
    let future = Timestamp::from_millis(4_070_908_800_000);
    b.clock.set(future);
    sync(&a, &b);
    b.replica.expire().expect("drops nothing");
    assert!(!b.replica.stats().clock_plausible && a.replica.stats().clock_plausible);
    assert_eq!(b.replica.stats().documents, 1);
    let theirs = b.sign_first(&manifest(b.id(), "future", future)).1;
    let register = Body::Register { version: future.as_millis(), value: encode(&node_record(&b.signer.credential)) };
    let register = b.sign(Kind::Node, *b.id().as_bytes(), future.plus(DAY), register);
    let accepted = a.replica.accept(Some(b.id()), &[theirs, register]).expect("held");
    assert_eq!((accepted.held.len(), accepted.push.len(), a.replica.stats().held), (2, 0, 2));
    b.clock.set(NOW);
    b.record(&id, TargetState::Delivered);
    sync(&a, &b);
    assert_eq!(a.target(&id, &b.id()), Some(TargetState::Delivered));
    assert!(b.replica.stats().clock_plausible);
}

#[test]
fn what_was_held_back_is_taken_in_when_its_time_has_come() {
    let (a, b) = (Node::new(1), Node::new(2));
    sync(&a, &b);
    b.clock.advance(DAY * 3);
    let id = b.send("early");
    let envelope = b.replica.envelopes_of(Kind::Distribution, id.as_bytes()).expect("read").remove(0).1;
    a.replica.accept(Some(b.id()), &[envelope]).expect("held");
    assert_eq!(a.replica.distribution(&id).expect("read"), None);
    a.clock.advance(DAY * 2 + Duration::from_secs(1));
    assert_eq!(a.replica.expire().expect("retries").changes, vec![Change::Distribution(id)]);
    assert!(a.replica.distribution(&id).expect("read").is_some());
}

#[test]
fn a_clock_that_jumped_back_or_far_ahead_with_no_peer_agreeing_drops_nothing() {
    let a = Node::new(1);
    a.send("file");
    for wrong in [NOW.minus(DAY * 365), NOW.plus(DAY * 365)] {
        a.clock.set(wrong);
        a.replica.expire().expect("drops nothing");
        assert!(!a.replica.stats().clock_plausible);
        assert_eq!(a.replica.stats().documents, 1);
    }
    a.replica.note_clock(EndpointId::from_bytes([9; 32]), a.clock.now());
    a.replica.expire().expect("drops");
    assert_eq!((a.replica.stats().documents, a.replica.stats().expired), (0, 1));
}

#[test]
fn what_expired_is_dropped_two_days_later_and_refused_when_it_comes_again() {
    let (a, b) = (Node::new(1), Node::new(2));
    let id = a.send("file");
    sync(&a, &b);
    let envelope = a.replica.envelopes_of(Kind::Distribution, id.as_bytes()).expect("read").remove(0).1;
    let life = Manifest::DEFAULT_LIFETIME;
    for (days, documents) in [(0, 1), (1, 1), (3, 0)] {
        a.clock.set(NOW.plus(life + DAY * days));
        a.replica.note_clock(b.id(), a.clock.now());
        a.replica.expire().expect("drops");
        assert_eq!(a.replica.stats().documents, documents, "{days} days after");
    }
    a.replica.accept(Some(b.id()), &[envelope]).expect("refused quietly");
    assert_eq!((a.replica.stats().documents, a.refused(Reason::Expired)), (0, 1));
}

#[test]
fn a_node_that_lost_its_disk_reconciles_before_it_writes_and_its_records_replace_the_old() {
    let (a, old) = (Node::new(1), Node::new(2));
    let id = a.send("file");
    sync(&a, &old);
    old.record(&id, TargetState::Delivered);
    sync(&a, &old);
    drop(old);
    let new = Node::with(2, 2, Limits::default(), true);
    new.clock.advance(DAY / 24);
    let first = a.replica.envelopes_of(Kind::Distribution, id.as_bytes()).expect("read");
    let first = first.into_iter().map(|(_, bytes)| bytes).find(|bytes| Envelope::open(bytes).expect("good").author == a.id());
    let register = a.replica.envelopes_of(Kind::Node, a.id().as_bytes()).expect("read").remove(0).1;
    new.replica.accept(Some(a.id()), &[register, first.expect("there")]).expect("accepts");
    let early = new.replica.record(&id, Section::Targets, &target_record(TargetState::Fetching));
    assert!(matches!(early, Err(ReplicaError::NotReady)) && !new.replica.ready_to_write());
    let own = new.send("its own, which nobody can know of");
    new.replica.cancel(&own).expect("it was made in this life");
    new.replica.publish_node(&NodeRecord { free_bytes: 5, ..node_record(&new.signer.credential) }).expect("published");
    sync(&new, &a);
    new.record(&id, TargetState::Fetching);
    sync(&new, &a);
    assert_eq!(a.target(&id, &new.id()), Some(TargetState::Fetching));
    assert_eq!(a.replica.stats().clones, 0, "the old life is over");
    assert_equal(&a, &new);
}

#[test]
fn a_record_that_is_said_again_is_newer_even_if_the_clock_went_back() {
    let (a, b) = (Node::new(1), Node::new(2));
    sync(&a, &b);
    b.clock.set(NOW.minus(Duration::from_secs(3600)));
    let record = NodeRecord { free_bytes: 3, ..node_record(&b.signer.credential) };
    b.replica.publish_node(&record).expect("published");
    sync(&a, &b);
    assert_eq!(a.replica.nodes()[&b.id()].free_bytes, 3);
}
