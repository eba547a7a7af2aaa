//! The shell round the medium: one thread that moves packets between TUN devices and the medium, and waits for the clock.
//!
//! It decides nothing about packets. It must never block on anything but its one `poll`.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::SyncDevice;

use crate::capture::Capture;
use crate::host::destination;
use crate::medium::Medium;

/// How many packets are taken from one device before others have their turn.
const BATCH: usize = 64;
/// Above so many packets in a millisecond it takes them in batches, and looks no more often than this: waking up for each
/// packet would take the processor from the programs.
const MANY: u32 = 20;
const PAUSE: Duration = Duration::from_micros(50);
/// The longest wait, so that a capture is on disk soon.
const LONGEST: Duration = Duration::from_millis(500);

/// What the pump shares with the lab.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) medium: Medium,
    pub(crate) capture: Option<Capture>,
    /// Why the capture ended early.
    pub(crate) capture_error: Option<io::Error>,
}

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Pump {
    shared: Arc<Mutex<Shared>>,
    start: Instant,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Starts it; device `i` is host `i`'s.
    pub(crate) fn start(medium: Medium, devices: Vec<SyncDevice>) -> io::Result<Self> {
        let shared = Arc::new(Mutex::new(Shared { medium, capture: None, capture_error: None }));
        let (stop, stopped) = UnixStream::pair()?;
        let start = Instant::now();
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("lab-medium".into()).spawn(move || run(&shared, start, &devices, &stopped))?
        };
        Ok(Self { shared, start, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
        if let Some(capture) = &mut self.shared().capture {
            let _ = capture.flush();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(shared: &Mutex<Shared>, start: Instant, devices: &[SyncDevice], stopped: &UnixStream) {
    // Without this the kernel may be 50 microseconds late, half the delay of a LAN. Where it is refused, it is.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    // What stands for hardware should not wait for the programs that it serves. The same.
    let _ = rustix::process::setpriority_process(None, -20);
    let mut buffer = vec![0; 65_536];
    let mut fds: Vec<PollFd<'_>> = devices.iter().map(|device| PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN)).collect();
    fds.push(PollFd::new(stopped, PollFlags::IN));
    let mut load = Load::default();
    loop {
        let begun = start.elapsed();
        let next = turn(&mut lock(shared), start, devices, &fds, &mut buffer, &mut load);
        if load.is_high(begun) {
            std::thread::sleep(PAUSE.saturating_sub(start.elapsed() - begun));
        }
        let wait = next.map_or(LONGEST, |next| next.saturating_sub(start.elapsed()).min(LONGEST));
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, Some(&wait));
        if fds.last().is_some_and(|stopped| !stopped.revents().is_empty()) {
            return;
        }
    }
}

/// How many packets came in this millisecond and in the one before.
#[derive(Debug, Default)]
struct Load {
    millisecond: u128,
    now: u32,
    before: u32,
}

impl Load {
    fn is_high(&mut self, now: Duration) -> bool {
        let millisecond = now.as_millis();
        if millisecond != self.millisecond {
            self.before = if millisecond == self.millisecond + 1 { self.now } else { 0 };
            (self.millisecond, self.now) = (millisecond, 0);
        }
        self.before > MANY || self.now > MANY
    }
}

/// Delivers what is due, takes what the last `poll` saw, and says when something is due next.
fn turn(
    shared: &mut Shared,
    start: Instant,
    devices: &[SyncDevice],
    fds: &[PollFd<'_>],
    buffer: &mut [u8],
    load: &mut Load,
) -> Option<Duration> {
    deliver(shared, start.elapsed(), devices);
    for (from, (device, fd)) in devices.iter().zip(fds).enumerate() {
        if fd.revents().is_empty() {
            continue;
        }
        for _ in 0..BATCH {
            let length = match device.recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Nothing is left; or the device is down, and then nothing comes from it.
                Err(_) => break,
            };
            let (now, packet) = (start.elapsed(), &buffer[..length]);
            let Some(to) = destination(packet) else { continue };
            load.now += 1;
            shared.record(now, packet);
            shared.medium.send(now, from, to, packet.to_vec());
        }
        deliver(shared, start.elapsed(), devices);
    }
    shared.medium.next()
}

fn deliver(shared: &mut Shared, now: Duration, devices: &[SyncDevice]) {
    while let Some(arrival) = shared.medium.receive(now) {
        // A device that is down loses packets, as an interface that is down does.
        let _ = devices[arrival.to].send(&arrival.packet);
    }
}

impl Shared {
    fn record(&mut self, now: Duration, packet: &[u8]) {
        if let Some(capture) = &mut self.capture
            && let Err(error) = capture.write(now, packet)
        {
            self.capture = None;
            self.capture_error = Some(error);
        }
    }
}
