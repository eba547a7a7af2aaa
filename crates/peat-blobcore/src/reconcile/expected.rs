//! How soon a blob would be here from each of several nodes, as far as links and earlier fetches tell. Only compares; who is left
//! alone is not its matter.

use std::collections::BTreeMap;

use super::{Distance, View};
use crate::model::EndpointId;

/// Round trips that go by before the first byte comes, and between the requests for a blob.
const ROUND_TRIPS: u64 = 2;

impl Distance {
    /// Microseconds of a round trip, and bytes a second, as they are over such a distance. Each is so much more or less than the
    /// next that without anything measured a nearer node is never as far behind as another.
    fn usual(self) -> (u64, u64) {
        match self {
            Self::Near => (5_000, 8 << 20),
            Self::Wide => (80_000, 1 << 20),
            Self::Far => (600_000, 128 << 10),
        }
    }
}

/// Microseconds until so many bytes would be here.
fn expected(distance: Distance, rate: u64, bytes: u64) -> u64 {
    let (round_trip, _) = distance.usual();
    let coming = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
    u64::try_from(coming).unwrap_or(u64::MAX).saturating_add(ROUND_TRIPS * round_trip)
}

/// How far behind the best of these nodes each is for so many bytes: 0 for all that would take at most twice as long as it, so that
/// they share the work and small differences mean nothing, 1 for up to four times as long, and so on.
pub(super) fn behind(view: &dyn View, peers: impl IntoIterator<Item = EndpointId>, bytes: u64) -> BTreeMap<EndpointId, u32> {
    let links: Vec<_> = peers.into_iter().map(|peer| (peer, view.distance(&peer), view.rate(&peer))).collect();
    // Of whom nothing is known the best may be hoped: else they would never be asked beside one that is fast, and never be known.
    let hoped = |distance: Distance| {
        let known = links.iter().filter(|(_, other, _)| *other == distance).filter_map(|(.., rate)| *rate);
        known.fold(distance.usual().1, u64::max)
    };
    let expected = |(peer, distance, rate): &(EndpointId, Distance, Option<u64>)| {
        (*peer, expected(*distance, rate.unwrap_or_else(|| hoped(*distance)), bytes))
    };
    let mut all: BTreeMap<_, _> = links.iter().map(expected).collect();
    let best = all.values().min().copied().unwrap_or_default();
    all.iter_mut().for_each(|(_, time)| *time = time.saturating_sub(1) / best.max(1));
    all.into_iter().map(|(peer, times)| (peer, times.checked_ilog2().unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::bench::{Bench, peer};
    use super::*;

    const DISTANCES: [Distance; 3] = [Distance::Near, Distance::Wide, Distance::Far];

    /// How far behind are two nodes.
    fn two(links: [(Distance, Option<u64>); 2], bytes: u64) -> (u32, u32) {
        let mut view = Bench::new().view;
        for (number, (distance, rate)) in (2..).zip(links) {
            view.distances.insert(peer(number), distance);
            rate.map(|rate| view.rates.insert(peer(number), rate));
        }
        let behind = behind(&view, [peer(2), peer(3)], bytes);
        (behind[&peer(2)], behind[&peer(3)])
    }

    /// Any size of a blob that there can be.
    fn size() -> impl Strategy<Value = u64> {
        (0_u32..60).prop_flat_map(|bits| 0_u64..1 << bits)
    }

    fn link() -> impl Strategy<Value = (Distance, Option<u64>)> {
        (proptest::sample::select(DISTANCES.to_vec()), proptest::option::of(any::<u64>()))
    }

    proptest! {
        #[test]
        fn without_anything_measured_the_nearer_comes_first_whatever_the_size(bytes in size()) {
            for (near, far) in [(0, 1), (1, 2)] {
                let (near, far) = two([(DISTANCES[near], None), (DISTANCES[far], None)], bytes);
                prop_assert!(near == 0 && far > 0, "{near} {far}");
            }
        }

        #[test]
        fn at_the_same_distance_twice_the_rate_changes_nothing(rate in 1_u64..1 << 40, bytes in size(), less in 0.5_f64..1.0) {
            let slower = ((rate as f64 * less).ceil() as u64).max(1);
            for distance in DISTANCES {
                prop_assert_eq!(two([(distance, Some(rate)), (distance, Some(slower))], bytes), (0, 0));
            }
        }

        #[test]
        fn one_is_always_the_best_and_a_higher_rate_never_puts_a_node_further_behind(
            links in [link(), link()],
            faster: u64,
            bytes in size(),
        ) {
            let before = two(links, bytes);
            prop_assert_eq!(before.0.min(before.1), 0);
            if links[0].1.is_some_and(|rate| rate <= faster) {
                let after = two([(links[0].0, Some(faster)), links[1]], bytes);
                prop_assert!(after.0 <= before.0 && after.1 >= before.1, "{before:?} {after:?}");
            }
        }
    }

    #[test]
    fn of_whom_nothing_is_known_as_much_is_hoped_as_of_the_best_at_that_distance() {
        let (known, unknown) = ((Distance::Near, Some(100 << 20)), (Distance::Near, None));
        assert_eq!(two([known, unknown], 1 << 20), (0, 0));
        assert_eq!(two([(Distance::Near, Some(1 << 10)), unknown], 1 << 20).1, 0);
        assert!(two([known, (Distance::Wide, None)], 1 << 20).1 > 0);
    }

    #[test]
    fn the_round_trip_decides_for_a_small_blob_and_the_rate_for_a_large_one() {
        let links = [(Distance::Near, Some(64 << 10)), (Distance::Wide, Some(8 << 20))];
        let (small, large) = (two(links, 1000), two(links, 100 << 20));
        assert!(small.0 == 0 && small.1 > 0, "{small:?}");
        assert!(large.0 > 4 && large.1 == 0, "{large:?}");
    }
}
