//! Which congestion control a path gets: the one that its round trip calls for. Never touches what a packet carries.
//!
//! Where round trips are short, CUBIC costs least and fills the link. Where they are long, packets are lost for other reasons than
//! congestion, and CUBIC takes each for a full queue: over 2 Mbit/s with 600 ms and 1 % loss it takes three times as long as
//! BBR. Both hear of the first packets, so that the one that is chosen knows the path already.

mod silence;
mod tolerant;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::{Connection, Controller, ControllerFactory, ControllerMetrics, RttEstimator};
use noq_proto::congestion::{Bbr3Config, CubicConfig};

pub(super) use silence::LOOK_INTERVAL;
use silence::Silence;
use tolerant::Tolerant;

/// Round trips from here on are long.
const LONG: Duration = Duration::from_millis(5);
/// Batches of acknowledgements until a path's least round trip is believed: the first ones wait for a handshake.
const BATCHES: u32 = 8;

/// Bytes that BBR sends into a path before it has heard of it: as much as servers of the web send, since each round trip on
/// the way to a full pipe costs a satellite link more than half a second.
const INITIAL_WINDOW_BYTES: u64 = 32 * 1200;

/// Whether a connection waits for an answer on the path in use, has heard nothing for longer than a round trip explains, and is due
/// to ask again. Then one packet gets through, however full the window is.
pub(super) fn is_to_be_asked(connection: &Connection) -> bool {
    let path = connection.paths().iter().find(|path| path.is_selected()).map(|path| path.id());
    let control = path.and_then(|path| connection.congestion_state(path)).and_then(|control| control.into_any().downcast().ok());
    control.is_some_and(|control: Box<Trial>| control.silence.is_to_be_asked(Instant::now()))
}

/// Makes the control of each new path.
#[derive(Debug)]
pub(super) struct ByRoundTrip {
    short: Arc<CubicConfig>,
    long: Arc<Bbr3Config>,
}

impl Default for ByRoundTrip {
    fn default() -> Self {
        let mut long = Bbr3Config::default();
        long.initial_window(INITIAL_WINDOW_BYTES);
        Self { short: Arc::default(), long: Arc::new(long) }
    }
}

impl ControllerFactory for ByRoundTrip {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(self.trial(now, mtu))
    }
}

impl ByRoundTrip {
    fn trial(&self, now: Instant, mtu: u16) -> Trial {
        let (short, long) = (Arc::clone(&self.short).build(now, mtu), Arc::clone(&self.long).build(now, mtu));
        Trial {
            controls: vec![short, Box::new(Tolerant::new(long))],
            batches: 0,
            least: Duration::MAX,
            silence: Silence::default(),
        }
    }
}

/// The control of one path.
#[derive(Debug)]
struct Trial {
    /// The one for short round trips and the one for long ones; only one of them when it was chosen. The last counts: BBR paces
    /// from the first packet on, which suits a path that is not known yet.
    controls: Vec<Box<dyn Controller>>,
    batches: u32,
    least: Duration,
    silence: Silence,
}

impl Trial {
    fn each(&mut self, mut tell: impl FnMut(&mut dyn Controller)) {
        self.controls.iter_mut().for_each(|control| tell(control.as_mut()));
    }

    fn current(&self) -> &dyn Controller {
        self.controls.last().expect("one is always left").as_ref()
    }

    fn choose(&mut self) {
        let (short, long) = (0, 1);
        self.controls.remove(if self.least < LONG { long } else { short });
    }
}

impl Controller for Trial {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest: u64) {
        self.each(|control| control.on_sent(now, bytes, largest));
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, number: u64) {
        self.silence.sent(now, u64::from(bytes));
        self.each(|control| control.on_packet_sent(now, bytes, number));
    }

    fn on_cwnd_limited(&mut self) {
        self.each(|control| control.on_cwnd_limited());
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, number: u64, app_limited: bool, rtt: &RttEstimator) {
        self.least = rtt.min();
        self.silence.answered(now, rtt);
        self.each(|control| control.on_ack(now, sent, bytes, number, app_limited, rtt));
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.silence.is_in_flight(in_flight);
        self.each(|control| control.on_end_acks(now, in_flight, app_limited, largest));
        self.batches = self.batches.saturating_add(1);
        if self.batches == BATCHES {
            self.choose();
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, ecn: bool, lost: u64, largest: u64) {
        self.each(|control| control.on_congestion_event(now, sent, persistent, ecn, lost, largest));
    }

    fn on_packet_lost(&mut self, bytes: u16, number: u64, now: Instant) {
        self.silence.lost(u64::from(bytes));
        self.each(|control| control.on_packet_lost(bytes, number, now));
    }

    fn on_spurious_congestion_event(&mut self) {
        self.each(|control| control.on_spurious_congestion_event());
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.each(|control| control.on_mtu_update(mtu));
    }

    fn on_ack_frequency_update(&mut self, threshold: u64, delay: Duration) {
        self.each(|control| control.on_ack_frequency_update(threshold, delay));
    }

    fn window(&self) -> u64 {
        if self.silence.is_to_be_asked(Instant::now()) { u64::MAX } else { self.current().window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.current().metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { controls: self.controls.iter().map(|control| control.clone_box()).collect(), ..*self })
    }

    fn initial_window(&self) -> u64 {
        self.current().initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use noq_proto::congestion::{Bbr3, Cubic};

    use super::*;

    fn chosen_for(round_trip: Duration) -> Box<dyn Any> {
        let factory = ByRoundTrip::default();
        let mut trial = factory.trial(Instant::now(), 1200);
        trial.least = round_trip;
        for number in 0..BATCHES {
            assert_eq!(trial.controls.len(), 2, "chosen after {number} batches");
            trial.on_end_acks(Instant::now(), 0, true, None);
        }
        trial.controls.pop().expect("one is left").into_any()
    }

    #[test]
    fn a_short_way_gets_cubic_and_a_long_one_bbr() {
        assert!(chosen_for(Duration::from_micros(200)).is::<Cubic>());
        assert!(chosen_for(Duration::from_millis(600)).is::<Bbr3>());
    }
}
