//! The peers of a transfer: the same bytes over plain TCP, and over one stream of iroh's QUIC, between two processes and
//! without a disk. The child receives.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use iroh::endpoint::presets;
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey, TransportAddr};

use crate::Outcome;
use crate::child::{Running, say, wait};
use crate::measure::{cpu_seconds, timed};

/// What is written and read at a time.
const CHUNK: usize = 256 * 1024;
const ALPN: &[u8] = b"peat-blob-benches/stream";

/// What a transfer of so many bytes took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// From the first byte to the answer to the last, in seconds.
    pub(crate) seconds: f64,
    /// Processor seconds of the sender.
    pub(crate) sender: f64,
    /// Processor seconds of the receiver.
    pub(crate) receiver: f64,
}

/// Sends so many bytes to a child over TCP.
pub(crate) fn tcp(bytes: u64) -> Outcome<Cost> {
    let mut child = Running::start("tcp", &[])?;
    let mut stream = TcpStream::connect(child.line()?.parse::<SocketAddr>()?)?;
    let before = cpu_seconds()?;
    let (seconds, ()) = timed(|| {
        let chunk = vec![7; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let step = left.min(CHUNK as u64);
            stream.write_all(&chunk[..usize::try_from(step)?])?;
            left -= step;
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        Ok(stream.read_exact(&mut [0])?)
    })?;
    let sender = cpu_seconds()? - before;
    let [receiver] = child.numbers()?;
    child.end()?;
    Ok(Cost { seconds, sender, receiver })
}

pub(crate) fn tcp_child() -> Outcome<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    say(&listener.local_addr()?.to_string())?;
    let (mut stream, _) = listener.accept()?;
    let before = cpu_seconds()?;
    let mut chunk = vec![0; CHUNK];
    while stream.read(&mut chunk)? > 0 {}
    stream.write_all(&[1])?;
    say(&(cpu_seconds()? - before).to_string())
}

/// Sends so many bytes to a child over one stream of QUIC.
pub(crate) fn quic(bytes: u64) -> Outcome<Cost> {
    let mut child = Running::start("quic", &[])?;
    let line = child.line()?;
    let (id, address) = line.split_once(' ').ok_or("the child says no address")?;
    let address = TransportAddr::Ip(address.parse()?);
    let address = EndpointAddr::from_parts(id.parse::<iroh::EndpointId>()?, [address]);
    let cost = runtime()?.block_on(async {
        let endpoint = bind().await?;
        let connection = endpoint.connect(address, ALPN).await?;
        let before = cpu_seconds()?;
        let started = std::time::Instant::now();
        let (mut send, mut recv) = connection.open_bi().await?;
        let chunk = vec![7; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let step = left.min(CHUNK as u64);
            send.write_all(&chunk[..usize::try_from(step)?]).await?;
            left -= step;
        }
        send.finish()?;
        recv.read_exact(&mut [0]).await?;
        let (seconds, sender) = (started.elapsed().as_secs_f64(), cpu_seconds()? - before);
        child.go()?;
        let [receiver] = child.numbers()?;
        endpoint.close().await;
        Outcome::Ok(Cost { seconds, sender, receiver })
    })?;
    child.end()?;
    Ok(cost)
}

pub(crate) fn quic_child() -> Outcome<()> {
    runtime()?.block_on(async {
        let endpoint = bind().await?;
        let socket = endpoint.bound_sockets().into_iter().next().ok_or("the endpoint has no socket")?;
        say(&format!("{} {socket}", endpoint.id()))?;
        let connection = endpoint.accept().await.ok_or("the endpoint is closed")?.await?;
        let before = cpu_seconds()?;
        let (mut send, mut recv) = connection.accept_bi().await?;
        let mut chunk = vec![0; CHUNK];
        while recv.read(&mut chunk).await?.is_some() {}
        send.write_all(&[1]).await?;
        send.finish()?;
        // The answer has arrived when the parent says so.
        wait()?;
        say(&(cpu_seconds()? - before).to_string())?;
        connection.closed().await;
        endpoint.close().await;
        Ok(())
    })
}

async fn bind() -> Outcome<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal).secret_key(SecretKey::generate()).relay_mode(RelayMode::Disabled);
    let builder = builder.clear_ip_transports().bind_addr(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(builder.alpns(vec![ALPN.to_vec()]).bind().await?)
}

pub(crate) fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
