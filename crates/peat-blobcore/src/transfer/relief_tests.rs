//! What of a blob comes from whom when the links of its holders differ much, and after what time: simulated, with stores at both
//! ends and a clock that stands still unless it is told.

use std::time::Duration;

use tokio::time::{Instant, advance};

use super::sources::{Asking, Rates, Sources};
use super::sources_tests::{Store, id};
use crate::network::wire::GROUP_BYTES;
use crate::reconcile::mix;

const STEP: Duration = Duration::from_millis(10);
/// As much as one request is for, which may come for nothing.
const REQUEST_BYTES: u64 = 256 * 1024;

/// Who has all of it. What it is asked for goes out one after the other, or side by side.
struct Holder {
    /// Bytes a second that its link carries after so many seconds.
    rate: Box<dyn Fn(f64) -> f64>,
    side_by_side: bool,
    sent: u64,
}

impl Holder {
    fn steady(rate: f64) -> Self {
        Self { rate: Box::new(move |_| rate), side_by_side: false, sent: 0 }
    }

    fn slows_down(rate: f64, at: f64, to: f64, side_by_side: bool) -> Self {
        Self { rate: Box::new(move |time| if time < at { rate } else { to }), side_by_side, sent: 0 }
    }
}

/// A request that a holder answers.
struct Answering {
    asking: Asking<()>,
    asked: Instant,
    next: u64,
    /// What has come of the block from there on.
    come: f64,
}

#[derive(Debug)]
struct Fetched {
    seconds: f64,
    sent: Vec<u64>,
    /// Requests that were broken off, and what had come of them for nothing.
    broken_off: usize,
    lost: u64,
}

async fn fetch(groups: u64, mut holders: Vec<Holder>) -> Fetched {
    let (source, blob, size) = Store::with_blob(groups);
    let store = Store::new();
    let assembly = store.content.assemble(&blob, size).expect("an assembly");
    let mut sources = Sources::new(groups, id(99));
    (0..).zip(&holders).for_each(|(number, _)| _ = sources.add(id(number), 0, (), true));
    let (begun, mut under_way, mut broken_off, mut lost) = (Instant::now(), Vec::<Answering>::new(), 0, 0);
    while !assembly.is_whole() {
        assert!(begun.elapsed() < Duration::from_secs(3600), "it comes to an end: {sources:?}");
        sources.look_again();
        while let Some(asking) = sources.next(&assembly) {
            let next = asking.taken.range().start;
            under_way.push(Answering { asking, asked: Instant::now(), next, come: 0.0 });
        }
        for number in sources.relieve(&assembly) {
            let at = under_way.iter().position(|answering| answering.asking.number == number).expect("it is under way");
            lost += under_way.remove(at).come as u64;
            broken_off += 1;
        }
        advance(STEP).await;
        for (number, holder) in (0..).zip(&mut holders) {
            let of_this = |answering: &&mut Answering| answering.asking.source == id(number);
            let many = under_way.iter_mut().filter(of_this).count();
            let (at_once, mut bytes) =
                (if holder.side_by_side { many } else { 1 }, (holder.rate)(begun.elapsed().as_secs_f64()) * STEP.as_secs_f64());
            let each = bytes / at_once.max(1) as f64;
            for answering in under_way.iter_mut().filter(of_this) {
                let mut may = if holder.side_by_side { each } else { bytes };
                let Answering { asking, next, come, .. } = answering;
                let end = asking.taken.range().end;
                while may > 0.0 && *next < end {
                    let block = *next..(*next + asking.block).min(end);
                    let step = may.min((block.end - block.start) as f64 - *come);
                    let before = *come as usize;
                    (*come, may, bytes) = (*come + step, may - step, bytes - step);
                    asking.loose.came(*come as usize - before);
                    if *come >= (block.end - block.start) as f64 {
                        let encoded = source.content.encode_block(&blob, block.clone()).expect("it has it");
                        assembly.write_block(block.clone(), &encoded).expect("it is right");
                        asking.loose.written(*come as usize);
                        holder.sent += block.end - block.start;
                        (*next, *come) = (block.end, 0.0);
                    }
                }
            }
        }
        let ended = under_way.extract_if(.., |answering| answering.next == answering.asking.taken.range().end);
        for Answering { asking, asked, .. } in ended {
            let range = asking.taken.range();
            let rate = (range.end - range.start) as f64 / asked.elapsed().as_secs_f64();
            sources.answered(&asking.source, 0, asking.number, Rates { blob: rate, link: rate });
        }
    }
    let sent = holders.iter().map(|holder| holder.sent).collect();
    Fetched { seconds: begun.elapsed().as_secs_f64(), sent, broken_off, lost }
}

/// Numbers from 0 to 1 that follow from a seed.
fn draw(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = mix(state);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_source_a_hundred_times_as_slow_a_blob_is_there_about_as_soon_as_from_the_fast_one_alone() {
    let mut in_time = 0;
    for seed in 0..24 {
        let mut draw = draw(seed);
        let groups = 64 + (draw() * 448.0) as u64;
        let size = (groups * GROUP_BYTES) as f64;
        let fast = 5e5 * 16_f64.powf(draw());
        let slow = fast / (100.0 * 20_f64.powf(draw()));
        let alone = fetch(groups, vec![Holder::steady(fast)]).await;
        let holders = match seed % 3 {
            0 => vec![Holder::steady(slow), Holder::steady(fast)],
            // It becomes as slow as that in the midst, or near the end.
            of_three => {
                let at = draw() * size / fast * 0.5;
                vec![Holder::slows_down(fast, at, slow, of_three == 1), Holder::steady(fast)]
            }
        };
        let both = fetch(groups, holders).await;
        let may_lose = (groups * GROUP_BYTES / 100).max(REQUEST_BYTES);
        let what = format!("seed {seed}: {groups} groups, {fast} and {slow} bytes a second: {both:?}, alone {alone:?}");
        assert!(both.lost <= may_lose, "{what}");
        // What more would come for nothing is waited for.
        if both.lost + REQUEST_BYTES / 2 <= may_lose {
            // A slow one may owe half of what is asked for at once.
            let owed = 512.0 * 1024.0;
            assert!(both.seconds <= alone.seconds * 1.25 + 2.5 + 4.0 * owed / fast, "{what}");
            in_time += 1;
        }
    }
    assert!(in_time >= 12, "{in_time}");
}

#[tokio::test(start_paused = true)]
async fn what_sources_of_about_the_same_rate_were_asked_for_stays_with_them() {
    for seed in 0..12 {
        let mut draw = draw(seed);
        let groups = 64 + (draw() * 448.0) as u64;
        let fast = 1e5 * 100_f64.powf(draw());
        let holders = (0..3).map(|_| Holder::steady(fast * (0.3 + 0.7 * draw()))).collect();
        let fetched = fetch(groups, holders).await;
        assert_eq!((fetched.broken_off, fetched.lost), (0, 0), "seed {seed}: {fetched:?}");
        assert!(fetched.sent.iter().all(|sent| *sent > 0), "seed {seed}: {fetched:?}");
    }
}

/// Where one falls silent for good just as it has what is left of the other's, and comes first of the two.
#[tokio::test(start_paused = true)]
async fn of_two_thin_links_of_which_one_falls_silent_none_is_asked_and_relieved_again_and_again() {
    for seed in 0..24 {
        let mut draw = draw(seed);
        let groups = 8 + (draw() * 40.0) as u64;
        let (one, other) = (2e4 * 3_f64.powf(draw()), 2e4);
        let at = draw() * (groups * GROUP_BYTES) as f64 / (one + other);
        let fetched = fetch(groups, vec![Holder::slows_down(one, at, 0.0, false), Holder::steady(other)]).await;
        assert!(fetched.broken_off <= 40, "seed {seed}: {fetched:?}");
        let alone = (groups * GROUP_BYTES) as f64 / other;
        assert!(fetched.seconds <= alone * 1.25 + 30.0, "seed {seed}: {fetched:?}, alone {alone} s");
    }
}
