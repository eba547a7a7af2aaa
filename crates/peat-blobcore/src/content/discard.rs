//! Blobs that whoever brought them needs no more go at once, not when space is needed: see `Policy::inbox_only`. Must never take
//! out what anything keeps, or what somebody reads.

use super::index::{self, PINS, REASONS};
use super::{Content, ContentError, Inner, lock};
use crate::model::BlobHash;

impl Content {
    /// Takes out those of these blobs that nothing keeps. Gives those that could not go now, since somebody reads them or takes
    /// blobs in: it is called again with them, and never waits.
    ///
    /// # Errors
    /// When the index cannot be read or written; nothing has changed then. A file that cannot be removed is logged, and goes with
    /// the next start.
    pub fn discard(&self, hashes: &[BlobHash]) -> Result<Vec<BlobHash>, ContentError> {
        let Ok(_nobody_ingests) = self.0.unpinned.try_write() else { return Ok(hashes.to_vec()) };
        self.0.discard(hashes)
    }
}

impl Inner {
    fn discard(&self, hashes: &[BlobHash]) -> Result<Vec<BlobHash>, ContentError> {
        let names = lock(&self.names);
        let now = self.clock.now().as_millis();
        let rows: Vec<_> = hashes
            .iter()
            .map(|hash| Ok(self.index.row(hash)?.map(|row| (hash, row))))
            .filter_map(Result::transpose)
            .collect::<Result<_, ContentError>>()?;
        let (taken, busy) = self.index.write(|txn| {
            let (mut taken, mut busy) = (Vec::new(), Vec::new());
            for (hash, row) in rows {
                let pins = index::pins_of(&txn.open_table(PINS)?, &txn.open_table(REASONS)?, hash)?;
                if pins.iter().any(|(_, until)| *until > now) {
                    continue;
                }
                if lock(&self.readers).contains_key(hash) {
                    busy.push(*hash);
                    continue;
                }
                index::forget(txn, hash, &row)?;
                taken.push((hash, row));
            }
            Ok((taken, busy))
        })?;
        // A crash from here on leaves what one in a collection does, at the place `content.delete.indexed`.
        for (hash, row) in taken {
            if !row.inline
                && let Err(error) = self.remove_blob(hash)
            {
                tracing::warn!(blob = %hash, %error, "what the store has forgotten is still on its disk");
            }
        }
        drop(names);
        Ok(busy)
    }
}
