//! A congestion control that does not take every loss for congestion. Never hides a loss while packets queue, nor so many that
//! the link itself cannot be to blame.
//!
//! Radio and satellite links lose packets that no queue has dropped; BBR as it stands takes two in a hundred as a sign to send
//! less (draft-ietf-ccwg-bbr, section 5.5.10.2), and so starves where five are lost. What is lost while the round trip says that
//! nothing queues has crossed the bottleneck, and counts as if it had arrived.

use std::any::Any;
use std::time::{Duration, Instant};

use iroh::endpoint::{Controller, ControllerMetrics, RttEstimator};

/// Packets queue when the round trip is longer by this share of the least.
const QUEUED: f64 = 0.5;
/// More losses than this share of what was sent are congestion, whatever the round trip.
const MOST: f64 = 0.15;
/// Bytes after which what was counted weighs half as much.
const MEMORY_BYTES: f64 = 256.0 * 1024.0;

/// Keeps losses that are not congestion from a control.
#[derive(Debug)]
pub(super) struct Tolerant {
    inner: Box<dyn Controller>,
    rtt: Option<RttEstimator>,
    /// Bytes sent and lost of late.
    sent: f64,
    lost: f64,
}

impl Tolerant {
    pub(super) fn new(inner: Box<dyn Controller>) -> Self {
        Self { inner, rtt: None, sent: 0.0, lost: 0.0 }
    }

    fn count(&mut self, sent: f64, lost: f64) {
        self.sent += sent;
        self.lost += lost;
        if self.sent > 2.0 * MEMORY_BYTES {
            self.sent /= 2.0;
            self.lost /= 2.0;
        }
    }

    /// The round trips by which a packet that was lost just now counts as one that arrived, if it does.
    fn excused(&self) -> Option<RttEstimator> {
        self.rtt.filter(|rtt| !self.is_congested(rtt.min(), rtt.get()))
    }

    fn is_congested(&self, least: Duration, smoothed: Duration) -> bool {
        smoothed > least.mul_f64(1.0 + QUEUED) || self.lost > self.sent.max(MEMORY_BYTES) * MOST
    }
}

impl Controller for Tolerant {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest: u64) {
        self.inner.on_sent(now, bytes, largest);
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, number: u64) {
        self.count(f64::from(bytes), 0.0);
        self.inner.on_packet_sent(now, bytes, number);
    }

    fn on_cwnd_limited(&mut self) {
        self.inner.on_cwnd_limited();
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, number: u64, app_limited: bool, rtt: &RttEstimator) {
        self.rtt = Some(*rtt);
        self.inner.on_ack(now, sent, bytes, number, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, ecn: bool, lost: u64, largest: u64) {
        if persistent || ecn || self.excused().is_none() {
            self.inner.on_congestion_event(now, sent, persistent, ecn, lost, largest);
        }
    }

    fn on_packet_lost(&mut self, bytes: u16, number: u64, now: Instant) {
        self.count(0.0, f64::from(bytes));
        match self.excused() {
            Some(rtt) => {
                let sent = now.checked_sub(rtt.get()).unwrap_or(now);
                self.inner.on_ack(now, sent, u64::from(bytes), number, false, &rtt);
            }
            None => self.inner.on_packet_lost(bytes, number, now),
        }
    }

    fn on_spurious_congestion_event(&mut self) {
        self.inner.on_spurious_congestion_event();
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.inner.on_mtu_update(mtu);
    }

    fn on_ack_frequency_update(&mut self, threshold: u64, delay: Duration) {
        self.inner.on_ack_frequency_update(threshold, delay);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), ..*self })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.inner.into_any()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use iroh::endpoint::ControllerFactory as _;
    use noq_proto::congestion::CubicConfig;

    use super::*;

    #[test]
    fn a_loss_is_congestion_when_packets_queue_or_too_many_are_lost() {
        let mut control = Tolerant::new(Arc::new(CubicConfig::default()).build(Instant::now(), 1200));
        let least = Duration::from_millis(600);
        control.count(1e6, 0.0);
        control.count(0.0, 50_000.0);
        assert!(!control.is_congested(least, Duration::from_millis(880)));
        assert!(control.is_congested(least, Duration::from_millis(920)), "they queue");
        control.count(0.0, 150_000.0);
        assert!(control.is_congested(least, least), "too many are lost");
        (0..100).for_each(|_| control.count(100_000.0, 5_000.0));
        assert!(!control.is_congested(least, least), "what was long ago weighs little");
    }
}
