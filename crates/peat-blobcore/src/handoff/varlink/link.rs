//! A connection: messages with descriptors over a Unix socket (`SCM_RIGHTS`), one at a time.
//!
//! Must never wait longer than was said for what has begun, keep open what nobody takes, or pass a descriptor on to programs that are
//! started. Memory is one message; that of long ones comes out of what all connections share.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg, sockopt,
};

use super::VarlinkError;
use super::message::{Framer, MAX_FRAME_DESCRIPTORS, Message, MessageError};
use super::wait::{Stop, wait};

/// What Linux passes at once (`SCM_MAX_FD`): with room for all, none are lost without a word.
const SCM_MAX_FD: usize = 253;
const STEP_BYTES: usize = 64 * 1024;

/// A message, as it comes from a socket.
pub(super) type Received = Message<OwnedFd>;

/// Bytes that long messages of all connections may take together.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<AtomicUsize>);

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// One side of a connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: Arc<UnixStream>,
    framer: Framer<OwnedFd>,
    /// How long the other side may do nothing in the midst of a message.
    patience: Duration,
    stop: Option<Arc<Stop>>,
    room: Room,
    /// Of the room.
    taken: usize,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Link {
    pub(super) fn new(socket: Arc<UnixStream>, patience: Duration, stop: Option<Arc<Stop>>, room: Room) -> Self {
        Self { socket, framer: Framer::default(), patience, stop, room, taken: 0 }
    }

    /// The next message; `None` when the other side ends between two.
    pub(super) fn receive(&mut self, first: Option<Duration>) -> Result<Option<Received>, VarlinkError> {
        self.give_back();
        // As long as nothing has begun; then a message has one time for all of it, however it drips.
        let mut begun = None;
        loop {
            if let Some(message) = self.framer.next_message()? {
                return Ok(Some(message));
            }
            if self.framer.pending() > 0 && begun.is_none() {
                begun = Some(Instant::now());
            }
            let patience = match begun {
                Some(begun) => Some(self.patience.saturating_sub(begun.elapsed())),
                None => first,
            };
            let stalled = |error| match error {
                VarlinkError::Stalled(_) if begun.is_some() => VarlinkError::Stalled(self.patience),
                error => error,
            };
            wait(self.socket.as_fd(), PollFlags::IN, patience, self.stop.as_deref()).map_err(stalled)?;
            match self.read()? {
                0 if self.framer.pending() == 0 => return Ok(None),
                0 => return Err(VarlinkError::Closed),
                _ => {}
            }
            let needed = self.framer.pending().saturating_sub(STEP_BYTES).next_multiple_of(16 * STEP_BYTES);
            if needed > self.taken {
                if !self.room.take(needed - self.taken) {
                    return Err(VarlinkError::Busy);
                }
                self.taken = needed;
            }
        }
    }

    /// Reads what is there.
    fn read(&mut self) -> Result<usize, VarlinkError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut piece = vec![0; STEP_BYTES];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match recvmsg(&*self.socket, &mut [IoSliceMut::new(&mut piece)], &mut control, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(1),
                Err(Errno::CONNRESET) => return Ok(0),
                received => break received.map_err(VarlinkError::errno("receive from the other side"))?,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(VarlinkError::LostDescriptors);
        }
        self.framer.push(&piece[..received.bytes], descriptors)?;
        Ok(received.bytes)
    }

    /// Sends a message that was encoded, with its zero byte.
    pub(super) fn send(&self, mut bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), VarlinkError> {
        if descriptors.len() > MAX_FRAME_DESCRIPTORS {
            return Err(MessageError::TooManyDescriptors.into());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(MessageError::TooManyDescriptors.into());
        }
        let begun = Instant::now();
        while !bytes.is_empty() {
            match sendmsg(&*self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    // They went with the first of it.
                    control.clear();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let left = self.patience.saturating_sub(begun.elapsed());
                    wait(self.socket.as_fd(), PollFlags::OUT, Some(left), self.stop.as_deref()).map_err(|error| match error {
                        VarlinkError::Stalled(_) => VarlinkError::Stalled(self.patience),
                        error => error,
                    })?;
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(VarlinkError::Closed),
                Err(errno) => return Err(VarlinkError::errno("send to the other side")(errno)),
            }
        }
        Ok(())
    }

    fn give_back(&mut self) {
        self.room.0.fetch_add(std::mem::take(&mut self.taken), Ordering::Relaxed);
    }
}

/// Whether the other side is this user or root, as the system says.
pub(super) fn is_own(socket: &UnixStream) -> Result<(), VarlinkError> {
    let peer = sockopt::socket_peercred(socket).map_err(VarlinkError::errno("ask who is on the other side"))?;
    match peer.uid == rustix::process::geteuid() || peer.uid.is_root() {
        true => Ok(()),
        false => Err(VarlinkError::Stranger(peer.uid.as_raw())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn pair(patience: Duration, room: usize) -> (Link, Link, Arc<UnixStream>) {
        let (one, other) = UnixStream::pair().expect("sockets");
        let other = Arc::new(other);
        let room = Room::new(room);
        let link = |socket| Link::new(socket, patience, None, room.clone());
        (link(Arc::new(one)), link(Arc::clone(&other)), other)
    }

    #[test]
    fn messages_and_descriptors_arrive_together_however_they_were_sent() {
        let (mut here, there, _) = pair(LONG, 64 << 20);
        let file = File::open("/dev/null").expect("open");
        let long = [&vec![b'x'; 3 << 20][..], b"\0"].concat();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                there.send(b"one\0", &[]).expect("sent");
                there.send(b"two\0", &[file.as_fd(); 2]).expect("sent");
                there.send(b"three\0", &[]).expect("sent");
                there.send(&long, &[file.as_fd(); 240]).expect("sent");
                assert!(there.send(b"four\0", &[file.as_fd(); 241]).is_err());
            });
            let mut next = || here.receive(None).expect("received").expect("another");
            for (bytes, count) in [(&b"one"[..], 0), (b"two", 2), (b"three", 0), (&long[..3 << 20], 240)] {
                let got = next();
                assert!(got.bytes == bytes && got.descriptors.len() == count);
                for fd in &got.descriptors {
                    let flags = rustix::io::fcntl_getfd(fd).expect("open");
                    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
                }
            }
        });
        drop(there);
    }

    #[test]
    fn an_end_between_messages_is_one_and_within_one_is_an_error() {
        let (mut here, there, socket) = pair(LONG, 0);
        there.send(b"one\0", &[]).expect("sent");
        drop(there);
        drop(socket);
        assert!(here.receive(None).expect("received").is_some());
        assert!(here.receive(None).expect("ended").is_none());
        let (mut here, there, socket) = pair(LONG, 0);
        (&*socket).write_all(b"half").expect("sent");
        drop(there);
        drop(socket);
        assert!(matches!(here.receive(None), Err(VarlinkError::Closed)));
    }

    #[test]
    fn nobody_is_waited_for_for_ever_and_long_messages_share_their_room() {
        let (mut here, _there, socket) = pair(Duration::from_millis(1), 0);
        assert!(matches!(here.receive(Some(Duration::from_millis(1))), Err(VarlinkError::Stalled(_))));
        (&*socket).write_all(b"half").expect("sent");
        assert!(matches!(here.receive(None), Err(VarlinkError::Stalled(_))));
        let long = [&vec![b'x'; 4 << 20][..], b"\0"].concat();
        assert!(matches!(here.send(&long, &[]), Err(VarlinkError::Stalled(_))), "who does not read");
        let (mut here, there, _) = pair(LONG, 2 << 20);
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| there.send(&long, &[]));
            assert!(matches!(here.receive(None), Err(VarlinkError::Busy)));
            drop(here);
            assert!(sending.join().expect("it ends").is_err());
        });
    }
}
