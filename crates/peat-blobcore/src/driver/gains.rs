//! Telling others that this node has more than before of what they are to get, too: they may ask it for that, where nobody who has
//! all is in reach.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::DistributionId;

/// How often of one distribution: some ten bytes a second to each peer, a hundredth of what a link of 10 kbit/s carries.
const INTERVAL: Duration = Duration::from_secs(5);

/// What was told of the distributions that are fetched.
#[derive(Debug, Default)]
pub(super) struct Gains(BTreeMap<DistributionId, Told>);

#[derive(Debug)]
struct Told {
    /// Verified bytes that are here.
    bytes: u64,
    /// Those that were told.
    told: u64,
    at: Instant,
}

impl Gains {
    /// Those of which more is here than was told.
    pub(super) fn untold(&self) -> Vec<DistributionId> {
        self.0.iter().filter(|(_, told)| told.bytes > told.told).map(|(id, _)| *id).collect()
    }

    /// Whether there are some.
    pub(super) fn are_untold(&self) -> bool {
        self.0.values().any(|told| told.bytes > told.told)
    }

    /// So many verified bytes are here of what is fetched, and of [`Gains::untold`]; those to be told of now.
    pub(super) fn due(&mut self, here: &BTreeMap<DistributionId, u64>, now: Instant) -> Vec<(DistributionId, u64)> {
        for (id, bytes) in here {
            let told = self.0.entry(*id).or_insert(Told { bytes: 0, told: 0, at: now.checked_sub(INTERVAL).unwrap_or(now) });
            told.bytes = told.bytes.max(*bytes);
        }
        let mut due = Vec::new();
        self.0.retain(|id, told| {
            if told.bytes > told.told && now.duration_since(told.at) >= INTERVAL {
                (told.told, told.at) = (told.bytes, now);
                due.push((*id, told.bytes));
            }
            here.contains_key(id) || told.bytes > told.told
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_are_told_at_once_what_follows_after_a_while_and_the_last_though_nothing_is_fetched_any_more() {
        let (id, start, mut gains) = (DistributionId::from_bytes([1; 32]), Instant::now(), Gains::default());
        let mut due = |bytes, seconds| gains.due(&BTreeMap::from([(id, bytes)]), start + Duration::from_secs(seconds));
        assert_eq!(due(0, 0), []);
        assert_eq!(due(10, 1), [(id, 10)]);
        assert_eq!((due(20, 2), due(20, 5), due(20, 6), due(20, 20)), (vec![], vec![], vec![(id, 20)], vec![]));
        assert_eq!(due(30, 21), [(id, 30)]);
        assert_eq!(due(40, 22), []);
        assert_eq!(gains.untold(), [id]);
        assert_eq!(gains.due(&BTreeMap::new(), start + Duration::from_secs(26)), [(id, 40)]);
        assert!(!gains.are_untold() && gains.0.is_empty());
    }
}
