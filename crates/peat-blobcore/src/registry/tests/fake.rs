//! Others that have content, in one process: what they claim is sent when the test says so.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::bytes;
use crate::content::{Assembly, Content, MAX_BLOCK_BYTES};
use crate::model::{BlobHash, EndpointId};
use crate::oci::{Descriptor, Digest, Repository, Tag};
use crate::registry::{Answer, Arrival, Arriving, Change, Elsewhere, Found, Named};

#[derive(Default)]
pub(super) struct Others {
    tags: Mutex<BTreeMap<Repository, Vec<Tag>>>,
    pub(super) disproved: Mutex<Vec<Digest>>,
    pub(super) hurried: Mutex<Vec<Range<u64>>>,
    pub(super) changes: Mutex<Vec<Change>>,
}

impl Others {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn offer_tags(&self, repository: &Repository, tags: &[&str]) {
        let tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        self.tags.lock().unwrap().insert(repository.clone(), tags);
    }
}

impl Elsewhere for Others {
    fn resolve<'a>(&'a self, _: &'a Repository, _: &'a Tag) -> Answer<'a, Option<Named>> {
        Box::pin(async { None })
    }

    fn find<'a>(&'a self, _: &'a Repository, _: &'a Digest) -> Answer<'a, Option<Found>> {
        Box::pin(async { None })
    }

    fn hurry(&self, _: &Arriving, range: Range<u64>) {
        self.hurried.lock().unwrap().push(range);
    }

    fn disprove(&self, _: &Repository, digest: &Digest, _: &Arriving) {
        self.disproved.lock().unwrap().push(*digest);
    }

    fn repositories(&self) -> Vec<Repository> {
        self.tags.lock().unwrap().keys().cloned().collect()
    }

    fn tags(&self, repository: &Repository) -> Vec<Tag> {
        self.tags.lock().unwrap().get(repository).cloned().unwrap_or_default()
    }

    fn referrers(&self, _: &Repository, _: &Digest) -> Vec<Descriptor> {
        Vec::new()
    }

    fn changed(&self, change: &Change) {
        self.changes.lock().unwrap().push(change.clone());
    }
}

/// A blob that another store has, on its way to one of ours.
pub(super) struct Coming {
    from: Content,
    _dir: tempfile::TempDir,
    assembly: Assembly,
    progress: watch::Sender<Arrival>,
    pub(super) sent: Vec<u8>,
}

impl Coming {
    pub(super) fn new(to: &Content, seed: u64, size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from =
            Content::open(dir.path(), crate::content::Options { quota: None, reserve: 0 }, Arc::new(crate::clock::SystemClock));
        let (from, sent) = (from.unwrap(), bytes(seed, size));
        let hash = from.ingest_bytes(&sent).unwrap().hash;
        let assembly = to.assemble(&hash, size as u64).unwrap();
        Self { from, _dir: dir, assembly, progress: watch::Sender::new(Arrival::Coming), sent }
    }

    fn hash(&self) -> BlobHash {
        self.assembly.hash()
    }

    pub(super) fn arriving(&self) -> Arriving {
        Arriving {
            hash: self.hash(),
            size: self.assembly.size(),
            media_type: "application/octet-stream".to_owned(),
            claimed_by: EndpointId::from_bytes([1; 32]),
            progress: self.progress.subscribe(),
        }
    }

    /// Some of it comes.
    pub(super) fn send(&self, range: Range<u64>) {
        for start in range.clone().step_by(MAX_BLOCK_BYTES as usize) {
            let block = start..(start + MAX_BLOCK_BYTES).min(range.end);
            self.assembly.write_block(block.clone(), &self.from.encode_block(&self.hash(), block).unwrap()).unwrap();
        }
        self.progress.send_replace(Arrival::Coming);
    }

    /// All of it has come.
    pub(super) fn finish(&self) {
        self.send(0..self.assembly.size());
        self.assembly.finish().unwrap();
        self.progress.send_replace(Arrival::Whole);
    }

    pub(super) fn fail(&self) {
        self.progress.send_replace(Arrival::Failed("the holder is gone".to_owned()));
    }
}
