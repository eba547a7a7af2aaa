//! Peers that a user names by host: resolved each time before they are dialled, so that a name that changes is followed.
//! Must never let a name that does not resolve keep what is known otherwise from being dialled.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iroh::EndpointAddr;

use crate::model::EndpointId;

/// How long one name may take.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// Records of one name that are used.
const MAX_RECORDS: usize = 64;

/// What resolves names.
pub trait Resolver: Send + Sync + 'static {
    /// Every address that `host`, a name and a port with a colon between, stands for now.
    fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;
}

/// The resolver of the system: the hosts file, DNS, or whatever else it is configured with.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        Box::pin(async move { Ok(tokio::net::lookup_host(host).await?.collect()) })
    }
}

/// The hosts that peers are named by. Clones share them.
#[derive(Clone)]
pub(crate) struct Names {
    resolver: Arc<dyn Resolver>,
    peers: Arc<Mutex<BTreeMap<EndpointId, BTreeMap<String, Name>>>>,
}

/// What a name stood for last.
#[derive(Debug, Default)]
struct Name {
    addresses: Vec<SocketAddr>,
    error: Option<String>,
}

impl Names {
    pub(crate) fn new(resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver, peers: Arc::default() }
    }

    /// Names a peer by these hosts too.
    pub(crate) fn add(&self, peer: EndpointId, hosts: impl IntoIterator<Item = String>) {
        let mut peers = self.lock();
        let names = peers.entry(peer).or_default();
        for host in hosts {
            names.entry(host).or_default();
        }
    }

    /// Forgets a peer's names.
    pub(crate) fn forget(&self, peer: &EndpointId) {
        self.lock().remove(peer);
    }

    /// Adds to a peer's addresses what its names stand for now, or stood for last where that cannot be told.
    pub(crate) async fn extend(&self, peer: EndpointId, address: EndpointAddr) -> EndpointAddr {
        let hosts: Vec<String> = self.lock().get(&peer).map(|names| names.keys().cloned().collect()).unwrap_or_default();
        let mut address = address;
        for host in hosts {
            let resolved = match tokio::time::timeout(RESOLVE_DEADLINE, self.resolver.resolve(&host)).await {
                Ok(resolved) => resolved,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
            };
            let mut peers = self.lock();
            let Some(name) = peers.get_mut(&peer).and_then(|names| names.get_mut(&host)) else { continue };
            if let Some(error) = name.learn(resolved) {
                tracing::warn!(peer = %peer.short(), host, error, "the peer's name does not resolve; it is tried again with each dial");
            }
            address = name.addresses.iter().fold(address, |all, one| all.with_ip_addr(*one));
        }
        address
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, BTreeMap<String, Name>>> {
        // Changed by single calls: a panic elsewhere leaves it in order.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Name {
    /// Takes over what the name stands for. Returns an error to log: one that is not the same as the last time.
    fn learn(&mut self, resolved: io::Result<Vec<SocketAddr>>) -> Option<String> {
        let error = match resolved {
            Ok(addresses) if !addresses.is_empty() => {
                self.addresses = addresses;
                self.addresses.truncate(MAX_RECORDS);
                None
            }
            Ok(_) => Some("it has no address".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let known = std::mem::replace(&mut self.error, error);
        self.error.clone().filter(|error| known.as_ref() != Some(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: EndpointId = EndpointId::from_bytes([0; 32]);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn error(text: &str) -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other(text))
    }

    #[test]
    fn an_error_is_told_once_until_it_changes_and_what_was_known_is_kept_meanwhile() {
        let mut name = Name::default();
        assert_eq!(name.learn(error("no such host")).as_deref(), Some("no such host"));
        assert_eq!(name.learn(error("no such host")), None);
        assert_eq!(name.learn(Ok(vec![address(1), address(2)])), None);
        assert_eq!(name.learn(error("no such host")).as_deref(), Some("no such host"));
        assert_eq!(name.learn(Ok(Vec::new())).as_deref(), Some("it has no address"));
        assert_eq!(name.addresses, [address(1), address(2)]);
    }

    /// Gives each call the next answer.
    struct Script(Mutex<Vec<io::Result<Vec<SocketAddr>>>>);

    impl Resolver for Script {
        fn resolve<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
            let answer = self.0.lock().expect("nothing panics").pop().unwrap_or_else(|| error("asked once too often"));
            Box::pin(std::future::ready(answer))
        }
    }

    #[tokio::test]
    async fn a_name_that_changes_is_followed_with_all_its_records() {
        let mut answers = vec![Ok(vec![address(1), address(2)]), error("no answer"), Ok(vec![address(3)])];
        answers.reverse();
        let names = Names::new(Arc::new(Script(Mutex::new(answers))));
        names.add(PEER, ["host:1".to_owned()]);
        let id = iroh::EndpointId::from_bytes(iroh::SecretKey::from_bytes(&[1; 32]).public().as_bytes()).expect("a key");
        for expected in
            [vec![address(9), address(1), address(2)], vec![address(9), address(1), address(2)], vec![address(9), address(3)]]
        {
            let found = names.extend(PEER, EndpointAddr::new(id).with_ip_addr(address(9))).await;
            let mut expected = expected;
            expected.sort_unstable();
            assert_eq!(found.ip_addrs().copied().collect::<Vec<_>>(), expected);
        }
        names.forget(&PEER);
        assert!(names.extend(PEER, EndpointAddr::new(id)).await.is_empty());
    }
}
