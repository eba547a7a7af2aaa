//! What this node's inbox got, for good: it outlives documents and restarts, and is nobody else's. Losing it costs only that
//! files are delivered again, equal ones skipped. One durable commit for each step of a batch.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata as _, TableDefinition, WriteTransaction};

use super::arrivals::{self, ARRIVED, Arrival};
use super::error::ExchangeError;
use super::gone::ROOTS;
use super::look::Print;
use super::name;
use super::sent::{SENDING, SENT};
use super::sidecar;
use crate::database::Database;
use crate::model::{BlobHash, DistributionId, EndpointId, Manifest, Timestamp, decode_whole, encode};

/// Path beneath the inbox to [`Record`].
pub(super) const DELIVERED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("delivered v1");
/// Path as a sender names it to the greatest made-at that this node gave it. The path without a byte stands for those that were forgotten.
pub(super) const STAMPED: TableDefinition<'_, &[u8], u64> = TableDefinition::new("stamped v1");
/// No file has it.
pub(super) const FORGOTTEN: &[u8] = b"";
/// Number of a temporary file to [`Pending`]: what an unfinished batch has on disk.
const PENDING: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("pending v1");
/// The one [`BatchState`], while a batch is unfinished.
const BATCH: TableDefinition<'_, (), &[u8]> = TableDefinition::new("batch v1");

/// Enough for the working set of a batch; redb would take up to 1 GiB.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// The last delivery under one path. A record without a file on disk says that the user removed it.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct Record {
    #[n(0)]
    pub(super) made_at: Timestamp,
    #[n(1)]
    pub(super) distribution: DistributionId,
    /// Tells two files of one distribution apart that have the same path: the later one wins.
    #[n(2)]
    pub(super) index: u32,
    #[n(3)]
    pub(super) blob: BlobHash,
    #[n(4)]
    pub(super) size: u64,
    #[n(5)]
    pub(super) sender: EndpointId,
    #[n(6)]
    pub(super) print: Option<Print>,
    /// Set where the file was not sent but is the sidecar of one that was.
    #[n(7)]
    pub(super) sidecar: Option<bool>,
    /// The latest expiry of the distributions that had to do with the path.
    #[n(8)]
    pub(super) expiry: Option<Timestamp>,
}

impl Record {
    /// From when on nothing that is older than this can come any more, as far as is known.
    pub(super) fn expiry(&self) -> Timestamp {
        self.expiry.unwrap_or_else(|| self.made_at.plus(Manifest::MAX_LIFETIME))
    }

    /// That nothing newer came than what had the file removed. No content is the one that it stands for: whatever lies under the
    /// path is the user's.
    pub(super) fn nothing(self) -> Self {
        Self { blob: BlobHash::from_bytes([0; 32]), size: u64::MAX, print: None, sidecar: None, ..self }
    }

    /// Whether it is such a one.
    pub(super) fn is_nothing(&self) -> bool {
        self.size == u64::MAX
    }

    /// What deliveries under one path are ordered by.
    pub(super) fn order(&self) -> (Timestamp, DistributionId, u32) {
        (self.made_at, self.distribution, self.index)
    }
}

/// A temporary file and what it is to become.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct Pending {
    #[n(0)]
    pub(super) path: String,
    #[n(1)]
    pub(super) record: Record,
    /// What is told of it once it is there, where somebody wants to know.
    #[n(2)]
    pub(super) arrival: Option<Arrival>,
}

/// How far the unfinished batch is.
#[derive(Debug, Clone, Copy, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct BatchState {
    /// When it began.
    #[n(0)]
    pub(super) began: Timestamp,
    /// Whether all its temporary files are whole and durable, so that it must be finished rather than undone.
    #[n(1)]
    pub(super) placing: bool,
}

/// A batch that was begun and not finished.
#[derive(Debug)]
pub(super) struct Unfinished {
    /// How far it is.
    pub(super) state: BatchState,
    /// Its temporary files, by number.
    pub(super) rows: Vec<(u64, Pending)>,
}

/// What this node's inbox got and what times it gave to what it sent. A handle: clones share the database.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Database>);

pub(super) fn parse<T: for<'b> minicbor::Decode<'b, ()>>(bytes: &[u8]) -> Result<T, ExchangeError> {
    decode_whole(bytes).map_err(|error| redb::StorageError::Corrupted(format!("a record is malformed: {error}")).into())
}

impl Ledger {
    /// Opens the ledger, or makes it.
    ///
    /// # Errors
    /// [`ExchangeError::Ledger`] when the file cannot be used, or another process has it open.
    pub fn open(path: &Path) -> Result<Self, ExchangeError> {
        let database = Database::open(path, CACHE_BYTES)?;
        let ledger = Self(Arc::new(database));
        // Tables exist from here on, so that readers need not ask.
        ledger.write(|write| {
            write.open_table(DELIVERED)?;
            write.open_table(STAMPED)?;
            write.open_table(PENDING)?;
            write.open_table(BATCH)?;
            write.open_table(ARRIVED)?;
            write.open_table(SENT)?;
            write.open_table(SENDING)?;
            write.open_table(ROOTS)?;
            Ok(())
        })?;
        Ok(ledger)
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T, ExchangeError>) -> Result<T, ExchangeError> {
        self.0.read(read)
    }

    /// Runs `write` in a transaction that is durable when this returns; an error leaves everything as it was.
    pub(super) fn write<T>(&self, write: impl FnOnce(&WriteTransaction) -> Result<T, ExchangeError>) -> Result<T, ExchangeError> {
        self.0.commit(write)
    }

    /// What is known of each path.
    pub(super) fn records<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Result<Vec<Option<Record>>, ExchangeError> {
        self.read(|read| {
            let delivered = read.open_table(DELIVERED)?;
            paths.map(|path| delivered.get(path)?.map(|bytes| parse(bytes.value())).transpose()).collect()
        })
    }

    /// Whether nothing was ever delivered.
    pub(super) fn is_blank(&self) -> Result<bool, ExchangeError> {
        self.read(|read| Ok(read.open_table(DELIVERED)?.is_empty()?))
    }

    /// Notes the temporary files of a batch before the first of them is made.
    pub(super) fn begin(&self, began: Timestamp, rows: impl Iterator<Item = (u64, Pending)>) -> Result<(), ExchangeError> {
        self.write(|write| {
            let mut pending = write.open_table(PENDING)?;
            for (number, row) in rows {
                pending.insert(number, &*encode(&row))?;
            }
            write.open_table(BATCH)?.insert((), &*encode(&BatchState { began, placing: false }))?;
            Ok(())
        })
    }

    /// From here on the batch, reduced to the temporary files in `ready`, is finished whatever happens.
    pub(super) fn placing(&self, began: Timestamp, ready: &BTreeSet<u64>) -> Result<(), ExchangeError> {
        self.write(|write| {
            write.open_table(PENDING)?.retain(|number, _| ready.contains(&number))?;
            write.open_table(BATCH)?.insert((), &*encode(&BatchState { began, placing: true }))?;
            Ok(())
        })
    }

    /// The unfinished batch, if there is one.
    pub(super) fn unfinished(&self) -> Result<Option<Unfinished>, ExchangeError> {
        self.read(|read| {
            let Some(state) = read.open_table(BATCH)?.get(())? else { return Ok(None) };
            let mut rows = Vec::new();
            for row in read.open_table(PENDING)?.iter()? {
                let (number, bytes) = row?;
                rows.push((number.value(), parse(bytes.value())?));
            }
            Ok(Some(Unfinished { state: parse(state.value())?, rows }))
        })
    }

    /// Remembers what went, and forgets the sidecars that went with it.
    pub(super) fn removed(&self, records: &[(String, Record)], sidecars: &[String]) -> Result<(), ExchangeError> {
        self.write(|write| {
            let mut delivered = write.open_table(DELIVERED)?;
            for sidecar in sidecars {
                delivered.remove(sidecar.as_str())?;
            }
            remember(write, &mut delivered, records)
        })
    }

    /// Ends the batch and remembers what it delivered, and what is to be told of it.
    pub(super) fn finish(&self, records: &[(String, Record)], arrivals: &[Arrival]) -> Result<(), ExchangeError> {
        self.write(|write| {
            remember(write, &mut write.open_table(DELIVERED)?, records)?;
            arrivals::add(write, arrivals)?;
            write.open_table(PENDING)?.retain(|_, _| false)?;
            write.open_table(BATCH)?.remove(())?;
            Ok(())
        })
    }

    /// Forgets a distribution's deliveries; returns how many paths that were.
    pub(super) fn forget(&self, distribution: &DistributionId) -> Result<u64, ExchangeError> {
        self.write(|write| {
            let mut forgotten = 0;
            write.open_table(DELIVERED)?.retain(|_, bytes| {
                // A malformed record is of no use to anybody either.
                let theirs = parse::<Record>(bytes).is_ok_and(|record| record.distribution != *distribution);
                forgotten += u64::from(!theirs && !parse::<Record>(bytes).is_ok_and(|record| record.sidecar.is_some()));
                theirs
            })?;
            Ok(forgotten)
        })
    }

    /// The sidecars that were written.
    pub(super) fn sidecars(&self) -> Result<Vec<(String, Record)>, ExchangeError> {
        self.read(|read| {
            let mut sidecars = Vec::new();
            for row in read.open_table(DELIVERED)?.iter()? {
                let (path, bytes) = row?;
                if path.value().ends_with(sidecar::SUFFIX) {
                    let record: Record = parse(bytes.value())?;
                    sidecars.extend(record.sidecar.is_some().then(|| (path.value().to_owned(), record)));
                }
            }
            Ok(sidecars)
        })
    }

    /// Forgets what is known of these paths.
    pub(super) fn forget_paths(&self, paths: &[String]) -> Result<(), ExchangeError> {
        if paths.is_empty() {
            return Ok(());
        }
        self.write(|write| {
            let mut delivered = write.open_table(DELIVERED)?;
            for path in paths {
                delivered.remove(path.as_str())?;
            }
            Ok(())
        })
    }

    /// The made-at of a new distribution with these paths, by a hybrid clock: `now`, or one more than the greatest accepted
    /// here or given before for one of the paths. It is remembered before it is returned, so that a clock which was set back
    /// cannot make this node's next version older than its last.
    ///
    /// # Errors
    /// [`ExchangeError::Ledger`].
    pub fn stamp(&self, paths: &[&[u8]], now: Timestamp) -> Result<Timestamp, ExchangeError> {
        self.write(|write| {
            let mut stamp = now;
            for path in paths {
                if let Some(known) = greatest(write, path)? {
                    stamp = stamp.max(known.plus(std::time::Duration::from_millis(1)));
                }
            }
            let mut stamped = write.open_table(STAMPED)?;
            for path in paths {
                stamped.insert(*path, stamp.as_millis())?;
            }
            Ok(stamp)
        })
    }
}

fn remember(
    write: &WriteTransaction,
    delivered: &mut redb::Table<'_, &'static str, &'static [u8]>,
    records: &[(String, Record)],
) -> Result<(), ExchangeError> {
    let mut stamped = write.open_table(STAMPED)?;
    for (path, record) in records {
        let before = delivered.get(path.as_str())?.map(|bytes| parse::<Record>(bytes.value())).transpose()?;
        let expiry = before.map_or(record.expiry(), |before| record.expiry().max(before.expiry()));
        delivered.insert(path.as_str(), &*encode(&Record { expiry: Some(expiry), ..record.clone() }))?;
        // What this node sends under that name is to be later, wherever it lies here.
        if let Some(named) = name::beneath_origin(path, &record.sender) {
            let known = stamped.get(named.as_bytes())?.map_or(0, |millis| millis.value());
            stamped.insert(named.as_bytes(), known.max(record.made_at.as_millis()))?;
        }
    }
    Ok(())
}

fn greatest(write: &WriteTransaction, path: &[u8]) -> Result<Option<Timestamp>, ExchangeError> {
    let stamped = write.open_table(STAMPED)?;
    let given = [path, FORGOTTEN].into_iter().map(|path| stamped.get(path)).collect::<Result<Vec<_>, _>>()?;
    let given = given.into_iter().flatten().map(|millis| Timestamp::from_millis(millis.value())).max();
    let accepted = match std::str::from_utf8(path) {
        Ok(path) => match write.open_table(DELIVERED)?.get(path)? {
            Some(bytes) => Some(parse::<Record>(bytes.value())?.made_at),
            None => None,
        },
        Err(_) => None,
    };
    Ok(given.max(accepted))
}
