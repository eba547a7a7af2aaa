//! What is here, in one redb file: manifests, tags and blobs of each repository, who is about whom, and what was deleted.
//!
//! A row of a manifest is written after its pin and removed before it, so that a crash in between leaves a pin too many and never
//! a manifest whose blobs may go. Rows of blobs promise nothing: the store is asked whether it has the bytes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::RegistryError;
use crate::database::Database;
use crate::model::{BlobHash, Timestamp, decode_whole, encode};
use crate::oci::{Digest, Repository, Tag};

type Table<'a> = TableDefinition<'a, (&'static str, &'static str), &'static [u8]>;

/// (repository, digest) to [`ManifestRow`].
pub(super) const MANIFESTS: Table<'_> = TableDefinition::new("manifests v1");
/// (repository, tag) to [`TagRow`].
pub(super) const TAGS: Table<'_> = TableDefinition::new("tags v1");
/// (repository, digest) to [`BlobRow`].
pub(super) const BLOBS: Table<'_> = TableDefinition::new("blobs v1");
/// (digest, repository): the blobs the other way round, to find content by its digest whatever the repository.
pub(super) const DIGESTS: TableDefinition<'_, (&str, &str), ()> = TableDefinition::new("digests v1");
/// (repository, subject's digest, digest of the manifest about it) to [`ReferrerRow`].
pub(super) const REFERRERS: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("referrers v1");
/// (repository, digest or tag) to the time at which it was deleted here, in milliseconds since the Unix epoch.
pub(super) const BLOCKS: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("blocks v1");
/// (repository, tag) to [`LastKnownRow`].
pub(super) const LAST_KNOWN: Table<'_> = TableDefinition::new("last known v1");

/// Memory for pages of the catalog.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// A manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct ManifestRow {
    #[n(0)]
    pub(super) hash: BlobHash,
    #[n(1)]
    pub(super) size: u64,
    #[n(2)]
    pub(super) media_type: String,
    #[n(3)]
    pub(super) subject: Option<String>,
    #[n(4)]
    pub(super) put_at: Timestamp,
}

/// A blob of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct BlobRow {
    #[n(0)]
    pub(super) hash: BlobHash,
    #[n(1)]
    pub(super) size: u64,
}

/// What a tag points to.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct TagRow {
    #[n(0)]
    pub(super) digest: String,
    #[n(1)]
    pub(super) set_at: Timestamp,
}

/// What a tag of an upstream's was, when that was last asked.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct LastKnownRow {
    #[n(0)]
    pub(super) digest: String,
    #[n(1)]
    pub(super) media_type: String,
    #[n(2)]
    pub(super) size: u64,
    #[n(3)]
    pub(super) known_at: Timestamp,
}

/// What a list of referrers says of one.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct ReferrerRow {
    #[n(0)]
    pub(super) media_type: String,
    #[n(1)]
    pub(super) size: u64,
    #[n(2)]
    pub(super) artifact_type: Option<String>,
    #[n(3)]
    pub(super) annotations: BTreeMap<String, String>,
}

pub(super) fn decode<T: for<'b> minicbor::Decode<'b, ()>>(bytes: &[u8]) -> Result<T, RegistryError> {
    decode_whole(bytes).map_err(|error| corrupted(&error.to_string()))
}

fn corrupted(what: &str) -> RegistryError {
    redb::StorageError::Corrupted(format!("the catalog: {what}")).into()
}

/// Reads a digest that was written here.
pub(super) fn digest(text: &str) -> Result<Digest, RegistryError> {
    text.parse().map_err(|error: crate::oci::DigestError| corrupted(&error.to_string()))
}

/// Reads a repository's name that was written here.
pub(super) fn repository(text: &str) -> Result<Repository, RegistryError> {
    text.parse().map_err(|error: crate::oci::NameError| corrupted(&error.to_string()))
}

/// The catalog.
pub(super) struct Catalog(Database);

impl Catalog {
    pub(super) fn open(path: &Path) -> Result<Self, RegistryError> {
        let catalog = Self(Database::open(path, CACHE_BYTES)?);
        // Tables exist from here on, so that readers need not ask.
        catalog.write(|txn| {
            txn.open_table(MANIFESTS)?;
            txn.open_table(TAGS)?;
            txn.open_table(BLOBS)?;
            txn.open_table(DIGESTS)?;
            txn.open_table(REFERRERS)?;
            txn.open_table(BLOCKS)?;
            txn.open_table(LAST_KNOWN)?;
            Ok(())
        })?;
        Ok(catalog)
    }

    pub(super) fn close(&self) {
        self.0.close();
    }

    pub(super) fn read<T>(&self, f: impl FnOnce(&ReadTransaction) -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        self.0.read(f)
    }

    /// Runs `f` in a transaction that is durable when this returns; an error leaves everything as it was.
    pub(super) fn write<T>(&self, f: impl FnOnce(&WriteTransaction) -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        self.0.commit(f)
    }

    /// A row of one of the tables.
    pub(super) fn row<T: for<'b> minicbor::Decode<'b, ()>>(
        &self,
        table: Table<'_>,
        repository: &Repository,
        key: &str,
    ) -> Result<Option<T>, RegistryError> {
        self.read(|txn| txn.open_table(table)?.get((repository.as_str(), key))?.map(|row| decode(row.value())).transpose())
    }

    /// Whether this was deleted here, and not put since.
    pub(super) fn is_blocked(&self, repository: &Repository, key: &str) -> Result<bool, RegistryError> {
        self.read(|txn| Ok(txn.open_table(BLOCKS)?.get((repository.as_str(), key))?.is_some()))
    }

    /// Whether the repository has anything.
    pub(super) fn has_repository(&self, repository: &Repository) -> Result<bool, RegistryError> {
        let from = (repository.as_str(), "");
        self.read(|txn| {
            for table in [MANIFESTS, TAGS, BLOBS] {
                let table = txn.open_table(table)?;
                let first = table.range(from..)?.next().transpose()?;
                if first.is_some_and(|(key, _)| key.value().0 == repository.as_str()) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Names of repositories with manifests that come after `after`, in order, `most` at most. Costs a look-up each.
    pub(super) fn repositories(&self, after: &str, most: usize) -> Result<Vec<Repository>, RegistryError> {
        self.read(|txn| {
            let table = txn.open_table(MANIFESTS)?;
            let mut names: Vec<Repository> = Vec::new();
            // Nothing is between a name and the same with a zero behind it, and no name has one.
            let mut from = if after.is_empty() { String::new() } else { format!("{after}\0") };
            while names.len() < most {
                let Some(entry) = table.range((from.as_str(), "")..)?.next() else { break };
                let (key, _) = entry?;
                let name = repository(key.value().0)?;
                from = format!("{name}\0");
                names.push(name);
            }
            Ok(names)
        })
    }

    /// Tags of a repository that come after `after`, in order, `most` at most.
    pub(super) fn tags(&self, repository: &Repository, after: &str, most: usize) -> Result<Vec<Tag>, RegistryError> {
        self.read(|txn| {
            let table = txn.open_table(TAGS)?;
            let range = (Bound::Excluded((repository.as_str(), after)), Bound::Unbounded);
            let mut tags = Vec::new();
            for entry in table.range::<(&str, &str)>(range)?.take(most) {
                let (key, _) = entry?;
                let (owner, tag) = key.value();
                if owner != repository.as_str() {
                    break;
                }
                tags.push(tag.parse().map_err(|error: crate::oci::NameError| corrupted(&error.to_string()))?);
            }
            Ok(tags)
        })
    }

    /// Manifests about `subject` whose digests come after `after`, in order, `most` at most.
    pub(super) fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        after: &str,
        most: usize,
    ) -> Result<Vec<(Digest, ReferrerRow)>, RegistryError> {
        let subject = subject.to_string();
        self.read(|txn| {
            let table = txn.open_table(REFERRERS)?;
            let range = (Bound::Excluded((repository.as_str(), subject.as_str(), after)), Bound::Unbounded);
            let mut found = Vec::new();
            for entry in table.range::<(&str, &str, &str)>(range)?.take(most) {
                let (key, row) = entry?;
                let (owner, about, by) = key.value();
                if (owner, about) != (repository.as_str(), subject.as_str()) {
                    break;
                }
                found.push((digest(by)?, decode(row.value())?));
            }
            Ok(found)
        })
    }

    /// All manifests, with their repositories.
    pub(super) fn manifests(&self) -> Result<Vec<(Repository, Digest, ManifestRow)>, RegistryError> {
        self.read(|txn| {
            let table = txn.open_table(MANIFESTS)?;
            table
                .iter()?
                .map(|entry| {
                    let (key, row) = entry?;
                    let (owner, name) = key.value();
                    Ok((repository(owner)?, digest(name)?, decode(row.value())?))
                })
                .collect()
        })
    }
}

/// Puts a blob into a repository, and ends its block.
pub(super) fn insert_blob(
    txn: &WriteTransaction,
    repository: &Repository,
    digest: &Digest,
    row: BlobRow,
) -> Result<(), RegistryError> {
    let (repository, digest) = (repository.as_str(), digest.to_string());
    txn.open_table(BLOBS)?.insert((repository, digest.as_str()), encode(&row).as_slice())?;
    txn.open_table(DIGESTS)?.insert((digest.as_str(), repository), ())?;
    txn.open_table(BLOCKS)?.remove((repository, digest.as_str()))?;
    Ok(())
}

/// Takes a blob out of a repository; whether it was there.
pub(super) fn remove_blob(txn: &WriteTransaction, repository: &Repository, digest: &Digest) -> Result<bool, RegistryError> {
    let (repository, digest) = (repository.as_str(), digest.to_string());
    txn.open_table(DIGESTS)?.remove((digest.as_str(), repository))?;
    let removed = txn.open_table(BLOBS)?.remove((repository, digest.as_str()))?.is_some();
    Ok(removed)
}

/// Notes that something was deleted here.
pub(super) fn block(txn: &WriteTransaction, repository: &Repository, key: &str, now: Timestamp) -> Result<(), RegistryError> {
    txn.open_table(BLOCKS)?.insert((repository.as_str(), key), now.as_millis())?;
    Ok(())
}
