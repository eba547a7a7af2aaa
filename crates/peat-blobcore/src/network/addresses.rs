//! Where a peer can be dialled: what users said, which stands, and what the peer's own record says, which is not trusted to
//! name its own addresses only. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use iroh::{EndpointAddr, TransportAddr};

use crate::model::EndpointId;

/// Addresses that are taken from a record. It names what its author likes: it must not make this node knock at doors without
/// end.
const MAX_LEARNED: usize = 8;

/// The addresses of one peer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Addresses {
    fixed: BTreeSet<SocketAddr>,
    learned: BTreeSet<SocketAddr>,
}

impl Addresses {
    /// Takes addresses that a user named (`fixed`), or that replace those of the peer's former record. A record without any
    /// replaces nothing. Says whether there are new ones.
    pub(crate) fn learn(&mut self, addresses: Vec<SocketAddr>, fixed: bool) -> bool {
        let learned: BTreeSet<_> = match fixed {
            true => addresses.into_iter().collect(),
            false => addresses.into_iter().filter(is_of_one_host).take(MAX_LEARNED).collect(),
        };
        let news = learned.iter().any(|address| !self.fixed.contains(address) && !self.learned.contains(address));
        if fixed {
            self.fixed.extend(learned);
        } else if !learned.is_empty() {
            self.learned = learned;
        }
        news
    }

    /// All of them, to dial the peer at; `None` when the peer's id is no public key.
    pub(crate) fn of(&self, peer: &EndpointId) -> Option<EndpointAddr> {
        let id = iroh::EndpointId::from_bytes(peer.as_bytes()).ok()?;
        Some(EndpointAddr::from_parts(id, self.fixed.union(&self.learned).copied().map(TransportAddr::Ip)))
    }
}

fn is_of_one_host(address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    !(address.port() == 0 || ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|address| address.parse().expect("an address")).collect()
    }

    #[test]
    fn what_a_user_named_stays_whatever_the_record_says() {
        let mut addresses = Addresses::default();
        assert!(addresses.learn(parse(&["192.0.2.1:1"]), true));
        assert!(addresses.learn(parse(&["192.0.2.2:2"]), false));
        assert!(!addresses.learn(parse(&["192.0.2.1:1", "192.0.2.2:2"]), false));
        assert!(!addresses.learn(Vec::new(), false), "a record that names none is no reason to forget");
        assert!(addresses.learn(parse(&["192.0.2.3:3"]), false));
        assert_eq!(
            addresses.fixed.union(&addresses.learned).copied().collect::<Vec<_>>(),
            parse(&["192.0.2.1:1", "192.0.2.3:3"])
        );
    }

    #[test]
    fn a_record_names_a_few_hosts_and_never_a_crowd() {
        let crowds =
            ["0.0.0.0:1", "[::]:1", "224.0.0.1:1", "[ff02::1]:1", "255.255.255.255:1", "192.0.2.1:0", "[::ffff:224.0.0.1]:1"];
        let mut addresses = Addresses::default();
        assert!(!addresses.learn(parse(&crowds), false));
        assert!(addresses.learned.is_empty());
        let many: Vec<_> = (1..1000).map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect();
        addresses.learn(many.clone(), false);
        assert_eq!(addresses.learned.len(), MAX_LEARNED);
        assert!(!addresses.learn(many, false), "what is left out is no news");
    }
}
