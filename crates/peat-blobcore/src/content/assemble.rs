//! Opening assemblies: new ones, those that an earlier run left, and those that heal a damaged blob.
//!
//! Whatever an assembly's files say is verified before it counts. Room is asked for before a file is made, so that a size
//! that nobody can have leaves nothing behind.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::assembly::{Assembly, Storage};
use super::groups::Groups;
use super::index::Row;
use super::layout::{self, BITMAP, DATA, OUTBOARD, RECIPE, sync_dir};
use super::{BlobStatus, Content, ContentError, Ingested, Inner, MAX_INLINE_BYTES, Sharing, lock, share, tree};
use crate::fault;
use crate::model::BlobHash;

impl Content {
    /// The assembly of a blob of which somebody claims this size: the open one, the one that an earlier run left, or a new
    /// one. For a damaged blob it begins with what is still right. For one that is held it is finished already.
    ///
    /// # Errors
    /// `SizeDiffers` when the blob is held with another size, `NoSpace` when it would not fit (nothing is left behind), or
    /// what the files failed with.
    pub fn assemble(&self, hash: &BlobHash, size: u64) -> Result<Assembly, ContentError> {
        self.open_or_make(hash, size, true)
    }

    fn open_or_make(&self, hash: &BlobHash, size: u64, wants_room: bool) -> Result<Assembly, ContentError> {
        let inner = &self.0;
        loop {
            let slot = inner.assemblies.slot(hash, size);
            let mut open = lock(&slot.open);
            if !inner.assemblies.is_current(hash, size, &slot) {
                continue;
            }
            if let Some(assembly) = Assembly::upgrade(&open) {
                return Ok(assembly);
            }
            let (storage, held) = match inner.open_assembly(hash, size, wants_room) {
                Ok(Opened::Unfinished(storage, held)) => (storage, held),
                Ok(Opened::Whole(blob)) => {
                    inner.remove_assembly(hash, size)?;
                    return Ok(Assembly::of_whole(self.clone(), blob));
                }
                Err(error) => {
                    if !inner.layout.assembly(hash, size, DATA).exists() {
                        inner.assemblies.forget(hash, size);
                    }
                    return Err(error);
                }
            };
            let assembly = Assembly::new(self.clone(), *hash, size, Arc::clone(&slot), storage, held);
            *open = assembly.downgrade();
            return Ok(assembly);
        }
    }

    /// The assembly of a blob that is not whole, opened if an earlier run left something of it: of several the one of which most is
    /// here. It is served from as long as it is open, also where there is no room for the rest.
    ///
    /// # Errors
    /// What the files failed with.
    pub(crate) fn resume(&self, hash: &BlobHash) -> Result<Option<Assembly>, ContentError> {
        match self.status(hash)? {
            BlobStatus::Partial { size, held } if held > 0 => self.open_or_make(hash, size, false).map(Some),
            _ => Ok(None),
        }
    }
}

/// What there is to assemble with.
enum Opened {
    Unfinished(Storage, Groups),
    Whole(Ingested),
}

impl Inner {
    fn open_assembly(&self, hash: &BlobHash, size: u64, wants_room: bool) -> Result<Opened, ContentError> {
        let row = self.index.row(hash)?;
        if let Some(row) = &row {
            let whole = Opened::Whole(Ingested { hash: *hash, sha256: row.sha256, size });
            if row.size != size {
                return Err(ContentError::SizeDiffers { hash: *hash, claimed: size, actual: row.size });
            }
            if !row.damaged || (!row.inline && self.repair(hash, row)?) {
                return Ok(whole);
            }
        }
        if size <= MAX_INLINE_BYTES {
            return Ok(Opened::Unfinished(Storage::Memory(Mutex::default()), Groups::none(tree::groups(size))));
        }
        let data = self.layout.assembly(hash, size, DATA);
        if row.is_some_and(|row| !row.inline) && !data.exists() {
            self.salvage(hash, size)?;
        }
        if wants_room {
            self.ensure_free(size.saturating_sub(layout::allocated(&data)))?;
        }
        let is_new = !data.exists();
        self.open_files(hash, size).inspect_err(|_| {
            if is_new {
                // The error is reported; what cannot be removed now is continued or collected later.
                let _ = self.remove_files(hash, size);
            }
        })
    }

    fn open_files(&self, hash: &BlobHash, size: u64) -> Result<Opened, ContentError> {
        let count = tree::groups(size);
        let open = |part, length: u64| -> Result<File, ContentError> {
            let path = self.layout.assembly(hash, size, part);
            let fail = |error| self.layout.write_error("create", &path, length, error);
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
            if file.metadata().map_err(fail)?.len() != length {
                file.set_len(length).map_err(fail)?;
            }
            Ok(file)
        };
        let data = open(DATA, size)?;
        fault::point("content.assembly.made");
        let outboard = open(OUTBOARD, tree::outboard_bytes(size))?;
        let bitmap = open(BITMAP, Groups::bytes_for(count) as u64)?;
        sync_dir(&self.layout.assembly_dir())?;

        let mut claims = vec![0; Groups::bytes_for(count)];
        let bitmap_path = self.layout.assembly(hash, size, BITMAP);
        bitmap.read_exact_at(&mut claims, 0).map_err(ContentError::io("read", &bitmap_path))?;
        let mut verified = Verified(Groups::from_bytes(&claims, count));
        let stored = tree::Stored { hash: hash.as_bytes(), size, data: &data, outboard: &outboard };
        stored.walk(&mut verified).expect("this visitor never ends a walk");
        let held = verified.0;
        if count > 0 {
            self.write_at(&bitmap, &bitmap_path, held.bytes(&(0..count)).1, 0)?;
        }
        Ok(Opened::Unfinished(Storage::Files { data, outboard, bitmap }, held))
    }

    /// Makes a new outboard for a damaged blob if its data is right, and says whether it is.
    pub(super) fn repair(&self, hash: &BlobHash, row: &Row) -> Result<bool, ContentError> {
        let path = self.layout.blob(hash);
        let Ok(data) = File::open(&path) else { return Ok(false) };
        let mut fill = |at, buffer: &mut [u8]| data.read_exact_at(buffer, at).map_err(|_| ContentError::Damaged(*hash));
        let outboard = match self.hash_large(row.size, &mut fill) {
            Ok((blob, outboard)) if blob.hash == *hash => outboard,
            Ok(_) | Err(ContentError::Damaged(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        File::open(&outboard.path).and_then(|file| file.sync_data()).map_err(ContentError::io("sync", &outboard.path))?;
        let _names = lock(&self.names);
        let to = self.layout.outboard(hash);
        fs::rename(&outboard.path, &to).map_err(ContentError::io("rename", &outboard.path))?;
        to.parent().map_or(Ok(()), sync_dir)?;
        self.mended(hash, row)
    }

    /// Notes that a damaged blob is right again; done with the lock on names held. What a crash has left of the assembly
    /// that mended it goes, as it would at the next start.
    pub(super) fn mended(&self, hash: &BlobHash, row: &Row) -> Result<bool, ContentError> {
        if !self.layout.assembly(hash, row.size, DATA).exists() {
            self.remove_files(hash, row.size)?;
        }
        self.index.mark(hash, row.added, false)
    }

    /// Gives a damaged blob's files to an assembly that claims all of it. The data file goes last: it makes the assembly exist.
    fn salvage(&self, hash: &BlobHash, size: u64) -> Result<(), ContentError> {
        let _names = lock(&self.names);
        let bitmap = self.layout.assembly(hash, size, BITMAP);
        let count = tree::groups(size);
        fs::write(&bitmap, Groups::all(count).bytes(&(0..count)).1)
            .map_err(|error| self.layout.write_error("write", &bitmap, 0, error))?;
        self.unlink_from_others(&self.layout.blob(hash))?;
        for (from, part) in [(self.layout.outboard(hash), OUTBOARD), (self.layout.blob(hash), DATA)] {
            match fs::rename(&from, self.layout.assembly(hash, size, part)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ContentError::io("rename", &from)(error)),
                _ => {}
            }
            fault::point("content.assembly.salvaged");
        }
        Ok(())
    }

    /// A file that has names elsewhere is somebody else's too, and mending would write to it: this store gets one of its own.
    fn unlink_from_others(&self, path: &Path) -> Result<(), ContentError> {
        let found = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(ContentError::io("look at", path))?,
        };
        if found.nlink() < 2 {
            return Ok(());
        }
        self.ensure_free(found.len())?;
        let (copy, temp) = self.layout.temp()?;
        let taken = File::open(path).and_then(|file| {
            let shared = share(&file, &copy, &temp.path, Sharing::WherePossible).map_err(io::Error::other)?;
            if shared.is_none() {
                io::copy(&mut &file, &mut &copy)?;
            }
            Ok(())
        });
        match taken {
            Ok(()) => fs::rename(&temp.path, path).map_err(ContentError::io("rename", &temp.path)),
            // What cannot be read is fetched.
            Err(_) => layout::remove(path),
        }
    }

    fn remove_files(&self, hash: &BlobHash, size: u64) -> Result<(), ContentError> {
        [DATA, OUTBOARD, BITMAP, RECIPE].iter().try_for_each(|part| layout::remove(&self.layout.assembly(hash, size, part)))
    }

    /// Removes an assembly that nobody uses, or that has ended; done with its slot's lock held.
    pub(super) fn remove_assembly(&self, hash: &BlobHash, size: u64) -> Result<(), ContentError> {
        self.remove_files(hash, size)?;
        self.assemblies.forget(hash, size);
        Ok(())
    }

    /// Removes an assembly if nobody has it open, and says whether it did.
    pub(super) fn drop_idle_assembly(&self, hash: &BlobHash, size: u64) -> Result<bool, ContentError> {
        let slot = self.assemblies.slot(hash, size);
        let open = lock(&slot.open);
        let idle = open.strong_count() == 0 && self.assemblies.is_current(hash, size, &slot);
        if idle {
            self.remove_assembly(hash, size)?;
        }
        Ok(idle)
    }

    /// Bytes of disk that an assembly takes.
    pub(super) fn assembly_bytes(&self, hash: &BlobHash, size: u64) -> u64 {
        [DATA, OUTBOARD, BITMAP, RECIPE].iter().map(|part| layout::allocated(&self.layout.assembly(hash, size, part))).sum()
    }
}

/// Leaves of the claimed groups those that are what the hash says.
struct Verified(Groups);

impl tree::Visitor for Verified {
    fn wants(&self, groups: &Range<u64>) -> bool {
        self.0.contains_any(groups)
    }

    fn bad(&mut self, groups: &Range<u64>) -> Result<(), tree::Mismatch> {
        self.0.remove(groups);
        Ok(())
    }
}
