//! When to ask over a path that has fallen silent while packets wait for an answer. Pure; never asks more often than four times a
//! second.
//!
//! QUIC asks whether the other side is back, and waits longer after each question: half a minute into an outage some eight
//! seconds. Meanwhile it sends nothing else, since its window is full of what was lost. So a packet goes beyond the window at
//! short intervals. On a link that is off it costs nothing; on one that is back its answer tells what was lost. It ends
//! with the connection.

use std::time::{Duration, Instant};

use iroh::endpoint::RttEstimator;

/// How often to look whether a path is to be asked.
pub(in crate::network) const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The least and the greatest time between two questions. In between it is half of the least round trip.
const INTERVAL: (Duration, Duration) = (LOOK_INTERVAL, Duration::from_secs(1));
/// However short a round trip, less silence means nothing.
const LEAST_PATIENCE: Duration = Duration::from_millis(500);

/// What a path has sent and heard of late.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Silence {
    /// Bytes that wait for an answer.
    in_flight: u64,
    sent: Option<Instant>,
    answered: Option<Answer>,
}

/// When an answer came last, and by which round trips to judge what comes after it.
#[derive(Debug, Clone, Copy)]
struct Answer {
    at: Instant,
    least: Duration,
    smoothed: Duration,
}

impl Silence {
    pub(super) fn sent(&mut self, now: Instant, bytes: u64) {
        self.in_flight += bytes;
        self.sent = Some(now);
    }

    pub(super) fn answered(&mut self, now: Instant, round_trip: &RttEstimator) {
        self.answered = Some(Answer { at: now, least: round_trip.min(), smoothed: round_trip.get() });
    }

    pub(super) fn is_in_flight(&mut self, bytes: u64) {
        self.in_flight = bytes;
    }

    pub(super) fn lost(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    /// Whether something waits for an answer for longer than a round trip explains, and nothing was sent of late.
    pub(super) fn is_to_be_asked(&self, now: Instant) -> bool {
        let (Some(sent), Some(Answer { at, least, smoothed })) = (self.sent, self.answered) else { return false };
        let patience = (2 * smoothed).max(LEAST_PATIENCE);
        let interval = (least / 2).clamp(INTERVAL.0, INTERVAL.1);
        let since = |then| now.saturating_duration_since(then);
        // A little sooner, so that a look that comes a little early is not in vain.
        self.in_flight > 0 && since(at) >= patience && since(sent) >= interval.mul_f64(0.8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that had an answer at `start`, to the first of two packets.
    fn path(start: Instant, least: u64, smoothed: u64) -> Silence {
        let (least, smoothed) = (Duration::from_millis(least), Duration::from_millis(smoothed));
        let answered = Some(Answer { at: start, least, smoothed });
        Silence { in_flight: 1200, sent: Some(start), answered }
    }

    fn asked(mut path: Silence, start: Instant, until: u64) -> Vec<u64> {
        let at = |millis| start + Duration::from_millis(millis);
        let due = |millis: &u64| {
            let due = path.is_to_be_asked(at(*millis));
            if due {
                path.sent(at(*millis), 1200);
            }
            due
        };
        (0..until).filter(due).collect()
    }

    #[test]
    fn a_silent_path_is_asked_at_intervals_that_follow_its_round_trip_within_bounds() {
        let start = Instant::now();
        assert_eq!(asked(path(start, 600, 700), start, 2000), [1400, 1640, 1880]);
        assert_eq!(asked(path(start, 1, 1), start, 1000), [500, 700, 900]);
        assert_eq!(asked(path(start, 8000, 8000), start, 18_000), [16_000, 16_800, 17_600]);
    }

    #[test]
    fn nothing_is_asked_when_nothing_waits_or_nothing_is_known_of_the_path() {
        let start = Instant::now();
        let mut path = path(start, 600, 600);
        path.lost(1200);
        assert!(asked(path, start, 10_000).is_empty());
        path.sent(start, 1200);
        path.is_in_flight(0);
        assert!(asked(path, start, 10_000).is_empty());
        let mut unknown = Silence::default();
        unknown.sent(start, 1200);
        assert!(asked(unknown, start, 10_000).is_empty());
    }
}
