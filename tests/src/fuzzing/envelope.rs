//! Envelopes, and the document that takes in what they say.

use std::collections::BTreeSet;

use peat_blobcore::document::{Body, Document, Edit, Envelope, Kind, MAX_REGISTER_BYTES, Section};
use peat_blobcore::model::{NodeRecord, Retirement, Revocation, TagRecord, TargetState, Timestamp};

use super::document::{World, record, repair};
use super::fixture::{Author, Input};

/// Most steps of one input: an author may make 32 changes.
const MAX_STEPS: usize = 40;

/// What a step of an input does, by its first byte; the author is named by the second.
pub(super) mod step {
    /// An envelope's payload, signed by whom it names.
    pub(in super::super) const PAYLOAD: u8 = 0;
    /// The end of a change that begins as the author's next.
    pub(in super::super) const GRAFT: u8 = 1;
    /// The end of a change that begins as the author's last.
    pub(in super::super) const CLAIM: u8 = 2;
    /// What an honest author writes.
    pub(in super::super) const EDIT: u8 = 3;
}

/// Only what is signed by its author opens, in one encoding; and whatever members sign, the document stays what the set of
/// its envelopes makes it.
///
/// # Panics
/// When a law is broken.
pub fn envelope(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut world = World::new();
    for _ in 0..MAX_STEPS {
        if take_step(&mut world, &mut input).is_none() {
            break;
        }
    }
    world.check();
}

fn take_step(world: &mut World, input: &mut Input<'_>) -> Option<()> {
    let (kind, author) = (input.byte()?, Author::named(input.byte()?));
    match kind % 4 {
        step::PAYLOAD => payload(world, input.bytes()?),
        step::GRAFT => {
            let change = world.graft(&author, input.bytes()?);
            world.offer_change(&author, change);
        }
        step::CLAIM => {
            let change = world.claim(&author, input.bytes()?);
            world.offer_change(&author, change);
        }
        _ => edit(world, &author, input.byte()?, input.byte()?),
    }
    Some(())
}

fn edit(world: &mut World, author: &Author, what: u8, number: u8) {
    let record = record(TargetState::ALL[usize::from(what % 8)], number.into());
    let section = Section::ALL[usize::from(what >> 3 & 1)];
    match what >> 4 & 7 {
        6 => world.write(author, Edit::Roster(&BTreeSet::from([Author::named(number).id()]))),
        7 => world.write(author, Edit::Cancel(Timestamp::from_millis(number.into()))),
        _ => world.write(author, Edit::Record(section, &record)),
    };
}

fn payload(world: &mut World, payload: &[u8]) {
    let unsigned = [&[0; 64], payload].concat();
    assert!(Envelope::open(&unsigned).is_err(), "zeros sign for nobody");
    let Ok(envelope) = Envelope::decode(&unsigned) else { return };
    let author = Author::of(&envelope.author, envelope.incarnation);
    assert_eq!(&envelope.seal(author.key.as_iroh())[64..], payload, "a payload has one encoding");
    let envelope = Envelope { author: author.id(), ..envelope };
    let sealed = envelope.seal(author.key.as_iroh());
    assert_eq!(Envelope::open(&sealed).expect("what is sealed opens"), envelope);
    match &envelope.body {
        Body::Change(_) => {
            let _ = Document::sender_of(&envelope);
            world.offer(&author, envelope.clone());
            world.offer(&author, repair(envelope));
        }
        Body::Register { value, .. } => register(envelope.kind, value),
    }
}

fn register(kind: Kind, value: &[u8]) {
    assert!(value.len() <= MAX_REGISTER_BYTES);
    match kind {
        Kind::Node => {
            if let Ok(record) = minicbor::decode::<NodeRecord>(value) {
                let _ = (record.name_and_labels(), record.credential.hash());
            }
        }
        Kind::Retired => drop(minicbor::decode::<Retirement>(value)),
        Kind::Revoked => drop(minicbor::decode::<Revocation>(value)),
        Kind::Tag => {
            if let Ok(record) = minicbor::decode::<TagRecord>(value) {
                let _ = TagRecord::key(&record.repository, &record.tag);
            }
        }
        Kind::Distribution => unreachable!("it has no register"),
    }
}
