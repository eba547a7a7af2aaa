//! Waiting for descriptors, never longer than was said and never beyond the end of the service. Must never change what others have
//! open as well: sockets are not made non-blocking for it, and of pipes only those whose other side is what is waited for.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;

use super::VarlinkError;

/// Ends all waiting at once.
#[derive(Debug)]
pub(super) struct Stop {
    ended: PipeReader,
    /// Dropped to stop.
    running: Mutex<Option<PipeWriter>>,
}

impl Stop {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let (ended, running) = io::pipe()?;
        Ok(Arc::new(Self { ended, running: Mutex::new(Some(running)) }))
    }

    pub(super) fn stop(&self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Waits until something can be done with a descriptor, or its other side is gone.
///
/// # Errors
/// `Stalled` after `patience` (no limit without), `Stopped`.
pub(super) fn wait(
    fd: BorrowedFd<'_>,
    what: PollFlags,
    patience: Option<Duration>,
    stop: Option<&Stop>,
) -> Result<(), VarlinkError> {
    let until = patience.map(|patience| Instant::now() + patience);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left
            .map(|left| Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() });
        let mut fds = vec![PollFd::from_borrowed_fd(fd, what)];
        fds.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop.ended.as_fd(), PollFlags::empty())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) if fds.get(1).is_some_and(|stop| !stop.revents().is_empty()) => return Err(VarlinkError::Stopped),
            Ok(0) => return Err(VarlinkError::Stalled(patience.unwrap_or_default())),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(VarlinkError::errno("wait for the other side")(errno)),
        }
    }
}

/// One end of a pipe that another process has the other end of.
#[derive(Debug)]
pub(super) struct Pipe {
    file: File,
    patience: Duration,
    stop: Option<Arc<Stop>>,
}

impl Pipe {
    /// Takes a descriptor that is to be an end of a pipe; `None` if it is none.
    pub(super) fn new(end: OwnedFd, patience: Duration, stop: Option<Arc<Stop>>) -> io::Result<Option<Self>> {
        if FileType::from_raw_mode(fstat(&end)?.st_mode) != FileType::Fifo {
            return Ok(None);
        }
        // Whoever has it too may take what was waited for.
        fcntl_setfl(&end, fcntl_getfl(&end)? | OFlags::NONBLOCK)?;
        Ok(Some(Self { file: File::from(end), patience, stop }))
    }

    fn wait(&self, what: PollFlags) -> io::Result<()> {
        wait(self.file.as_fd(), what, Some(self.patience), self.stop.as_deref()).map_err(io::Error::other)
    }
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            match self.file.read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::OUT)?;
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_patience_with_the_service_and_with_the_other_side() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let short = Duration::from_millis(1);
        let stalled = wait(reader.as_fd(), PollFlags::IN, Some(short), None);
        assert!(matches!(stalled, Err(VarlinkError::Stalled(_))));
        let stop = Stop::new().expect("a pipe");
        let stalled = wait(reader.as_fd(), PollFlags::IN, Some(short), Some(&stop));
        assert!(matches!(stalled, Err(VarlinkError::Stalled(_))));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(reader.as_fd(), PollFlags::IN, None, Some(&stop)));
            stop.stop();
            assert!(matches!(waiting.join().expect("it ends"), Err(VarlinkError::Stopped)));
        });
        drop(writer);
        assert!(wait(reader.as_fd(), PollFlags::IN, None, None).is_ok(), "its end can be read");
    }

    #[test]
    fn only_pipes_are_pipes_and_a_reader_that_goes_is_noticed() {
        let take = |fd: OwnedFd| Pipe::new(fd, Duration::from_secs(30), None).expect("it is looked at");
        assert!(take(File::open("/dev/null").expect("open").into()).is_none());
        assert!(take(File::open("/").expect("open").into()).is_none());
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut writer = take(writer.into()).expect("a pipe");
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| writer.write_all(&vec![7; 1 << 20]));
            drop(reader);
            assert_eq!(writing.join().expect("it ends").expect_err("gone").kind(), io::ErrorKind::BrokenPipe);
        });
    }
}
