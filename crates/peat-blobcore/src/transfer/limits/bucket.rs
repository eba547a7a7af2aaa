//! One limit over time, as the generic cell rate algorithm has it (ITU-T I.371, annex A, "virtual scheduling"): instead of a
//! level that is filled again and again, the time until which what has gone is paid for. Times are nanoseconds.

use super::rate::Rate;

/// What may go at once after a pause: so much that a busy machine's timers cost nothing, and a hundredth of ten seconds.
const BURST_NANOS: u64 = 100_000_000;
/// The least of it, in bytes.
const MIN_BURST: u64 = 512;
/// What goes at once when much waits, as a part of a second...
const SLICES_A_SECOND: u64 = 50;
/// ...but what fits into the smallest packet of QUIC at least, and in bytes at most. Half of the burst is left for timers that
/// fire late.
const PACKET_BYTES: u64 = 1100;
const MAX_SLICE: u64 = 64 * 1024;

/// A limit and what has gone under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket {
    rate: Rate,
    /// Until when what has gone is paid for. Times that have passed are all the same: nothing is owed.
    paid_until: u64,
}

/// Bytes that go at once under a limit when much waits.
pub(crate) fn slice(rate: Rate) -> u64 {
    (rate.bytes() / SLICES_A_SECOND).clamp(PACKET_BYTES, MAX_SLICE).min(burst(rate) / 2)
}

/// Bytes that may go at once under a limit after a pause.
pub(super) fn burst(rate: Rate) -> u64 {
    (u128::from(rate.bytes()) * u128::from(BURST_NANOS) / 1_000_000_000).try_into().unwrap_or(u64::MAX).max(MIN_BURST)
}

impl Bucket {
    /// A limit under which nothing has gone for a while.
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, paid_until: 0 }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// When the next slice may go. The same for who wants less than that, or those who want little would go before all others.
    pub(super) fn ready_at(&self) -> u64 {
        // Rounded to the side on which less goes.
        let credit = u128::from(burst(self.rate)) * 1_000_000_000 / u128::from(self.rate.bytes());
        (self.paid_until + self.cost(slice(self.rate))).saturating_sub(u64::try_from(credit).unwrap_or(u64::MAX))
    }

    /// So many bytes go, a slice at most.
    pub(super) fn spend(&mut self, now: u64, bytes: u64) {
        self.paid_until = self.paid_until.max(now) + self.cost(bytes);
    }

    /// They have not gone after all.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.paid_until = self.paid_until.saturating_sub(self.cost(bytes));
    }

    /// The limit is another one from now on. What has gone is paid for as soon as under the old one: after a high one a low one
    /// would else let nothing through for long.
    pub(super) fn change(&mut self, rate: Rate) {
        self.rate = rate;
    }

    fn cost(&self, bytes: u64) -> u64 {
        let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(self.rate.bytes()));
        u64::try_from(nanos).unwrap_or(u64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate() -> impl Strategy<Value = Rate> {
        // From a modem to a fast network, each magnitude alike.
        (10.0..33.0_f64).prop_map(|power| Rate::from_bytes(power.exp2() as u64).expect("within"))
    }

    proptest! {
        /// Whoever asks, whenever, for how much: over no window goes more than the rate and the burst.
        #[test]
        fn no_window_has_more_than_the_rate_and_the_burst(
            rate in rate(),
            asks in proptest::collection::vec((0..SECOND / 20, 1_u64..=100), 1..200),
        ) {
            let (mut bucket, mut now, mut gone) = (Bucket::new(rate), 0, Vec::new());
            for (pause, percent) in asks {
                let bytes = (slice(rate) * percent / 100).max(1);
                now = (now + pause).max(bucket.ready_at());
                bucket.spend(now, bytes);
                gone.push((now, bytes));
            }
            for (first, (start, _)) in gone.iter().enumerate() {
                let mut sum = 0;
                for (end, bytes) in &gone[first..] {
                    sum += bytes;
                    let most = u128::from(rate.bytes()) * u128::from(end - start) / u128::from(SECOND) + u128::from(burst(rate));
                    prop_assert!(u128::from(sum) <= most + 1, "{sum} in {} ns, at most {most}", end - start);
                }
            }
        }

        /// Whoever always wants more, in whatever pieces and however late he looks, gets the rate over ten seconds.
        #[test]
        fn who_always_wants_more_gets_the_rate(
            rate in rate(),
            lateness in proptest::collection::vec(0..SECOND / 20, 20),
            pieces in proptest::collection::vec(1_u64..=100, 20),
        ) {
            let (mut bucket, mut now, mut sum) = (Bucket::new(rate), 0, 0_u64);
            let mut turns = lateness.iter().cycle().zip(pieces.iter().cycle());
            while now < 10 * SECOND {
                let (late, percent) = turns.next().expect("for ever");
                if bucket.ready_at() > now {
                    now = bucket.ready_at() + late;
                    continue;
                }
                let bytes = (slice(rate) * percent / 100).max(1);
                bucket.spend(now, bytes);
                sum += bytes;
            }
            let expected = rate.bytes() * 10;
            prop_assert!(sum >= expected * 95 / 100 && sum <= expected * 105 / 100 + slice(rate), "{sum} of {expected}");
        }

        #[test]
        fn a_change_holds_from_then_on(before in rate(), after in rate(), seconds in 1_u64..5) {
            let mut bucket = Bucket::new(before);
            while bucket.ready_at() == 0 {
                bucket.spend(0, slice(before));
            }
            bucket.change(after);
            let (mut sum, until) = (0, seconds * SECOND);
            while bucket.ready_at() <= until {
                bucket.spend(bucket.ready_at(), slice(after));
                sum += slice(after);
            }
            prop_assert!(sum <= after.bytes() * seconds + burst(after));
            prop_assert!(sum + after.bytes() / 2 + burst(after) + slice(after) >= after.bytes() * seconds, "{sum}");
        }

        #[test]
        fn what_is_given_back_can_be_spent_again(rate in rate(), bytes in 1_u64..256) {
            let mut bucket = Bucket::new(rate);
            bucket.spend(SECOND, 256);
            let before = bucket;
            bucket.spend(SECOND, bytes);
            bucket.give_back(bytes);
            prop_assert_eq!(bucket, before);
        }
    }
}
