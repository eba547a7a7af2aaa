//! How many bytes things take on the wire, from real ones. The credential is that of the deterministic mode; a certificate adds
//! some 250 bytes to a node's register, and nothing to what it says later.

use std::collections::BTreeSet;

use bytes::Bytes;
use peat_blobcore::document::{Body, Document, Edit, Envelope, Hint, Kind, News, Section, first_change};
use peat_blobcore::identity::{FormationKey, NodeKey};
use peat_blobcore::model::{
    Credential, CredentialHash, DistributionId, EndpointId, Incarnation, Labels, Manifest, NodeRecord, TargetRecord, TargetState,
    Timestamp,
};
use peat_blobcore::network::wire::Message;

/// Signs for everybody: who signs makes no difference to a size.
pub(super) struct Sizes {
    key: NodeKey,
    /// A node's register.
    pub(super) node: u64,
    /// A receipt.
    pub(super) record: u64,
    /// A roster with nobody on it, and what each member adds.
    roster: (u64, u64),
    /// A hint.
    pub(super) hint: u64,
    /// The two messages by which equal replicas find that they are, and the two words that they do.
    pub(super) session: u64,
}

/// Bytes before each frame, and before each envelope in it.
pub(super) const FRAME: u64 = 8;
pub(super) const IN_FRAME: u64 = 3;
const LIFE: Incarnation = Incarnation::from_bytes([1; 16]);

impl Sizes {
    /// Makes one of each, with this manifest's document.
    pub(super) fn of(manifest: &Manifest, now: Timestamp) -> Self {
        let key = NodeKey::derive(&FormationKey::from_bytes([7; 32]), "node-100");
        let manifest = Manifest { sender: key.endpoint_id(), ..manifest.clone() };
        let record = NodeRecord {
            name: "node-100".to_owned(),
            labels: Labels::from([("group".to_owned(), "10".to_owned())]),
            addresses: vec!["192.0.2.100:12345".to_owned(), "[2001:db8::100]:12345".to_owned()],
            protocol: (1, 1),
            free_bytes: 1 << 40,
            credential: Credential::Derived { node_id: "node-100".to_owned() },
            upstreams: None,
        };
        let register = Body::register(now.as_millis(), minicbor::to_vec(&record).expect("memory takes it")).expect("it is short");
        let (id, first) = first_change(&manifest, &LIFE).expect("a valid manifest");
        let envelope = seal(&key, Kind::Distribution, *id.as_bytes(), Body::Change(first));
        let opened = Envelope::open(&envelope).expect("it was sealed");
        let (document, _) = Document::load(id, [(Envelope::id_of(&envelope), opened)]);
        let sealed = |edit: Edit<'_>| {
            let change = document.next_change(&key.endpoint_id(), &LIFE, edit).expect("a change").expect("it is news");
            seal(&key, Kind::Distribution, *id.as_bytes(), Body::Change(change)).len() as u64
        };
        let roster =
            |count: u8| sealed(Edit::Roster(&(0..count).map(|n| EndpointId::from_bytes([n; 32])).collect::<BTreeSet<_>>()));
        let each = (roster(101) - roster(1)) / 100;
        let delivered = TargetRecord { state: TargetState::Delivered, bytes: 1 << 20, error: None, time: now };
        let hint = Hint { author: key.endpoint_id(), time: now, news: News::Holds(DistributionId::from_bytes([1; 32])) };
        // The bound of negentropy and one fingerprint, and an empty answer.
        let messages = [Message::Question(vec![0; 22]), Message::Answer(vec![0; 2]), Message::Reconciled, Message::Reconciled];
        Self {
            node: seal(&key, Kind::Node, *key.endpoint_id().as_bytes(), register).len() as u64,
            record: sealed(Edit::Record(Section::Targets, &delivered)),
            roster: (roster(1) - each, each),
            hint: hint.seal(key.as_iroh()).expect("it is short").len() as u64,
            session: messages.iter().map(|message| 4 + message.encode().len() as u64).sum(),
            key,
        }
    }

    /// The envelope of a distribution's first change.
    pub(super) fn manifest(&self, manifest: &Manifest) -> u64 {
        let (id, first) = first_change(manifest, &LIFE).expect("a valid manifest");
        seal(&self.key, Kind::Distribution, *id.as_bytes(), Body::Change(first)).len() as u64
    }

    pub(super) fn roster(&self, members: usize) -> u64 {
        self.roster.0 + self.roster.1 * members as u64
    }
}

fn seal(key: &NodeKey, kind: Kind, about: [u8; 32], body: Body) -> Bytes {
    let envelope = Envelope {
        kind,
        key: about,
        author: key.endpoint_id(),
        incarnation: LIFE,
        credential: CredentialHash::from_bytes([1; 32]),
        expiry: Timestamp::from_millis(1 << 42),
        body,
    };
    envelope.seal(key.as_iroh()).into()
}
