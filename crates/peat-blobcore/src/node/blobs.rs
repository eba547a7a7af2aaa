//! Single blobs of a node: taken in, given out, looked at, listed and removed. The store keeps them; this says for whom and why.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::send::entry;
use super::{Node, TAKEN_LIFETIME, blocking};
use crate::Error;
use crate::content::{BlobStatus, Content, Ingested, Listed, Pin, Release, Spooled};
use crate::exchange::{ExchangeError, Found, Outbox, Placed, export};
use crate::model::{BlobHash, EndpointId, Files, RelativePath, Sha256Digest};
use crate::oci::Digest;
use crate::registry::RegistryError;
use crate::replica::Replica;

/// Blobs that are looked at for one page, so that a filter that fits little ends the call all the same.
const MAX_LOOKED_AT: usize = 100_000;
/// Blobs that are read from the index at a time.
const LOOKED_AT_ONCE: usize = 1000;

/// Where a blob comes from.
#[derive(Debug)]
pub enum BlobSource {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Bytes that came as a stream: see [`Content::spool`].
    Spooled(Spooled),
    /// A regular file.
    File {
        /// The directory that it lies beneath.
        root: PathBuf,
        /// Where. A link is followed as far as it stays beneath the directory.
        path: RelativePath,
        /// Most bytes that it may have; `None` for any number.
        most: Option<u64>,
    },
}

/// A blob that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportedBlob {
    /// What it is.
    pub blob: Ingested,
    /// Whether all of it was in the store before.
    pub already_present: bool,
}

/// How much of a blob is here, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobDetails {
    /// Its hash.
    pub hash: BlobHash,
    /// How much of it is here.
    pub status: BlobStatus,
    /// Its size and digest, where all of it is or was here.
    pub listed: Option<Listed>,
    /// What keeps it.
    pub reasons: Vec<Pin>,
    /// The other nodes that have all of it, as far as they have said.
    pub holders: BTreeSet<EndpointId>,
}

/// Which blobs of the store are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobFilter {
    /// Only what comes after this one, in the order of the hashes.
    pub after: Option<BlobHash>,
    /// At most so many.
    pub most: usize,
    /// Only what is kept for a reason that is shown beginning so (see [`Pin`]).
    pub reason: Option<String>,
    /// Only what is damaged, or only what is not.
    pub damaged: Option<bool>,
}

/// Some blobs of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobPage {
    /// In the order of their hashes, each with what keeps it.
    pub blobs: Vec<(Listed, Vec<Pin>)>,
    /// Where to go on, if others may follow.
    pub next: Option<BlobHash>,
}

impl Node {
    /// Takes a blob into the store. It is kept for good as the user's under the name `pin`; without one it goes after
    /// [`TAKEN_LIFETIME`], unless it has become part of something.
    ///
    /// # Errors
    /// [`RegistryError::DigestDiffers`] when it is not what was `expected`, [`Error::NothingToSend`] when there is no such file,
    /// [`ExchangeError`] when it is too large or cannot be read, and what the store reports, a full disk among it. Nothing of it is
    /// in the store then that was not before.
    pub async fn import_blob(
        &self,
        source: BlobSource,
        expected: Option<Sha256Digest>,
        pin: Option<String>,
    ) -> Result<ImportedBlob, Error> {
        let (job, until) = (self.job(), self.clock.now().plus(TAKEN_LIFETIME));
        let name = format!("taken in {}", self.next_bundle());
        blocking(move || {
            let content = &job.content;
            let _no_collection = content.keep_unpinned();
            let (blob, already_present) = match source {
                BlobSource::File { root, path, most } => take_file(content, &root, &path, most, expected)?,
                BlobSource::Bytes(bytes) => {
                    let mut spool = content.spool()?;
                    spool.write(&bytes)?;
                    take_spooled(content, spool.end(), expected)?
                }
                BlobSource::Spooled(spooled) => take_spooled(content, spooled, expected)?,
            };
            content.pin(&pin.map_or(Pin::Lease { name, until }, Pin::User), &[blob.hash])?;
            Ok(ImportedBlob { blob, already_present })
        })
        .await?
    }

    /// Keeps blobs for good as the user's under this name.
    ///
    /// # Errors
    /// When the store's index cannot be written.
    pub async fn keep_blobs(&self, name: String, hashes: Vec<BlobHash>) -> Result<(), Error> {
        let content = self.content.clone();
        blocking(move || Ok(content.pin(&Pin::User(name), &hashes)?)).await?
    }

    /// The blob with a digest, by what was hashed here: digests by SHA-256 alone are known.
    ///
    /// # Errors
    /// When the store's index cannot be read.
    pub async fn blob_of(&self, digest: Sha256Digest) -> Result<Option<BlobHash>, Error> {
        let content = self.content.clone();
        blocking(move || Ok(content.digest(&digest)?)).await?
    }

    /// Writes a blob into a file beneath a root, which is there whole and durable or not at all, and gives the bytes that were
    /// written. See [`exchange::export`](crate::exchange::export).
    ///
    /// # Errors
    /// As there.
    pub async fn export_blob(&self, hash: BlobHash, root: PathBuf, path: RelativePath) -> Result<(Placed, u64), Error> {
        let content = self.content.clone();
        blocking(move || {
            let size = content.open_blob(&hash)?.size();
            let placed = export(&content, &hash, &root, &path)?;
            Ok((placed, if placed == Placed::Present { 0 } else { size }))
        })
        .await?
    }

    /// How much of a blob is here, what keeps it, and who else has it.
    ///
    /// # Errors
    /// What the store and the replica report.
    pub async fn blob(&self, hash: BlobHash) -> Result<BlobDetails, Error> {
        let (content, replica, me) = (self.content.clone(), self.replica.clone(), self.id());
        blocking(move || {
            Ok(BlobDetails {
                hash,
                status: content.status(&hash)?,
                listed: content.listed(&hash)?,
                reasons: content.reasons(&hash)?,
                holders: holders(&replica, &hash, &me)?,
            })
        })
        .await?
    }

    /// What is whole, or damaged, in the store.
    ///
    /// # Errors
    /// When the store's index cannot be read.
    pub async fn blobs(&self, filter: BlobFilter) -> Result<BlobPage, Error> {
        let content = self.content.clone();
        blocking(move || page(&content, &filter)).await?
    }

    /// Removes a blob, or what there is of one that is not whole, if nothing keeps it but what is given up. Gives the bytes that
    /// were freed.
    ///
    /// # Errors
    /// Those of [`Content::remove`], what keeps it among them, or what the store fails with.
    pub async fn delete_blob(&self, hash: BlobHash, release: Release) -> Result<u64, Error> {
        let content = self.content.clone();
        blocking(move || Ok(content.remove(&hash, &release)?)).await?
    }
}

/// Takes a file in if it is what was expected; whether it was here before. The batch is dropped with what it was not.
fn take_file(
    content: &Content,
    root: &Path,
    path: &RelativePath,
    most: Option<u64>,
    expected: Option<Sha256Digest>,
) -> Result<(Ingested, bool), Error> {
    let none = |why: &dyn std::fmt::Display| Error::NothingToSend(format!("{path}: {why}"));
    let named = path.as_str().as_bytes();
    let found = match Outbox::open(root)?.paths(&[named]).next() {
        Some(Found::File(found)) if found.path == named => found,
        Some(Found::Skipped { path, reason }) if path == named => return Err(none(&reason)),
        _ => return Err(none(&"it is a directory, not a file")),
    };
    if let Some(most) = most.filter(|most| found.size > *most) {
        return Err(ExchangeError::TooLarge { path: path.to_string(), size: found.size, most }.into());
    }
    let mut batch = content.batch();
    let file = entry(&mut batch, &found, root, "")?;
    let blob = Ingested { hash: file.blob, sha256: file.sha256, size: file.size };
    check(expected, &blob)?;
    let is_old = content.holds(&blob.hash)?;
    batch.commit()?;
    Ok((blob, is_old))
}

/// Keeps what was spooled if it is what was expected; whether it was here before.
fn take_spooled(content: &Content, spooled: Spooled, expected: Option<Sha256Digest>) -> Result<(Ingested, bool), Error> {
    let hashed = content.hash_spooled(spooled)?;
    check(expected, &hashed.blob())?;
    let is_old = content.holds(&hashed.blob().hash)?;
    let mut batch = content.batch();
    let blob = batch.add_hashed(hashed)?;
    batch.commit()?;
    Ok((blob, is_old))
}

fn check(expected: Option<Sha256Digest>, blob: &Ingested) -> Result<(), Error> {
    match expected.filter(|expected| *expected != blob.sha256) {
        None => Ok(()),
        Some(claimed) => {
            let actual = Box::new(Digest::Sha256(blob.sha256));
            Err(RegistryError::DigestDiffers { claimed: Digest::Sha256(claimed), actual }.into())
        }
    }
}

/// Who says in a document that names the blob that they have all of that.
fn holders(replica: &Replica, hash: &BlobHash, me: &EndpointId) -> Result<BTreeSet<EndpointId>, Error> {
    let mut holders = BTreeSet::new();
    for id in replica.distributions() {
        // It may have been forgotten since.
        let Some(distribution) = replica.distribution(&id)? else { continue };
        let names = match &distribution.manifest.files {
            Files::Inline(files) => files.iter().any(|file| file.blob == *hash),
            Files::List { blob, .. } => blob == hash,
        };
        if names {
            let records = distribution.targets.iter().chain(&distribution.carriers);
            holders.extend(records.filter(|(_, record)| record.state.is_holder()).map(|(id, _)| *id));
            holders.insert(distribution.manifest.sender);
        }
    }
    holders.remove(me);
    Ok(holders)
}

fn page(content: &Content, filter: &BlobFilter) -> Result<BlobPage, Error> {
    let (mut blobs, mut after, mut looked_at) = (Vec::new(), filter.after, 0);
    loop {
        let some = content.list(after, LOOKED_AT_ONCE)?;
        let is_last = some.len() < LOOKED_AT_ONCE;
        for listed in some {
            after = Some(listed.hash);
            looked_at += 1;
            let reasons = content.reasons(&listed.hash)?;
            let begins = |prefix: &String| reasons.iter().any(|reason| reason.to_string().starts_with(prefix));
            let is_damaged = listed.status == BlobStatus::Damaged;
            if filter.reason.as_ref().is_none_or(begins) && filter.damaged.is_none_or(|damaged| damaged == is_damaged) {
                blobs.push((listed, reasons));
            }
            if blobs.len() >= filter.most || looked_at == MAX_LOOKED_AT {
                return Ok(BlobPage { blobs, next: after });
            }
        }
        if is_last {
            return Ok(BlobPage { blobs, next: None });
        }
    }
}
