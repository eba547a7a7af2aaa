//! A file that replaces another once it is whole and durable. Its contents are for who is meant to have them: only its owner
//! can read it. Never shows a part under the name.

use std::io::Write as _;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::failure::Failure;
use crate::secret;

/// The file in the making.
pub(crate) struct Replacement<'a> {
    file: NamedTempFile,
    target: &'a Path,
}

impl<'a> Replacement<'a> {
    pub(crate) fn begin(target: &'a Path) -> Result<Self, Failure> {
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new().tempfile_in(parent).map_err(cannot_write(target))?;
        Ok(Self { file, target })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(cannot_write(self.target))
    }

    pub(crate) fn finish(self) -> Result<(), Failure> {
        self.file.as_file().sync_all().map_err(cannot_write(self.target))?;
        self.file.persist(self.target).map_err(|error| cannot_write(self.target)(error.error))?;
        secret::sync_parent(self.target).map_err(cannot_write(self.target))
    }
}

fn cannot_write(target: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    Failure::io(format!("cannot write {}", target.display()))
}
