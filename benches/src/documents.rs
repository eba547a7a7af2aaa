//! Two members of a formation, and any number of documents that both have: a file that the first sent to the second, and
//! the second's receipt for it.

use std::path::Path;
use std::sync::Arc;

use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::document::{Body, Document, Edit, Envelope, Kind, Section, first_change};
use peat_blobcore::identity::{AuthorityKey, FormationKey, Identity, files};
use peat_blobcore::model::{
    BlobHash, Carry, DistributionId, EndpointId, FileEntry, Files, Labels, Manifest, NodeRecord, NodeRef, Priority, Scope,
    Sha256Digest, TargetRecord, TargetState, Timestamp,
};
use peat_blobcore::replica::{Limits, Replica, Signer};

use crate::Outcome;

/// The names of the two, which are also their data directories'.
pub(crate) const NAMES: [&str; 2] = ["alpha", "bravo"];
/// Envelopes that are taken in at once.
const BATCH: usize = 2048;

/// The two members and their replicas.
pub(crate) struct Pair {
    pub(crate) identities: [Arc<Identity>; 2],
    pub(crate) replicas: [Replica; 2],
    /// Bytes of all documents' envelopes.
    pub(crate) bytes: usize,
}

/// Makes both members beneath a directory.
pub(crate) fn enroll(directory: &Path) -> Outcome<[Arc<Identity>; 2]> {
    let (formation, authority) = (FormationKey::generate(), AuthorityKey::generate());
    let member = |name: &str| files::create_member(&directory.join(name), &formation, &authority, name, Labels::new());
    Ok([Arc::new(member(NAMES[0])?), Arc::new(member(NAMES[1])?)])
}

/// Makes both members with so many documents that both have. Nothing has them open once the pair is dropped.
pub(crate) fn make(directory: &Path, count: usize) -> Outcome<Pair> {
    let identities = enroll(directory)?;
    let open = |name: &str, identity: &Identity| {
        let path = directory.join(name).join("replica.redb");
        let membership = Arc::new(identity.formation().clone());
        Replica::open(&path, signer(identity), membership, Arc::new(SystemClock), Limits::default())
    };
    let replicas = [open(NAMES[0], &identities[0])?, open(NAMES[1], &identities[1])?];
    let mut records = Vec::new();
    for (replica, identity) in replicas.iter().zip(&identities) {
        replica.publish_node(&node_record(identity))?;
        records.extend(replica.envelopes_of(Kind::Node, identity.id().as_bytes())?.into_iter().map(|(_, bytes)| bytes));
    }
    let now = SystemClock.now();
    let mut envelopes = Vec::with_capacity(2 * count);
    for number in 0..count {
        envelopes.extend(document(&identities, number, now)?);
    }
    for replica in &replicas {
        replica.accept(None, &records)?;
        for batch in envelopes.chunks(BATCH) {
            replica.accept(None, batch)?;
        }
        replica.mark_reconciled()?;
        if replica.stats().documents != count {
            return Err(format!("{} of {count} documents were taken in", replica.stats().documents).into());
        }
    }
    Ok(Pair { identities, replicas, bytes: envelopes.iter().map(bytes::Bytes::len).sum() })
}

/// The envelopes of one document.
fn document([sender, target]: &[Arc<Identity>; 2], number: usize, now: Timestamp) -> Outcome<[bytes::Bytes; 2]> {
    let manifest = manifest(sender.id(), target.id(), number, now);
    let (id, change) = first_change(&manifest, &sender.incarnation())?;
    let (manifest_envelope, manifest_bytes) = seal(sender, id, manifest.expiry, change);
    let (document, _) = Document::load(id, [(Envelope::id_of(&manifest_bytes), manifest_envelope)]);
    let record = delivered(now);
    let change = document
        .next_change(&target.id(), &target.incarnation(), Edit::Record(Section::Targets, &record))?
        .ok_or("a first record is a change")?;
    Ok([manifest_bytes, seal(target, id, manifest.expiry, change).1])
}

fn seal(author: &Identity, id: DistributionId, expiry: Timestamp, change: Vec<u8>) -> (Envelope, bytes::Bytes) {
    let envelope = Envelope {
        kind: Kind::Distribution,
        key: *id.as_bytes(),
        author: author.id(),
        incarnation: author.incarnation(),
        credential: author.credential().hash(),
        expiry,
        body: Body::Change(change),
    };
    let bytes = envelope.seal(author.key().as_iroh()).into();
    (envelope, bytes)
}

/// A file of a few bytes, from one to the other.
pub(crate) fn manifest(sender: EndpointId, target: EndpointId, number: usize, now: Timestamp) -> Manifest {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    let file = FileEntry {
        root: "outbox".to_owned(),
        path: format!("reports/{number}").into_bytes(),
        size: 8,
        blob: BlobHash::from_bytes(hash),
        sha256: Sha256Digest::from_bytes(hash),
        mode: 0o644,
        mtime: 0,
        content_type: None,
        display_name: None,
    };
    Manifest {
        sender,
        bundle: number.to_string(),
        files: Files::Inline(vec![file]),
        scope: Scope::Nodes(vec![NodeRef::Id(target)]),
        priority: Priority::Routine,
        made_at: now,
        expiry: now.plus(Manifest::DEFAULT_LIFETIME),
        carry: Carry::Members,
        together: true,
        package: None,
        removes: false,
    }
}

/// A receipt.
pub(crate) fn delivered(time: Timestamp) -> TargetRecord {
    TargetRecord { state: TargetState::Delivered, bytes: 8, error: None, time }
}

fn signer(identity: &Identity) -> Signer {
    Signer {
        secret: identity.key().as_iroh().clone(),
        incarnation: identity.incarnation(),
        credential: identity.credential().clone(),
    }
}

fn node_record(identity: &Identity) -> NodeRecord {
    NodeRecord {
        name: identity.name().to_owned(),
        labels: Labels::new(),
        addresses: Vec::new(),
        protocol: (1, 1),
        free_bytes: 0,
        credential: identity.credential().clone(),
        upstreams: None,
    }
}
