//! Peers that are named by host, with a resolver that says what the test wants.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use peat_blob_tests::fleet::{Fleet, connected, eventually};
use peat_blobcore::network::Resolver;

/// What each name stands for, and how often one was asked for.
#[derive(Default)]
struct Book {
    names: Mutex<BTreeMap<String, Vec<SocketAddr>>>,
    asked: Mutex<u32>,
}

impl Book {
    fn set(&self, name: &str, addresses: Vec<SocketAddr>) {
        self.names.lock().expect("nothing panics").insert(name.to_owned(), addresses);
    }

    fn asked(&self) -> u32 {
        *self.asked.lock().expect("nothing panics")
    }
}

impl Resolver for Book {
    fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        *self.asked.lock().expect("nothing panics") += 1;
        let found = self.names.lock().expect("nothing panics").get(host).cloned();
        Box::pin(std::future::ready(found.ok_or_else(|| io::Error::other("no such host"))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_found_by_a_name_that_resolves_late_and_has_a_dead_record_too() {
    let fleet = Fleet::new();
    let book = Arc::new(Book::default());
    let alpha = fleet.start("alpha", &[]).await;
    fleet.enroll("bravo", &[]);
    let bravo = fleet.describe("bravo").resolver(book.clone()).named_peer(alpha.id(), ["alpha.test:7".to_owned()]);
    let bravo = bravo.start().await.expect("bravo starts");
    eventually("it was asked again after a failure", || async { book.asked() >= 2 }).await;
    assert!(bravo.peers().is_empty());
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let dead_address = dead.local_addr().expect("bound");
    book.set("alpha.test:7", [vec![dead_address], alpha.addresses()].concat());
    connected(&bravo, alpha.id()).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_can_be_named_while_the_node_runs_and_the_system_resolves() {
    let fleet = Fleet::new();
    let (alpha, bravo) = (fleet.start("alpha", &[]).await, fleet.start("bravo", &[]).await);
    let port = alpha.listening_on().first().expect("it listens").port();
    bravo.add_named_peer(alpha.id(), vec![format!("localhost:{port}")]).await;
    connected(&bravo, alpha.id()).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}
