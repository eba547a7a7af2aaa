//! Connections that came in and are not admitted yet. They have places of their own, so that no number of strangers takes
//! one from an admitted peer, and who says nothing makes room for who comes later. Pure but for its lock.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Connections that may be in their handshakes at once. Each costs some 150 KiB at worst.
const MAX_SEATS: usize = 256;
/// Those of them that may come from one address; a member behind the same address as an attacker shares them with it.
const MAX_SEATS_OF_ONE_ADDRESS: usize = 64;
/// From so many on an address must show that it can be reached before anything is computed for it.
const BUSY_SEATS: usize = 32;

/// Everybody who waits. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lobby(Arc<Mutex<Room>>);

#[derive(Debug, Default)]
struct Room {
    next: u64,
    /// The longest waiting first.
    seats: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    by_address: BTreeMap<IpAddr, usize>,
}

/// One connection's place. It is free again when this is dropped: when the connection was admitted, or has ended.
#[derive(Debug)]
pub(crate) struct Seat {
    lobby: Lobby,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl Lobby {
    /// Takes a place for a connection from this address. When there is none, who has waited longest loses its own: of the
    /// same address if that has its share, else of the address that has the most.
    pub(crate) fn enter(&self, address: IpAddr) -> Seat {
        let address = network_of(address);
        let mut room = self.lock();
        if room.by_address.get(&address).is_some_and(|count| *count >= MAX_SEATS_OF_ONE_ADDRESS) {
            room.free_oldest_of(address);
        } else if room.seats.len() >= MAX_SEATS {
            let (_, crowded) = room.by_address.iter().map(|(address, count)| (*count, *address)).max().expect("seats are taken");
            room.free_oldest_of(crowded);
        }
        let (evict, lost) = oneshot::channel();
        let number = room.next;
        room.next += 1;
        room.seats.insert(number, (address, evict));
        *room.by_address.entry(address).or_default() += 1;
        Seat { lobby: self.clone(), number, lost }
    }

    /// Whether so many wait that addresses must be shown to be true.
    pub(crate) fn is_busy(&self) -> bool {
        self.lock().seats.len() >= BUSY_SEATS
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        // Each method changes the room in one go, so a panic elsewhere leaves it in order.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    fn free_oldest_of(&mut self, address: IpAddr) {
        let oldest = self.seats.iter().find(|(_, (of, _))| *of == address).map(|(number, _)| *number);
        if let Some(number) = oldest {
            self.free(number);
        }
    }

    /// Frees a seat; who has it learns it by the drop of the sender.
    fn free(&mut self, number: u64) {
        let Some((address, _)) = self.seats.remove(&number) else { return };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Seat {
    /// Ends when the place is needed for another.
    pub(crate) async fn lost(&mut self) {
        // Nothing is ever sent: the sender is dropped with the seat.
        let _ = (&mut self.lost).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lobby.lock().free(self.number);
    }
}

/// Addresses that one host can have as many of as it likes count as one: an IPv6 network of 64 bits.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn has_lost(seat: &mut Seat) -> bool {
        pin!(seat.lost()).as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn one_address_has_its_share_and_pushes_out_only_its_own() {
        let lobby = Lobby::default();
        let mut other = lobby.enter(address(1));
        let mut seats: Vec<_> = (0..MAX_SEATS_OF_ONE_ADDRESS + 2).map(|_| lobby.enter(address(2))).collect();
        let lost: Vec<_> = seats.iter_mut().map(has_lost).collect();
        assert!(lost[0] && lost[1] && lost[2..].iter().all(|lost| !lost), "the longest waiting make room");
        assert!(!has_lost(&mut other));
    }

    #[test]
    fn a_full_lobby_takes_from_the_address_that_has_the_most() {
        let lobby = Lobby::default();
        let mut quiet = lobby.enter(address(0));
        let mut crowds: Vec<Vec<_>> = (1..=MAX_SEATS / MAX_SEATS_OF_ONE_ADDRESS)
            .map(|crowd| (0..MAX_SEATS_OF_ONE_ADDRESS).map(|_| lobby.enter(address(u8::try_from(crowd).expect("few")))).collect())
            .collect();
        let mut late = lobby.enter(address(200));
        assert!(!has_lost(&mut quiet) && !has_lost(&mut late));
        assert_eq!(crowds.iter_mut().flatten().filter_map(|seat| has_lost(seat).then_some(())).count(), 2);
    }

    #[test]
    fn a_seat_is_free_again_when_its_connection_is_done_with_it() {
        let lobby = Lobby::default();
        let mut first = lobby.enter(address(1));
        for _ in 0..10 * MAX_SEATS {
            drop(lobby.enter(address(1)));
        }
        assert!(!has_lost(&mut first) && !lobby.is_busy());
        drop(first);
        let room = lobby.lock();
        assert!(room.seats.is_empty() && room.by_address.is_empty());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_share_their_places() {
        let host = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        assert_eq!(network_of(host(1)), network_of(host(2)));
        assert_eq!(network_of("::ffff:192.0.2.7".parse().expect("an address")), address(7));
    }
}
