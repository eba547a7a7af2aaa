//! What came into the inbox and has not been acted upon: a queue on disk, for a hook or whoever else is to learn of each file.
//! A row is written in the commit that remembers the delivery, and goes when it is said that the file was seen to: a crash
//! between the two tells of the file again, and none is forgotten. Must never hold back a delivery or its receipt.

use redb::{ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction};

use super::error::ExchangeError;
use super::ledger::{Ledger, parse};
use crate::model::{DistributionId, EndpointId, FileEntry, Priority, Timestamp, encode};

/// Number to [`Arrival`], in the order of arrival.
pub(super) const ARRIVED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("arrived v1");

/// A file that a delivery put into the inbox, or found there with the same content.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Arrival {
    /// Where it is, beneath the inbox.
    #[n(0)]
    pub path: String,
    /// The distribution that it came with.
    #[n(1)]
    pub distribution: DistributionId,
    /// Its place in the manifest's list.
    #[n(2)]
    pub index: u32,
    /// Who sent it.
    #[n(3)]
    pub sender: EndpointId,
    /// The distribution's time.
    #[n(4)]
    pub made_at: Timestamp,
    /// The send call that it belongs to.
    #[n(5)]
    pub bundle: String,
    /// How urgent it is.
    #[n(6)]
    pub priority: Priority,
    /// The file as its sender described it.
    #[n(7)]
    pub file: FileEntry,
}

/// Adds to the queue, in the commit that `write` is.
pub(super) fn add(write: &WriteTransaction, arrivals: &[Arrival]) -> Result<(), ExchangeError> {
    let mut arrived = write.open_table(ARRIVED)?;
    let next = arrived.last()?.map_or(0, |(number, _)| number.value() + 1);
    for (number, arrival) in (next..).zip(arrivals) {
        arrived.insert(number, &*encode(arrival))?;
    }
    Ok(())
}

impl Ledger {
    /// The first that nobody has seen to, and its number.
    pub(super) fn arrival(&self) -> Result<Option<(u64, Arrival)>, ExchangeError> {
        self.read(|read| {
            let arrived = read.open_table(ARRIVED)?;
            arrived.first()?.map(|(number, row)| Ok((number.value(), parse(row.value())?))).transpose()
        })
    }

    /// How many nobody has seen to.
    pub(super) fn arrivals(&self) -> Result<u64, ExchangeError> {
        self.read(|read| Ok(read.open_table(ARRIVED)?.len()?))
    }

    /// It was seen to.
    pub(super) fn arrival_done(&self, number: u64) -> Result<(), ExchangeError> {
        self.write(|write| {
            write.open_table(ARRIVED)?.remove(number)?;
            Ok(())
        })
    }

    /// Nobody asks after arrivals any more.
    pub(super) fn forget_arrivals(&self) -> Result<(), ExchangeError> {
        if self.arrivals()? == 0 {
            return Ok(());
        }
        self.write(|write| {
            write.open_table(ARRIVED)?.retain(|_, _| false)?;
            Ok(())
        })
    }
}
