//! One direction of one link: what becomes of a packet that is handed to it at some time. Reads no clock.

use std::time::Duration;

use crate::random::Random;

/// What one direction of a link does to packets. Sizes are those of IP packets, headers included.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Bits in a second.
    pub rate: u64,
    /// How long a bit is on its way.
    pub delay: Duration,
    /// How much longer at most, evenly spread. Packets keep their order.
    pub jitter: Duration,
    /// The share of packets that are lost on the way, 0 to 1. They take up the link all the same.
    pub loss: f64,
    /// Packets that are overtaken.
    pub reorder: Option<Reorder>,
    /// The share of packets that arrive twice.
    pub duplicate: f64,
    /// Bytes that wait at most, the packet being sent included; what does not fit is dropped (tail drop).
    pub queue: u64,
    /// When the link works, if not always.
    pub duty: Option<Duty>,
    /// A packet goes on while it still comes in, as through a switch, where the link is idle: only bytes that compete take
    /// longer.
    pub cut_through: bool,
}

impl Link {
    /// A link that is up, loses nothing, and does nothing but take its time.
    #[must_use]
    pub fn new(rate: u64, delay: Duration, queue: u64) -> Self {
        Self {
            rate,
            delay,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: None,
            duplicate: 0.0,
            queue,
            duty: None,
            cut_through: false,
        }
    }

    /// How long it takes to send so many bytes.
    #[must_use]
    pub fn sending(&self, bytes: u64) -> Duration {
        Duration::from_nanos((u128::from(bytes) * 8_000_000_000 / u128::from(self.rate.max(1))) as u64)
    }
}

/// A share of packets is held back, so that later ones overtake them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reorder {
    /// The share, 0 to 1.
    pub share: f64,
    /// For how long.
    pub by: Duration,
}

/// Works for a while, then does not, and again. It begins with working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duty {
    /// For how long it works.
    pub on: Duration,
    /// For how long it does not.
    pub off: Duration,
}

impl Duty {
    /// Whether it works at this time.
    #[must_use]
    pub fn works(&self, now: Duration) -> bool {
        let period = (self.on + self.off).as_nanos().max(1);
        now.as_nanos() % period < self.on.as_nanos()
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives then, and a second time where there is one.
    Arrives(Duration, Option<Duration>),
    /// There is no room in the queue.
    Overflows,
    /// It was sent, and does not arrive.
    Lost,
}

/// A link at work.
#[derive(Debug)]
pub(crate) struct Transmitter {
    link: Link,
    random: Random,
    /// When all that waits has been sent.
    free_at: Duration,
    /// When the last packet that keeps its order arrives.
    last_arrival: Duration,
}

impl Transmitter {
    pub(crate) fn new(link: Link, random: Random) -> Self {
        Self { link, random, free_at: Duration::ZERO, last_arrival: Duration::ZERO }
    }

    pub(crate) fn works(&self, now: Duration) -> bool {
        self.link.duty.is_none_or(|duty| duty.works(now))
    }

    /// Takes a packet of so many bytes. Times may not go back from one call to the next.
    pub(crate) fn send(&mut self, now: Duration, bytes: u64) -> Fate {
        let waiting = self.free_at.saturating_sub(now);
        let waiting_bytes = (waiting.as_nanos() * u128::from(self.link.rate) / 8_000_000_000) as u64;
        if waiting > Duration::ZERO && waiting_bytes + bytes > self.link.queue {
            return Fate::Overflows;
        }
        let sending = self.link.sending(bytes);
        self.free_at = if self.link.cut_through { now.max(self.free_at + sending) } else { now.max(self.free_at) + sending };
        if self.random.happens(self.link.loss) {
            return Fate::Lost;
        }
        let first = self.arrival();
        let second = self.random.happens(self.link.duplicate).then(|| self.arrival());
        Fate::Arrives(first, second)
    }

    fn arrival(&mut self) -> Duration {
        let jitter = if self.link.jitter.is_zero() { Duration::ZERO } else { self.link.jitter.mul_f64(self.random.unit()) };
        let arrival = (self.free_at + self.link.delay + jitter).max(self.last_arrival);
        if let Some(reorder) = self.link.reorder
            && self.random.happens(reorder.share)
        {
            return arrival + reorder.by;
        }
        self.last_arrival = arrival;
        arrival
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn transmitter(link: Link) -> Transmitter {
        Transmitter::new(link, Random::new(1, 0))
    }

    /// A megabit in a second: 125 bytes in a millisecond.
    fn slow() -> Link {
        Link::new(1_000_000, 10 * MILLISECOND, 1000)
    }

    #[test]
    fn a_packet_arrives_after_its_sending_and_the_delay() {
        assert_eq!(transmitter(slow()).send(MILLISECOND, 125), Fate::Arrives(12 * MILLISECOND, None));
    }

    #[test]
    fn packets_wait_for_those_before_them() {
        let mut link = transmitter(slow());
        assert_eq!(link.send(Duration::ZERO, 125), Fate::Arrives(11 * MILLISECOND, None));
        assert_eq!(link.send(Duration::ZERO, 250), Fate::Arrives(13 * MILLISECOND, None));
        assert_eq!(link.send(20 * MILLISECOND, 125), Fate::Arrives(31 * MILLISECOND, None));
    }

    #[test]
    fn a_cut_through_link_costs_time_only_where_packets_compete() {
        let mut link = transmitter(Link { cut_through: true, ..slow() });
        assert_eq!(link.send(5 * MILLISECOND, 125), Fate::Arrives(15 * MILLISECOND, None));
        assert_eq!(link.send(6 * MILLISECOND, 125), Fate::Arrives(16 * MILLISECOND, None));
        assert_eq!(link.send(6 * MILLISECOND, 125), Fate::Arrives(17 * MILLISECOND, None));
    }

    #[test]
    fn what_finds_no_room_in_the_queue_is_dropped_and_room_comes_back_at_the_rate() {
        let mut link = transmitter(slow());
        for _ in 0..8 {
            assert!(matches!(link.send(Duration::ZERO, 125), Fate::Arrives(..)));
        }
        assert_eq!(link.send(Duration::ZERO, 125), Fate::Overflows);
        assert!(matches!(link.send(MILLISECOND, 125), Fate::Arrives(..)));
        assert_eq!(link.send(MILLISECOND, 125), Fate::Overflows);
    }

    #[test]
    fn an_idle_link_takes_a_packet_that_is_larger_than_its_queue() {
        assert!(matches!(transmitter(Link { queue: 10, ..slow() }).send(Duration::ZERO, 125), Fate::Arrives(..)));
    }

    #[test]
    fn lost_packets_take_up_the_link() {
        let mut link = transmitter(Link { loss: 1.0, ..slow() });
        assert_eq!(link.send(Duration::ZERO, 125), Fate::Lost);
        assert_eq!(link.free_at, MILLISECOND);
    }

    #[test]
    fn a_duty_begins_with_working_and_repeats() {
        let duty = Duty { on: Duration::from_secs(30), off: Duration::from_secs(10) };
        for (at, works) in [(0, true), (29, true), (30, false), (39, false), (40, true), (69, true), (70, false)] {
            assert_eq!(duty.works(Duration::from_secs(at)), works, "at {at} s");
        }
    }

    #[test]
    fn who_is_held_back_is_overtaken() {
        let link = Link { reorder: Some(Reorder { share: 0.2, by: 50 * MILLISECOND }), ..slow() };
        let mut link = transmitter(Link { queue: 1 << 20, ..link });
        let arrivals: Vec<Duration> = (0..1000)
            .map(|_| match link.send(Duration::ZERO, 125) {
                Fate::Arrives(at, None) => at,
                other => panic!("{other:?}"),
            })
            .collect();
        let overtaken = arrivals.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((120..220).contains(&overtaken), "{overtaken}");
    }
}
