//! Nothing starves: where more urgent fetches take the whole budget, and go on doing so, the priorities that wait have one fetch
//! beside it by turns. Nothing more urgent takes it from them; after a while it goes to the next of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::pass::Pass;
use crate::model::{Priority, Timestamp};

/// The priorities that are passed over: something of theirs waits, and the budget is spent on what is more urgent alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Aging {
    passed_over: BTreeMap<Priority, PassedOver>,
    turns: u64,
    /// The latest turn: whose it was, and when it began.
    latest: Option<(Priority, Timestamp)>,
}

#[derive(Debug, Clone, Copy)]
struct PassedOver {
    since: Timestamp,
    /// Who has the lowest is next: the number grows with each turn that is had, and with each who joins.
    turn: u64,
}

impl Aging {
    fn join(&mut self, priority: Priority, now: Timestamp) {
        let turns = &mut self.turns;
        self.passed_over.entry(priority).or_insert_with(|| {
            *turns += 1;
            PassedOver { since: now, turn: *turns }
        });
    }

    /// Of those who have been passed over for so long, whose turn it is. The others come before it another time.
    fn take_turn(&mut self, now: Timestamp, aging: Duration) -> Option<Priority> {
        let waited = self.passed_over.iter_mut().filter(|(_, passed_over)| passed_over.since.plus(aging) <= now);
        let (priority, passed_over) = waited.min_by_key(|(_, passed_over)| passed_over.turn)?;
        self.turns += 1;
        passed_over.turn = self.turns;
        self.latest = Some((*priority, now));
        Some(*priority)
    }

    /// Whose turn it is comes after those who wait now, and has it again at once if they cannot begin anything.
    fn end_turn(&mut self) {
        self.turns += 1;
        let Some((priority, began)) = self.latest else { return };
        self.passed_over.entry(priority).or_insert(PassedOver { since: began, turn: 0 }).turn = self.turns;
    }

    /// When somebody will have been passed over for so long.
    fn due(&self, aging: Duration) -> Option<Timestamp> {
        self.passed_over.values().map(|passed_over| passed_over.since.plus(aging)).min()
    }

    /// When another will have been passed over for so long, and the latest turn will have lasted as long.
    fn next_due(&self, aging: Duration) -> Option<Timestamp> {
        let (latest, began) = self.latest?;
        let others = self.passed_over.iter().filter(|(priority, _)| **priority != latest);
        others.map(|(_, passed_over)| passed_over.since.max(began).plus(aging)).min()
    }

    pub(super) fn clock_went_back(&mut self, now: Timestamp) {
        self.passed_over.values_mut().for_each(|passed_over| passed_over.since = passed_over.since.min(now));
        self.latest = self.latest.map(|(priority, began)| (priority, began.min(now)));
    }
}

impl Pass<'_> {
    /// Begins the fetch beside the budget, when something has waited for long enough.
    pub(super) fn begin_beside(&mut self) {
        self.note_passed_over();
        let aging = self.policy.patience.aging;
        if let Some(fetch) = self.memory.flights.beside()
            && self.memory.aging.next_due(aging).is_some_and(|due| due <= self.now)
        {
            self.memory.aging.end_turn();
            self.put_off(fetch);
        }
        while self.memory.flights.beside().is_none()
            && let Some(priority) = self.memory.aging.take_turn(self.now, aging)
            && let Some(rank) = self.memory.first_ready(priority)
        {
            self.serve(rank, true);
            self.note_passed_over();
        }
    }

    /// When to look again for what has waited long enough.
    pub(super) fn aging_due(&self) -> Option<Timestamp> {
        let (aging, patience) = (&self.memory.aging, self.policy.patience.aging);
        if self.memory.flights.beside().is_none() { aging.due(patience) } else { aging.next_due(patience) }
    }

    fn note_passed_over(&mut self) {
        for priority in Priority::ALL {
            let waits = self.memory.first_ready(priority).is_some() && !self.gives_way(priority);
            if waits && !self.memory.flights.serve(priority) {
                self.memory.aging.join(priority, self.now);
            } else {
                self.memory.aging.passed_over.remove(&priority);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::bench::{Bench, ME, Running, Sketch, only, peer};
    use super::super::{Budget, Event, FetchOutcome, FileOutcome};
    use super::*;
    use crate::model::TargetState;

    /// A bench whose whole budget goes to critical files that never end.
    struct Pressed {
        bench: Bench,
        /// How many critical files there were.
        critical: u64,
    }

    impl Pressed {
        fn new(budget: Budget) -> Self {
            let mut bench = Bench::new();
            bench.policy.budget = budget;
            bench.settle(Event::PeerUp(peer(2)));
            let mut pressed = Self { bench, critical: 0 };
            for _ in 0..=budget.fetches {
                pressed.press();
            }
            pressed
        }

        /// One more critical file. Its blob is one of a few that are forgotten again when they were delivered.
        fn press(&mut self) {
            self.critical += 1;
            let blob = 100 + u8::try_from(self.critical % 100).expect("small");
            let blobs = vec![(blob, 1_000_000 + self.critical)];
            self.bench.add(&Sketch { priority: Priority::Critical, blobs, ..Sketch::default() });
        }

        fn has_critical(&self, running: &Running) -> bool {
            self.bench.view.documents[&running.distribution].manifest.priority == Priority::Critical
        }

        /// What is not critical and is being fetched.
        fn others(&self) -> Vec<Running> {
            self.bench.running.iter().filter(|running| !self.has_critical(running)).copied().collect()
        }

        /// A fetch is done, and what became whole is delivered; another critical file comes for one that is done.
        fn done(&mut self, running: Running) {
            let critical = self.has_critical(&running);
            self.bench.fetch_ended(running, FetchOutcome::Done);
            for id in self.bench.delivering.keys().copied().collect::<Vec<_>>() {
                self.bench.delivery_ended(id, &FileOutcome::Delivered);
            }
            if critical {
                self.bench.view.blobs.remove(&running.blob);
                self.press();
            }
        }
    }

    fn budget(fetches: usize) -> Budget {
        Budget { fetches, bytes: 100_000_000, dials: 1 }
    }

    #[test]
    fn what_is_passed_over_has_a_fetch_of_its_own_after_a_while_and_not_before() {
        let mut pressed = Pressed::new(budget(2));
        let bulk = Sketch { priority: Priority::Bulk, blobs: vec![(1, 200_000_000), (2, 200_000_000)], ..Sketch::default() };
        pressed.bench.add(&bulk);
        pressed.bench.wait(Duration::from_secs(59));
        assert!(pressed.others().is_empty());
        pressed.bench.wait(Duration::from_secs(1));
        let others = pressed.others();
        assert_eq!(others.iter().map(|running| running.size).collect::<Vec<_>>(), [200_000_000], "one, however large");
        for _ in 0..10 {
            let critical = *pressed.bench.running.iter().find(|running| pressed.has_critical(running)).expect("without an end");
            pressed.done(critical);
        }
        assert_eq!(pressed.others()[0].fetch, others[0].fetch, "nothing takes its place");
        assert_eq!(pressed.bench.running.len(), 3, "nor does it take that of others");
        pressed.done(others[0]);
        assert_eq!(pressed.others().len(), 1, "what waited goes on as long as it is passed over");
    }

    #[test]
    fn a_fetch_that_does_not_end_makes_room_for_another_priority_and_goes_on_in_its_turn() {
        let mut pressed = Pressed::new(budget(1));
        let sketch = |priority, blob| Sketch { priority, blobs: vec![(blob, 200_000_000)], ..Sketch::default() };
        let bulk = pressed.bench.add(&sketch(Priority::Bulk, 1));
        pressed.bench.wait(Duration::from_secs(60));
        let routine = pressed.bench.add(&sketch(Priority::Routine, 2));
        let mut had = Vec::new();
        for _ in 0..4 {
            let others = pressed.others();
            assert_eq!(others.len(), 1);
            had.push(others[0].distribution);
            pressed.bench.wait(Duration::from_secs(59));
            assert_eq!(pressed.others()[0].distribution, others[0].distribution, "not before a minute is over");
            assert!(pressed.bench.memory.armed.is_some_and(|armed| armed <= pressed.bench.now.plus(Duration::from_secs(1))));
            pressed.bench.wait(Duration::from_secs(1));
        }
        assert_eq!(had, [bulk, routine, bulk, routine]);
    }

    #[test]
    fn a_turn_that_nobody_can_take_over_goes_on() {
        let mut pressed = Pressed::new(budget(1));
        let bulk = pressed.bench.add(&Sketch { priority: Priority::Bulk, blobs: vec![(1, 200_000_000)], ..Sketch::default() });
        pressed.bench.wait(Duration::from_secs(60));
        // Nobody who has it is connected, which is not looked at while the budget is used up.
        pressed.bench.add(&Sketch { sender: 3, scope: only(&[ME]), blobs: vec![(2, 10)], ..Sketch::default() });
        for _ in 0..3 {
            pressed.bench.wait(Duration::from_secs(60));
            assert_eq!(pressed.others().iter().map(|running| running.distribution).collect::<Vec<_>>(), [bulk]);
        }
    }

    #[test]
    fn who_asks_again_at_that_time_is_the_timer() {
        let mut pressed = Pressed::new(budget(1));
        pressed.bench.add(&Sketch { priority: Priority::Bulk, ..Sketch::default() });
        let due = pressed.bench.now.plus(pressed.bench.policy.patience.aging);
        assert!(pressed.bench.memory.armed.is_some_and(|armed| armed <= due), "the fetches under way may take for ever");
    }

    #[test]
    fn equals_have_it_one_after_the_other_and_nothing_beside() {
        let mut bench = Bench::new();
        bench.policy.budget = budget(1);
        bench.settle(Event::PeerUp(peer(2)));
        bench.add(&Sketch::default());
        bench.add(&Sketch { blobs: vec![(2, 10)], ..Sketch::default() });
        bench.wait(Duration::from_secs(600));
        assert_eq!(bench.running.len(), 1, "the one that came first ends first");
    }

    #[test]
    fn on_a_metered_link_only_the_critical_is_fetched_however_long_others_wait() {
        let mut pressed = Pressed::new(budget(1));
        pressed.bench.policy.metered = true;
        pressed.bench.settle(Event::PolicyChanged);
        let bulk = pressed.bench.add(&Sketch { priority: Priority::Bulk, ..Sketch::default() });
        pressed.bench.wait(Duration::from_secs(6_000));
        assert!(pressed.others().is_empty());
        let expiry = pressed.bench.view.documents[&bulk].manifest.expiry;
        assert_eq!(pressed.bench.memory.armed, Some(expiry), "no timer goes off for it");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Whatever the budget is spent on, all that waits comes as if the fetch beside it were its own link: each fetch takes longer
        /// than a turn, and goes on where it was.
        #[test]
        fn nothing_starves(
            fetches in 1_usize..4,
            waiting in proptest::collection::vec((0_usize..4, 1_u64..200_000_000, 1_usize..4), 1..12),
            clock in proptest::collection::vec(1_u64..30, 1..8),
        ) {
            const LASTS: u64 = 90;
            let mut pressed = Pressed::new(budget(fetches));
            let mut blob = 0;
            let mut ids = Vec::new();
            for (priority, size, files) in waiting {
                let blobs = (0..files).map(|_| { blob += 1; (blob, size) }).collect();
                ids.push(pressed.bench.add(&Sketch { priority: Priority::ALL[priority], blobs, ..Sketch::default() }));
            }
            let (mut left, mut lasted) = (120 + u64::from(blob) * (LASTS + 60), BTreeMap::new());
            for (step, seconds) in clock.into_iter().cycle().enumerate() {
                let fetched = pressed.others();
                pressed.bench.wait(Duration::from_secs(seconds));
                for running in fetched {
                    let lasted: &mut u64 = lasted.entry(running.blob).or_default();
                    *lasted += seconds;
                    if *lasted >= LASTS && pressed.bench.running.iter().any(|other| other.fetch == running.fetch) {
                        pressed.done(running);
                    }
                }
                let critical: Vec<_> = pressed.bench.running.iter().filter(|running| pressed.has_critical(running)).copied().collect();
                pressed.done(critical[step % critical.len()]);
                left = left.saturating_sub(seconds);
                if left == 0 {
                    break;
                }
            }
            for id in ids {
                let record = pressed.bench.view.documents[&id].targets.get(&peer(ME)).map(|record| record.state);
                prop_assert_eq!(record, Some(TargetState::Delivered));
            }
        }
    }
}
