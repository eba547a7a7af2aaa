//! Whether this machine takes several segments of UDP in one call (`UDP_SEGMENT`, udp(7)). Some devices refuse: those without
//! checksums of their own before Linux 6.11, and every one whose packets go through IPsec. The socket beneath stops by itself at the
//! first refusal, but a connection keeps the number of segments that it was made with, and all that is longer than one packet is
//! refused on it from then on. So each way is tried before anything depends on it, and who has found it closed makes connections
//! without segments, and those anew that have them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use iroh::TransportAddr;
use iroh::endpoint::Connection;
use n0_future::StreamExt;
use noq_udp::{Transmit, UdpSocketState};
use tokio::sync::watch;

/// What is known of it. Refused once is refused for good, on every device.
#[derive(Debug, Clone)]
pub(crate) struct Segments(watch::Sender<bool>);

impl Default for Segments {
    fn default() -> Self {
        Self(watch::Sender::new(true))
    }
}

impl Segments {
    /// Whether connections are to be made with segments: none has been refused.
    pub(crate) fn are_taken(&self) -> bool {
        *self.0.borrow()
    }

    /// Whether a connection to this address may be made with segments: tries the way to it. Of an address that nobody has proved to
    /// be his this says nothing for other connections, since it may be chosen for where it leads.
    pub(crate) fn may_be_taken(&self, address: SocketAddr) -> bool {
        // What else may fail fails for connections too, and they tell of it.
        self.are_taken() && takes_segments(address).unwrap_or(true)
    }

    /// Tries the way to an address: where segments are taken, two datagrams of one byte go to the next hop and no farther.
    pub(crate) fn try_towards(&self, address: SocketAddr) {
        if self.are_taken() && !self.may_be_taken(address) {
            tracing::info!(%address, "segments of UDP are refused on this machine: connections go without, which costs processor time");
            self.0.send_replace(false);
        }
    }

    /// Ends once segments are refused, on one of the connection's own ways or elsewhere. Only for connections that have segments.
    pub(crate) async fn are_refused(&self, connection: &Connection) {
        let (mut taken, mut tried) = (self.0.subscribe(), Vec::new());
        let try_new_ways = async {
            let mut ways = connection.paths_stream();
            while let Some(open) = ways.next().await {
                // One that is the same to the eye may be new, and begin at another device.
                for path in open.iter().filter(|path| !tried.contains(&path.id())) {
                    if let TransportAddr::Ip(address) = path.remote_addr() {
                        self.try_towards(*address);
                    }
                }
                tried = open.iter().map(|path| path.id()).collect();
            }
            std::future::pending().await
        };
        tokio::select! {
            // The sender is our own.
            _ = taken.wait_for(|taken| !taken) => {}
            () = try_new_ways => {}
        }
    }
}

/// Whether the system takes two segments in one call on the way to `address`.
fn takes_segments(address: SocketAddr) -> std::io::Result<bool> {
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    if address.is_ipv4() {
        socket.set_ttl(1)?;
    } else {
        rustix::net::sockopt::set_ipv6_unicast_hops(&socket, Some(1))?;
    }
    socket.set_nonblocking(true)?;
    let state = UdpSocketState::new((&socket).into())?;
    // Nothing that QUIC would answer to: its packets have a bit that is set in their first byte (RFC 9000, section 17).
    let two = Transmit { destination: address, ecn: None, contents: &[0; 2], segment_size: Some(1), src_ip: None };
    let could = state.max_gso_segments().get() > 1;
    let sent = state.try_send((&socket).into(), &two);
    if could && state.max_gso_segments().get() == 1 {
        // What fails for one packet too (a port of zero) says nothing about segments.
        state.try_send((&socket).into(), &Transmit { segment_size: None, ..two })?;
        return Ok(false);
    }
    sent.map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_segments_are_taken_two_bytes_come_and_connections_have_them() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may have no IPv6.
            let Ok(socket) = UdpSocket::bind(any) else { continue };
            socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
            let segments = Segments::default();
            segments.try_towards(socket.local_addr().unwrap());
            assert!(segments.are_taken());
            let mut bytes = [1; 8];
            for _ in 0..2 {
                assert_eq!(socket.recv(&mut bytes).unwrap(), 1, "they are no two datagrams of one byte");
                assert_eq!(bytes[0], 0);
            }
        }
    }

    #[test]
    fn what_cannot_be_reached_refuses_nothing() {
        let segments = Segments::default();
        for address in ["255.255.255.255:9", "0.0.0.0:0", "[::]:0"] {
            segments.try_towards(address.parse().unwrap());
        }
        assert!(segments.are_taken());
    }
}
