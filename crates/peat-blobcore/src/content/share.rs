//! A file of somebody else's on this machine as a blob, without a copy of its bytes where that can be.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD};

/// How bytes come from one file of this machine into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// By sharing the file's extents where the file system can (`FICLONE`), else as a copy.
    #[default]
    WherePossible,
    /// By its extents, or by one more name for the same file. Never as a copy.
    Only,
}

/// How they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    /// Both files share their extents, and neither sees what is written to the other.
    Reflinked,
    /// It is the same file under one more name.
    HardLinked,
    /// There are two.
    Copied,
}

/// Makes `to`, an empty file of the caller's at `path`, share what `from` has. `None` where it can only be copied, and may be. A hard
/// link replaces the file at `path`; `to` is not it then.
///
/// # Errors
/// Why not, where it may not be copied; then `path` may be gone.
pub(crate) fn share(from: &File, to: &File, path: &Path, sharing: Sharing) -> Result<Option<Shared>, String> {
    match (rustix::fs::ioctl_ficlone(to, from), sharing) {
        (Ok(()), _) => return Ok(Some(Shared::Reflinked)),
        (Err(_), Sharing::WherePossible) => return Ok(None),
        (Err(_), Sharing::Only) => {}
    }
    let failed = |error: io::Error| error.to_string();
    let (there, here) = (from.metadata().map_err(failed)?, to.metadata().map_err(failed)?);
    if there.dev() != here.dev() {
        return Err("they are on different file systems".to_owned());
    }
    // One more name for a file that others may write to is no copy of what it says now.
    let is_own = [0, rustix::process::geteuid().as_raw()].contains(&there.uid());
    if !is_own || there.mode() & 0o022 != 0 {
        return Err("the file system shares no extents, and others than this user and root may write to the file".to_owned());
    }
    fs::remove_file(path).map_err(failed)?;
    let source = format!("/proc/self/fd/{}", from.as_raw_fd());
    match rustix::fs::linkat(CWD, source.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => Ok(Some(Shared::HardLinked)),
        Err(errno) => Err(format!("the file system shares no extents, and a hard link is refused: {}", io::Error::from(errno))),
    }
}
