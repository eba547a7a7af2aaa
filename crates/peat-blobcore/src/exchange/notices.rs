//! What the kernel tells of changes beneath a watched root (inotify), so that a look need not wait for its poll. It only makes a look
//! come sooner: nothing is decided by what was told, and what was not is found by the next poll.
//!
//! Each look watches the directories that it comes across, each before it is listed, so that nothing falls between; and lets go of
//! those that it did not come across.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::watch::{is_hidden, is_wanted};

/// What has come into a directory. That a file was made is not enough: its writer closes it, and may set its mode and times then.
const COMES: WatchFlags = WatchFlags::CLOSE_WRITE.union(WatchFlags::MOVED_TO).union(WatchFlags::CREATE).union(WatchFlags::ATTRIB);
const GOES: WatchFlags = WatchFlags::DELETE.union(WatchFlags::MOVED_FROM);
const ITSELF: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF);
const ONLY: WatchFlags = WatchFlags::ONLYDIR.union(WatchFlags::EXCL_UNLINK);

/// What calls for a look whatever it is about: notices were lost, or the root or a mount within it is another now.
const AT_LARGE: ReadFlags =
    ReadFlags::QUEUE_OVERFLOW.union(ReadFlags::UNMOUNT).union(ReadFlags::DELETE_SELF).union(ReadFlags::MOVE_SELF);

/// Bytes of notices that are read at a time.
const BUFFER: usize = 16 * 1024;
/// How often that is done in one go: the kernel keeps 16384 notices unless told otherwise, of 272 bytes at most.
const MAX_READS: usize = 300;

/// File systems on which others may write without this kernel's knowledge, by their magic numbers: NFS, SMB of three ages, 9p, FUSE, Ceph,
/// AFS, Coda, the shared folders of two hypervisors, GFS2, OCFS2 and Lustre (statfs(2), linux/magic.h).
const REMOTE: [u32; 14] = [
    0x6969,
    0x517B,
    0xFF53_4D42,
    0xFE53_4D42,
    0x0102_1997,
    0x6573_5546,
    0x00C3_6400,
    0x5346_414F,
    0x7375_7245,
    0x786F_4256,
    0xBACB_ACBC,
    0x0116_1970,
    0x7461_636F,
    0x0BD0_0BD0,
];

/// How many directories more the watched roots of a node may have watched, all of them together.
#[derive(Debug)]
pub(crate) struct WatchLimit(AtomicUsize);

impl WatchLimit {
    /// As many as kernels before 5.11 allow a user. Each keeps an inode in memory, by the kernel's own count some 1.3 KB.
    pub(crate) const DEFAULT: usize = 8192;

    /// At most half of what this kernel allows a user, whose other programs want some too.
    pub(crate) fn of_this_machine() -> Self {
        let allowed = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
        let allowed: Option<usize> = allowed.ok().and_then(|text| text.trim().parse().ok());
        Self::new(allowed.map_or(Self::DEFAULT, |allowed| Self::DEFAULT.min(allowed / 2)))
    }

    pub(crate) fn new(most: usize) -> Self {
        Self(AtomicUsize::new(most))
    }

    fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn give_back(&self, places: usize) {
        self.0.fetch_add(places, Ordering::Relaxed);
    }
}

/// The notices of one root.
#[derive(Debug)]
pub(crate) struct Notices {
    inotify: OwnedFd,
    /// What is watched, and the look that has come across it last.
    watches: BTreeMap<i32, u64>,
    look: u64,
    /// Where a root that is not there will be: the watch of its parent, and its name.
    awaited: Option<(i32, Vec<u8>)>,
    removals: bool,
    remote: bool,
    failed: Option<String>,
    limit: Arc<WatchLimit>,
}

impl Notices {
    /// `removals` is whether it is of interest what has gone.
    ///
    /// # Errors
    /// When the kernel has none to give.
    pub(crate) fn new(removals: bool, limit: Arc<WatchLimit>) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self { inotify, watches: BTreeMap::new(), look: 0, awaited: None, removals, remote: false, failed: None, limit })
    }

    /// Why not all of the root is watched, if that is so. These notices are of no use then.
    pub(crate) fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Whether others may write there without a notice.
    pub(crate) fn is_remote(&self) -> bool {
        self.remote
    }

    /// Reads what was told and has not been read: whether some of it calls for a look.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing was told.
    pub(crate) fn read(&self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut calls = false;
        loop {
            let event = reader.next()?;
            calls |= self.calls(&event);
            if reader.is_buffer_empty() {
                return Ok(calls);
            }
        }
    }

    /// Reads all that was told so far, since a look is about to see it anyway: whether some of it called for one.
    pub(crate) fn drain(&self) -> bool {
        let mut called = false;
        for _ in 0..MAX_READS {
            let Ok(calls) = self.read() else { break };
            called |= calls;
        }
        called
    }

    fn calls(&self, event: &inotify::Event<'_>) -> bool {
        let what = event.events();
        if what.intersects(AT_LARGE) {
            return true;
        }
        let Some(name) = event.file_name().map(CStr::to_bytes) else { return false };
        match &self.awaited {
            Some((watch, root)) if *watch == event.wd() => name == root,
            _ if what.contains(ReadFlags::ISDIR) => !is_hidden(name),
            _ => !what.contains(ReadFlags::CREATE) && is_wanted(name),
        }
    }

    /// Watches a directory at `path` beneath the root, which is about to be listed.
    pub(super) fn watch(&mut self, path: &[u8], directory: &OwnedFd) {
        if self.failed.is_some() || is_hidden(path) {
            return;
        }
        let mut flags = ONLY | COMES;
        if self.removals {
            flags |= GOES;
        }
        if path.is_empty() {
            flags |= ITSELF;
            self.awaited = None;
            self.remote = fs::fstatfs(directory).is_ok_and(|stat| REMOTE.contains(&(stat.f_type as u32)));
        }
        // By its fd: a path may lead elsewhere by now.
        let opened = format!("/proc/self/fd/{}", directory.as_raw_fd());
        match inotify::add_watch(&self.inotify, opened, flags) {
            Ok(watch) => self.note(watch),
            Err(Errno::NOSPC) => self.fail("the kernel's limit of watches (fs.inotify.max_user_watches) is reached"),
            Err(error) => self.fail(&format!("its directories cannot be watched: {}", io::Error::from(error))),
        }
    }

    /// A look has come to its end.
    pub(super) fn looked(&mut self) {
        let (inotify, look, before) = (&self.inotify, self.look, self.watches.len());
        self.watches.retain(|watch, last| {
            let keep = *last == look;
            if !keep {
                // That of a directory which is gone has gone with it.
                let _gone = inotify::remove_watch(inotify, *watch);
            }
            keep
        });
        self.limit.give_back(before - self.watches.len());
        self.look += 1;
    }

    /// The root is not there: waits for it to come. Where its parent is not there either, the poll finds it.
    pub(super) fn wait_for(&mut self, root: &Path) {
        self.look += 1;
        self.awaited = None;
        if let (Some(parent), Some(name)) = (root.parent(), root.file_name())
            && let Ok(watch) = inotify::add_watch(&self.inotify, parent, ONLY | WatchFlags::CREATE | WatchFlags::MOVED_TO)
        {
            self.awaited = Some((watch, name.as_encoded_bytes().to_vec()));
            self.note(watch);
        }
        self.looked();
    }

    fn note(&mut self, watch: i32) {
        if let Some(look) = self.watches.get_mut(&watch) {
            *look = self.look;
        } else if self.limit.take() {
            self.watches.insert(watch, self.look);
        } else {
            self.fail("the watched outboxes of this node have too many directories to watch all of them");
        }
    }

    /// What was watched is of no use any more: others may have its places.
    fn fail(&mut self, why: &str) {
        self.limit.give_back(std::mem::take(&mut self.watches).len());
        self.failed.get_or_insert_with(|| why.to_owned());
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.limit.give_back(self.watches.len());
    }
}
