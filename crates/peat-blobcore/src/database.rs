//! A redb file that goes on after an I/O error, of which a full disk is one. redb itself refuses everything from the first on;
//! what was committed before it stands, and is there when the file is opened again.
//!
//! A transaction must never be begun within another of the same file: whoever opens the file again waits for the first to end.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{ReadTransaction, ReadableDatabase as _, WriteTransaction};

/// What a transaction may fail with.
pub(crate) trait Failure: From<redb::Error> {
    /// What the file failed with, if it did.
    fn of_file(&self) -> Option<&redb::Error>;
}

impl Failure for redb::Error {
    fn of_file(&self) -> Option<&redb::Error> {
        Some(self)
    }
}

/// The way to the file.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    cache_bytes: usize,
    /// Held for the life of each transaction, so that none is under way where the file is closed.
    state: RwLock<State>,
}

#[derive(Debug)]
enum State {
    Open(redb::Database),
    /// To be opened again by whoever needs it next.
    Broken,
    Closed,
}

impl Database {
    /// Opens the file, made if need be. redb may use `cache_bytes` of memory for its pages.
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Self, redb::Error> {
        let database = Self { path: path.to_owned(), cache_bytes, state: RwLock::new(State::Broken) };
        drop(database.opened()?);
        Ok(database)
    }

    pub(crate) fn read<T, E: Failure>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T, E>) -> Result<T, E> {
        self.with(|database| Ok(database.begin_read()?), |txn| read(&txn))
    }

    /// Waits for the write transaction before. What `write` does not commit does not happen.
    pub(crate) fn write<T, E: Failure>(&self, write: impl FnOnce(WriteTransaction) -> Result<T, E>) -> Result<T, E> {
        self.with(|database| Ok(database.begin_write()?), write)
    }

    /// Runs `write` in a transaction that is durable when this returns; an error leaves everything as it was.
    pub(crate) fn commit<T, E: Failure>(&self, write: impl FnOnce(&WriteTransaction) -> Result<T, E>) -> Result<T, E> {
        self.write(|txn| {
            let value = write(&txn)?;
            txn.commit().map_err(redb::Error::from)?;
            Ok(value)
        })
    }

    /// Gives pages that are free back to the file system.
    pub(crate) fn compact(&self) -> Result<(), redb::Error> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let State::Open(database) = &mut *state
            && let Err(error) = database.compact()
        {
            *state = State::Broken;
            return Err(error.into());
        }
        Ok(())
    }

    /// Everything fails with [`redb::Error::DatabaseClosed`] from here on.
    pub(crate) fn close(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::Closed;
    }

    fn with<B, T, E: Failure>(
        &self,
        begin: impl Fn(&redb::Database) -> Result<B, redb::Error>,
        run: impl FnOnce(B) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut state = self.opened()?;
        let mut begun = state.begin(&begin);
        if let Err(redb::Error::PreviousIo) = begun {
            // It failed where nobody was told, as when a transaction was dropped.
            drop(state);
            self.broke();
            state = self.opened()?;
            begun = state.begin(&begin);
        }
        let done = begun.map_err(E::from).and_then(run);
        drop(state);
        let failed = done.as_ref().err().and_then(Failure::of_file);
        if matches!(failed, Some(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            self.broke();
        }
        done
    }

    /// The state once it is not broken any more.
    fn opened(&self) -> Result<RwLockReadGuard<'_, State>, redb::Error> {
        loop {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if !matches!(*state, State::Broken) {
                return Ok(state);
            }
            drop(state);
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if let State::Broken = *state {
                *state = State::Open(redb::Database::builder().set_cache_size(self.cache_bytes).create(&self.path)?);
            }
        }
    }

    fn broke(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let State::Open(_) = *state {
            *state = State::Broken;
        }
    }
}

impl State {
    fn begin<B>(&self, begin: impl Fn(&redb::Database) -> Result<B, redb::Error>) -> Result<B, redb::Error> {
        match self {
            Self::Open(database) => begin(database),
            Self::Broken | Self::Closed => Err(redb::Error::DatabaseClosed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use redb::TableDefinition;
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    use super::*;

    const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("table");

    fn put(database: &Database, key: u64, value: &[u8]) -> Result<(), redb::Error> {
        database.write(|txn| {
            txn.open_table(TABLE)?.insert(key, value)?;
            Ok(txn.commit()?)
        })
    }

    fn get(database: &Database, key: u64) -> Result<Option<Vec<u8>>, redb::Error> {
        database.read(|txn| Ok(txn.open_table(TABLE)?.get(key)?.map(|value| value.value().to_vec())))
    }

    #[test]
    fn a_file_that_could_not_be_written_once_is_read_and_written_again() {
        // A file that grows no more is a full disk that needs no root.
        let file = memfd_create("database", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).expect("a file in memory");
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        // With memory for some pages of it, so that reading wants the file, and not for everything.
        let database = Database::open(&path, 1 << 20).expect("a new one");
        let large = vec![1; 16 << 10];
        (0..256).for_each(|key| put(&database, key, &large).expect("there is room"));
        fcntl_add_seals(&file, SealFlags::GROW).expect("sealed");
        let fill = |txn: WriteTransaction| {
            txn.open_table(TABLE)?.insert(300, &*vec![2; 64 << 20])?;
            Ok::<_, redb::Error>(txn.commit()?)
        };
        for _ in 0..2 {
            let error = database.write(fill).expect_err("there is no room");
            assert!(matches!(error, redb::Error::Io(_)), "not an error of an earlier call: {error:?}");
            (0..256).for_each(|key| assert!(get(&database, key).expect("it can be read").as_ref() == Some(&large)));
            assert_eq!(get(&database, 300).expect("it can be read"), None, "what failed did not happen");
            let untold = |txn| {
                let _ = fill(txn);
                Ok::<_, redb::Error>(())
            };
            database.write(untold).expect("nobody is told");
            put(&database, 400, b"little").expect("the file need not grow for it");
        }
        database.close();
        assert!(matches!(get(&database, 1), Err(redb::Error::DatabaseClosed)));
    }
}
