//! Endpoints that were found on the local network and are not known otherwise. Anybody can announce anything there, so few
//! are tried at a time, and who is not admitted is left alone for ever longer. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::model::{EndpointId, Timestamp};

/// Endpoints that are remembered. Who failed most often makes room.
const MAX_FOUND: usize = 256;
/// Of them, those that are dialled at once: the places of the dialling table are for members.
const MAX_TRIED: usize = 4;
/// Addresses of one that are used.
const MAX_ADDRESSES: usize = 8;
/// How long one that was not admitted is left alone the first time, and at most.
const MIN_PAUSE: Duration = Duration::from_secs(10);
const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// Who was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    endpoints: BTreeMap<EndpointId, Endpoint>,
}

#[derive(Debug, Default)]
struct Endpoint {
    addresses: Vec<SocketAddr>,
    tried: bool,
    failures: u32,
    not_before: Timestamp,
}

impl Found {
    /// An endpoint is said to be at these addresses.
    pub(crate) fn discovered(&mut self, id: EndpointId, mut addresses: Vec<SocketAddr>) {
        addresses.truncate(MAX_ADDRESSES);
        if !self.endpoints.contains_key(&id) && self.endpoints.len() >= MAX_FOUND {
            let settled = self.endpoints.iter().filter(|(_, known)| !known.tried && known.failures > 0);
            let Some(worst) = settled.max_by_key(|(_, known)| known.failures).map(|(id, _)| *id) else { return };
            self.endpoints.remove(&worst);
        }
        self.endpoints.entry(id).or_default().addresses = addresses;
    }

    /// It is known otherwise by now, or is to be left alone. Whether it was being tried.
    pub(crate) fn remove(&mut self, id: &EndpointId) -> bool {
        self.endpoints.remove(id).is_some_and(|known| known.tried)
    }

    /// Whether it is being tried.
    pub(crate) fn is_tried(&self, id: &EndpointId) -> bool {
        self.endpoints.get(id).is_some_and(|known| known.tried)
    }

    /// It was not admitted, or was not there.
    pub(crate) fn failed(&mut self, id: &EndpointId, now: Timestamp) {
        if let Some(known) = self.endpoints.get_mut(id) {
            let pause = MIN_PAUSE.saturating_mul(1 << known.failures.min(16)).min(MAX_PAUSE);
            known.tried = false;
            known.failures = known.failures.saturating_add(1);
            known.not_before = now.plus(pause);
        }
    }

    /// Whom to try now, who then count as being tried: those first who failed least.
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<(EndpointId, Vec<SocketAddr>)> {
        for known in self.endpoints.values_mut() {
            // The clock may have been set back.
            known.not_before = known.not_before.min(now.plus(MAX_PAUSE));
        }
        let room = MAX_TRIED.saturating_sub(self.endpoints.values().filter(|known| known.tried).count());
        let mut due: Vec<_> = self.endpoints.iter_mut().filter(|(_, known)| !known.tried && known.not_before <= now).collect();
        due.sort_by_key(|(_, known)| known.failures);
        due.truncate(room);
        due.into_iter()
            .map(|(id, known)| {
                known.tried = true;
                (*id, known.addresses.clone())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> EndpointId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        EndpointId::from_bytes(bytes)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn a_clock_that_is_set_back_lengthens_no_pause() {
        let mut found = Found::default();
        found.discovered(id(1), vec![([192, 0, 2, 1], 1).into()]);
        assert_eq!(found.due(at(1_000_000)).len(), 1);
        found.failed(&id(1), at(1_000_000));
        assert!(found.due(at(0)).is_empty());
        assert_eq!(found.due(at(0).plus(MAX_PAUSE)).len(), 1);
    }

    #[test]
    fn few_are_tried_at_once_and_each_failure_makes_the_pause_longer() {
        let mut found = Found::default();
        for number in 0..10 {
            found.discovered(id(number), vec![([192, 0, 2, 1], number + 1).into()]);
        }
        let first = found.due(at(0));
        assert_eq!(first.len(), MAX_TRIED);
        assert!(found.due(at(0)).is_empty(), "nobody is tried beside them");
        first.iter().for_each(|(id, _)| found.failed(id, at(0)));
        let second = found.due(at(1));
        assert!(second.iter().all(|(id, _)| !first.iter().any(|(other, _)| id == other)), "who failed has to wait");
        assert!(second.iter().all(|(id, _)| found.remove(id)), "they were being tried");
        let third = found.due(at(10));
        assert_eq!(third.len(), MAX_TRIED, "the two that were left, and two that are due again");
    }

    #[test]
    fn a_crowd_of_strangers_neither_fills_memory_nor_keeps_a_member_out() {
        let mut found = Found::default();
        for number in 0..2 * MAX_FOUND as u16 {
            found.discovered(id(number), vec![([192, 0, 2, 1], 1).into(); 100]);
        }
        assert_eq!(found.endpoints.len(), MAX_FOUND);
        assert!(found.endpoints.values().all(|known| known.addresses.len() == MAX_ADDRESSES));
        for (stranger, _) in found.due(at(0)) {
            found.failed(&stranger, at(0));
        }
        let member = id(u16::MAX);
        found.discovered(member, Vec::new());
        assert!(found.endpoints.contains_key(&member), "who failed makes room");
        let mut tried = 0;
        while !found.is_tried(&member) {
            let due = found.due(at(0));
            assert!(!due.is_empty(), "its turn comes");
            tried += due.len();
            due.iter().filter(|(id, _)| *id != member).for_each(|(id, _)| found.failed(id, at(0)));
        }
        assert!(tried <= MAX_FOUND);
    }
}
