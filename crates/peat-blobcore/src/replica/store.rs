//! Envelopes at rest: one redb file, in which each envelope lies under its id, with an index by what it is about, by author
//! and by expiry. Must never keep an index entry without its envelope or the reverse: both change in one transaction.

use std::path::Path;

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::database::{Database, Failure};
use crate::document::{Envelope, Kind};
use crate::model::{EndpointId, EnvelopeId, Incarnation, Timestamp};

const ENVELOPES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("envelopes");
/// kind, key, envelope id
const BY_KEY: TableDefinition<&[u8; 65], ()> = TableDefinition::new("envelopes by key");
/// author, envelope id
const BY_AUTHOR: TableDefinition<&[u8; 64], ()> = TableDefinition::new("envelopes by author");
/// expiry in big-endian milliseconds, envelope id
const BY_EXPIRY: TableDefinition<&[u8; 40], ()> = TableDefinition::new("envelopes by expiry");
/// running number to an encoded refusal
const REFUSED: TableDefinition<u64, &[u8]> = TableDefinition::new("refused");
/// author to its lives, oldest first, 16 bytes each
const LIVES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("lives");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// What is known of this node's clock.
pub(super) const CLOCK: &str = "clock";
/// The incarnation that has reconciled with another node.
pub(super) const RECONCILED: &str = "reconciled";
/// The version of this file's layout.
const FORMAT: &str = "format";
const FORMAT_VERSION: &[u8] = &[1];

/// Memory that redb may use for pages: idle nodes stay small.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

type Result<T> = std::result::Result<T, redb::Error>;

/// The open file.
#[derive(Debug)]
pub(super) struct Store {
    database: Database,
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let store = Self { database: Database::open(path, CACHE_BYTES)? };
        store.write(|write| {
            {
                let tables = Tables::open(&write)?;
                let known = tables.meta.get(FORMAT)?.map(|version| version.value().to_vec());
                match known.as_deref() {
                    None => tables.with_meta(FORMAT, FORMAT_VERSION)?,
                    Some(FORMAT_VERSION) => {}
                    Some(other) => return Err(redb::Error::Corrupted(format!("the replica has the unknown format {other:?}"))),
                }
            }
            Ok(write.commit()?)
        })?;
        Ok(store)
    }

    /// What is not committed does not happen.
    pub(super) fn write<T, E: Failure>(
        &self,
        write: impl FnOnce(WriteTransaction) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.database.write(write)
    }

    fn read<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T>) -> Result<T> {
        self.database.read(read)
    }

    pub(super) fn envelope(&self, id: &EnvelopeId) -> Result<Option<Bytes>> {
        self.read(|read| {
            let table = read.open_table(ENVELOPES)?;
            Ok(table.get(id.as_bytes())?.map(|bytes| Bytes::copy_from_slice(bytes.value())))
        })
    }

    pub(super) fn contains(&self, id: &EnvelopeId) -> Result<bool> {
        self.read(|read| Ok(read.open_table(ENVELOPES)?.get(id.as_bytes())?.is_some()))
    }

    /// The envelopes about one thing, in the order of their ids.
    pub(super) fn about(&self, kind: Kind, key: &[u8; 32]) -> Result<Vec<(EnvelopeId, Bytes)>> {
        let (low, high) = (key_of(kind, key, &[0; 32]), key_of(kind, key, &[0xff; 32]));
        let mut found = Vec::new();
        self.each(&low, &high, |id, bytes| found.push((id, Bytes::copy_from_slice(bytes))))?;
        Ok(found)
    }

    /// Every envelope of a kind, in the order of their keys.
    pub(super) fn of_kind(&self, kind: Kind, visit: impl FnMut(EnvelopeId, &[u8])) -> Result<()> {
        self.each(&key_of(kind, &[0; 32], &[0; 32]), &key_of(kind, &[0xff; 32], &[0xff; 32]), visit)
    }

    fn each(&self, low: &[u8; 65], high: &[u8; 65], mut visit: impl FnMut(EnvelopeId, &[u8])) -> Result<()> {
        self.read(|read| {
            let (index, envelopes) = (read.open_table(BY_KEY)?, read.open_table(ENVELOPES)?);
            for entry in index.range::<&[u8; 65]>(low..=high)? {
                let id = tail(entry?.0.value());
                if let Some(bytes) = envelopes.get(id.as_bytes())? {
                    visit(id, bytes.value());
                }
            }
            Ok(())
        })
    }

    /// Every envelope's id with its expiry, those that expire first first.
    pub(super) fn by_expiry(&self) -> Result<Vec<(Timestamp, EnvelopeId)>> {
        self.read(|read| read.open_table(BY_EXPIRY)?.iter()?.map(|entry| Ok(expiry_of(entry?.0.value()))).collect())
    }

    /// The refusals on record, oldest first.
    pub(super) fn refusals(&self) -> Result<Vec<(u64, Vec<u8>)>> {
        self.read(|read| {
            let table = read.open_table(REFUSED)?;
            let refusals = table.iter()?.map(|entry| entry.map(|(number, refusal)| (number.value(), refusal.value().to_vec())));
            Ok(refusals.collect::<std::result::Result<_, _>>()?)
        })
    }

    pub(super) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.read(|read| Ok(read.open_table(META)?.get(key)?.map(|value| value.value().to_vec())))
    }
}

/// The tables within one write transaction.
pub(super) struct Tables<'txn> {
    envelopes: Table<'txn, &'static [u8; 32], &'static [u8]>,
    by_key: Table<'txn, &'static [u8; 65], ()>,
    by_author: Table<'txn, &'static [u8; 64], ()>,
    by_expiry: Table<'txn, &'static [u8; 40], ()>,
    refused: Table<'txn, u64, &'static [u8]>,
    lives: Table<'txn, &'static [u8; 32], &'static [u8]>,
    meta: Table<'txn, &'static str, &'static [u8]>,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(write: &'txn WriteTransaction) -> Result<Self> {
        Ok(Self {
            envelopes: write.open_table(ENVELOPES)?,
            by_key: write.open_table(BY_KEY)?,
            by_author: write.open_table(BY_AUTHOR)?,
            by_expiry: write.open_table(BY_EXPIRY)?,
            refused: write.open_table(REFUSED)?,
            lives: write.open_table(LIVES)?,
            meta: write.open_table(META)?,
        })
    }

    fn with_meta(mut self, key: &str, value: &[u8]) -> Result<()> {
        self.set_meta(key, value)
    }

    pub(super) fn set_meta(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.meta.insert(key, value)?;
        Ok(())
    }

    pub(super) fn contains(&self, id: &EnvelopeId) -> Result<bool> {
        Ok(self.envelopes.get(id.as_bytes())?.is_some())
    }

    pub(super) fn put(&mut self, id: &EnvelopeId, envelope: &Envelope, bytes: &[u8]) -> Result<()> {
        self.envelopes.insert(id.as_bytes(), bytes)?;
        self.by_key.insert(&key_of(envelope.kind, &envelope.key, id.as_bytes()), ())?;
        self.by_author.insert(&joined(envelope.author.as_bytes(), id.as_bytes()), ())?;
        self.by_expiry.insert(&joined(&envelope.expiry.as_millis().to_be_bytes(), id.as_bytes()), ())?;
        Ok(())
    }

    /// Takes an envelope out, and returns it if it was there.
    pub(super) fn remove(&mut self, id: &EnvelopeId) -> Result<Option<Envelope>> {
        let Some(envelope) = self.envelopes.remove(id.as_bytes())?.map(|bytes| Envelope::decode(bytes.value())) else {
            return Ok(None);
        };
        let envelope = envelope.map_err(|error| redb::Error::Corrupted(format!("envelope {id}: {error}")))?;
        self.by_key.remove(&key_of(envelope.kind, &envelope.key, id.as_bytes()))?;
        self.by_author.remove(&joined(envelope.author.as_bytes(), id.as_bytes()))?;
        self.by_expiry.remove(&joined(&envelope.expiry.as_millis().to_be_bytes(), id.as_bytes()))?;
        Ok(Some(envelope))
    }

    /// The envelopes about one thing, as this transaction has them.
    pub(super) fn about(&self, kind: Kind, key: &[u8; 32]) -> Result<Vec<(EnvelopeId, Bytes)>> {
        let (low, high) = (key_of(kind, key, &[0; 32]), key_of(kind, key, &[0xff; 32]));
        let mut found = Vec::new();
        for entry in self.by_key.range::<&[u8; 65]>(&low..=&high)? {
            let id = tail(entry?.0.value());
            if let Some(bytes) = self.envelopes.get(id.as_bytes())? {
                found.push((id, Bytes::copy_from_slice(bytes.value())));
            }
        }
        Ok(found)
    }

    pub(super) fn by_author(&self, author: &EndpointId) -> Result<Vec<EnvelopeId>> {
        let (low, high): ([u8; 64], [u8; 64]) = (joined(author.as_bytes(), &[0; 32]), joined(author.as_bytes(), &[0xff; 32]));
        self.by_author.range::<&[u8; 64]>(&low..=&high)?.map(|entry| Ok(tail(entry?.0.value()))).collect()
    }

    /// The envelopes that expired before `time`.
    pub(super) fn expired_before(&self, time: Timestamp) -> Result<Vec<EnvelopeId>> {
        let end: [u8; 40] = joined(&time.as_millis().to_be_bytes(), &[0; 32]);
        self.by_expiry.range::<&[u8; 40]>(..&end)?.map(|entry| Ok(expiry_of(entry?.0.value()).1)).collect()
    }

    pub(super) fn put_refusal(&mut self, number: u64, refusal: &[u8]) -> Result<()> {
        self.refused.insert(number, refusal)?;
        Ok(())
    }

    pub(super) fn remove_refusal(&mut self, number: u64) -> Result<()> {
        self.refused.remove(number)?;
        Ok(())
    }

    /// The author's lives, oldest first.
    pub(super) fn lives(&self, author: &EndpointId) -> Result<Vec<Incarnation>> {
        let bytes = self.lives.get(author.as_bytes())?.map(|bytes| bytes.value().to_vec()).unwrap_or_default();
        Ok(bytes.as_chunks::<16>().0.iter().copied().map(Incarnation::from_bytes).collect())
    }

    pub(super) fn remove_lives(&mut self, author: &EndpointId) -> Result<()> {
        self.lives.remove(author.as_bytes())?;
        Ok(())
    }

    pub(super) fn set_lives(&mut self, author: &EndpointId, lives: &[Incarnation]) -> Result<()> {
        let bytes: Vec<u8> = lives.iter().flat_map(|life| *life.as_bytes()).collect();
        self.lives.insert(author.as_bytes(), bytes.as_slice())?;
        Ok(())
    }
}

fn key_of(kind: Kind, key: &[u8; 32], id: &[u8; 32]) -> [u8; 65] {
    let mut whole = [kind.number(); 65];
    whole[1..33].copy_from_slice(key);
    whole[33..].copy_from_slice(id);
    whole
}

/// Two fixed-size parts one after the other.
fn joined<const N: usize>(head: &[u8], id: &[u8; 32]) -> [u8; N] {
    let mut whole = [0; N];
    let (left, right) = whole.split_at_mut(N - 32);
    left.copy_from_slice(head);
    right.copy_from_slice(id);
    whole
}

/// The envelope id at the end of an index key.
fn tail(key: &[u8]) -> EnvelopeId {
    let id = key.last_chunk::<32>().expect("index keys end with an envelope id");
    EnvelopeId::from_bytes(*id)
}

fn expiry_of(key: &[u8; 40]) -> (Timestamp, EnvelopeId) {
    let millis = key.first_chunk::<8>().expect("the key begins with the expiry");
    (Timestamp::from_millis(u64::from_be_bytes(*millis)), tail(key))
}
