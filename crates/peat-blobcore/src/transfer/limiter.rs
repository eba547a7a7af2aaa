//! The limits of a node at work: bytes wait here until they may cross. Decides nothing that [`limits`](super::limits) does not,
//! and does nothing while nobody waits: of those who do, one looks after the time for all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::limits::{Caps, Direction, Flow, Limits, LimitsInForce, Queue, Rate, Ticket};
use crate::clock::Clock;
use crate::model::{EndpointId, Priority};

/// How often the schedule is held against the clock at least, since clocks are set.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// What a peer is called, for limits that name it so.
pub(crate) type NameOf = dyn Fn(&EndpointId) -> Option<String> + Send + Sync;

/// The limits of a node. Clones are handles to the same ones.
#[derive(Clone)]
pub(crate) struct Limiter(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    name_of: Box<NameOf>,
    told: Mutex<Limits>,
    metered: watch::Sender<bool>,
    up: Lane,
    down: Lane,
    /// Numbers what is begun.
    streams: AtomicU64,
}

impl Limiter {
    /// Without limits until [`Limiter::set`].
    pub(crate) fn new(clock: Arc<dyn Clock>, name_of: Box<NameOf>) -> Self {
        let lane = |direction| Lane::new(direction, Arc::clone(&clock));
        let (up, down) = (lane(Direction::Up), lane(Direction::Down));
        Self(Arc::new(Inner {
            clock,
            name_of,
            told: Mutex::default(),
            metered: watch::Sender::new(false),
            up,
            down,
            streams: AtomicU64::new(0),
        }))
    }

    /// These hold from now on, also for what is under way.
    pub(crate) fn set(&self, limits: Limits) {
        self.0.up.set(&limits);
        self.0.down.set(&limits);
        self.0.metered.send_replace(limits.metered);
        *lock(&self.0.told) = limits;
    }

    /// What was said last.
    pub(crate) fn limits(&self) -> Limits {
        lock(&self.0.told).clone()
    }

    /// What of it holds now.
    pub(crate) fn in_force(&self) -> LimitsInForce {
        lock(&self.0.told).in_force(self.0.clock.now())
    }

    /// Whether of this priority nothing is to cross, since the link is metered.
    pub(crate) fn refuses(&self, priority: Priority) -> bool {
        *self.0.metered.borrow() && priority < Priority::Critical
    }

    /// Waits until [`Limiter::refuses`] this.
    pub(crate) async fn refused(&self, priority: Priority) {
        let mut metered = self.0.metered.subscribe();
        // The sender is here as well.
        let _ = metered.wait_for(|metered| *metered && priority < Priority::Critical).await;
    }

    /// What goes to a peer.
    pub(crate) fn up(&self, peer: EndpointId, priority: Priority) -> Pace {
        self.pace(Direction::Up, peer, priority)
    }

    /// What comes from a peer.
    pub(crate) fn down(&self, peer: EndpointId, priority: Priority) -> Pace {
        self.pace(Direction::Down, peer, priority)
    }

    fn pace(&self, direction: Direction, peer: EndpointId, priority: Priority) -> Pace {
        let stream = self.0.streams.fetch_add(1, Ordering::Relaxed);
        Pace { limiter: self.clone(), direction, flow: Flow { peer, priority }, stream, name: (self.0.name_of)(&peer) }
    }
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter").field("told", &self.limits()).finish_non_exhaustive()
    }
}

/// The pace of what crosses in one direction, with one peer, of one priority.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    limiter: Limiter,
    direction: Direction,
    flow: Flow,
    /// What it is for, by when it began.
    stream: u64,
    name: Option<String>,
}

impl Pace {
    /// Waits until so many bytes may cross. A future that is dropped has taken none.
    pub(crate) async fn take(&self, bytes: u64) {
        self.lane().take(self.flow, self.name.as_deref(), self.stream, bytes).await;
    }

    /// So many bytes that were taken have not crossed.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.lane().give_back(self.flow, bytes);
    }

    /// With whom.
    pub(super) fn peer(&self) -> EndpointId {
        self.flow.peer
    }

    /// The least of the limits that hold now; none on a node that has none.
    pub(crate) fn rate(&self) -> Option<Rate> {
        self.lane().rate(&self.flow, self.name.as_deref())
    }

    fn lane(&self) -> &Lane {
        match self.direction {
            Direction::Up => &self.limiter.0.up,
            Direction::Down => &self.limiter.0.down,
        }
    }
}

/// One direction.
struct Lane {
    direction: Direction,
    clock: Arc<dyn Clock>,
    /// What the queue counts time from.
    origin: Instant,
    /// Whether there is nothing to wait for, nor will be at another time.
    free: AtomicBool,
    state: Mutex<State>,
    /// Held by the one of those who wait that looks after the time.
    lead: tokio::sync::Mutex<()>,
    /// It is to look again.
    changed: Notify,
}

#[derive(Default)]
struct State {
    queue: Queue,
    limits: Limits,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
    /// When the schedule is held against the clock next; never without one.
    look_at: Option<u64>,
    /// When the one who leads looks again.
    planned: Option<u64>,
}

impl Lane {
    fn new(direction: Direction, clock: Arc<dyn Clock>) -> Self {
        Self {
            direction,
            clock,
            origin: Instant::now(),
            free: AtomicBool::new(true),
            state: Mutex::default(),
            lead: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
        }
    }

    fn set(&self, limits: &Limits) {
        let mut state = lock(&self.state);
        state.limits = limits.clone();
        state.look_at = Some(0);
        self.look(&mut state);
        let free = limits.schedule.is_empty() && Caps::of(&limits.in_force(self.clock.now()), self.direction).is_free();
        self.free.store(free, Ordering::Relaxed);
        drop(state);
        self.changed.notify_one();
    }

    fn rate(&self, flow: &Flow, name: Option<&str>) -> Option<Rate> {
        if self.free.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = lock(&self.state);
        self.heed_schedule(&mut state);
        state.queue.rate_for(flow, name)
    }

    fn give_back(&self, flow: Flow, bytes: u64) {
        if bytes > 0 {
            lock(&self.state).queue.give_back(flow, bytes);
            self.changed.notify_one();
        }
    }

    async fn take(&self, flow: Flow, name: Option<&str>, stream: u64, bytes: u64) {
        if bytes == 0 || self.rate(&flow, name).is_none() {
            return;
        }
        let (tell, mut told) = oneshot::channel();
        let mut turn = {
            let mut state = lock(&self.state);
            let ticket = state.queue.ask(flow, name, stream, bytes);
            state.waiting.insert(ticket, tell);
            let (planned, next) = (state.planned, self.look(&mut state));
            if next.is_some_and(|next| planned.is_none_or(|planned| next < planned)) {
                self.changed.notify_one();
            }
            Turn { lane: self, flow, ticket, bytes, come: false }
        };
        tokio::select! {
            biased;
            // The sender goes with the turn alone.
            _ = &mut told => turn.come = true,
            () = self.lead() => {}
        }
    }

    /// Looks after the time for all who wait, as long as it is polled.
    async fn lead(&self) {
        let _lead = self.lead.lock().await;
        loop {
            let next = {
                let mut state = lock(&self.state);
                let next = self.look(&mut state);
                state.planned = next;
                next
            };
            let wake = self.origin + Duration::from_nanos(next.unwrap_or_default());
            tokio::select! {
                () = tokio::time::sleep_until(wake), if next.is_some() => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Lets through what may go, and says when to look again.
    fn look(&self, state: &mut State) -> Option<u64> {
        self.heed_schedule(state);
        let looked = state.queue.look(self.now());
        for ticket in looked.done {
            if let Some(tell) = state.waiting.remove(&ticket) {
                // Who has gone meanwhile gives its turn back.
                let _ = tell.send(());
            }
        }
        looked.next.map(|next| state.look_at.map_or(next, |look_at| next.min(look_at)))
    }

    fn heed_schedule(&self, state: &mut State) {
        let now = self.now();
        if state.look_at.is_none_or(|at| at > now) {
            return;
        }
        let time = self.clock.now();
        let limits = state.limits.in_force(time);
        state.queue.set(Caps::of(&limits, self.direction));
        let wait = limits.until.map(|until| until.since(time).min(LOOK_INTERVAL));
        state.look_at = wait.map(|wait| now.saturating_add(nanos(wait)));
    }

    fn now(&self) -> u64 {
        nanos(self.origin.elapsed())
    }
}

/// A place in the queue. Dropped before it has come, it is given up.
struct Turn<'a> {
    lane: &'a Lane,
    flow: Flow,
    ticket: Ticket,
    bytes: u64,
    come: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.come {
            return;
        }
        let mut state = lock(&self.lane.state);
        match state.waiting.remove(&self.ticket) {
            Some(_) => state.queue.cancel(self.flow, self.ticket),
            None => state.queue.give_back(self.flow, self.bytes),
        }
        drop(state);
        self.lane.changed.notify_one();
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is changed under it is changed by calls that do not panic halfway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use tokio::task::JoinSet;

    use super::*;
    use crate::clock::SystemClock;
    use crate::model::Timestamp;

    fn limiter() -> Limiter {
        Limiter::new(Arc::new(SystemClock), Box::new(|_| Some("bravo".to_owned())))
    }

    fn limits(text: &str) -> Limits {
        Limits {
            node: text.parse::<super::super::limits::RateChange>().expect("a rate").applied_to(Default::default()),
            ..Limits::default()
        }
    }

    fn peer(number: u8) -> EndpointId {
        EndpointId::from_bytes([number; 32])
    }

    /// Takes pieces without end, and counts them.
    fn greedy(tasks: &mut JoinSet<()>, pace: Pace, piece: u64) -> Arc<AtomicU64> {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&taken);
        tasks.spawn(async move {
            loop {
                pace.take(piece).await;
                counted.fetch_add(piece, Ordering::Relaxed);
            }
        });
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn the_figure_holds_over_ten_seconds_whatever_the_requests() {
        let limiter = limiter();
        limiter.set(limits("up=256KiB/s"));
        let mut tasks = JoinSet::new();
        let flows = [(1, Priority::Bulk, 100_000), (1, Priority::Routine, 1200), (2, Priority::Routine, 16_384)];
        let taken: Vec<_> = flows.map(|(id, priority, piece)| greedy(&mut tasks, limiter.up(peer(id), priority), piece)).into();
        let sum = || taken.iter().map(|taken| taken.load(Ordering::Relaxed)).sum::<u64>();
        for _ in 0..3 {
            let before = sum();
            tokio::time::sleep(Duration::from_secs(10)).await;
            let (rate, got) = (10 * 256 * 1024, sum() - before);
            assert!(got.abs_diff(rate) <= rate / 20, "{got} of {rate}");
        }
        // Half of it from then on, at once.
        limiter.set(limits("up=128KiB/s"));
        let before = sum();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (rate, got) = (10 * 128 * 1024, sum() - before);
        assert!(got.abs_diff(rate) <= rate / 10, "{got} of {rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_request_of_another_peer_does_not_wait_for_a_large_one() {
        let limiter = limiter();
        limiter.set(limits("down=64KiB/s"));
        let mut tasks = JoinSet::new();
        let large = limiter.down(peer(1), Priority::Routine);
        tasks.spawn(async move { large.take(64 * 1024 * 3600).await });
        tokio::task::yield_now().await;
        let small = limiter.down(peer(2), Priority::Routine);
        tokio::time::timeout(Duration::from_secs(1), small.take(16 * 1024)).await.expect("half of the rate is its share");
        let other = limiter.up(peer(1), Priority::Routine);
        tokio::time::timeout(Duration::ZERO, other.take(1 << 40)).await.expect("the other direction has no limit");
        limiter.set(Limits::default());
        tasks.join_next().await.expect("it is lifted for who waits, too").expect("taken");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_lets_others_go_on() {
        let limiter = limiter();
        limiter.set(limits("up=1KiB/s"));
        let pace = limiter.up(peer(1), Priority::Routine);
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let pace = pace.clone();
            tasks.spawn(async move { pace.take(1 << 40).await });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Among them the one that looks after the time.
        tasks.shutdown().await;
        tokio::time::timeout(Duration::from_secs(5), pace.take(1024)).await.expect("nobody is before it");
    }

    #[derive(Default)]
    struct TestClock(AtomicU64);

    impl Clock for TestClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_schedule_is_heeded_also_when_the_clock_is_set_and_for_who_waits() {
        let clock = Arc::new(TestClock::default());
        let limiter = Limiter::new(Arc::clone(&clock) as Arc<dyn Clock>, Box::new(|_| None));
        let night = vec!["22:00-06:00 unlimited".parse().expect("a period")];
        clock.0.store(12 * 3_600_000, Ordering::Relaxed);
        limiter.set(Limits { schedule: night, ..limits("up=1KiB/s") });
        let pace = limiter.up(peer(1), Priority::Routine);
        assert!(pace.rate().is_some());
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let pace = pace.clone();
            async move { pace.take(1 << 40).await }
        });
        tokio::task::yield_now().await;
        clock.0.store(23 * 3_600_000, Ordering::Relaxed);
        tasks.join_next().await.expect("within a minute it is noticed").expect("taken");
        assert_eq!(pace.rate(), None);
        assert_eq!(limiter.in_force().period.map(|period| period.to_string()).as_deref(), Some("22:00-06:00 unlimited"));
    }

    #[tokio::test]
    async fn a_metered_link_lets_pass_what_is_critical_alone() {
        let limiter = limiter();
        assert!(!limiter.refuses(Priority::Bulk));
        limiter.set(Limits { metered: true, ..Limits::default() });
        assert!(limiter.refuses(Priority::Priority) && !limiter.refuses(Priority::Critical));
        limiter.refused(Priority::Routine).await;
    }
}
