//! A store in memory, and an inbox in a directory beside which nothing may change.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Blobs, Delivery, Export, Inbox, InboxPolicy, Ledger, Outcome, Owner, Written};
use crate::model::{BlobHash, DistributionId, EndpointId, FileEntry, Manifest, Priority, Sha256Digest, Timestamp};

/// What [`MemoryBlobs::export`] does next instead of its duty.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Full,
    Damaged,
    /// The same, and the store notices it when it looks.
    Rotten,
}

#[derive(Debug, Default)]
pub(super) struct MemoryBlobs {
    blobs: RefCell<BTreeMap<BlobHash, Vec<u8>>>,
    pub(super) faults: RefCell<BTreeMap<BlobHash, Fault>>,
    pub(super) exports: Cell<u64>,
}

impl MemoryBlobs {
    pub(super) fn add(&self, bytes: &[u8]) -> BlobHash {
        let hash = BlobHash::from_bytes(*blake3::hash(bytes).as_bytes());
        self.blobs.borrow_mut().insert(hash, bytes.to_vec());
        hash
    }
}

impl Blobs for MemoryBlobs {
    fn size(&self, blob: &BlobHash) -> io::Result<Option<u64>> {
        Ok(self.blobs.borrow().get(blob).map(|bytes| bytes.len() as u64))
    }

    fn export(&self, blob: &BlobHash, mut dest: &File, written: &mut Written<'_>) -> io::Result<Export> {
        self.exports.set(self.exports.get() + 1);
        let blobs = self.blobs.borrow();
        let bytes = blobs.get(blob).ok_or(io::ErrorKind::NotFound)?;
        match self.faults.borrow().get(blob) {
            Some(Fault::Full) => {
                dest.write_all(&bytes[..bytes.len() / 2])?;
                return Err(rustix::io::Errno::NOSPC.into());
            }
            Some(Fault::Damaged | Fault::Rotten) => dest.write_all(&vec![b'#'; bytes.len()])?,
            None => {
                let (first, rest) = bytes.split_at(bytes.len() / 2);
                dest.write_all(first)?;
                written(first.len() as u64)?;
                dest.write_all(rest)?;
            }
        }
        Ok(Export::Copied)
    }

    fn verify(&self, blob: &BlobHash) -> io::Result<()> {
        match self.faults.borrow().get(blob) {
            Some(Fault::Rotten) => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(()),
        }
    }
}

/// A directory with an inbox, a ledger, and a canary that nothing may touch.
pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) blobs: MemoryBlobs,
    pub(super) inbox: Inbox,
    pub(super) ledger: Ledger,
    pub(super) policy: InboxPolicy,
}

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_795_268_785_123);

pub(super) fn sender(n: u8) -> EndpointId {
    EndpointId::from_bytes([n; 32])
}

pub(super) fn entry(path: &[u8], bytes: &[u8]) -> FileEntry {
    FileEntry {
        root: "outbox".into(),
        path: path.to_vec(),
        size: bytes.len() as u64,
        blob: BlobHash::from_bytes(*blake3::hash(bytes).as_bytes()),
        sha256: Sha256Digest::from_bytes([0; 32]),
        mode: 0o644,
        mtime: 1_000_000_000_123,
        content_type: None,
        display_name: None,
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(Owner::Shared)
    }

    pub(super) fn with(owner: Owner) -> Self {
        Self::under(InboxPolicy { owner, ..InboxPolicy::default() })
    }

    pub(super) fn under(policy: InboxPolicy) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("canary")).expect("a canary");
        std::fs::write(dir.path().join("canary/file"), "untouched").expect("a canary");
        Self::open(dir, MemoryBlobs::default(), policy)
    }

    fn open(dir: tempfile::TempDir, blobs: MemoryBlobs, policy: InboxPolicy) -> Self {
        let ledger = Ledger::open(&dir.path().join("exchange.redb")).expect("a ledger");
        let inbox = Inbox::open(&dir.path().join("inbox"), ledger.clone(), policy).expect("an inbox");
        Self { dir, blobs, inbox, ledger, policy }
    }

    /// The same inbox after a restart of the node.
    pub(super) fn reopen(self) -> Self {
        let Self { dir, blobs, inbox, ledger, policy } = self;
        drop((inbox, ledger));
        Self::open(dir, blobs, policy)
    }

    /// The same inbox after a restart with other rules.
    pub(super) fn reopen_under(mut self, policy: InboxPolicy) -> Self {
        self.policy = policy;
        self.reopen()
    }

    /// The same inbox after its ledger was lost.
    pub(super) fn lose_ledger(self) -> Self {
        let Self { dir, blobs, inbox, ledger, policy } = self;
        drop((inbox, ledger));
        std::fs::remove_file(dir.path().join("exchange.redb")).expect("a ledger");
        Self::open(dir, blobs, policy)
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("inbox").join(path)
    }

    pub(super) fn read(&self, path: &str) -> Option<String> {
        std::fs::read(self.path(path)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("beneath the inbox")).expect("a directory");
        std::fs::write(path, text).expect("the user may write");
    }

    /// A distribution of `files`, whose blobs the store has.
    pub(super) fn make(&self, id: u8, made_at: u64, files: &[(&[u8], &str)]) -> Delivery {
        let files: Vec<(u32, FileEntry)> = (0..)
            .zip(files)
            .map(|(index, (path, text))| {
                self.blobs.add(text.as_bytes());
                (index, entry(path, text.as_bytes()))
            })
            .collect();
        Delivery {
            id: DistributionId::from_bytes([id; 32]),
            sender: sender(1),
            made_at: Timestamp::from_millis(made_at),
            expiry: NOW.plus(Manifest::DEFAULT_LIFETIME),
            bundle: "a bundle".to_owned(),
            priority: Priority::Critical,
            file_count: files.len() as u64,
            together: false,
            removes: false,
            files,
        }
    }

    /// A distribution that has these removed.
    pub(super) fn unmake(&self, id: u8, made_at: u64, paths: &[&str]) -> Delivery {
        let entries = paths.iter().map(|path| FileEntry::removed("outbox".into(), path.as_bytes().to_vec()));
        Delivery {
            file_count: paths.len() as u64,
            removes: true,
            files: (0..).zip(entries).collect(),
            ..self.make(id, made_at, &[])
        }
    }

    /// Delivers, checks that nothing is left over, and gives the outcomes as words.
    pub(super) fn deliver(&self, delivery: &Delivery) -> Vec<String> {
        let outcomes = self.inbox.deliver(std::slice::from_ref(delivery), &self.blobs, NOW).expect("the inbox is in order");
        self.assert_clean();
        assert_eq!(outcomes.len(), 1);
        let indices: Vec<u32> = outcomes[0].iter().map(|(index, _)| *index).collect();
        assert_eq!(indices, delivery.files.iter().map(|(index, _)| *index).collect::<Vec<_>>());
        outcomes[0].iter().map(|(_, outcome)| word(outcome)).collect()
    }

    /// All names beneath the inbox, directories with a slash.
    pub(super) fn names(&self) -> Vec<String> {
        names_in(&self.dir.path().join("inbox"))
    }

    /// Nothing of ours is left over, and nothing happened outside the inbox.
    pub(super) fn assert_clean(&self) {
        let names = self.names();
        assert!(!names.iter().any(|name| name.contains(".peat-")), "temporary files are left: {names:?}");
        let mut outside: Vec<_> =
            std::fs::read_dir(self.dir.path()).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect();
        outside.sort();
        assert_eq!(outside, ["canary", "exchange.redb", "inbox"]);
        let canary: Vec<_> = std::fs::read_dir(self.dir.path().join("canary")).expect("the canary").collect();
        assert_eq!(canary.len(), 1);
        assert_eq!(std::fs::read_to_string(self.dir.path().join("canary/file")).expect("the canary"), "untouched");
    }
}

pub(super) fn names_in(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    list(dir, "", &mut names);
    names.sort();
    names
}

fn list(dir: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("a type").is_dir() {
            names.push(format!("{name}/"));
            list(&entry.path(), &format!("{name}/"), names);
        } else {
            names.push(name);
        }
    }
}

/// `delivered`, `already there`, `superseded`, `removed`, `kept`, `failed: …` or `failed for good: …`.
pub(super) fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Delivered => "delivered".into(),
        Outcome::AlreadyThere => "already there".into(),
        Outcome::Superseded => "superseded".into(),
        Outcome::Removed => "removed".into(),
        Outcome::Kept => "kept".into(),
        Outcome::Failed { error, retry: true } => format!("failed: {error}"),
        Outcome::Failed { error, retry: false } => format!("failed for good: {error}"),
    }
}
