//! What stays and what goes: pins with their reasons, and the collection of what has none.
//!
//! The index forgets a blob before its files go, so that a crash in between leaves an orphan and never a row without bytes.
//! What is pinned, open, or being assembled never goes.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

use redb::ReadableTable;

use super::index::{self, BLOBS, PINS, REASONS, Row};
use super::{Content, ContentError, Inner, layout, lock};
use crate::fault;
use crate::model::{BlobHash, DistributionId, Timestamp, decode_whole, encode};

/// Why blobs are kept.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Pin {
    /// A distribution needs them.
    #[n(0)]
    Distribution(#[n(0)] DistributionId, #[n(1)] PinRole),
    /// A user said so, under this name.
    #[n(1)]
    User(#[n(0)] String),
    /// Somebody needs them for a while: it ends by itself. The name alone tells one lease from another.
    #[n(2)]
    Lease {
        /// Whose lease it is.
        #[n(0)]
        name: String,
        /// When it ends. Pinning again moves it.
        #[n(1)]
        until: Timestamp,
    },
    /// Stock clients of iroh-blobs may have them: the blob of this hash, or a collection and all that it names.
    #[n(3)]
    Stock(#[n(0)] BlobHash),
    /// A repository of the registry has this manifest, which needs them.
    #[n(4)]
    Package {
        /// The repository's name.
        #[n(0)]
        repository: String,
        /// The manifest's digest.
        #[n(1)]
        digest: String,
    },
}

/// What this node is to the distribution that it keeps blobs for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum PinRole {
    /// It sends them.
    #[n(0)]
    Sender,
    /// It is meant to have them.
    #[n(1)]
    Target,
    /// It holds them for others.
    #[n(2)]
    Carrier,
}

impl Pin {
    /// What the index calls the reason, and when it ends.
    pub(super) fn key(&self) -> (Vec<u8>, u64) {
        match self {
            Self::Lease { name, until } => {
                (encode(&Self::Lease { name: name.clone(), until: Timestamp::default() }), until.as_millis())
            }
            _ => (encode(self), u64::MAX),
        }
    }

    pub(super) fn from_key(key: &[u8], until: u64) -> Result<Self, ContentError> {
        let pin = decode_whole(key).map_err(|error| redb::StorageError::Corrupted(format!("reason of a pin: {error}")))?;
        Ok(match pin {
            Self::Lease { name, .. } => Self::Lease { name, until: Timestamp::from_millis(until) },
            pin => pin,
        })
    }
}

/// What a collection did.
#[derive(Debug, Default)]
pub struct GcReport {
    /// Blobs and assemblies that were dropped.
    pub dropped: u64,
    /// Their bytes.
    pub freed: u64,
    /// What could not be removed, and why; it did not keep the rest from going.
    pub failures: Vec<(BlobHash, ContentError)>,
}

/// What was collected since the store was opened, by all collections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs and assemblies that were dropped.
    pub dropped: u64,
    /// Their bytes.
    pub freed: u64,
    /// How often something could not be removed.
    pub failures: u64,
}

impl Collected {
    fn add(&mut self, report: &GcReport) {
        self.dropped += report.dropped;
        self.freed += report.freed;
        self.failures += report.failures.len() as u64;
    }
}

/// The index keeps the pages of what it forgets, to use them again; above this many bytes it gives them back.
const COMPACT_BYTES: u64 = 8 * 1024 * 1024;
/// How long a collection waits for who takes blobs in.
const GC_PATIENCE: Duration = Duration::from_secs(30);
/// How often it looks.
const GC_LOOK_INTERVAL: Duration = Duration::from_millis(20);
pub(super) const ALL_HASHES: (&[u8; 32], &[u8; 32]) = (&[0; 32], &[0xff; 32]);

impl Content {
    /// No collection happens while the guard lives: for who takes blobs in first and knows only then why they are to be kept.
    pub fn keep_unpinned(&self) -> RwLockReadGuard<'_, ()> {
        self.0.unpinned.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps blobs for a reason, durably. They need not be here yet. Hashes are added to those that the reason has.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn pin(&self, reason: &Pin, hashes: &[BlobHash]) -> Result<(), ContentError> {
        let (key, until) = reason.key();
        self.0.index.write(|txn| {
            let mut pins = txn.open_table(PINS)?;
            if until != u64::MAX {
                let held: Vec<_> = pins
                    .range((key.as_slice(), ALL_HASHES.0)..=(key.as_slice(), ALL_HASHES.1))?
                    .map(|entry| Ok(*entry?.0.value().1))
                    .collect::<Result<_, ContentError>>()?;
                for hash in held {
                    pins.insert((key.as_slice(), &hash), until)?;
                }
            }
            let mut reasons = txn.open_table(REASONS)?;
            for hash in hashes {
                pins.insert((key.as_slice(), hash.as_bytes()), until)?;
                reasons.insert((hash.as_bytes(), key.as_slice()), ())?;
            }
            Ok(())
        })?;
        fault::point("content.pin");
        Ok(())
    }

    /// Ends a reason. What has no other one goes with the next collection that needs the space.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn unpin(&self, reason: &Pin) -> Result<(), ContentError> {
        let (key, _) = reason.key();
        self.0.index.write(|txn| {
            let mut reasons = txn.open_table(REASONS)?;
            let range = (key.as_slice(), ALL_HASHES.0)..=(key.as_slice(), ALL_HASHES.1);
            for entry in txn.open_table(PINS)?.extract_from_if(range, |_, _| true)? {
                let (pin, _) = entry?;
                let (key, hash) = pin.value();
                reasons.remove((hash, key))?;
            }
            Ok(())
        })
    }

    /// All reasons for which something is kept.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn pins(&self) -> Result<Vec<Pin>, ContentError> {
        self.0.index.read(|txn| {
            let table = txn.open_table(PINS)?;
            let mut pins: Vec<Pin> = Vec::new();
            let mut last = Vec::new();
            for entry in table.iter()? {
                let (key, until) = entry?;
                if pins.is_empty() || key.value().0 != last {
                    last = key.value().0.to_vec();
                    pins.push(Pin::from_key(&last, until.value())?);
                }
            }
            Ok(pins)
        })
    }

    /// Drops what is not pinned, oldest first, until the store is within its quota. Leases that have ended are forgotten.
    /// Does nothing while blobs are taken in that are about to be pinned: it is called again and again, and never waits.
    ///
    /// # Errors
    /// When the index cannot be read or written. A file that cannot be removed is in the report instead.
    pub fn gc(&self) -> Result<GcReport, ContentError> {
        let Some(quota) = self.0.options.quota else { return Ok(GcReport::default()) };
        let Ok(_nobody_ingests) = self.0.unpinned.try_write() else { return Ok(GcReport::default()) };
        let usage = self.usage()?;
        self.0.collect((usage.bytes + usage.assembly_bytes).saturating_sub(quota))
    }

    /// Drops all that is not pinned, after waiting a while for who holds [`Content::keep_unpinned`].
    ///
    /// # Errors
    /// `Busy` when somebody holds it for long; as [`Content::gc`].
    pub fn gc_all(&self) -> Result<GcReport, ContentError> {
        let _nobody_ingests = self.alone()?;
        self.0.collect(u64::MAX)
    }

    /// Nobody takes blobs in while the guard lives. Waits a while for who does.
    pub(super) fn alone(&self) -> Result<RwLockWriteGuard<'_, ()>, ContentError> {
        let since = Instant::now();
        loop {
            // Never waits in the lock itself: whoever wants to take blobs in would wait behind it.
            match self.0.unpinned.try_write() {
                Ok(nobody_ingests) => return Ok(nobody_ingests),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if since.elapsed() > GC_PATIENCE => return Err(ContentError::Busy),
                Err(TryLockError::WouldBlock) => std::thread::sleep(GC_LOOK_INTERVAL),
            }
        }
    }
}

/// Something that may go.
enum Candidate {
    Blob(Row),
    Assembly { size: u64 },
}

impl Inner {
    fn collect(&self, wanted: u64) -> Result<GcReport, ContentError> {
        let mut report = GcReport::default();
        if wanted == 0 {
            return Ok(report);
        }
        let names = lock(&self.names);
        let (blobs, assemblies) = self.index.write(|txn| {
            let pinned = self.pinned(txn)?;
            let mut bytes = 0;
            let (mut blobs, mut assemblies) = (Vec::new(), Vec::new());
            for (hash, candidate) in self.candidates(txn, &pinned)? {
                if bytes >= wanted {
                    break;
                }
                match candidate {
                    Candidate::Blob(row) => {
                        bytes += row.size;
                        index::forget(txn, &hash, &row)?;
                        blobs.push((hash, row));
                    }
                    Candidate::Assembly { size } => {
                        let taken = self.assembly_bytes(&hash, size);
                        bytes += taken;
                        assemblies.push((hash, size, taken));
                    }
                }
            }
            Ok((blobs, assemblies))
        })?;
        fault::point("content.delete.indexed");
        let inline: u64 = blobs.iter().map(|(_, row)| if row.inline { row.size } else { 0 }).sum();
        for (hash, row) in blobs {
            let removed = if row.inline { Ok(()) } else { self.remove_blob(&hash) };
            report.count(hash, row.size, removed.map(|()| true));
        }
        // An assembly is locked before names are, never after.
        drop(names);
        for (hash, size, bytes) in assemblies {
            report.count(hash, bytes, self.drop_idle_assembly(&hash, size));
        }
        if inline >= COMPACT_BYTES
            && let Err(error) = self.index.compact()
        {
            tracing::warn!(%error, "what was collected is gone, but the index keeps its pages");
        }
        lock(&self.collected).add(&report);
        Ok(report)
    }

    pub(super) fn remove_blob(&self, hash: &BlobHash) -> Result<(), ContentError> {
        let data = layout::remove(&self.layout.blob(hash));
        fault::point("content.delete.half");
        let rest = layout::remove(&self.layout.outboard(hash)).and(layout::remove(&self.layout.recipe(hash)));
        rest.and(data)
    }

    /// Forgets the leases that have ended, and reads what is pinned.
    fn pinned(&self, txn: &redb::WriteTransaction) -> Result<BTreeSet<BlobHash>, ContentError> {
        let now = self.clock.now().as_millis();
        let mut pins = txn.open_table(PINS)?;
        let mut reasons = txn.open_table(REASONS)?;
        for entry in pins.extract_if(|_, until| until <= now)? {
            let (pin, _) = entry?;
            let (key, hash) = pin.value();
            reasons.remove((hash, key))?;
        }
        pins.iter()?.map(|entry| Ok(BlobHash::from_bytes(*entry?.0.value().1))).collect()
    }

    /// What may go, oldest first.
    fn candidates(
        &self,
        txn: &redb::WriteTransaction,
        pinned: &BTreeSet<BlobHash>,
    ) -> Result<Vec<(BlobHash, Candidate)>, ContentError> {
        let readers = lock(&self.readers);
        let mut candidates = Vec::new();
        for entry in txn.open_table(BLOBS)?.iter()? {
            let (hash, row) = index::read_entry(entry?)?;
            if !pinned.contains(&hash) && !readers.contains_key(&hash) {
                candidates.push((row.added, hash, Candidate::Blob(row)));
            }
        }
        for (hash, size) in self.assemblies.names() {
            if !pinned.contains(&hash) && !self.assemblies.is_open(&hash, size) {
                let changed = layout::modified(&self.layout.assembly(&hash, size, layout::DATA));
                candidates.push((changed, hash, Candidate::Assembly { size }));
            }
        }
        candidates.sort_by_key(|(added, hash, _)| (*added, *hash));
        Ok(candidates.into_iter().map(|(_, hash, candidate)| (hash, candidate)).collect())
    }
}

impl GcReport {
    /// Counts what was removed, what failed, and not what somebody has begun to use again.
    fn count(&mut self, hash: BlobHash, bytes: u64, removed: Result<bool, ContentError>) {
        match removed {
            Ok(true) => {
                self.dropped += 1;
                self.freed += bytes;
            }
            Ok(false) => {}
            Err(error) => self.failures.push((hash, error)),
        }
    }
}
