//! When a watched outbox is looked at next: at its poll; and, where the kernel tells of changes, when it has told of one, and again
//! when what was found then can have been still for long enough.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::net::unix::pipe;

use super::outbox::OutboxOptions;
use crate::exchange::{Notices, WatchLimit};

/// A look at a large root takes at most this part of the time.
const SHARE: u32 = 10;
/// What is told within this time of a look has one look for all of it.
const TOGETHER: Duration = Duration::from_millis(200);
/// How long a root is polled alone before it is tried again whether all of it can be watched.
const RETRY: Duration = Duration::from_secs(600);

/// The looks at one root. All times are since it was begun.
pub(super) struct Looks {
    begun: Instant,
    times: Times,
    /// Whether this look, or the last one, is for something new, and not only for what an earlier one has found.
    fresh: bool,
    wanted: bool,
    removals: bool,
    limit: Arc<WatchLimit>,
    heard: Option<Heard>,
    /// When it is tried to have some, if there are none.
    again: Duration,
    polled: Option<String>,
}

impl Looks {
    /// `limit` is how many directories may be watched.
    pub(super) fn new(options: &OutboxOptions, limit: Arc<WatchLimit>) -> Self {
        Self {
            begun: Instant::now(),
            times: Times::new(options.interval, options.stable),
            fresh: true,
            wanted: options.notices,
            removals: options.deletions,
            limit,
            heard: None,
            again: Duration::ZERO,
            polled: (!options.notices).then(|| "notices are turned off".to_owned()),
        }
    }

    /// A look begins: the time, and who is to watch what it comes across. To be called within a runtime.
    pub(super) fn begin(&mut self) -> (Duration, Option<&mut Notices>) {
        let now = self.begun.elapsed();
        if self.wanted && self.heard.is_none() && now >= self.again {
            match Heard::new(self.removals, &self.limit) {
                Ok(heard) => self.heard = Some(heard),
                Err(error) => self.give_up(now, cause(&error)),
            }
        }
        let notices = self.heard.as_mut().map(|heard| &mut heard.notices);
        if let Some(notices) = &notices {
            // What comes from now on is told once more, since it may come after the look has passed its place.
            self.fresh |= notices.drain();
        }
        (now, notices)
    }

    /// The look that began at `at` has ended. `waits` is whether something waits until it was still for long enough, and `rest` how long
    /// there is to be none.
    pub(super) fn end(&mut self, at: Duration, waits: bool, rest: Duration) {
        let now = self.begun.elapsed();
        if let Some(Heard { notices, .. }) = &self.heard {
            let remote = "others can write to its file system unseen (NFS, FUSE and the like): what they write is found by polls";
            self.polled = notices.is_remote().then(|| remote.to_owned());
            if let Some(why) = notices.failed().map(str::to_owned) {
                self.give_up(now, why);
            }
        }
        let follows = self.heard.as_ref().map(|_| if self.fresh { Follows::New } else { Follows::Found });
        self.times.looked(at, now, follows.filter(|_| waits), rest);
    }

    /// Why what is put there is found by polls alone, if that is so.
    pub(super) fn polled(&self) -> Option<&str> {
        self.polled.as_deref()
    }

    /// Waits until it is time to look.
    pub(super) async fn next(&mut self) {
        let Next { mut at, soonest, mut fresh } = self.times.next();
        let again = self.again.max(soonest);
        if self.wanted && self.heard.is_none() && again < at {
            (at, fresh) = (again, true);
        }
        let told = tokio::select! {
            () = self.until(at) => {
                self.fresh = fresh;
                return;
            }
            told = told(self.heard.as_ref()) => told,
        };
        if let Err(error) = told {
            self.give_up(self.begun.elapsed(), cause(&error));
        }
        self.until(soonest).await;
        self.fresh = true;
    }

    async fn until(&self, time: Duration) {
        tokio::time::sleep(time.saturating_sub(self.begun.elapsed())).await;
    }

    fn give_up(&mut self, now: Duration, why: String) {
        self.heard = None;
        self.again = now + RETRY;
        self.polled = Some(why);
    }
}

/// Notices that can be waited for.
struct Heard {
    notices: Notices,
    /// The same open file, for the runtime: of its owned files that are no sockets a pipe is what it waits for without `unsafe`, and all
    /// that it does with one is to wait until it can be read.
    ready: pipe::Receiver,
}

impl Heard {
    fn new(removals: bool, limit: &Arc<WatchLimit>) -> io::Result<Self> {
        let notices = Notices::new(removals, Arc::clone(limit))?;
        let ready = pipe::Receiver::from_owned_fd_unchecked(notices.as_fd().try_clone_to_owned()?)?;
        Ok(Self { notices, ready })
    }
}

fn cause(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => "no more files can be opened, or the limit of fs.inotify.max_user_instances is reached".to_owned(),
        _ => format!("the kernel does not tell of changes: {error}"),
    }
}

/// Waits until something was told that calls for a look.
async fn told(heard: Option<&Heard>) -> io::Result<()> {
    let Some(Heard { notices, ready }) = heard else { return pending().await };
    loop {
        ready.readable().await?;
        match ready.try_io(|| notices.read()) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        // Notices that call for nothing can come without end.
        tokio::task::yield_now().await;
    }
}

/// When to look next.
struct Next {
    at: Duration,
    /// When to look if something is told before.
    soonest: Duration,
    /// Whether that is a poll.
    fresh: bool,
}

/// What a look was for after which something waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follows {
    /// Something that was told, or a poll.
    New,
    /// What an earlier one has found.
    Found,
}

/// What the time of the next look follows from.
struct Times {
    interval: Duration,
    window: Duration,
    poll: Duration,
    soonest: Duration,
    /// When what earlier looks found can have been still for long enough.
    still: VecDeque<Duration>,
    /// How long after the last look of one after the other for the same.
    follow: Duration,
}

impl Times {
    fn new(interval: Duration, window: Duration) -> Self {
        Self { interval, window, poll: Duration::ZERO, soonest: Duration::ZERO, still: VecDeque::new(), follow: window }
    }

    /// A look began at `at` and ended `now`. What waits then is looked at again when it can have been still for long enough, and if it
    /// was not (its mode was set, it could not be sent, it has no end) at ever longer intervals until the poll.
    fn looked(&mut self, at: Duration, now: Duration, waits: Option<Follows>, rest: Duration) {
        let gap = rest.max((now - at) * SHARE);
        self.poll = now + gap.max(self.interval);
        self.soonest = now + gap.max(TOGETHER.min(self.interval));
        while self.still.front().is_some_and(|still| *still <= at) {
            self.still.pop_front();
        }
        self.follow = match waits {
            None => {
                self.still.clear();
                return;
            }
            Some(Follows::New) => self.window,
            Some(Follows::Found) if !self.still.is_empty() => return,
            Some(Follows::Found) => (self.follow * 2).max(TOGETHER),
        };
        self.still.push_back(at + self.follow);
    }

    fn next(&self) -> Next {
        let still = self.still.front().map(|still| *still.max(&self.soonest)).filter(|still| *still < self.poll);
        Next { at: still.unwrap_or(self.poll), soonest: self.soonest, fresh: still.is_none() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const WINDOW: Duration = Duration::from_secs(2);

    const fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// When to look next, and whether as a poll, after a look of no length.
    fn after(times: &mut Times, at: u64, waits: bool, fresh: bool) -> (Duration, bool) {
        let follows = if fresh { Follows::New } else { Follows::Found };
        times.looked(ms(at), ms(at), waits.then_some(follows), Duration::ZERO);
        let next = times.next();
        (next.at, next.fresh)
    }

    #[test]
    fn what_was_found_is_looked_at_again_when_it_can_be_still_and_then_ever_more_rarely() {
        let mut times = Times::new(HOUR, WINDOW);
        assert_eq!(after(&mut times, 0, false, true), (HOUR, true), "nothing waits");
        assert_eq!(after(&mut times, 1000, true, true), (ms(3000), false));
        assert_eq!(after(&mut times, 1500, true, true), (ms(3000), false));
        assert_eq!(after(&mut times, 3000, true, false), (ms(3500), false), "what came later waits longer");
        let mut at = 3500;
        for wait in [4000, 8000, 16_000, 32_000] {
            assert_eq!(after(&mut times, at, true, false), (ms(at + wait), false), "what is not still is left to its writer");
            at += wait;
        }
        assert_eq!(after(&mut times, at, true, true), (ms(at + 2000), false), "something new");
        assert_eq!(after(&mut times, at + 500, false, true), (HOUR + ms(at + 500), true), "all was sent");
        let looks = (0..).map_while(|_| {
            let (next, poll) = after(&mut times, at, true, false);
            at = next.as_millis() as u64;
            (!poll).then_some(())
        });
        assert!(looks.count() < 12, "what is written to without an end is looked at few times in an hour");
    }

    #[test]
    fn a_poll_comes_first_where_it_is_due_first() {
        let mut times = Times::new(ms(500), WINDOW);
        for at in [0, 500, 1000] {
            assert_eq!(after(&mut times, at, true, true), (ms(at + 500), true));
        }
    }

    #[test]
    fn however_much_is_told_looks_take_a_tenth_of_the_time_and_rest_when_they_are_to() {
        let mut times = Times::new(HOUR, WINDOW);
        times.looked(ms(0), ms(1), Some(Follows::New), Duration::ZERO);
        assert_eq!(times.next().soonest, ms(201), "a short one");
        times.looked(ms(1000), ms(2000), Some(Follows::New), Duration::ZERO);
        let next = times.next();
        assert_eq!((next.soonest, next.at), (ms(12_000), ms(12_000)), "one of a second");
        times.looked(ms(12_000), ms(12_001), Some(Follows::New), ms(30_000));
        let next = times.next();
        assert_eq!((next.soonest, next.at), (ms(42_001), ms(42_001)), "one that found a full disk");
        let mut times = Times::new(ms(50), WINDOW);
        times.looked(ms(0), ms(0), Some(Follows::New), Duration::ZERO);
        assert_eq!(times.next().soonest, ms(50), "a poll is not waited for longer than it would be");
    }
}
