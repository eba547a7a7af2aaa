//! How fast each peer has sent of late what it was asked for: that says who is asked first for the next blob. Only measures, and
//! while nothing is asked for, not even that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iroh::TransportAddr;
use iroh::endpoint::Connection;
use tokio::time::Instant;

use crate::model::EndpointId;

/// What was measured so long ago says nothing any more.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// A measurement takes so long, or until all that was asked for has come.
const SPAN: Duration = Duration::from_secs(1);
/// One that ended earlier counts from so many bytes on: of fewer it is the round trip that was measured.
const SPAN_BYTES: u64 = 64 * 1024;
/// What is left with each measurement of what earlier ones have shown.
const REMEMBERED: f64 = 0.75;

/// The speeds of the peers of a node.
#[derive(Debug, Default)]
pub(crate) struct Speeds(Mutex<BTreeMap<EndpointId, Speed>>);

#[derive(Debug)]
struct Speed {
    /// Over which path, where there was one: another has another speed.
    path: Option<TransportAddr>,
    /// How many requests are under way.
    requests: usize,
    /// When the measurement under way began, and what has come since.
    since: Instant,
    bytes: u64,
    known: Option<Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    /// Bytes a second: the mean of what was measured, the last most.
    mean: f64,
    /// What others are told: a power of two that stays until the mean is not between its half and its double.
    told: u64,
    measured: Instant,
}

impl Speeds {
    /// A request to a peer goes out over the path that its connection uses now.
    pub(super) fn asked(self: &Arc<Self>, peer: EndpointId, connection: &Connection) -> Asked {
        self.asked_over(peer, path_of(connection))
    }

    fn asked_over(self: &Arc<Self>, peer: EndpointId, path: Option<TransportAddr>) -> Asked {
        let now = Instant::now();
        let mut all = self.lock();
        all.retain(|_, speed| speed.requests > 0 || speed.known(now).is_some());
        let new = || Speed { path: None, requests: 0, since: now, bytes: 0, known: None };
        let speed = all.entry(peer).or_insert_with(new);
        // For a moment there may be none.
        if path.is_some() && speed.path != path {
            (speed.path, speed.since, speed.bytes, speed.known) = (path, now, 0, None);
        }
        if speed.requests == 0 {
            (speed.since, speed.bytes) = (now, 0);
        }
        speed.requests += 1;
        Asked { speeds: Arc::clone(self), peer }
    }

    /// Bytes a second that come from a peer while it is asked, as a power of two, if that is known of the path in use. Of a peer
    /// without a connection the last one counts.
    pub(crate) fn of(&self, peer: &EndpointId, connection: Option<&Connection>) -> Option<u64> {
        self.over(peer, connection.and_then(path_of).as_ref())
    }

    fn over(&self, peer: &EndpointId, path: Option<&TransportAddr>) -> Option<u64> {
        let all = self.lock();
        let speed = all.get(peer).filter(|speed| path.is_none() || speed.path.as_ref() == path)?;
        speed.known(Instant::now()).map(|known| known.told)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Speed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Speed {
    fn known(&self, now: Instant) -> Option<Known> {
        self.known.filter(|known| now.duration_since(known.measured) < FORGOTTEN)
    }

    /// Ends the measurement under way, and begins the next.
    fn measure(&mut self, now: Instant) {
        let time = now.duration_since(self.since);
        let before = self.known(now);
        // Where nothing has come and nothing is known, there may be a thousand reasons.
        if (time >= SPAN || self.bytes >= SPAN_BYTES) && (self.bytes > 0 || before.is_some()) {
            let measured = self.bytes as f64 / time.as_secs_f64().max(1e-6);
            let mean = before.map_or(measured, |known| known.mean * REMEMBERED + measured * (1.0 - REMEMBERED));
            let stays = |told: &u64| (0.5..=2.0).contains(&(mean / *told as f64));
            let told = before.map(|known| known.told).filter(stays).unwrap_or_else(|| power_of_two(mean));
            self.known = Some(Known { mean, told, measured: now });
        }
        (self.since, self.bytes) = (now, 0);
    }
}

/// The nearest one.
fn power_of_two(rate: f64) -> u64 {
    1 << rate.max(1.0).log2().round().min(62.0) as u32
}

/// The path that a connection uses, while there is one.
fn path_of(connection: &Connection) -> Option<TransportAddr> {
    connection.paths().iter().find(|path| path.is_selected()).map(|path| path.remote_addr().clone())
}

/// A request that is under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Asked {
    speeds: Arc<Speeds>,
    peer: EndpointId,
}

impl Asked {
    /// So many more bytes have come.
    pub(super) fn came(&self, bytes: usize) {
        if let Some(speed) = self.speeds.lock().get_mut(&self.peer) {
            speed.bytes += bytes as u64;
            let now = Instant::now();
            if now.duration_since(speed.since) >= SPAN {
                speed.measure(now);
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(speed) = self.speeds.lock().get_mut(&self.peer) {
            speed.requests -= 1;
            if speed.requests == 0 {
                speed.measure(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::time::advance;

    use super::*;

    const PEER: EndpointId = EndpointId::from_bytes([1; 32]);
    const MIB: usize = 1024 * 1024;

    fn path(port: u16) -> Option<TransportAddr> {
        Some(TransportAddr::Ip(SocketAddr::from(([127, 0, 0, 1], port))))
    }

    /// So many bytes are asked for, and come in a time.
    async fn fetch(speeds: &Arc<Speeds>, bytes: usize, time: Duration) {
        let asked = speeds.asked_over(PEER, path(1));
        advance(time).await;
        asked.came(bytes);
    }

    fn told(speeds: &Speeds) -> Option<u64> {
        speeds.over(&PEER, path(1).as_ref())
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_counts_for_the_time_that_it_was_asked_for_alone() {
        let speeds = Arc::new(Speeds::default());
        for _ in 0..3 {
            // Two at once share the link.
            let both = [speeds.asked_over(PEER, path(1)), speeds.asked_over(PEER, path(1))];
            advance(Duration::from_millis(500)).await;
            both.iter().for_each(|asked| asked.came(MIB / 2));
            drop(both);
            advance(Duration::from_secs(60)).await;
        }
        assert_eq!(told(&speeds), Some(2 * MIB as u64));
    }

    #[tokio::test(start_paused = true)]
    async fn a_measurement_that_trembles_changes_nothing_and_one_that_lasts_does() {
        let speeds = Arc::new(Speeds::default());
        fetch(&speeds, MIB, Duration::from_secs(1)).await;
        for bytes in [MIB * 2 / 3, MIB * 3 / 2, MIB / 2, MIB * 2, MIB / 10] {
            fetch(&speeds, bytes, Duration::from_secs(1)).await;
            assert_eq!(told(&speeds), Some(MIB as u64), "{bytes}");
        }
        for _ in 0..10 {
            fetch(&speeds, MIB / 64, Duration::from_secs(1)).await;
        }
        assert!(told(&speeds) < Some(MIB as u64 / 4), "{:?}", told(&speeds));
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_few_bytes_that_came_at_once_nothing_is_known_and_of_few_that_took_long_it_is() {
        let speeds = Arc::new(Speeds::default());
        fetch(&speeds, 16 * 1024, Duration::from_millis(600)).await;
        assert_eq!(told(&speeds), None);
        fetch(&speeds, 16 * 1024, Duration::from_secs(4)).await;
        assert_eq!(told(&speeds), Some(4096));
        // Nothing at all in a long time, too.
        let asked = speeds.asked_over(PEER, path(1));
        advance(Duration::from_secs(30)).await;
        drop(asked);
        assert_eq!(told(&speeds), Some(4096), "within a half of it");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_forgotten_after_a_while_and_with_the_path() {
        let speeds = Arc::new(Speeds::default());
        fetch(&speeds, MIB, Duration::from_secs(1)).await;
        assert_eq!(speeds.over(&PEER, path(2).as_ref()), None, "of that path nothing is known");
        assert_eq!(speeds.over(&PEER, None), Some(MIB as u64), "it has no connection now");
        advance(FORGOTTEN).await;
        assert_eq!(told(&speeds), None);
        fetch(&speeds, MIB, Duration::from_secs(1)).await;
        drop(speeds.asked_over(PEER, path(2)));
        assert_eq!(told(&speeds), None);
        let other = EndpointId::from_bytes([2; 32]);
        drop(speeds.asked_over(other, path(3)));
        assert_eq!(speeds.lock().len(), 1, "nothing is kept of whom nothing is known");
    }
}
