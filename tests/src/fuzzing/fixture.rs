//! The fixed keys, ids and times of all targets, so that an input means the same in every run.

use std::sync::LazyLock;

use peat_blobcore::document::{Body, Envelope, Kind};
use peat_blobcore::identity::{AuthorityKey, FormationKey, NodeKey};
use peat_blobcore::model::{
    BlobHash, Carry, CredentialHash, DistributionId, EndpointId, FileEntry, Files, Incarnation, Manifest, Priority, Scope,
    Sha256Digest, Timestamp,
};

/// How many nodes there are, and how many lives each may have had: one more than a document takes.
pub(super) const NODES: u8 = 3;
const LIVES: u8 = 5;

pub(super) const MADE_AT: Timestamp = Timestamp::from_millis(1_795_000_000_000);
pub(super) const NOW: Timestamp = Timestamp::from_millis(1_795_000_100_000);
pub(super) const EXPIRY: Timestamp = Timestamp::from_millis(1_795_600_000_000);

static KEYS: LazyLock<[NodeKey; NODES as usize]> =
    LazyLock::new(|| ["node-a", "node-b", "node-c"].map(|name| NodeKey::derive(&formation_key(), name)));

/// The bytes of the formation's key.
pub(super) const FORMATION_KEY: [u8; 32] = [42; 32];

pub(super) fn formation_key() -> FormationKey {
    FormationKey::from_bytes(FORMATION_KEY)
}

pub(super) fn authority() -> AuthorityKey {
    AuthorityKey::from_base64("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=").expect("32 bytes")
}

/// One life of one of the nodes.
#[derive(Clone, Copy)]
pub(super) struct Author {
    pub(super) key: &'static NodeKey,
    pub(super) incarnation: Incarnation,
}

impl Author {
    /// The author that a byte of an input names; 0 is the sender in its first life.
    pub(super) fn named(byte: u8) -> Self {
        let life = byte / NODES % LIVES;
        Self { key: &KEYS[usize::from(byte % NODES)], incarnation: Incarnation::from_bytes([life; 16]) }
    }

    /// The node of this id in some life; the sender when there is none.
    pub(super) fn of(id: &EndpointId, incarnation: Incarnation) -> Self {
        let key = KEYS.iter().find(|key| key.endpoint_id() == *id).unwrap_or(&KEYS[0]);
        Self { key, incarnation }
    }

    pub(super) fn id(&self) -> EndpointId {
        self.key.endpoint_id()
    }

    /// An envelope of this author's about a distribution.
    pub(super) fn envelope(&self, document: DistributionId, change: Vec<u8>) -> Envelope {
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

/// A small file.
pub(super) fn file(path: &str) -> FileEntry {
    FileEntry {
        root: "docs".to_owned(),
        path: path.as_bytes().to_vec(),
        size: 3,
        blob: BlobHash::from_bytes([1; 32]),
        sha256: Sha256Digest::from_bytes([2; 32]),
        mode: 0o644,
        mtime: -1,
        content_type: None,
        display_name: None,
    }
}

/// A distribution of one small file.
pub(super) fn a_manifest() -> Manifest {
    Manifest {
        sender: Author::named(0).id(),
        bundle: "b".to_owned(),
        files: Files::Inline(vec![file("a")]),
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

/// What is left of an input.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A little-endian `u16` length and that many bytes, or what is left if that is less.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (taken, rest) = rest.split_at(rest.len().min(u16::from_le_bytes(*length).into()));
        self.0 = rest;
        Some(taken)
    }
}

/// Adds bytes to an input as [`Input::bytes`] reads them.
pub(super) fn push_bytes(input: &mut Vec<u8>, bytes: &[u8]) {
    input.extend(u16::try_from(bytes.len()).expect("a seed is short").to_le_bytes());
    input.extend(bytes);
}
