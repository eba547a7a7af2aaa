//! What others say of packages: which digests a repository has, and by which BLAKE3 hash their bytes would be found. A claim is
//! believed for nothing but where to look: bytes are held against the digest when they have come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::document::Distribution;
use crate::model::{BlobHash, DistributionId, EndpointId, FileEntry, Files};
use crate::oci::{Descriptor, Digest, Repository};

/// Packages that are looked at for one blob: anybody can speak of it in as many as he likes.
const MAX_PACKAGES_ASKED: usize = 16;
/// Blobs of one importer's packages that are remembered: some fifty MiB.
const MAX_BLOBS_OF_IMPORTER: usize = 200_000;
/// Longest media type that is believed (RFC 6838, section 4.2: two names of 127 characters).
const MAX_MEDIA_TYPE_BYTES: usize = 255;

/// What is claimed, shared between who hears of it and who asks.
#[derive(Debug, Clone, Default)]
pub struct Claims(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    packages: BTreeMap<DistributionId, Claimed>,
    repositories: BTreeMap<Repository, BTreeSet<DistributionId>>,
    blobs: BTreeMap<BlobHash, BTreeSet<DistributionId>>,
    /// How many blobs the packages of each importer have.
    importers: BTreeMap<EndpointId, usize>,
}

/// A package as its importer described it.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Who says so.
    pub importer: EndpointId,
    /// The repository that it belongs to.
    pub repository: Repository,
    /// Its manifest.
    pub digest: Digest,
    /// The manifest that it is about.
    pub subject: Option<Digest>,
    /// What kind of artifact it is, where it is about another.
    pub artifact_type: Option<String>,
    /// Its closure.
    pub blobs: BTreeMap<Digest, ClaimedBlob>,
}

/// A blob of a package as its importer described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedBlob {
    /// What its bytes hash to, by BLAKE3.
    pub hash: BlobHash,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

/// A claim that answers a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The package that has it.
    pub distribution: DistributionId,
    /// Who says so.
    pub importer: EndpointId,
    /// What is said.
    pub blob: ClaimedBlob,
}

impl Claims {
    /// Takes note of a distribution; nothing if it is no package, or if it does not count any more.
    pub(crate) fn learn(&self, distribution: &Distribution) {
        // What a manifest says does not change.
        if distribution.cancelled.is_none() && self.known().packages.contains_key(&distribution.id) {
            return;
        }
        let claimed = if distribution.cancelled.is_some() { None } else { read(distribution) };
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.forget(&distribution.id);
        let Some(claimed) = claimed else { return };
        let blobs = known.importers.entry(claimed.importer).or_default();
        if *blobs + claimed.blobs.len() > MAX_BLOBS_OF_IMPORTER {
            tracing::warn!(importer = %claimed.importer, digest = %claimed.digest, "a node tells of too many packages: passed over");
            return;
        }
        *blobs += claimed.blobs.len();
        for blob in claimed.blobs.values() {
            known.blobs.entry(blob.hash).or_default().insert(distribution.id);
        }
        known.repositories.entry(claimed.repository.clone()).or_default().insert(distribution.id);
        known.packages.insert(distribution.id, claimed);
    }

    /// A distribution is not known any more.
    pub(crate) fn forget(&self, id: &DistributionId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).forget(id);
    }

    /// Some of the packages that are said to have a blob, each with the place that it would have in a repository.
    pub(crate) fn packages_of(&self, blob: &BlobHash) -> Vec<(DistributionId, Repository, Digest)> {
        let known = self.known();
        let ids = known.blobs.get(blob).into_iter().flatten().take(MAX_PACKAGES_ASKED);
        let places = ids.filter_map(|id| Some((*id, known.packages.get(id)?))).flat_map(|(id, package)| {
            let digests = package.blobs.iter().filter(|(_, claimed)| claimed.hash == *blob);
            digests.map(move |(digest, _)| (id, package.repository.clone(), *digest))
        });
        places.collect()
    }

    /// Who says what of a digest in a repository.
    #[must_use]
    pub fn of(&self, repository: &Repository, digest: &Digest) -> Vec<Claim> {
        let known = self.known();
        let ids = known.repositories.get(repository).into_iter().flatten();
        let claim = |id: &DistributionId| {
            let package = known.packages.get(id)?;
            let blob = package.blobs.get(digest)?.clone();
            Some(Claim { distribution: *id, importer: package.importer, blob })
        };
        ids.filter_map(claim).collect()
    }

    /// The package whose manifest this is, by whoever says so.
    #[must_use]
    pub fn packages(&self, repository: &Repository, digest: &Digest) -> Vec<(DistributionId, Claimed)> {
        let known = self.known();
        let ids = known.repositories.get(repository).into_iter().flatten();
        let found = ids.filter_map(|id| Some((*id, known.packages.get(id)?)));
        found.filter(|(_, package)| package.digest == *digest).map(|(id, package)| (id, package.clone())).collect()
    }

    /// Whether a distribution is a package that is known.
    pub(crate) fn knows(&self, id: &DistributionId) -> bool {
        self.known().packages.contains_key(id)
    }

    /// Every package that is known.
    #[must_use]
    pub fn all(&self) -> Vec<(DistributionId, Claimed)> {
        self.known().packages.iter().map(|(id, package)| (*id, package.clone())).collect()
    }

    /// The packages that are about a manifest, as descriptors without annotations.
    #[must_use]
    pub fn referrers(&self, repository: &Repository, subject: &Digest) -> Vec<Descriptor> {
        let known = self.known();
        let packages = known.repositories.get(repository).into_iter().flatten().filter_map(|id| known.packages.get(id));
        let about = packages.filter(|package| package.subject.as_ref() == Some(subject));
        let describe = |package: &Claimed| {
            let blob = package.blobs.get(&package.digest)?;
            Some(Descriptor {
                media_type: blob.media_type.clone(),
                digest: package.digest,
                size: blob.size,
                platform: None,
                artifact_type: package.artifact_type.clone(),
                annotations: BTreeMap::new(),
                urls: Vec::new(),
            })
        };
        about.filter_map(describe).collect()
    }

    /// The repositories that others speak of.
    #[must_use]
    pub fn repositories(&self) -> Vec<Repository> {
        self.known().repositories.keys().cloned().collect()
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn forget(&mut self, id: &DistributionId) {
        let Some(package) = self.packages.remove(id) else { return };
        if let Some(blobs) = self.importers.get_mut(&package.importer) {
            *blobs -= package.blobs.len();
        }
        for blob in package.blobs.values() {
            remove_from(&mut self.blobs, &blob.hash, id);
        }
        remove_from(&mut self.repositories, &package.repository, id);
    }
}

fn remove_from<K: Ord>(map: &mut BTreeMap<K, BTreeSet<DistributionId>>, key: &K, id: &DistributionId) {
    if let Some(ids) = map.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}

/// Reads what a distribution says of a package. What has too many blobs for a manifest is not found by digest: its list of them
/// comes as a blob, to those whom it is meant for.
pub(crate) fn read(distribution: &Distribution) -> Option<Claimed> {
    let package = distribution.manifest.package.as_ref()?;
    let Files::Inline(files) = &distribution.manifest.files else { return None };
    let blobs: BTreeMap<_, _> = files.iter().filter_map(blob).collect();
    let digest = package.digest.parse().ok()?;
    let repository = package.repository.parse().ok()?;
    let importer = distribution.manifest.sender;
    let subject = package.subject.as_ref().and_then(|subject| subject.parse().ok());
    let artifact_type = package.artifact_type.clone();
    blobs.contains_key(&digest).then_some(Claimed { importer, repository, digest, subject, artifact_type, blobs })
}

/// A file of a package: its path is its digest, and where that is by SHA-256 the entry must say the same.
pub(crate) fn blob(file: &FileEntry) -> Option<(Digest, ClaimedBlob)> {
    let digest: Digest = std::str::from_utf8(&file.path).ok()?.parse().ok()?;
    if digest.sha256().is_some_and(|sha256| sha256 != file.sha256) {
        return None;
    }
    let known = file.content_type.clone().filter(|kind| kind.len() <= MAX_MEDIA_TYPE_BYTES);
    let media_type = known.unwrap_or_else(|| crate::oci::media_type::OCTET_STREAM.to_owned());
    Some((digest, ClaimedBlob { hash: file.blob, size: file.size, media_type }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{Carry, Manifest, Package, Priority, Scope, Sha256Digest, Timestamp};

    fn file(byte: u8) -> FileEntry {
        let sha256 = Sha256Digest::from_bytes([byte; 32]);
        FileEntry {
            root: String::new(),
            path: Digest::from(sha256).to_string().into_bytes(),
            size: 7,
            blob: BlobHash::from_bytes([byte; 32]),
            sha256,
            mode: 0,
            mtime: 0,
            content_type: Some("a/b".into()),
            display_name: None,
        }
    }

    fn package(id: u8, repository: &str, files: Vec<FileEntry>) -> Distribution {
        let digest = Digest::from(Sha256Digest::from_bytes([1; 32])).to_string();
        Distribution {
            id: DistributionId::from_bytes([id; 32]),
            manifest: Manifest {
                sender: EndpointId::from_bytes([9; 32]),
                bundle: String::new(),
                files: Files::Inline(files),
                scope: Scope::Nodes(Vec::new().into_iter().collect()),
                priority: Priority::Routine,
                made_at: Timestamp::from_millis(1),
                expiry: Timestamp::from_millis(2),
                carry: Carry::Members,
                together: true,
                package: Some(Package { repository: repository.into(), digest, subject: None, artifact_type: None }),
                removes: false,
            },
            targets: BTreeMap::new(),
            carriers: BTreeMap::new(),
            roster: None,
            cancelled: None,
        }
    }

    #[test]
    fn a_digest_is_found_in_the_repository_that_has_it_and_in_no_other() {
        let claims = Claims::default();
        claims.learn(&package(1, "a/b", vec![file(1), file(2)]));
        claims.learn(&package(2, "c", vec![file(1), file(3)]));
        let (ab, c): (Repository, Repository) = ("a/b".parse().expect("a name"), "c".parse().expect("a name"));
        let digest = |byte| Digest::from(Sha256Digest::from_bytes([byte; 32]));
        assert_eq!(claims.of(&ab, &digest(2)).len(), 1);
        assert_eq!(claims.of(&c, &digest(2)), []);
        assert_eq!(claims.packages(&c, &digest(1)).len(), 1);
        assert_eq!(claims.packages(&c, &digest(3)).len(), 0, "a layer is no package");
        assert_eq!(claims.packages_of(&BlobHash::from_bytes([1; 32])).len(), 2);
        let mut cancelled = package(1, "a/b", vec![file(1), file(2)]);
        cancelled.cancelled = Some(Timestamp::from_millis(1));
        claims.learn(&cancelled);
        assert_eq!(claims.of(&ab, &digest(2)), []);
        assert_eq!(claims.repositories(), std::slice::from_ref(&c));
        claims.forget(&DistributionId::from_bytes([2; 32]));
        assert!(claims.all().is_empty() && claims.packages_of(&BlobHash::from_bytes([1; 32])).is_empty());
    }

    #[test]
    fn an_importer_is_believed_in_so_many_blobs_and_no_more() {
        let claims = Claims::default();
        let full = |id: u64| {
            let name = |at: u64| {
                let mut bytes = [0; 32];
                bytes[..8].copy_from_slice(&(id * 256 + at).to_le_bytes());
                Sha256Digest::from_bytes(bytes)
            };
            let file = |at| {
                let sha256 = if at == 0 { Sha256Digest::from_bytes([1; 32]) } else { name(at) };
                FileEntry { path: Digest::from(sha256).to_string().into_bytes(), sha256, ..file(1) }
            };
            let mut full = package(1, "a", (0..256).map(file).collect());
            full.id = DistributionId::from_bytes(*name(0).as_bytes());
            full
        };
        let most = MAX_BLOBS_OF_IMPORTER as u64 / 256;
        (0..=most).for_each(|id| claims.learn(&full(id)));
        assert_eq!(claims.all().len() as u64, most);
        claims.forget(&full(0).id);
        claims.learn(&full(most));
        assert_eq!(claims.all().len() as u64, most, "what is forgotten makes room");
    }

    #[test]
    fn what_contradicts_itself_is_not_believed() {
        let claims = Claims::default();
        let mut lies = file(2);
        lies.sha256 = Sha256Digest::from_bytes([3; 32]);
        claims.learn(&package(1, "a", vec![file(1), lies]));
        assert_eq!(claims.all()[0].1.blobs.len(), 1);
        claims.learn(&package(2, "a", vec![file(2)]));
        claims.learn(&package(3, "A", vec![file(1)]));
        assert_eq!(claims.all().len(), 1, "its manifest is to be part of it, and its repository to have a name");
    }
}
