//! A redb file that goes on after an I/O error, of which a full disk is one. redb itself refuses everything from the first on;
//! what was committed before it stands, and is there when the file is opened again.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{ReadTransaction, ReadableDatabase as _, WriteTransaction};

/// An open file, or one that is opened again by whoever needs it next.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    cache_bytes: usize,
    open: RwLock<Option<redb::Database>>,
}

impl Database {
    /// Opens the file, made if need be. redb may use `cache_bytes` of memory for its pages.
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Self, redb::Error> {
        let database = Self { path: path.to_owned(), cache_bytes, open: RwLock::default() };
        database.begin(|_| Ok(()))?;
        Ok(database)
    }

    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, redb::Error> {
        self.begin(|database| Ok(database.begin_read()?))
    }

    /// Waits for the write transaction before.
    pub(crate) fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        match self.begin(|database| Ok(database.begin_write()?)) {
            Err(redb::Error::PreviousIo) => {
                self.close();
                self.begin(|database| Ok(database.begin_write()?))
            }
            begun => begun,
        }
    }

    /// Closes the file, if this error is of the kind after which redb refuses everything.
    pub(crate) fn close_after(&self, error: &redb::Error) {
        if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
            self.close();
        }
    }

    fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn begin<T>(&self, begin: impl Fn(&redb::Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        if let Some(database) = &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            return begin(database);
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let database = match open.take() {
            Some(database) => database,
            None => redb::Database::builder().set_cache_size(self.cache_bytes).create(&self.path)?,
        };
        begin(open.insert(database))
    }
}
