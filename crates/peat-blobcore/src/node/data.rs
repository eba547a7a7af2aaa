//! The data directory: its format, and the lock that keeps two processes from sharing it.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::Error;

/// The format that this version writes and reads: the content of the file `format`.
const FORMAT: &str = "peat-blob data 1\n";

/// An open data directory. Another process may open it once this is dropped.
#[derive(Debug)]
pub(super) struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Opens the directory, made if need be, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::DataDirectory { path: path.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
        let path = path.canonicalize().map_err(fail)?;
        close_to_others(&path).map_err(fail)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock")).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(Error::InUse(path)),
            Err(std::fs::TryLockError::Error(source)) => return Err(fail(source)),
        }
        match read_format(&path) {
            Ok(found) if found == FORMAT => {}
            Ok(found) => return Err(Error::Format { path, found: found.trim().to_owned(), known: FORMAT.trim() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => write_format(&path).map_err(fail)?,
            Err(error) => return Err(fail(error)),
        }
        Ok(Self { path, _lock: lock })
    }

    /// A place in the directory.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Keys, documents and blobs are for the node's user alone. Tightens a directory that was made by somebody else.
fn close_to_others(directory: &Path) -> std::io::Result<()> {
    let mode = std::fs::metadata(directory)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(directory, Permissions::from_mode(mode & 0o7700))?;
    }
    Ok(())
}

fn read_format(directory: &Path) -> std::io::Result<String> {
    let mut found = String::new();
    File::open(directory.join("format"))?.take(64).read_to_string(&mut found)?;
    Ok(found)
}

/// Written under another name first: a crash leaves the whole file or none.
fn write_format(directory: &Path) -> std::io::Result<()> {
    let temporary = directory.join("format.new");
    let mut file = File::create(&temporary)?;
    file.write_all(FORMAT.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join("format"))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_for_its_user_for_one_process_at_a_time_and_for_versions_that_know_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let open = DataDirectory::open(directory.path()).expect("a new one opens");
        assert!(matches!(DataDirectory::open(directory.path()), Err(Error::InUse(_))));
        drop(open);
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        let made = directory.path().join("a/b");
        drop(DataDirectory::open(&made).expect("a new one opens"));
        assert_eq!(mode(&made), 0o700);
        std::fs::set_permissions(&made, Permissions::from_mode(0o755)).expect("it is ours");
        drop(DataDirectory::open(&made).expect("opens again"));
        assert_eq!(mode(&made), 0o700, "others are shut out of a directory that was open to them");
        std::fs::write(directory.path().join("format"), "peat-blob data 9\n").expect("written");
        let error = DataDirectory::open(directory.path()).expect_err("a newer format");
        assert!(error.to_string().contains("peat-blob data 9") && error.hint().is_some(), "{error}");
    }
}
