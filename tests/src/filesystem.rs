//! File systems of a test's own, in a file: small ones to fill, ones that can share extents, and ones whose power is cut.
//! Needs root.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted file system that goes with its value.
#[derive(Debug)]
pub struct FileSystem {
    /// Removed once the file system is unmounted.
    directory: tempfile::TempDir,
    mount: PathBuf,
}

impl FileSystem {
    /// Makes an XFS of `mebibytes`, which shares extents; `None`, with a word on stderr, where this machine does not let us.
    ///
    /// # Panics
    /// When a temporary file cannot be made.
    #[must_use]
    pub fn xfs(mebibytes: u64) -> Option<Self> {
        Self::image(mebibytes, &["mkfs.xfs", "-q", "-m", "reflink=1"], &["-o", "loop"])
    }

    /// Makes an ext4 of `mebibytes`; `None`, with a word on stderr, where this machine does not let us.
    ///
    /// # Panics
    /// When a temporary file cannot be made.
    #[must_use]
    pub fn ext4(mebibytes: u64) -> Option<Self> {
        Self::image(mebibytes, &["mkfs.ext4", "-q", "-F"], &["-o", "loop"])
    }

    /// Cuts the power: what was not made durable by now never will be, and everything fails until [`FileSystem::restore`]
    /// (the shutdown ioctl of XFS and ext4, without a flush of the log). Whether this machine lets us.
    #[must_use]
    pub fn cut_power(&self) -> bool {
        succeeds(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.mount))
    }

    /// The power is back: mounts it anew, with what is on the disk. Nobody may have a file of it open.
    ///
    /// # Panics
    /// When that fails.
    pub fn restore(&self) {
        assert!(succeeds(Command::new("umount").arg(&self.mount)), "somebody still uses it");
        let image = self.directory.path().join("image");
        assert!(succeeds(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&self.mount)), "its log cannot be replayed");
    }

    /// Makes a file system in memory of `mebibytes`, to be filled.
    ///
    /// # Panics
    /// When a temporary directory cannot be made.
    #[must_use]
    pub fn tmpfs(mebibytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mount = directory.path().join("mount");
        std::fs::create_dir(&mount).expect("a directory");
        let size = format!("size={mebibytes}m");
        succeeds(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&mount))
            .then_some(Self { directory, mount })
    }

    fn image(mebibytes: u64, make: &[&str], options: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (image, mount) = (directory.path().join("image"), directory.path().join("mount"));
        std::fs::create_dir(&mount).expect("a directory");
        std::fs::File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).expect("a sparse file");
        let made = succeeds(Command::new(make[0]).args(&make[1..]).arg(&image));
        (made && succeeds(Command::new("mount").args(options).arg(&image).arg(&mount))).then_some(Self { directory, mount })
    }

    /// Mounts it anew with these options, as `ro` or another `size=`.
    ///
    /// # Panics
    /// When that fails.
    pub fn remount(&self, options: &str) {
        assert!(succeeds(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.mount)));
    }

    /// Fills it with one file but for `mebibytes`. Returns the file.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn fill(&self, mebibytes: u64) -> PathBuf {
        let free = rustix::fs::statvfs(&self.mount).map(|stat| stat.f_bavail * stat.f_frsize).expect("it is mounted");
        let filler = self.mount.join("filler");
        let mut file = std::fs::File::create(&filler).expect("made");
        let filled = std::io::copy(&mut std::io::repeat(1).take(free.saturating_sub(mebibytes << 20)), &mut file);
        match filled.and_then(|_| file.sync_all()) {
            // Who else is at work there has taken some of it since.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull && mebibytes == 0 => {}
            filled => filled.expect("there is room for it"),
        }
        filler
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        succeeds(Command::new("umount").arg(&self.mount));
    }
}

fn succeeds(command: &mut Command) -> bool {
    let output = command.stdin(Stdio::null()).output();
    let succeeded = output.as_ref().is_ok_and(|output| output.status.success());
    if !succeeded {
        eprintln!("did not run, since this machine does not let us: {command:?}: {output:?}");
    }
    succeeded
}
