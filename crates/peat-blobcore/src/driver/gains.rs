//! Telling others that this node has more than before of what they are to get, too: they may ask it for that, where nobody who has
//! all is in reach.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::DistributionId;

/// How often of one distribution: some ten bytes a second to each peer, a hundredth of what a link of 10 kbit/s carries.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often where more comes meanwhile...
const SOON: Duration = Duration::from_millis(500);
/// ...than this, of which what is told is a thousandth.
const MUCH_BYTES: u64 = 64 * 1024;

/// What was told of the distributions that are fetched.
#[derive(Debug, Default)]
pub(super) struct Gains(BTreeMap<DistributionId, Told>);

#[derive(Debug)]
struct Told {
    /// Verified bytes that are here.
    bytes: u64,
    /// Those that were told.
    told: u64,
    at: Option<Instant>,
}

impl Gains {
    /// A fetch begins, when so many verified bytes are here: of these nobody needs to be told.
    pub(super) fn begin(&mut self, id: DistributionId, bytes: u64) {
        self.0.entry(id).or_insert(Told { bytes, told: bytes, at: None });
    }

    /// Those that may have more than was told.
    pub(super) fn all(&self) -> Vec<DistributionId> {
        self.0.keys().copied().collect()
    }

    /// Whether there are some.
    pub(super) fn are_untold(&self) -> bool {
        self.0.values().any(|told| told.bytes > told.told)
    }

    /// So many verified bytes are here of [`Gains::all`]; those to be told of now. Of what is fetched no more only the last is told.
    pub(super) fn due(
        &mut self,
        here: &BTreeMap<DistributionId, u64>,
        is_fetched: impl Fn(&DistributionId) -> bool,
        now: Instant,
    ) -> Vec<(DistributionId, u64)> {
        let mut due = Vec::new();
        self.0.retain(|id, told| {
            told.bytes = told.bytes.max(here.get(id).copied().unwrap_or_default());
            let wait = if told.bytes - told.told >= MUCH_BYTES { SOON } else { INTERVAL };
            if told.bytes > told.told && told.at.is_none_or(|at| now.duration_since(at) >= wait) {
                (told.told, told.at) = (told.bytes, Some(now));
                due.push((*id, told.bytes));
            }
            is_fetched(id) || told.bytes > told.told
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: DistributionId = DistributionId::from_bytes([1; 32]);

    fn due(gains: &mut Gains, bytes: u64, is_fetched: bool, at: Instant) -> Vec<u64> {
        gains.due(&BTreeMap::from([(ID, bytes)]), |_| is_fetched, at).into_iter().map(|(_, bytes)| bytes).collect()
    }

    #[test]
    fn what_comes_is_told_at_once_what_follows_after_a_while_and_the_last_though_nothing_is_fetched_any_more() {
        let (start, mut gains) = (Instant::now(), Gains::default());
        gains.begin(ID, 5);
        let mut due = |bytes, is_fetched, seconds| due(&mut gains, bytes, is_fetched, start + Duration::from_secs(seconds));
        assert!(due(5, true, 0).is_empty(), "it was here before");
        assert_eq!(due(10, true, 1), [10]);
        assert_eq!([due(20, true, 2), due(20, true, 5), due(20, true, 6), due(20, true, 20)], [vec![], vec![], vec![20], vec![]]);
        assert_eq!(due(30, true, 21), [30]);
        assert!(due(40, false, 22).is_empty());
        assert_eq!(due(40, false, 26), [40]);
        assert!(!gains.are_untold() && gains.0.is_empty());
    }

    #[test]
    fn much_is_told_sooner() {
        let (start, mut gains, much) = (Instant::now(), Gains::default(), MUCH_BYTES);
        gains.begin(ID, 0);
        let mut due = |bytes, tenths: u64| due(&mut gains, bytes, true, start + Duration::from_millis(100 * tenths)).len();
        assert_eq!([due(much, 0), due(2 * much, 4), due(2 * much, 5), due(3 * much - 1, 20), due(3 * much, 21)], [1, 0, 1, 0, 1]);
    }
}
