//! What two sides make of each other's messages, and of everybody else's.

use proptest::prelude::*;

use super::*;
use crate::identity::{AuthorityKey, Formation, FormationKey, NodeKey};
use crate::model::{CertificateBody, Labels, Role};

const NOW: Timestamp = Timestamp::from_millis(1_000);
const EXPORTER: [u8; 32] = [9; 32];

/// An enrolled formation and its authority.
struct Fleet {
    authority: AuthorityKey,
    formation: Formation,
}

impl Fleet {
    fn new() -> Self {
        let authority = AuthorityKey::generate();
        Self { formation: Formation::enrolled(FormationKey::generate(), authority.id()), authority }
    }

    fn node(&self, name: &str) -> Arc<Identity> {
        self.node_until(name, Timestamp::from_millis(9_000))
    }

    fn node_until(&self, name: &str, expiry: Timestamp) -> Arc<Identity> {
        let key = NodeKey::generate();
        let body = CertificateBody {
            formation: self.formation.id(),
            endpoint: key.endpoint_id(),
            name: name.into(),
            labels: Labels::new(),
            role: Role::Member,
            expiry,
        };
        let certificate = self.authority.certify(body).unwrap();
        Arc::new(Identity::enrolled(key, certificate, self.formation.clone(), Incarnation::from_bytes([3; 16])).unwrap())
    }
}

fn derived(formation: &Formation, node_id: &str) -> Arc<Identity> {
    Arc::new(Identity::derived(formation.clone(), node_id, Incarnation::from_bytes([3; 16])).unwrap())
}

fn terms(identity: &Arc<Identity>, peer: EndpointId) -> Terms {
    Terms { identity: identity.clone(), versions: VERSIONS, peer, exporter: EXPORTER, now: NOW }
}

fn nobody(_: &EndpointId) -> bool {
    false
}

/// The initiator's and the responder's view of one admission.
fn admit(initiator: Terms, responder: Terms) -> Result<(Peer, Peer), Rejection> {
    let (initiator, hello) = Initiator::new(initiator);
    let (theirs, answer) = Responder::new(responder).receive(&hello, nobody)?;
    Ok((initiator.finish(&answer, nobody)?, theirs))
}

fn meet(a: &Arc<Identity>, b: &Arc<Identity>) -> Result<(Peer, Peer), Rejection> {
    admit(terms(a, b.id()), terms(b, a.id()))
}

#[test]
fn members_of_a_formation_admit_each_other() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("a"), fleet.node("b"));
    let later = Timestamp::from_millis(2_000);
    let (seen_by_a, seen_by_b) = admit(terms(&a, b.id()), Terms { now: later, ..terms(&b, a.id()) }).unwrap();
    assert_eq!((seen_by_a.id, &seen_by_a.credential), (b.id(), b.credential()));
    assert_eq!((seen_by_b.id, &seen_by_b.credential), (a.id(), a.credential()));
    assert_eq!((seen_by_a.clock, seen_by_b.clock), (later, NOW));
    assert_eq!((seen_by_a.incarnation, seen_by_a.version), (b.incarnation(), 1));
}

#[test]
fn members_of_a_deterministic_formation_admit_each_other() {
    let formation = Formation::deterministic(FormationKey::generate());
    let (seen_by_a, _) = meet(&derived(&formation, "node-a"), &derived(&formation, "node-b")).unwrap();
    assert_eq!(seen_by_a.credential, Credential::Derived { node_id: "node-b".into() });
}

#[test]
fn neither_side_admits_another_formation_even_of_the_same_authority() {
    let ours = Fleet::new();
    let theirs = Fleet {
        formation: Formation::enrolled(FormationKey::generate(), ours.authority.id()),
        authority: ours.authority.clone(),
    };
    assert_eq!(meet(&theirs.node("a"), &ours.node("b")), Err(Rejection::NoProof));
}

#[test]
fn an_initiator_refuses_an_answer_of_another_formation() {
    let (ours, theirs) = (Fleet::new(), Fleet::new());
    let (a, b) = (ours.node("a"), theirs.node("b"));
    let (_, answer) = {
        let stranger = theirs.node("c");
        let (_, hello) = Initiator::new(terms(&stranger, b.id()));
        Responder::new(terms(&b, stranger.id())).receive(&hello, nobody).unwrap()
    };
    assert_eq!(Initiator::new(terms(&a, b.id())).0.finish(&answer, nobody), Err(Rejection::NoProof));
}

#[test]
fn a_proof_from_another_connection_is_refused() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("a"), fleet.node("b"));
    let elsewhere = Terms { exporter: [8; 32], ..terms(&a, b.id()) };
    assert_eq!(admit(elsewhere, terms(&b, a.id())), Err(Rejection::NoProof));
}

#[test]
fn an_answer_from_another_connection_is_refused() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("a"), fleet.node("b"));
    let (_, hello) = Initiator::new(terms(&a, b.id()));
    let (_, answer) = Responder::new(terms(&b, a.id())).receive(&hello, nobody).unwrap();
    let here = Initiator::new(Terms { exporter: [8; 32], ..terms(&a, b.id()) }).0;
    assert_eq!(here.finish(&answer, nobody), Err(Rejection::NoProof));
}

#[test]
fn an_answer_to_another_hello_is_refused() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("a"), fleet.node("b"));
    let (_, hello) = Initiator::new(terms(&a, b.id()));
    let (_, answer) = Responder::new(terms(&b, a.id())).receive(&hello, nobody).unwrap();
    let again = Initiator::new(Terms { now: Timestamp::from_millis(1_001), ..terms(&a, b.id()) }).0;
    assert_eq!(again.finish(&answer, nobody), Err(Rejection::NoProof));
}

#[test]
fn a_hello_passed_on_by_another_endpoint_is_refused() {
    let fleet = Fleet::new();
    let (a, b, relay) = (fleet.node("a"), fleet.node("b"), NodeKey::generate().endpoint_id());
    let (_, hello) = Initiator::new(terms(&a, b.id()));
    assert_eq!(Responder::new(terms(&b, relay)).receive(&hello, nobody), Err(Rejection::NoProof));
}

#[test]
fn a_hello_reflected_to_its_maker_is_refused() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("a"), fleet.node("b"));
    let (initiator, hello) = Initiator::new(terms(&a, b.id()));
    // As a hello on a connection that the maker accepted, were its exporter the same.
    assert_eq!(Responder::new(terms(&a, b.id())).receive(&hello, nobody), Err(Rejection::NoProof));
    // As the answer to itself: the sealed part under the header of an answer.
    let sealed = decode_message::<Hello>(&hello).unwrap().sealed;
    let answer = encode(&Answer { version: 1, sealed });
    assert_eq!(initiator.finish(&answer, nobody), Err(Rejection::NoProof));
}

#[test]
fn the_side_is_part_of_the_proof_even_where_all_else_is_equal() {
    let key = FormationKey::generate();
    let id = NodeKey::generate().endpoint_id();
    let channel = Channel { initiator: id, responder: id, exporter: EXPORTER };
    let sealed = channel.seal(&key, Side::Initiator, b"header", b"body".to_vec());
    assert_eq!(channel.open(&key, Side::Initiator, b"header", &sealed), Some(b"body".to_vec()));
    assert_eq!(channel.open(&key, Side::Responder, b"header", &sealed), None);
}

#[test]
fn an_expired_certificate_is_refused_on_both_sides() {
    let fleet = Fleet::new();
    let expiry = Timestamp::from_millis(999);
    let (valid, expired) = (fleet.node("valid"), fleet.node_until("expired", expiry));
    assert_eq!(meet(&expired, &valid), Err(Rejection::Expired(expiry)));
    // The responder's clock is behind, so that it answers; the initiator's is not.
    let behind = Terms { now: expiry, ..terms(&expired, valid.id()) };
    assert_eq!(admit(terms(&valid, expired.id()), behind), Err(Rejection::Expired(expiry)));
}

#[test]
fn a_certificate_of_somebody_else_is_refused_although_the_proof_holds() {
    let fleet = Fleet::new();
    let (a, b, thief) = (fleet.node("a"), fleet.node("b"), NodeKey::generate().endpoint_id());
    let channel = Channel { initiator: thief, responder: b.id(), exporter: EXPORTER };
    let body = terms(&a, b.id()).body();
    let sealed = channel.seal(&fleet.formation.key, Side::Initiator, &VERSIONS.header(), body);
    let hello = encode(&Hello { oldest: 1, newest: 1, sealed, previous: None });
    assert_eq!(Responder::new(terms(&b, thief)).receive(&hello, nobody), Err(Rejection::OtherEndpoint(a.id())));
}

#[test]
fn the_formation_key_alone_does_not_admit_to_an_enrolled_formation() {
    let fleet = Fleet::new();
    let deterministic = Formation::deterministic(fleet.formation.key.clone());
    assert_eq!(meet(&derived(&deterministic, "node-a"), &fleet.node("b")), Err(Rejection::CertificateRequired));
    assert_eq!(meet(&fleet.node("b"), &derived(&deterministic, "node-a")), Err(Rejection::NoAuthority));
}

#[test]
fn a_revoked_peer_is_refused_on_both_sides() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("a"), fleet.node("b"));
    let (initiator, hello) = Initiator::new(terms(&a, b.id()));
    let responder = Responder::new(terms(&b, a.id()));
    assert_eq!(responder.receive(&hello, |id| *id == a.id()), Err(Rejection::Revoked));
    let (_, answer) = Responder::new(terms(&b, a.id())).receive(&hello, nobody).unwrap();
    assert_eq!(initiator.finish(&answer, |id| *id == b.id()), Err(Rejection::Revoked));
}

#[test]
fn nodes_with_the_old_and_the_new_key_meet_while_it_is_changed() {
    let fleet = Fleet::new();
    let old = fleet.node("old");
    let new = FormationKey::generate();
    let changing = Fleet {
        formation: Formation { key: new.clone(), previous: Some(fleet.formation.key.clone()), ..fleet.formation.clone() },
        authority: fleet.authority.clone(),
    };
    // Its certificate is still for the old key, as the old node must have it.
    let Credential::Certificate(mut certificate) = changing.node("between").credential().clone() else { unreachable!() };
    let key = NodeKey::generate();
    certificate.body.endpoint = key.endpoint_id();
    certificate.body.formation = fleet.formation.id();
    let certificate = fleet.authority.certify(certificate.body).unwrap();
    let between = Identity::enrolled(key, certificate, changing.formation.clone(), Incarnation::from_bytes([4; 16])).unwrap();
    let between = Arc::new(between);
    meet(&between, &old).unwrap();
    meet(&old, &between).unwrap();

    let changed = Fleet { formation: Formation { previous: None, ..changing.formation }, authority: fleet.authority.clone() };
    assert_eq!(meet(&changed.node("new"), &old), Err(Rejection::NoProof));
    meet(&changed.node("new"), &changed.node("newer")).unwrap();
}

#[test]
fn the_highest_common_version_is_spoken() {
    let range = |oldest, newest| VersionRange { oldest, newest };
    for (ours, theirs, expected) in [
        (range(1, 1), range(1, 1), Some(1)),
        (range(1, 3), range(2, 5), Some(3)),
        (range(2, 5), range(1, 3), Some(3)),
        (range(1, 2), range(3, 4), None),
        (range(1, 9), range(5, 4), None),
    ] {
        assert_eq!(ours.highest_common(theirs), expected, "{ours} and {theirs}");
    }
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("a"), fleet.node("b"));
    let (newer, older) =
        (Terms { versions: range(2, 4), ..terms(&a, b.id()) }, Terms { versions: range(1, 3), ..terms(&b, a.id()) });
    let (seen_by_a, seen_by_b) = admit(newer.clone(), older.clone()).unwrap();
    assert_eq!((seen_by_a.version, seen_by_b.version), (3, 3));
    let oldest = Terms { versions: range(1, 1), ..older };
    assert_eq!(
        admit(newer, oldest),
        Err(Rejection::NoCommonVersion { ours: range(1, 1), theirs: range(2, 4) }),
        "the one who answers finds out"
    );
}

#[test]
fn versions_cannot_be_talked_down() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("a"), fleet.node("b"));
    let both = VersionRange { oldest: 1, newest: 2 };
    let (initiator, hello) = Initiator::new(Terms { versions: both, ..terms(&a, b.id()) });
    let responder = Terms { versions: both, ..terms(&b, a.id()) };
    let lowered = Hello { newest: 1, ..decode_message(&hello).unwrap() };
    assert_eq!(Responder::new(responder.clone()).receive(&encode(&lowered), nobody), Err(Rejection::NoProof));
    let (_, answer) = Responder::new(responder).receive(&hello, nobody).unwrap();
    let lowered = Answer { version: 1, ..decode_message(&answer).unwrap() };
    assert_eq!(initiator.finish(&encode(&lowered), nobody), Err(Rejection::NoProof));
}

#[test]
fn a_hello_shows_a_stranger_neither_name_nor_formation() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("vehicle-7"), fleet.node("b"));
    let (_, hello) = Initiator::new(terms(&a, b.id()));
    let shows = |what: &[u8]| hello.windows(what.len()).any(|window| window == what);
    assert!(!shows(b"vehicle-7") && !shows(fleet.formation.id().as_bytes()) && !shows(a.incarnation().as_bytes()));
}

#[test]
fn two_bodies_on_one_connection_do_not_share_a_mask() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("a"), fleet.node("b"));
    let masked = |now| {
        let (_, hello) = Initiator::new(Terms { now, ..terms(&a, b.id()) });
        encode(&decode_message::<Hello>(&hello).unwrap().sealed)[40..].to_vec()
    };
    let (first, second) = (masked(NOW), masked(Timestamp::from_millis(1_001)));
    let equal = first.iter().zip(&second).filter(|(a, b)| a == b).count();
    assert!(equal < first.len() / 8, "{equal} of {} bytes are equal", first.len());
}

#[test]
fn a_lease_never_outlasts_the_certificate() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("a"), fleet.node_until("b", Timestamp::from_millis(1_500)));
    let (seen_by_a, seen_by_b) = meet(&a, &b).unwrap();
    assert_eq!(seen_by_a.lease_end(NOW, Duration::from_secs(1)), Timestamp::from_millis(1_500));
    assert_eq!(seen_by_b.lease_end(NOW, Duration::from_secs(1)), Timestamp::from_millis(2_000));
}

#[test]
fn a_message_over_the_limit_is_not_even_decoded() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node("a"), fleet.node("b"));
    let long = vec![0; MAX_MESSAGE_BYTES + 1];
    assert!(matches!(Responder::new(terms(&b, a.id())).receive(&long, nobody), Err(Rejection::Malformed(_))));
}

#[test]
fn the_largest_hello_fits_the_limit() {
    let fleet = Fleet::new();
    let key = NodeKey::generate();
    let formation = Formation { previous: Some(FormationKey::generate()), ..fleet.formation.clone() };
    let body = CertificateBody {
        formation: formation.id(),
        endpoint: key.endpoint_id(),
        name: "n".repeat(255),
        labels: (0..64).map(|index| (format!("{index:016}"), "v".repeat(16))).collect(),
        role: Role::Member,
        expiry: Timestamp::from_millis(u64::MAX),
    };
    let certificate = fleet.authority.certify(body).unwrap();
    let a = Arc::new(Identity::enrolled(key, certificate, formation, Incarnation::from_bytes([3; 16])).unwrap());
    let (_, hello) = Initiator::new(terms(&a, fleet.node("b").id()));
    assert!(hello.len() <= MAX_MESSAGE_BYTES, "{}", hello.len());
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_on_both_sides(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let formation = Formation::deterministic(FormationKey::from_bytes([1; 32]));
        let (a, b) = (derived(&formation, "a"), derived(&formation, "b"));
        prop_assert!(Initiator::new(terms(&a, b.id())).0.finish(&bytes, nobody).is_err());
        prop_assert!(Responder::new(terms(&b, a.id())).receive(&bytes, nobody).is_err());
    }

    #[test]
    fn a_message_with_any_byte_changed_or_cut_is_refused(position in any::<prop::sample::Index>(), change in 1..=255_u8) {
        let formation = Formation::deterministic(FormationKey::from_bytes([1; 32]));
        let (a, b) = (derived(&formation, "a"), derived(&formation, "b"));
        let (initiator, mut hello) = Initiator::new(terms(&a, b.id()));
        let (_, mut answer) = Responder::new(terms(&b, a.id())).receive(&hello, nobody).unwrap();
        let (at, cut) = (position.index(hello.len()), position.index(hello.len()));
        prop_assert!(Responder::new(terms(&b, a.id())).receive(&hello[..cut], nobody).is_err());
        hello[at] ^= change;
        prop_assert!(Responder::new(terms(&b, a.id())).receive(&hello, nobody).is_err());
        let at = position.index(answer.len());
        answer[at] ^= change;
        prop_assert!(initiator.finish(&answer, nobody).is_err());
    }

    /// Whoever knows the formation key can seal anything; opening it must be as total as the rest.
    #[test]
    fn arbitrary_bodies_that_are_sealed_rightly_are_refused(body in prop::collection::vec(any::<u8>(), 0..600)) {
        let formation = Formation::deterministic(FormationKey::from_bytes([1; 32]));
        let (a, b) = (derived(&formation, "a"), derived(&formation, "b"));
        let channel = terms(&a, b.id()).channel(Side::Initiator);
        let sealed = channel.seal(&formation.key, Side::Initiator, &VERSIONS.header(), body);
        let hello = encode(&Hello { oldest: 1, newest: 1, sealed, previous: None });
        prop_assert!(Responder::new(terms(&b, a.id())).receive(&hello, nobody).is_err());
    }
}
