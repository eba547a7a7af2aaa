//! When a connection that has nothing to carry is let go. Pure: what a link is like comes in as a round trip.
//!
//! Keeping a connection costs a packet each way every five seconds, which iroh does not let anybody lengthen; making a new one
//! costs 37,000 bytes over a satellite link, most of them probes of paths. Over a thin link, where bytes are dear and dialling is
//! seldom needed, it is let go: both sides know that the other is in reach, and either dials when it has something to say. Now and
//! then one looks whether the other is still there, and hears what it could not be told: who cannot be dialled is found by its own
//! look.

use std::time::Duration;

/// How connections that have nothing to carry are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleLinks {
    /// A link with a round trip from here on is thin: 100 ms by default. The round trip is what the connection measures of
    /// itself; that a slow link takes long for a packet is in it.
    pub thin: Duration,
    /// How long nothing is said over a thin link until its connection is let go: 15 seconds by default.
    pub after: Duration,
    /// The first look at a peer whose connection was let go comes after this time, 10 minutes by default; each further one after
    /// twice as long, up to four times.
    pub look: Duration,
}

/// How often the time until the next look doubles.
const DOUBLINGS: u32 = 2;

impl Default for IdleLinks {
    fn default() -> Self {
        Self { thin: Duration::from_millis(100), after: Duration::from_secs(15), look: Duration::from_secs(10 * 60) }
    }
}

impl IdleLinks {
    /// Whether a link with this round trip is thin. One that is not known is not.
    pub(crate) fn is_thin(&self, round_trip: Option<Duration>) -> bool {
        round_trip.is_some_and(|round_trip| round_trip >= self.thin)
    }

    /// How long to wait for the next look after so many. Who had dialled waits longer: it knows that it can, and the other, which
    /// may be wrong, finds out.
    pub(crate) fn until_look(&self, looks: u32, dialled: bool) -> Duration {
        let wait = self.look.saturating_mul(1 << looks.min(DOUBLINGS));
        if dialled { wait.saturating_add(wait / 4) } else { wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rarer_and_who_was_dialled_looks_first() {
        let idle = IdleLinks::default();
        let waits: Vec<_> = (0..5).map(|looks| idle.until_look(looks, false).as_secs() / 60).collect();
        assert_eq!(waits, [10, 20, 40, 40, 40]);
        assert!((0..5).all(|looks| idle.until_look(looks, true) > idle.until_look(looks, false)));
    }

    #[test]
    fn a_link_is_thin_by_its_round_trip() {
        let idle = IdleLinks::default();
        assert!(idle.is_thin(Some(Duration::from_millis(600))) && !idle.is_thin(Some(Duration::from_millis(40))));
        assert!(!idle.is_thin(None));
    }
}
