//! What the registry promises, shown from outside.

mod arriving;
mod fake;
mod listing;
mod manifests;
mod uploads;

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256, Sha512};

use super::{Held, Put, Registry, RegistryError};
use crate::clock::Clock;
use crate::content::{Content, Options};
use crate::model::{Sha256Digest, Timestamp};
use crate::oci::{Digest, Reference, Repository, Tag, media_type};

/// A clock that stands still until it is moved.
#[derive(Debug)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A registry in a directory that goes with it.
pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    clock: Arc<TestClock>,
    registry: Option<Registry>,
}

impl Place {
    pub(super) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let mut place = Self { dir, clock: Arc::new(TestClock(AtomicU64::new(1_000_000))), registry: None };
        place.open();
        place
    }

    fn open(&mut self) {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let content = Content::open(&self.dir.path().join("content"), Options { quota: None, reserve: 0 }, Arc::clone(&clock));
        self.registry = Some(Registry::open(&self.dir.path().join("registry.redb"), content.unwrap(), clock).unwrap());
    }

    /// Ends without closing, as a killed process does, and opens again.
    pub(super) fn crash(&mut self) {
        self.registry = None;
        self.open();
    }

    pub(super) fn advance(&self, time: Duration) {
        self.clock.0.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// Drops all that nothing keeps.
    pub(super) fn collect(&self) -> u64 {
        self.content().gc_all().unwrap().dropped
    }

    fn push_blob(&self, repository: &Repository, bytes: &[u8]) -> Digest {
        let digest = sha256(bytes);
        self.push_as(repository, bytes, &digest).unwrap();
        digest
    }

    fn push_as(&self, repository: &Repository, bytes: &[u8], digest: &Digest) -> Result<Held, RegistryError> {
        let id = self.begin_upload(repository).unwrap();
        let mut at = 0;
        for piece in bytes.chunks(70_000) {
            at = self.append_upload(repository, &id, at, piece).unwrap();
        }
        self.finish_upload(repository, &id, digest)
    }

    /// Pushes an image of a configuration and a layer; what was put, and the layer.
    fn push_image(&self, repository: &Repository, reference: &str, seed: u64) -> (Put, Digest) {
        let (config, layer) = (bytes(seed, 100), bytes(seed + 1000, 200_000));
        let manifest = image(&[(self.push_blob(repository, &config), 100), (self.push_blob(repository, &layer), 200_000)], None);
        (self.put(repository, reference, &manifest).unwrap(), sha256(&layer))
    }

    fn put(&self, repository: &Repository, reference: &str, manifest: &str) -> Result<Put, RegistryError> {
        self.put_manifest(repository, &reference.parse().unwrap(), None, manifest.as_bytes())
    }
}

impl Deref for Place {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        self.registry.as_ref().expect("it is open")
    }
}

/// Bytes that do not repeat.
fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::Sha256(Sha256Digest::from_bytes(Sha256::digest(bytes).into()))
}

fn sha512(bytes: &[u8]) -> Digest {
    Digest::Sha512(Sha512::digest(bytes).into())
}

pub(super) fn repository(name: &str) -> Repository {
    name.parse().unwrap()
}

pub(super) fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn by_tag(name: &str) -> Reference {
    Reference::Tag(tag(name))
}

fn descriptor(media_type: &str, digest: &Digest, size: usize) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

/// A manifest of a configuration and layers.
fn image(parts: &[(Digest, usize)], subject: Option<(Digest, usize)>) -> String {
    let part = |kind, (digest, size): &(Digest, usize)| descriptor(kind, digest, *size);
    let layers: Vec<_> = parts[1..].iter().map(|layer| part(media_type::OCI_LAYER, layer)).collect();
    let subject =
        subject.map(|subject| format!(r#","subject":{}"#, part(media_type::OCI_MANIFEST, &subject))).unwrap_or_default();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]{subject},"annotations":{{"a":"b"}}}}"#,
        media_type::OCI_MANIFEST,
        part(media_type::OCI_CONFIG, &parts[0]),
        layers.join(",")
    )
}

fn index(manifests: &[(Digest, usize)]) -> String {
    let list: Vec<_> = manifests.iter().map(|(digest, size)| descriptor(media_type::OCI_MANIFEST, digest, *size)).collect();
    format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#, media_type::OCI_INDEX, list.join(","))
}
