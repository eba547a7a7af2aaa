//! What the store knows, in one redb file: its blobs, the small ones with their bytes, their digests and their pins.
//!
//! A row says that a blob's bytes are durable: it is written after them and removed before them, never the other way round.

use std::path::Path;
use std::time::Duration;

use redb::{ReadableTable, TableDefinition};

use super::{ContentError, Ingested, RECIPE_SIZES};
use crate::database::Database;
use crate::model::{BlobHash, Sha256Digest, Timestamp, decode_whole, encode};

type Id<'a> = &'a [u8; 32];

/// Blob hash to [`Row`].
pub(super) const BLOBS: TableDefinition<'_, Id<'_>, &[u8]> = TableDefinition::new("blobs");
/// Blob hash to the bytes of a small blob.
pub(super) const INLINE: TableDefinition<'_, Id<'_>, &[u8]> = TableDefinition::new("inline");
/// SHA-256 to blob hash, for what was hashed here.
pub(super) const DIGESTS: TableDefinition<'_, Id<'_>, Id<'_>> = TableDefinition::new("digests");
/// (reason, blob hash) to the time at which the pin ends, in milliseconds since the Unix epoch.
pub(super) const PINS: TableDefinition<'_, (&[u8], Id<'_>), u64> = TableDefinition::new("pins");
/// (blob hash, reason): the pins the other way round, to tell for what a blob is kept.
pub(super) const REASONS: TableDefinition<'_, (Id<'_>, &[u8]), ()> = TableDefinition::new("reasons");
/// (time, blob hash) of what became whole within the last minute.
pub(super) const RECENT: TableDefinition<'_, (u64, Id<'_>), ()> = TableDefinition::new("recent");
/// (time, blob hash) of large blobs that are in no sketch yet, to their size.
pub(super) const UNSKETCHED: TableDefinition<'_, (u64, Id<'_>), u64> = TableDefinition::new("unsketched");
/// Blob hash to the hooks of a blob by which similar ones are found, as little-endian numbers.
pub(super) const SKETCHES: TableDefinition<'_, Id<'_>, &[u8]> = TableDefinition::new("sketches");
/// (hook, blob hash): the sketches the other way round.
pub(super) const HOOKS: TableDefinition<'_, (u64, Id<'_>), ()> = TableDefinition::new("hooks");
/// `format` and `in-use`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The version of everything that the store keeps on disk.
const FORMAT: u64 = 1;
/// How long what became whole is remembered, to be verified after an unclean end.
const RECENT_FOR: Duration = Duration::from_secs(60);
/// Memory for pages of the index.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// What the index says of a blob.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct Row {
    #[n(0)]
    pub(super) size: u64,
    #[n(1)]
    pub(super) sha256: Sha256Digest,
    /// When it became whole. Tells a blob from a later one of the same hash, too.
    #[n(2)]
    pub(super) added: Timestamp,
    /// Whether its bytes are in the index.
    #[n(3)]
    pub(super) inline: bool,
    /// Whether its bytes were found to be wrong.
    #[n(4)]
    pub(super) damaged: bool,
}

/// A row, and the bytes if they are there as it says.
pub(super) type Inline = (Row, Option<Vec<u8>>);

pub(super) fn decode_row(bytes: &[u8]) -> Result<Row, ContentError> {
    decode_whole(bytes).map_err(|error| redb::StorageError::Corrupted(format!("row of a blob: {error}")).into())
}

/// The index.
pub(super) struct Index(Database);

impl Index {
    /// Opens the index, and says whether the last user did not close it.
    pub(super) fn open(path: &Path, dir: &Path) -> Result<(Self, bool), ContentError> {
        let index = Self(Database::open(path, CACHE_BYTES)?);
        let unclean = index.write(|txn| {
            txn.open_table(BLOBS)?;
            txn.open_table(INLINE)?;
            txn.open_table(DIGESTS)?;
            txn.open_table(PINS)?;
            txn.open_table(REASONS)?;
            txn.open_table(RECENT)?;
            txn.open_table(UNSKETCHED)?;
            txn.open_table(SKETCHES)?;
            txn.open_table(HOOKS)?;
            let mut meta = txn.open_table(META)?;
            let format = meta.insert("format", FORMAT)?.map(|value| value.value());
            if let Some(format) = format.filter(|format| *format != FORMAT) {
                return Err(ContentError::UnknownFormat { dir: dir.to_owned(), format });
            }
            let in_use = meta.insert("in-use", 1)?.is_some_and(|value| value.value() == 1);
            Ok(in_use)
        })?;
        Ok((index, unclean))
    }

    pub(super) fn read<T>(&self, f: impl FnOnce(&redb::ReadTransaction) -> Result<T, ContentError>) -> Result<T, ContentError> {
        self.0.read(f)
    }

    /// Runs `f` in a transaction that is durable when this returns; an error leaves everything as it was.
    pub(super) fn write<T>(&self, f: impl FnOnce(&redb::WriteTransaction) -> Result<T, ContentError>) -> Result<T, ContentError> {
        self.0.commit(f)
    }

    /// Pretends that an I/O error came up.
    #[cfg(test)]
    pub(super) fn fail(&self) {
        let failed: Result<(), _> = self.write(|_| Err(redb::StorageError::Io(std::io::ErrorKind::StorageFull.into()).into()));
        assert_eq!(failed.unwrap_err().kind(), crate::ErrorKind::NoSpace);
    }

    /// Pretends that another version wrote the store.
    #[cfg(test)]
    pub(super) fn set_format(&self, format: u64) -> Result<(), ContentError> {
        self.write(|txn| {
            txn.open_table(META)?.insert("format", format)?;
            Ok(())
        })
    }

    pub(super) fn close(&self) -> Result<(), ContentError> {
        self.write(|txn| {
            txn.open_table(META)?.insert("in-use", 0)?;
            txn.open_table(RECENT)?.retain(|_, ()| false)?;
            Ok(())
        })?;
        self.0.close();
        Ok(())
    }

    /// Gives the pages of what was forgotten back to the file system.
    pub(super) fn compact(&self) -> Result<(), ContentError> {
        Ok(self.0.compact()?)
    }

    pub(super) fn row(&self, hash: &BlobHash) -> Result<Option<Row>, ContentError> {
        self.read(|txn| txn.open_table(BLOBS)?.get(hash.as_bytes())?.map(|row| decode_row(row.value())).transpose())
    }

    pub(super) fn inline(&self, hash: &BlobHash) -> Result<Option<Vec<u8>>, ContentError> {
        self.read(|txn| Ok(txn.open_table(INLINE)?.get(hash.as_bytes())?.map(|bytes| bytes.value().to_vec())))
    }

    /// The rows of these blobs and, of those that are in the index, the bytes: in their order, until `more`, which hears of the
    /// length of each, says that it is enough. Of one that is not here there is nothing; of one that is a file neither.
    pub(super) fn inline_of(
        &self,
        hashes: &[BlobHash],
        more: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Vec<Option<Inline>>, ContentError> {
        self.read(|txn| {
            let (rows, inline) = (txn.open_table(BLOBS)?, txn.open_table(INLINE)?);
            let mut found = Vec::new();
            for hash in hashes {
                let row = rows.get(hash.as_bytes())?.map(|row| decode_row(row.value())).transpose()?;
                let Some(row) = row.filter(|row| row.inline) else {
                    found.push(None);
                    continue;
                };
                let bytes = inline.get(hash.as_bytes())?.map(|bytes| bytes.value().to_vec());
                let length = bytes.as_ref().map_or(0, Vec::len);
                found.push(Some((row, bytes)));
                if !more(length) {
                    break;
                }
            }
            Ok(found)
        })
    }

    pub(super) fn digest(&self, sha256: &Sha256Digest) -> Result<Option<BlobHash>, ContentError> {
        self.read(|txn| Ok(txn.open_table(DIGESTS)?.get(sha256.as_bytes())?.map(|hash| BlobHash::from_bytes(*hash.value()))))
    }

    /// Up to `limit` blobs behind `after`, in the order of their hashes.
    pub(super) fn page(&self, after: Option<BlobHash>, limit: usize) -> Result<Vec<(BlobHash, Row)>, ContentError> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.read(|txn| {
            let table = txn.open_table(BLOBS)?;
            let start = after.as_ref().map_or(Unbounded, |hash| Excluded(hash.as_bytes()));
            table.range::<Id<'_>>((start, Unbounded))?.take(limit).map(|entry| read_entry(entry?)).collect()
        })
    }

    /// What became whole shortly before the last use ended.
    pub(super) fn recent(&self) -> Result<Vec<BlobHash>, ContentError> {
        self.read(|txn| {
            let table = txn.open_table(RECENT)?;
            table.iter()?.map(|entry| Ok(BlobHash::from_bytes(*entry?.0.value().1))).collect()
        })
    }

    /// Sets or takes away the mark of damage, if the blob is still the one that was `added` then. Says whether it is.
    pub(super) fn mark(&self, hash: &BlobHash, added: Timestamp, damaged: bool) -> Result<bool, ContentError> {
        self.write(|txn| {
            let mut blobs = txn.open_table(BLOBS)?;
            let row = blobs.get(hash.as_bytes())?.map(|row| decode_row(row.value())).transpose()?;
            let Some(row) = row.filter(|row| row.added == added) else { return Ok(false) };
            blobs.insert(hash.as_bytes(), encode(&Row { damaged, ..row }).as_slice())?;
            Ok(true)
        })
    }
}

pub(super) type Entry<'a> = (redb::AccessGuard<'a, Id<'static>>, redb::AccessGuard<'a, &'static [u8]>);

pub(super) fn read_entry((hash, row): Entry<'_>) -> Result<(BlobHash, Row), ContentError> {
    Ok((BlobHash::from_bytes(*hash.value()), decode_row(row.value())?))
}

/// Writes the rows of blobs whose bytes are durable, and forgets what became whole longer ago.
pub(super) fn insert<'a>(
    txn: &redb::WriteTransaction,
    now: Timestamp,
    blobs: impl Iterator<Item = (Ingested, Option<&'a [u8]>)>,
) -> Result<(), ContentError> {
    let (mut rows, mut inline) = (txn.open_table(BLOBS)?, txn.open_table(INLINE)?);
    let (mut digests, mut recent) = (txn.open_table(DIGESTS)?, txn.open_table(RECENT)?);
    let (mut unsketched, sketches) = (txn.open_table(UNSKETCHED)?, txn.open_table(SKETCHES)?);
    for (blob, bytes) in blobs {
        let hash = blob.hash.as_bytes();
        let row = Row { size: blob.size, sha256: blob.sha256, added: now, inline: bytes.is_some(), damaged: false };
        rows.insert(hash, encode(&row).as_slice())?;
        digests.insert(blob.sha256.as_bytes(), hash)?;
        recent.insert((now.as_millis(), hash), ())?;
        if RECIPE_SIZES.contains(&blob.size) && sketches.get(hash)?.is_none() {
            unsketched.insert((now.as_millis(), hash), blob.size)?;
        }
        if let Some(bytes) = bytes {
            inline.insert(hash, bytes)?;
        }
    }
    let old = now.minus(RECENT_FOR).as_millis();
    recent.retain_in((0, &[0; 32])..(old, &[0; 32]), |_, ()| false)?;
    Ok(())
}

/// The reasons for which a blob is kept, as the keys of their pins; what has ended is among them.
pub(super) fn reasons_of(
    reasons: &impl ReadableTable<(Id<'static>, &'static [u8]), ()>,
    hash: &BlobHash,
) -> Result<Vec<Vec<u8>>, ContentError> {
    let mut keys = Vec::new();
    for entry in reasons.range((hash.as_bytes(), &[][..])..)? {
        let (key, _) = entry?;
        let (of, reason) = key.value();
        if of != hash.as_bytes() {
            break;
        }
        keys.push(reason.to_vec());
    }
    Ok(keys)
}

/// The same, each with the time at which it ends, in milliseconds since the Unix epoch.
pub(super) fn pins_of(
    pins: &impl ReadableTable<(&'static [u8], Id<'static>), u64>,
    reasons: &impl ReadableTable<(Id<'static>, &'static [u8]), ()>,
    hash: &BlobHash,
) -> Result<Vec<(Vec<u8>, u64)>, ContentError> {
    let until = |key: Vec<u8>| {
        let until = pins.get((key.as_slice(), hash.as_bytes()))?.map_or(0, |until| until.value());
        Ok((key, until))
    };
    reasons_of(reasons, hash)?.into_iter().map(until).collect()
}

/// Forgets a blob; its files are to be removed after the transaction.
pub(super) fn forget(txn: &redb::WriteTransaction, hash: &BlobHash, row: &Row) -> Result<(), ContentError> {
    txn.open_table(BLOBS)?.remove(hash.as_bytes())?;
    txn.open_table(INLINE)?.remove(hash.as_bytes())?;
    txn.open_table(DIGESTS)?.remove(row.sha256.as_bytes())?;
    txn.open_table(UNSKETCHED)?.remove((row.added.as_millis(), hash.as_bytes()))?;
    if let Some(sketch) = txn.open_table(SKETCHES)?.remove(hash.as_bytes())? {
        let mut hooks = txn.open_table(HOOKS)?;
        for hook in sketch.value().as_chunks::<8>().0 {
            hooks.remove((u64::from_le_bytes(*hook), hash.as_bytes()))?;
        }
    }
    Ok(())
}
