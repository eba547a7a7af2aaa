//! Files with secrets: made for their owner alone, durable before anybody is told of them. Never replaces a file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::failure::{Failure, Kind};

/// Makes a directory that only its owner can look into, unless it is there.
pub(crate) fn directory(path: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Failure::io(format!("cannot make {}", path.display())))
}

/// Writes a new file that only its owner can read.
pub(crate) fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        sync_parent(path)
    };
    write().map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(path),
        _ => Failure::io(format!("cannot write {}", path.display()))(error),
    })
}

/// Makes a new name in a directory durable.
pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// What was asked for would replace a file.
pub(crate) fn exists(path: &Path) -> Failure {
    Failure::new(Kind::REFUSED, format!("{} exists already", path.display())).hint("name another file, or move this one away")
}
