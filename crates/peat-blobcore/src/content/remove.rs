//! One blob taken out of the store, because somebody says so and not because space is needed. What keeps it is named and goes on
//! keeping it: nothing changes then. Must never take out what somebody reads, or what is just being taken in.

use super::index::{self, PINS, REASONS};
use super::{Content, ContentError, Inner, Pin, lock};
use crate::model::BlobHash;

/// What is given up together with a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    /// Names under which a user has it kept ([`Pin::User`]). They go on keeping what else they keep.
    pub users: Vec<String>,
    /// Whether what keeps it for a while counts for nothing ([`Pin::Lease`]): an import that has become part of nothing yet, an
    /// upload of the registry.
    pub leases: bool,
}

impl Release {
    fn gives_up(&self, pin: &Pin) -> bool {
        match pin {
            Pin::User(name) => self.users.contains(name),
            Pin::Lease { .. } => self.leases,
            Pin::Distribution(..) | Pin::Stock(_) | Pin::Package { .. } => false,
        }
    }
}

impl Content {
    /// Takes out a blob, or what there is of one that is not whole, and gives the bytes that were freed. Waits a while for who
    /// takes blobs in.
    ///
    /// # Errors
    /// `Absent`; `Kept` with what keeps it, beside what is given up; `InUse` while it is read or fetched; `Busy` as
    /// [`Content::gc_all`]; with these nothing has changed. Or what the index and the file system fail with.
    pub fn remove(&self, hash: &BlobHash, release: &Release) -> Result<u64, ContentError> {
        let _nobody_ingests = self.alone()?;
        self.0.take_out(hash, release)
    }
}

impl Inner {
    fn take_out(&self, hash: &BlobHash, release: &Release) -> Result<u64, ContentError> {
        let names = lock(&self.names);
        let row = self.index.row(hash)?;
        let sizes = self.assemblies.sizes(hash);
        if row.is_none() && sizes.is_empty() {
            return Err(ContentError::Absent(*hash));
        }
        let now = self.clock.now().as_millis();
        self.index.write(|txn| {
            let mut pins = txn.open_table(PINS)?;
            let mut reasons = txn.open_table(REASONS)?;
            let mut kept = Vec::new();
            for (key, until) in index::pins_of(&pins, &reasons, hash)? {
                let pin = Pin::from_key(&key, until)?;
                if until > now && !release.gives_up(&pin) {
                    kept.push(pin.to_string());
                    continue;
                }
                pins.remove((key.as_slice(), hash.as_bytes()))?;
                reasons.remove((hash.as_bytes(), key.as_slice()))?;
            }
            if !kept.is_empty() {
                return Err(ContentError::Kept { hash: *hash, reasons: kept });
            }
            if lock(&self.readers).contains_key(hash) || sizes.iter().any(|size| self.assemblies.is_open(hash, *size)) {
                return Err(ContentError::InUse(*hash));
            }
            match &row {
                Some(row) => index::forget(txn, hash, row),
                None => Ok(()),
            }
        })?;
        // A crash from here on leaves what one in a collection does, at the place `content.delete.indexed`.
        let mut freed = 0;
        if let Some(row) = row {
            freed += row.size;
            if !row.inline {
                self.remove_blob(hash)?;
            }
        }
        // An assembly is locked before names are, never after.
        drop(names);
        for size in sizes {
            let bytes = self.assembly_bytes(hash, size);
            if self.drop_idle_assembly(hash, size)? {
                freed += bytes;
            }
        }
        Ok(freed)
    }
}
