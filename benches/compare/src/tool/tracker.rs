//! A BitTorrent tracker (BEP 3, BEP 23) for one torrent: who announces is told of all others. It runs at the sender.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use peat_blob_lab::Host;

use crate::Outcome;

/// How soon clients ask again, in seconds: soon, since the whole run is short.
const INTERVAL: u32 = 5;

/// A tracker that runs. Its thread ends when this is dropped.
pub(crate) struct Tracker(SocketAddr, TcpListener);

impl Tracker {
    pub(crate) fn start(host: &Host, address: Ipv4Addr) -> Outcome<Self> {
        let listener = host.enter(|| TcpListener::bind((address, 0)))??;
        let (address, taking) = (listener.local_addr()?, listener.try_clone()?);
        thread::Builder::new().name("tracker".into()).spawn(move || {
            let mut peers = Vec::new();
            for stream in taking.incoming() {
                let Ok(stream) = stream else { return };
                // A client that goes away asks again.
                let _ = serve(stream, &mut peers);
            }
        })?;
        Ok(Self(address, listener))
    }

    /// The URL that a torrent names.
    pub(crate) fn announce(&self) -> String {
        format!("http://{}/announce", self.0)
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // Ends the thread, which waits on the same socket.
        let _ = rustix::net::shutdown(&self.1, rustix::net::Shutdown::Both);
    }
}

fn serve(mut stream: TcpStream, peers: &mut Vec<(Ipv4Addr, u16)>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let from = stream.peer_addr()?.ip();
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    // The rest of the header says nothing to a tracker, but has to be read.
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    drop(lines);
    let body = answer(&request, from, peers);
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body)
}

/// Notes who asks, and tells of the others.
fn answer(request: &str, from: IpAddr, peers: &mut Vec<(Ipv4Addr, u16)>) -> Vec<u8> {
    let query = request.split_whitespace().nth(1).and_then(|path| path.split_once('?')).map_or("", |(_, query)| query);
    let port = query.split('&').find_map(|pair| pair.strip_prefix("port=")).and_then(|port| port.parse::<u16>().ok());
    let (IpAddr::V4(address), Some(port)) = (from, port) else {
        return b"d14:failure reason17:no port, no IPv4.e".to_vec();
    };
    let me = (address, port);
    let compact: Vec<u8> = peers
        .iter()
        .filter(|peer| **peer != me)
        .flat_map(|(address, port)| address.octets().into_iter().chain(port.to_be_bytes()))
        .collect();
    if !peers.contains(&me) {
        peers.push(me);
    }
    let mut body = format!("d8:intervali{INTERVAL}e12:min intervali{INTERVAL}e5:peers{}:", compact.len()).into_bytes();
    body.extend(compact);
    body.push(b'e');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_announces_is_told_of_the_others() {
        let mut peers = Vec::new();
        let ask = |last, peers: &mut _| {
            answer("GET /announce?info_hash=%00&port=6881&compact=1 HTTP/1.1", Ipv4Addr::new(10, 77, 0, last).into(), peers)
        };
        assert_eq!(ask(1, &mut peers), b"d8:intervali5e12:min intervali5e5:peers0:e");
        assert_eq!(ask(2, &mut peers), b"d8:intervali5e12:min intervali5e5:peers6:\x0a\x4d\x00\x01\x1a\xe1e");
        assert_eq!(ask(1, &mut peers), b"d8:intervali5e12:min intervali5e5:peers6:\x0a\x4d\x00\x02\x1a\xe1e");
        assert!(answer("GET /", Ipv4Addr::LOCALHOST.into(), &mut peers).starts_with(b"d14:failure"));
    }
}
