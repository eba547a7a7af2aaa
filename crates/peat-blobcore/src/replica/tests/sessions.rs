//! Set reconciliation: its cost, its order, and messages that nobody honest sends.

use std::sync::OnceLock;

use super::*;

#[test]
fn ten_thousand_equal_envelopes_take_one_exchange_and_little() {
    let (a, b) = (Node::new(1), Node::new(2));
    let signed: Vec<Bytes> = (0..10_000).map(|n| a.sign_first(&manifest(a.id(), &n.to_string(), NOW)).1).collect();
    sync(&a, &b);
    for chunk in signed.chunks(2000) {
        a.replica.accept(Some(b.id()), chunk).expect("accepts");
        b.replica.accept(Some(a.id()), chunk).expect("accepts");
    }
    assert_eq!(a.replica.stats().documents, 10_000);
    let cost = sync(&a, &b);
    assert_eq!((cost.messages, cost.envelopes), (2, 0));
    assert!(cost.bytes < 1024, "{cost:?}");
    a.send("one more");
    let cost = sync(&a, &b);
    assert_eq!(cost.envelopes, 1);
    assert!(cost.messages <= 8 && cost.bytes < 8192, "{cost:?}");
    assert_eq!(b.replica.stats().documents, 10_001);
}

#[test]
fn what_is_stored_just_before_a_session_is_part_of_it() {
    let (a, b) = (Node::new(1), Node::new(2));
    sync(&a, &b);
    for name in ["1", "2", "3"] {
        a.send(name);
        assert_eq!(sync(&b, &a).envelopes, 1, "the clock stands still");
    }
}

#[test]
fn what_one_side_dropped_after_its_expiry_does_not_come_back() {
    let (a, b) = (Node::new(1), Node::new(2));
    a.send("short");
    sync(&a, &b);
    let expired = Manifest::DEFAULT_LIFETIME + DAY;
    a.clock.advance(expired);
    b.clock.advance(expired + DAY * 2);
    b.replica.note_clock(a.id(), b.clock.now());
    b.replica.expire().expect("drops");
    assert_eq!((a.replica.stats().documents, b.replica.stats().documents), (1, 0));
    assert_eq!(sync(&a, &b).envelopes, 0, "it had expired by the lower clock");
}

#[test]
fn messages_of_no_session_end_it_and_nothing_else() {
    let a = Node::new(1);
    let clocks = Clocks { ours: NOW, theirs: NOW };
    for side in [Side::Initiator, Side::Responder] {
        for message in [&[][..], &[0x61, 0, 9], &[0x61, 0, 0, 2, 0xc0, 0x80, 0x80, 0x80, 0], &[0; 61 * 1024]] {
            let (mut session, _) = Session::start(&a.replica, &a.id(), clocks, side).expect("starts");
            assert!(session.answer(message).is_err(), "{side:?} {:?}", &message[..message.len().min(9)]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_message_ends_in_a_step_or_an_error(messages in proptest::collection::vec(message(), 1..6)) {
        thread_local!(static NODE: Node = {
            let node = Node::new(1);
            (0..100).for_each(|n| { node.send(&n.to_string()); });
            node
        });
        NODE.with(|node| {
            let clocks = Clocks { ours: NOW, theirs: NOW };
            for side in [Side::Initiator, Side::Responder] {
                let (mut session, _) = Session::start(&node.replica, &node.id(), clocks, side).expect("starts");
                for message in &messages {
                    if let Ok(step) = session.answer(message) {
                        assert!(step.reply.is_none_or(|reply| reply.len() <= MAX_SESSION_MESSAGE_BYTES));
                    }
                }
            }
        });
    }

    #[test]
    fn any_order_of_the_same_envelopes_leaves_replicas_equal(
        order in Just((0..conversation().len()).collect::<Vec<_>>()).prop_shuffle(),
        cut in any::<prop::sample::Index>(),
        again in any::<prop::sample::Index>(),
    ) {
        let log = conversation();
        let mut shuffled: Vec<Bytes> = order.iter().map(|index| log[*index].clone()).collect();
        shuffled.push(log[again.index(log.len())].clone());
        let (straight, mixed) = (Node::new(8), Node::new(9));
        straight.replica.accept(Some(mixed.id()), log).expect("accepts");
        let (first, second) = shuffled.split_at(cut.index(shuffled.len()));
        mixed.replica.accept(Some(straight.id()), first).expect("accepts");
        mixed.replica.accept(Some(straight.id()), second).expect("accepts");
        prop_assert_eq!(mixed.views(), straight.views());
        sync(&straight, &mixed);
        assert_equal(&straight, &mixed);
        prop_assert_eq!(sync(&mixed, &straight).envelopes, 0);
    }
}

/// Bytes that look like a message of the protocol.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let range =
        (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..33), 0..4_u8, proptest::collection::vec(any::<u8>(), 0..70));
    proptest::collection::vec(range, 0..12).prop_map(|ranges| {
        let mut bytes = vec![0x61];
        for (time, bound, mode, rest) in ranges {
            bytes.extend([time % 3, bound.len() as u8]);
            bytes.extend(bound);
            bytes.push(mode);
            bytes.extend(rest);
        }
        bytes
    })
}

/// Envelopes of a busy formation with a cloned node and an old life, as they were made.
fn conversation() -> &'static [Bytes] {
    static LOG: OnceLock<Vec<Bytes>> = OnceLock::new();
    LOG.get_or_init(converse)
}

fn converse() -> Vec<Bytes> {
    let (a, b, c) = (Node::new(1), Node::new(2), Node::new(3));
    let id = a.send("one");
    sync(&a, &b);
    sync(&a, &c);
    b.record(&id, TargetState::Fetching);
    c.record(&id, TargetState::Fetching);
    let twin = Node::with(3, 7, Limits::default(), true);
    sync(&twin, &a);
    twin.record(&id, TargetState::Held);
    b.record(&id, TargetState::Delivered);
    c.record(&id, TargetState::Delivered);
    let other = b.send("two");
    sync(&b, &c);
    c.record(&other, TargetState::Refused);
    a.replica.cancel(&id).expect("cancelled");
    let mut all: BTreeMap<EnvelopeId, Bytes> = BTreeMap::new();
    for node in [&a, &b, &c, &twin] {
        all.extend(node.ids().into_iter().map(|id| (id, node.replica.envelope(&id).expect("read").expect("there"))));
    }
    all.into_values().collect()
}
