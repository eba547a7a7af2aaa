//! What the store promises, shown from outside; each trap of other stores has a test here that ours does not have it.

mod assembly;
mod crash;
mod damage;
mod ingest;
mod keep;
mod known;
mod recipe;
mod recover;
mod remove;
mod similar;
mod small;
mod tree;

use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{BlobStatus, Content, ContentError, Ingested, MAX_BLOCK_BYTES, Options};
use crate::clock::Clock;
use crate::model::{BlobHash, Timestamp};

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
struct TestClock(AtomicU64);

impl TestClock {
    fn advance(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A store in a directory that goes with it.
struct Store {
    dir: tempfile::TempDir,
    clock: Arc<TestClock>,
    options: Options,
    content: Option<Content>,
}

impl Store {
    fn new() -> Self {
        Self::with(Options { quota: None, reserve: 0 })
    }

    fn with(options: Options) -> Self {
        let dir = fast_dir();
        let clock = Arc::new(TestClock(AtomicU64::new(1_000_000)));
        let content = Content::open(dir.path(), options, clock.clone()).unwrap();
        Self { dir, clock, options, content: Some(content) }
    }

    /// Ends without closing, as a killed process does, and opens again.
    fn crash(&mut self) {
        self.content = None;
        self.open();
    }

    fn close(&mut self) {
        self.content.take().unwrap().close().unwrap();
    }

    fn open(&mut self) {
        self.content = Some(Content::open(self.dir.path(), self.options, self.clock.clone()).unwrap());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// All files of the store but the index.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    dirs.push(entry);
                } else if !entry.ends_with("content.redb") {
                    files.push(entry);
                }
            }
        }
        files.sort();
        files
    }
}

impl std::ops::Deref for Store {
    type Target = Content;

    fn deref(&self) -> &Content {
        self.content.as_ref().expect("the store is open")
    }
}

/// A directory in memory where there is room: what is tested is the order of syncs, not how long they take.
fn fast_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    if free < 1 << 30 { tempfile::tempdir().unwrap() } else { tempfile::tempdir_in(memory).unwrap() }
}

/// Bytes that do not repeat.
fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn hash_of(bytes: &[u8]) -> BlobHash {
    BlobHash::from_bytes(*blake3::hash(bytes).as_bytes())
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Reads all of a blob, in steps that fit no boundary.
fn read_all(content: &Content, hash: &BlobHash) -> Result<Vec<u8>, ContentError> {
    let reader = content.open_blob(hash)?;
    let mut all = Vec::new();
    let mut buffer = vec![0; 100_001];
    loop {
        let read = reader.read_at(all.len() as u64, &mut buffer)?;
        all.extend_from_slice(&buffer[..read]);
        if read == 0 {
            return Ok(all);
        }
    }
}

/// Fetches what an assembly is missing from another store, and finishes it. Returns how many bytes of the blob crossed.
fn fetch(from: &Content, to: &Content, hash: &BlobHash, size: u64) -> Result<(Ingested, u64), ContentError> {
    let assembly = to.assemble(hash, size)?;
    let mut crossed = 0;
    while let Some(taken) = assembly.take(MAX_BLOCK_BYTES) {
        let Range { start, end } = taken.range();
        assembly.write_block(start..end, &from.encode_block(hash, start..end)?)?;
        crossed += end - start;
    }
    Ok((assembly.finish()?, crossed))
}

/// Changes one byte of a file.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn held(content: &Content, hash: &BlobHash) -> bool {
    matches!(content.status(hash).unwrap(), BlobStatus::Held { .. })
}
