//! Sets of envelopes of one document: what they say, in whatever order they come, and what does not get in.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::OnceLock;

use automerge::legacy::{Key, ObjectId, Op, OpId, OpType};
use automerge::{ChangeHash, ScalarValue};
use iroh::SecretKey;
use proptest::prelude::*;

use super::change::{DocumentChange, MAX_SEQ, actor_of, expanded};
use super::*;
use crate::model::*;

/// One life of a node.
#[derive(Clone)]
struct Life {
    key: SecretKey,
    incarnation: Incarnation,
}

impl Life {
    fn new(node: u8, life: u8) -> Self {
        Self { key: SecretKey::from_bytes(&[node; 32]), incarnation: Incarnation::from_bytes([life; 16]) }
    }

    fn id(&self) -> EndpointId {
        EndpointId::from_bytes(*self.key.public().as_bytes())
    }

    fn envelope(&self, document: DistributionId, change: Vec<u8>) -> Envelope {
        Envelope {
            kind: Kind::Distribution,
            key: *document.as_bytes(),
            author: self.id(),
            incarnation: self.incarnation,
            credential: CredentialHash::from_bytes([0; 32]),
            expiry: EXPIRY,
            body: Body::Change(change),
        }
    }
}

const MADE_AT: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const EXPIRY: Timestamp = Timestamp::from_millis(1_795_600_000_000);

fn manifest(sender: &Life) -> Manifest {
    let file = FileEntry {
        root: "docs".to_owned(),
        path: b"a".to_vec(),
        size: 1,
        blob: BlobHash::from_bytes([1; 32]),
        sha256: Sha256Digest::from_bytes([2; 32]),
        mode: 0o644,
        mtime: 0,
        content_type: None,
        display_name: None,
    };
    Manifest {
        sender: sender.id(),
        bundle: "b".to_owned(),
        files: Files::Inline(vec![file]),
        scope: Scope::All,
        priority: Priority::Routine,
        made_at: MADE_AT,
        expiry: EXPIRY,
        carry: Carry::Members,
        together: false,
        package: None,
        removes: false,
    }
}

fn record(state: TargetState, time: u64) -> TargetRecord {
    TargetRecord { state, bytes: time, error: None, time: Timestamp::from_millis(time) }
}

/// A document and the envelopes that went into it.
struct Fixture {
    document: Document,
    log: Vec<(EnvelopeId, Envelope)>,
}

impl Fixture {
    fn new(sender: &Life) -> Self {
        let (id, bytes) = first_change(&manifest(sender), &sender.incarnation).expect("a good manifest");
        let mut fixture = Self { document: Document::new(id), log: Vec::new() };
        fixture.add(sender, sender.envelope(id, bytes)).expect("the first change fits");
        fixture
    }

    fn add(&mut self, author: &Life, envelope: Envelope) -> Result<Inserted, ChangeError> {
        let Verdict::Fits(entry) = self.document.judge(&envelope)? else { panic!("it waits") };
        let id = Envelope::id_of(&envelope.seal(&author.key));
        self.log.push((id, envelope));
        Ok(self.document.insert(id, *entry))
    }

    fn write(&mut self, author: &Life, edit: Edit<'_>) -> Result<Inserted, ChangeError> {
        let change = self.document.next_change(&author.id(), &author.incarnation, edit)?.expect("it says something new");
        self.add(author, author.envelope(self.document.id, change))
    }

    fn view(&self) -> Distribution {
        Distribution::clone(&self.document.distribution().expect("there is a first change"))
    }
}

/// Feeds envelopes as they come; those that wait are tried again.
fn replay(id: DistributionId, log: &[(EnvelopeId, Envelope)]) -> Document {
    let mut document = Document::new(id);
    let mut waiting: Vec<&(EnvelopeId, Envelope)> = log.iter().collect();
    loop {
        let before = waiting.len();
        waiting.retain(|(id, envelope)| {
            if document.contains(id) {
                return false;
            }
            match document.judge(envelope) {
                Ok(Verdict::Fits(entry)) => {
                    document.insert(*id, *entry);
                    false
                }
                Ok(Verdict::Waits) => true,
                Err(_) => false,
            }
        });
        if waiting.len() == before {
            return document;
        }
    }
}

/// A change of an author's that no honest one makes, but with right counters.
fn raw(fixture: &Fixture, author: &Life, operations: Vec<Op>) -> Envelope {
    let (first, sender) = fixture.document.first().map(|(_, entry)| (entry.change.hash(), entry.author)).expect("first");
    let seq = if sender == author.id() { 2 } else { 1 };
    let actor = actor_of(&author.id(), &author.incarnation, &fixture.document.id);
    let start = NonZeroU64::new(4).expect("not zero");
    let change = DocumentChange::build(expanded(actor, seq, start, vec![first], operations)).expect("builds");
    author.envelope(fixture.document.id, change.bytes().to_vec())
}

fn put(obj: ObjectId, key: &str) -> Op {
    Op { action: OpType::Put(ScalarValue::Uint(1)), obj, key: Key::Map(key.into()), pred: vec![].into(), insert: false }
}

fn targets(fixture: &Fixture) -> ObjectId {
    let (_, first) = fixture.document.first().expect("first");
    ObjectId::Id(OpId(2, first.change.expanded.actor_id.clone()))
}

#[test]
fn records_rosters_and_cancellations_read_as_they_were_written() {
    let (sender, target, carrier) = (Life::new(1, 1), Life::new(2, 1), Life::new(3, 1));
    let mut fixture = Fixture::new(&sender);
    let failed = TargetRecord { error: Some("no space".to_owned()), ..record(TargetState::Failed, 5) };
    fixture.write(&target, Edit::Record(Section::Targets, &record(TargetState::Fetching, 1))).expect("fits");
    fixture.write(&target, Edit::Record(Section::Targets, &failed)).expect("fits");
    assert_eq!(fixture.view().targets[&target.id()], failed);
    fixture.write(&target, Edit::Record(Section::Targets, &record(TargetState::Delivered, 9))).expect("fits");
    fixture.write(&carrier, Edit::Record(Section::Carriers, &record(TargetState::Held, 3))).expect("fits");
    let roster = BTreeSet::from([target.id(), carrier.id()]);
    fixture.write(&sender, Edit::Roster(&roster)).expect("fits");
    fixture.write(&sender, Edit::Cancel(Timestamp::from_millis(8))).expect("fits");
    let view = fixture.view();
    assert_eq!(view.targets[&target.id()], record(TargetState::Delivered, 9));
    assert_eq!(view.carriers[&carrier.id()], record(TargetState::Held, 3));
    assert_eq!((view.roster, view.cancelled), (Some(roster), Some(Timestamp::from_millis(8))));
    let receipt = fixture.document.last_of(&target.id());
    assert_eq!(receipt, Some(fixture.log[3].0), "the envelope that says delivered");
}

#[test]
fn what_is_said_already_is_not_written_again() {
    let (sender, target) = (Life::new(1, 1), Life::new(2, 1));
    let mut fixture = Fixture::new(&sender);
    fixture.write(&target, Edit::Record(Section::Targets, &record(TargetState::Held, 1))).expect("fits");
    let same = TargetRecord { time: Timestamp::from_millis(99), ..record(TargetState::Held, 1) };
    let next = fixture.document.next_change(&target.id(), &target.incarnation, Edit::Record(Section::Targets, &same));
    assert_eq!(next, Ok(None));
}

#[test]
fn a_forged_actor_is_refused() {
    let (sender, target, forger) = (Life::new(1, 1), Life::new(2, 1), Life::new(3, 1));
    let fixture = Fixture::new(&sender);
    let edit = record(TargetState::Held, 1);
    let edit = Edit::Record(Section::Targets, &edit);
    let change = fixture.document.next_change(&target.id(), &target.incarnation, edit).expect("may").expect("new");
    let forged = forger.envelope(fixture.document.id, change);
    assert_eq!(fixture.document.judge(&forged).expect_err("forged"), ChangeError::ForgedActor);
}

#[test]
fn a_key_of_another_endpoint_the_manifest_and_unknown_keys_of_the_root_are_not_written() {
    let (sender, target, other) = (Life::new(1, 1), Life::new(2, 1), Life::new(3, 1));
    let fixture = Fixture::new(&sender);
    for (author, op) in [
        (&other, put(targets(&fixture), &target.id().to_string())),
        (&other, put(ObjectId::Root, "manifest")),
        (&other, put(ObjectId::Root, "cancel")),
        (&sender, put(ObjectId::Root, "manifest")),
        (&sender, put(ObjectId::Root, "targets")),
        (&sender, put(ObjectId::Root, "else")),
        (&other, put(ObjectId::Id(OpId(1, actor_of(&other.id(), &other.incarnation, &fixture.document.id))), "x")),
    ] {
        let error = fixture.document.judge(&raw(&fixture, author, vec![op])).expect_err("refused");
        assert!(matches!(error, ChangeError::Foreign(_)), "{error}");
    }
}

#[test]
fn counters_and_dependencies_other_than_the_next_are_refused() {
    let (sender, target, other) = (Life::new(1, 1), Life::new(2, 1), Life::new(3, 1));
    let mut fixture = Fixture::new(&sender);
    fixture.write(&other, Edit::Record(Section::Targets, &record(TargetState::Held, 1))).expect("fits");
    let first = fixture.document.first().expect("first").1.change.hash();
    let others: ChangeHash = *fixture.document.applied.keys().find(|hash| **hash != first).expect("the other's");
    let actor = actor_of(&target.id(), &target.incarnation, &fixture.document.id);
    let own = || vec![put(targets(&fixture), &target.id().to_string())];
    for (seq, start, deps) in
        [(2, 4, vec![first]), (1, 5, vec![first]), (1, 100_000, vec![first]), (1, 3, vec![first]), (1, 9, vec![others])]
    {
        let start = NonZeroU64::new(start).expect("not zero");
        let change = DocumentChange::build(expanded(actor.clone(), seq, start, deps, own())).expect("builds");
        let envelope = target.envelope(fixture.document.id, change.bytes().to_vec());
        let error = fixture.document.judge(&envelope).expect_err("refused");
        assert!(matches!(error, ChangeError::OutOfSequence(_)), "{error}");
    }
}

#[test]
fn unknown_fields_beneath_ones_own_key_are_kept() {
    let (sender, target) = (Life::new(1, 1), Life::new(2, 1));
    let mut fixture = Fixture::new(&sender);
    let actor = actor_of(&target.id(), &target.incarnation, &fixture.document.id);
    let own = ObjectId::Id(OpId(4, actor));
    let operations = vec![
        Op { action: OpType::Make(automerge::ObjType::Map), ..put(targets(&fixture), &target.id().to_string()) },
        put(own, "of a later version"),
    ];
    let envelope = raw(&fixture, &target, operations);
    fixture.add(&target, envelope).expect("fits");
    assert_eq!(fixture.view().targets.get(&target.id()), None, "it does not read as a record");
    fixture.write(&target, Edit::Record(Section::Targets, &record(TargetState::Held, 1))).expect("fits");
    assert_eq!(fixture.view().targets[&target.id()], record(TargetState::Held, 1));
    assert_eq!(fixture.log.len(), 3);
}

#[test]
fn an_author_makes_a_bounded_number_of_changes() {
    let (sender, target) = (Life::new(1, 1), Life::new(2, 1));
    let mut fixture = Fixture::new(&sender);
    for time in 1..=MAX_SEQ {
        fixture.write(&target, Edit::Record(Section::Targets, &record(TargetState::Held, time))).expect("fits");
    }
    let error = fixture.write(&target, Edit::Record(Section::Targets, &record(TargetState::Delivered, 99)));
    assert_eq!(error, Err(ChangeError::TooManyChanges));
    for life in 2..=4 {
        let target = Life::new(2, life);
        fixture.write(&target, Edit::Record(Section::Targets, &record(TargetState::Held, 100 + u64::from(life)))).expect("fits");
    }
    let error = fixture.write(&Life::new(2, 5), Edit::Record(Section::Targets, &record(TargetState::Delivered, 200)));
    assert_eq!(error, Err(ChangeError::TooManyLives));
}

#[test]
fn an_oversized_change_is_refused_to_everyone_but_the_sender() {
    let (sender, target) = (Life::new(1, 1), Life::new(2, 1));
    let mut fixture = Fixture::new(&sender);
    let ids = (0..1000_u32).map(|n| EndpointId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes()));
    let roster: BTreeSet<EndpointId> = ids.collect();
    fixture.write(&sender, Edit::Roster(&roster)).expect("a sender's roster is large");
    let large = Op {
        action: OpType::Put(ScalarValue::Bytes(vec![0; MAX_CHANGE_BYTES])),
        ..put(targets(&fixture), &target.id().to_string())
    };
    let error = fixture.document.judge(&raw(&fixture, &target, vec![large])).expect_err("too large");
    assert!(matches!(error, ChangeError::TooLarge(_)), "{error}");
}

#[test]
fn a_document_cannot_lie_about_its_id_sender_or_expiry() {
    let (sender, other) = (Life::new(1, 1), Life::new(2, 1));
    let (id, bytes) = first_change(&manifest(&sender), &sender.incarnation).expect("good");
    let elsewhere = DistributionId::from_bytes([7; 32]);
    let judge = |id: DistributionId, envelope: Envelope| Document::new(id).judge(&envelope).expect_err("refused");
    let moved = DocumentChange::first(
        actor_of(&sender.id(), &sender.incarnation, &elsewhere),
        &manifest(&sender).seal().expect("good").1,
    );
    assert!(matches!(judge(elsewhere, sender.envelope(elsewhere, moved.bytes().to_vec())), ChangeError::Manifest(_)));
    let (_, stolen) = first_change(&Manifest { sender: sender.id(), ..manifest(&other) }, &sender.incarnation).expect("good");
    assert!(matches!(judge(id, other.envelope(id, stolen)), ChangeError::ForgedActor));
    let theirs =
        DocumentChange::first(actor_of(&other.id(), &other.incarnation, &id), &manifest(&sender).seal().expect("good").1);
    assert!(matches!(judge(id, other.envelope(id, theirs.bytes().to_vec())), ChangeError::Manifest(_)));
    let late = Envelope { expiry: EXPIRY.plus(std::time::Duration::from_secs(1)), ..sender.envelope(id, bytes) };
    assert_eq!(judge(id, late), ChangeError::Expiry);
}

#[test]
fn a_newer_life_that_has_reconciled_replaces_the_records_of_the_older() {
    let (sender, old, new) = (Life::new(1, 1), Life::new(2, 9), Life::new(2, 1));
    let mut fixture = Fixture::new(&sender);
    fixture.write(&old, Edit::Record(Section::Targets, &record(TargetState::Delivered, 50))).expect("fits");
    fixture.write(&new, Edit::Record(Section::Targets, &record(TargetState::Fetching, 60))).expect("fits");
    assert_eq!(fixture.view().targets[&new.id()], record(TargetState::Fetching, 60));
}

#[test]
fn two_claims_to_one_place_are_kept_the_lower_counts_and_a_third_goes_with_what_follows_it() {
    let (sender, target) = (Life::new(1, 1), Life::new(2, 1));
    let mut fixture = Fixture::new(&sender);
    let fork = |time| {
        let edit = record(TargetState::Held, time);
        let change = fixture.document.next_change(&target.id(), &target.incarnation, Edit::Record(Section::Targets, &edit));
        let envelope = target.envelope(fixture.document.id, change.expect("may").expect("new"));
        (Envelope::id_of(&envelope.seal(&target.key)), time, envelope)
    };
    let mut forks: Vec<_> = (1..=3).map(fork).collect();
    forks.sort_by_key(|(id, ..)| *id);
    let [lowest, middle, highest] = forks.try_into().expect("three");
    assert!(!fixture.add(&target, highest.2).expect("fits").clone);
    fixture.write(&target, Edit::Record(Section::Targets, &record(TargetState::Delivered, 9))).expect("fits");
    let second = fixture.add(&target, middle.2.clone()).expect("fits");
    assert_eq!(second, Inserted { dropped: Vec::new(), clone: true });
    assert_eq!(fixture.view().targets[&target.id()].time.as_millis(), middle.1, "the lower counts");
    let third = fixture.add(&target, lowest.2).expect("fits");
    assert_eq!(third.dropped.len(), 2, "the highest, and the change that followed it");
    assert_eq!(fixture.view().targets[&target.id()].time.as_millis(), lowest.1);
    assert_eq!(fixture.document.envelopes().count(), 3, "the first change, the lowest, and the proof");
}

#[test]
fn a_removed_author_leaves_no_trace_and_a_removed_sender_no_document() {
    let (sender, target, other) = (Life::new(1, 1), Life::new(2, 1), Life::new(3, 1));
    let mut fixture = Fixture::new(&sender);
    fixture.write(&target, Edit::Record(Section::Targets, &record(TargetState::Held, 1))).expect("fits");
    fixture.write(&other, Edit::Record(Section::Targets, &record(TargetState::Held, 2))).expect("fits");
    let without = |gone: usize| {
        let kept = fixture.log.iter().enumerate().filter(|(index, _)| *index != gone).map(|(_, kept)| kept.clone());
        Document::load(fixture.document.id, kept)
    };
    let (document, orphans) = without(1);
    assert_eq!(orphans, Vec::new());
    assert_eq!(document.distribution().expect("there").targets.keys().copied().collect::<Vec<_>>(), vec![other.id()]);
    let (document, orphans) = without(0);
    assert_eq!((document.distribution(), orphans.len(), document.is_empty()), (None, 2, true));
}

/// A document written by honest nodes, lives that know nothing of each other, and clones.
fn busy() -> Fixture {
    let (sender, clone) = (Life::new(1, 1), Life::new(2, 1));
    let mut fixture = Fixture::new(&sender);
    let states = [TargetState::Pending, TargetState::Fetching, TargetState::Delivered];
    for (step, state) in states.into_iter().enumerate() {
        for node in 2..5 {
            let edit = record(state, step as u64 * 10 + u64::from(node));
            fixture.write(&Life::new(node, 1), Edit::Record(Section::Targets, &edit)).expect("fits");
        }
    }
    let mut forks = Vec::new();
    for (life, time) in [(1, 50), (1, 51), (1, 52), (2, 60), (3, 61)] {
        let author = Life::new(3, life);
        let mut fork = replay(fixture.document.id, &fixture.log[..(time as usize - 47).min(8)]);
        for step in 0..2 {
            let edit = record(TargetState::ALL[step + 1], time + step as u64 * 100);
            let change = fork.next_change(&author.id(), &author.incarnation, Edit::Record(Section::Targets, &edit));
            let envelope = author.envelope(fork.id, change.expect("may").expect("new"));
            let id = Envelope::id_of(&envelope.seal(&author.key));
            let Ok(Verdict::Fits(entry)) = fork.judge(&envelope) else { panic!("its own change fits") };
            fork.insert(id, *entry);
            forks.push((id, envelope));
        }
    }
    fixture.log.extend(forks);
    let target = clone.id();
    fixture.write(&sender, Edit::Roster(&BTreeSet::from([target]))).expect("fits");
    fixture
}

/// The envelopes of [`busy`].
fn busy_log() -> &'static (DistributionId, Vec<(EnvelopeId, Envelope)>) {
    static LOG: OnceLock<(DistributionId, Vec<(EnvelopeId, Envelope)>)> = OnceLock::new();
    LOG.get_or_init(|| {
        let Fixture { document, log } = busy();
        (document.id, log)
    })
}

/// One operation of a change that an author might try.
#[derive(Debug, Clone)]
struct Attempt {
    object: u8,
    key: u8,
    action: u8,
    honest: bool,
}

fn attempts() -> impl Strategy<Value = Vec<(u8, u8, Vec<Attempt>)>> {
    let attempt = (0..6_u8, 0..5_u8, 0..4_u8, proptest::bool::weighted(0.9));
    let attempt = attempt.prop_map(|(object, key, action, honest)| Attempt { object, key, action, honest });
    proptest::collection::vec((1..4_u8, 1..3_u8, proptest::collection::vec(attempt, 1..4)), 1..24)
}

/// An author's next change, of these operations, whether it may or not.
fn attempt(document: &Document, author: &Life, attempts: &[Attempt]) -> Option<Envelope> {
    let deps = document.heads_of(&author.id());
    let lineage = document.lineage(&author.id(), &deps).ok()??;
    let mut history = lineage.history(&author.id());
    let actor = actor_of(&author.id(), &author.incarnation, &document.id);
    let first = lineage.first.change.expanded.actor_id.clone();
    let mut operations = Vec::new();
    for (attempt, counter) in attempts.iter().zip(lineage.max_op() + 1..) {
        let maps: Vec<OpId> = history.maps().cloned().collect();
        let object = match attempt.object {
            0 if !attempt.honest => None,
            1 | 2 => Some(OpId(u64::from(attempt.object) + 1, first.clone())),
            3 if !attempt.honest => Some(OpId(9, actor.clone())),
            _ => maps.last().cloned().or(Some(OpId(2, first.clone()))),
        };
        let key = [author.id().to_string(), Life::new(1, 1).id().to_string(), "cancel".into(), "state".into(), "x".into()];
        let beneath = object.as_ref().is_some_and(|object| maps.contains(object));
        let place = (object, key[if attempt.honest && !beneath { 0 } else { usize::from(attempt.key) }].clone());
        let pred: Vec<OpId> = match attempt.honest {
            true => history.live(&place).map(|(id, _)| id.clone()).collect(),
            false => vec![OpId(4, actor.clone())],
        };
        let action = match attempt.action {
            0 => OpType::Make(automerge::ObjType::Map),
            1 if !attempt.honest || !pred.is_empty() => OpType::Delete,
            1 | 2 => OpType::Put("held".into()),
            _ => OpType::Put(ScalarValue::Uint(counter)),
        };
        let obj = place.0.clone().map_or(ObjectId::Root, ObjectId::Id);
        let op = Op { action, obj, key: Key::Map(place.1.as_str().into()), pred: pred.into(), insert: false };
        history.put(place, OpId(counter, actor.clone()), &op);
        operations.push(op);
    }
    let seq = lineage.last_seq(&author.id(), &author.incarnation) + 1;
    let start = NonZeroU64::new(lineage.max_op() + 1).expect("not zero");
    let change = DocumentChange::build(expanded(actor, seq, start, deps, operations)).ok()?;
    Some(author.envelope(document.id, change.bytes().to_vec()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_authors_try_the_document_stays_whole_and_writable(attempts in attempts()) {
        let sender = Life::new(1, 1);
        let mut fixture = Fixture::new(&sender);
        for (node, life, operations) in attempts {
            let author = Life::new(node, life);
            if let Some(envelope) = attempt(&fixture.document, &author, &operations) {
                let _ = fixture.add(&author, envelope);
            }
        }
        let again = replay(fixture.document.id, &fixture.log.iter().rev().cloned().collect::<Vec<_>>());
        prop_assert_eq!(again.distribution(), fixture.document.distribution());
        for node in 1..4 {
            let author = Life::new(node, 1);
            let record = record(TargetState::Delivered, 77);
            fixture.write(&author, Edit::Record(Section::Targets, &record)).expect("its next change fits");
            prop_assert_eq!(&fixture.view().targets[&author.id()], &record);
        }
    }

    #[test]
    fn any_order_and_repetition_of_a_set_converges(
        order in Just((0..busy_log().1.len()).collect::<Vec<_>>()).prop_shuffle(),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let (id, straight) = busy_log();
        let mut log: Vec<_> = order.into_iter().map(|index| straight[index].clone()).collect();
        for index in again {
            log.push(log[index.index(log.len())].clone());
        }
        let expected = replay(*id, straight);
        let document = replay(*id, &log);
        prop_assert_eq!(document.distribution(), expected.distribution());
        prop_assert!(document.envelopes().eq(expected.envelopes()));
        let kept = straight.iter().filter(|(id, _)| document.contains(id)).cloned();
        prop_assert_eq!(Document::load(*id, kept).0.distribution(), document.distribution());
    }
}
