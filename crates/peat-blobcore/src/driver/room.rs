//! The free space of the file systems that this node writes to: what it says of it to others, and when one that was full has
//! room again. Looks at figures only; never writes.

use std::path::PathBuf;
use std::time::Duration;

/// How often a file system that was full is looked at.
pub(super) const ROOM_INTERVAL: Duration = Duration::from_secs(5);
/// Less than this is told as nothing, so that a disk that is all but full makes no news by the minute.
const LITTLE: u64 = 64 * 1024 * 1024;
/// What has to become free before it is worth a try.
const WORTH_A_TRY: u64 = 1024 * 1024;

/// The file systems of the store and of the inbox.
pub(super) struct Room {
    directories: Vec<PathBuf>,
    /// The least that was free in each since one was full; empty while none is.
    least: Vec<u64>,
}

impl Room {
    /// The first directory is the store's.
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, least: Vec::new() }
    }

    /// Something could not be written.
    pub(super) fn ran_out(&mut self) {
        let free = self.free();
        self.least = if self.is_awaited() { self.lesser(free) } else { free };
    }

    /// Whether something could not be written, and nothing has become free since.
    pub(super) fn is_awaited(&self) -> bool {
        !self.least.is_empty()
    }

    /// Whether enough has become free to try again what could not be written.
    pub(super) fn is_made(&mut self) -> bool {
        let free = self.free();
        let made = free.iter().zip(&self.least).any(|(free, least)| *free >= least.saturating_add(WORTH_A_TRY));
        self.least = if made { Vec::new() } else { self.lesser(free) };
        made
    }

    fn lesser(&self, free: Vec<u64>) -> Vec<u64> {
        free.into_iter().zip(&self.least).map(|(free, least)| free.min(*least)).collect()
    }

    /// Free space of the store's file system in bytes as others are told it, given what they were told last: a power of two
    /// that changes only when the space is less than it or four times as much, so that a little to and fro is no news.
    pub(super) fn told(&self, last: u64) -> u64 {
        match self.free().first().copied().unwrap_or(0) {
            ..LITTLE => 0,
            free if last <= free && free / 4 < last => last,
            free => 1 << free.ilog2(),
        }
    }

    fn free(&self) -> Vec<u64> {
        let of = |directory: &PathBuf| {
            // A directory that cannot be looked at has no room, and whoever writes there says why.
            rustix::fs::statvfs(directory).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
        };
        self.directories.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_are_told_changes_with_the_space_and_not_with_every_byte() {
        let directory = tempfile::tempdir().expect("a directory");
        let room = Room::new(vec![directory.path().to_owned()]);
        let told = room.told(0);
        assert!(told.is_power_of_two(), "{told}");
        assert_eq!(room.told(told), told);
        assert_eq!(room.told(told / 2), told / 2, "a little more is no news");
        assert_eq!(room.told(told / 8), told);
        assert_eq!(room.told(told * 2), told, "never more than there is");
        assert_eq!(Room::new(vec![directory.path().join("gone")]).told(told), 0);
    }
}
