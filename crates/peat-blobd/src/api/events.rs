//! What happened last, by numbers: whoever watches reads from one on, also from one that he heard of before, and is told how much of it is
//! kept no more. Nobody who reads slowly keeps others waiting.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use peat_blobcore::{NodeEvent, NodeEvents};
use tokio::sync::watch;

/// Events that are kept. How far transfers are is most of them.
const KEPT: usize = 16 * 1024;
/// Numbers that a millisecond may use up, so that those of a daemon's next life are higher. Two lives are further apart than that.
const NUMBERS_A_MILLISECOND: u64 = 1 << 10;

/// The events of a daemon's life.
pub(crate) struct Events {
    kept: Mutex<Kept>,
    /// The number of the next event.
    next: watch::Sender<u64>,
}

struct Kept {
    /// The number of the first event of this life.
    born: u64,
    /// The number of the first that is kept.
    first: u64,
    events: VecDeque<NodeEvent>,
}

/// What there is at a number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// An event.
    Event(NodeEvent),
    /// So many are not kept any more, up to this number; zero where it is not known how many, since the daemon started in between.
    Missed(u64, u64),
    /// Nothing yet.
    Later,
}

impl Events {
    /// Keeps what a node tells from now on, until it ends.
    pub(crate) fn keep(mut told: NodeEvents) -> Arc<Self> {
        let events = Arc::new(Self::born(SystemTime::now()));
        let keeping = Arc::clone(&events);
        tokio::spawn(async move {
            while let Some(event) = told.next().await {
                keeping.add(event);
            }
        });
        events
    }

    fn born(now: SystemTime) -> Self {
        let millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let born = millis.saturating_mul(NUMBERS_A_MILLISECOND);
        Self { kept: Mutex::new(Kept { born, first: born, events: VecDeque::new() }), next: watch::Sender::new(born) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, event: NodeEvent) {
        let mut kept = self.kept();
        kept.events.push_back(event);
        if kept.events.len() > KEPT {
            kept.events.pop_front();
            kept.first += 1;
        }
        self.next.send_replace(kept.first + kept.events.len() as u64);
    }

    /// The number that the next event will have.
    pub(crate) fn next(&self) -> u64 {
        *self.next.borrow()
    }

    /// What there is at a number.
    pub(crate) fn at(&self, number: u64) -> At {
        let kept = self.kept();
        let end = kept.first + kept.events.len() as u64;
        // One that this life has not used yet is of another, whose clock was ahead.
        if number > end || number < kept.born {
            return At::Missed(0, kept.first);
        }
        if number < kept.first {
            return At::Missed(kept.first - number, kept.first);
        }
        let place = usize::try_from(number - kept.first).ok();
        place.and_then(|place| kept.events.get(place)).map_or(At::Later, |event| At::Event(event.clone()))
    }

    /// Waits until there is something at a number.
    pub(crate) async fn reach(&self, number: u64) {
        // Its sender is here.
        let _ = self.next.subscribe().wait_for(|next| *next > number).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn event(number: u64) -> NodeEvent {
        NodeEvent::Missed(number)
    }

    #[test]
    fn events_are_found_by_their_numbers_and_what_is_kept_no_more_is_counted() {
        let events = Events::born(SystemTime::now());
        let born = events.next();
        assert_eq!(events.at(born), At::Later);
        let all = KEPT as u64 + 10;
        (0..all).for_each(|number| events.add(event(number)));
        assert_eq!(events.next(), born + all);
        assert_eq!(events.at(born + 10), At::Event(event(10)));
        assert_eq!(events.at(born + all - 1), At::Event(event(all - 1)));
        assert_eq!(events.at(born + all), At::Later);
        assert_eq!(events.at(born + 3), At::Missed(7, born + 10));
    }

    #[test]
    fn a_number_of_another_life_is_told_from_those_of_this_one() {
        let now = SystemTime::now();
        let (before, after) = (Events::born(now), Events::born(now + Duration::from_secs(1)));
        (0..100).for_each(|number| before.add(event(number)));
        assert!(before.next() < after.next());
        assert_eq!(after.at(before.next()), At::Missed(0, after.next()));
        // A clock that was set back.
        assert_eq!(before.at(after.next() + 1), At::Missed(0, before.next() - 100));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_what_he_waits_for() {
        let events = Arc::new(Events::born(SystemTime::now()));
        let second = events.next() + 1;
        let waiting = tokio::spawn({
            let events = Arc::clone(&events);
            async move {
                events.reach(second).await;
                events.at(second)
            }
        });
        events.add(event(1));
        events.add(event(2));
        assert_eq!(waiting.await.expect("it ends"), At::Event(event(2)));
    }
}
