//! The registry of a daemon within this process, spoken to as clients of images do: what distribution-spec 1.1 requires, by its
//! sections, and what is ours beyond it.

mod client;
mod daemon;
mod discovery;
mod elsewhere;
mod images;
mod management;
mod outward;
mod pull;
mod push;
mod sideload;
mod watching;

use peat_blob_tests::fleet::Fleet;
use peat_blobd::{Config, Running};

use client::Client;

/// A daemon with a registry, and what speaks to it.
struct Served {
    fleet: Fleet,
    running: Running,
    client: Client,
}

async fn serve() -> Served {
    serve_with(|_| {}).await
}

async fn serve_with(configure: impl FnOnce(&mut Config)) -> Served {
    let fleet = Fleet::new();
    fleet.enroll("alpha", &[]);
    let loopback = ([127, 0, 0, 1], 0).into();
    let mut config = Config {
        iroh_listen: vec![loopback],
        registry_listen: vec![loopback],
        gossip: false,
        ..Config::new(fleet.path("alpha"))
    };
    configure(&mut config);
    let running = Running::start(config).await.expect("it starts");
    let client = Client::new(running.registry_addresses()[0]);
    Served { fleet, running, client }
}

/// Requirements of one test, each with the section that it is from: all are looked at before the test ends.
#[derive(Default)]
struct Table {
    rows: usize,
    broken: Vec<String>,
}

impl Table {
    fn row(&mut self, section: &str, requirement: &str, is_kept: bool) {
        self.rows += 1;
        if !is_kept {
            self.broken.push(format!("{section}: {requirement}"));
        }
    }

    fn end(self) {
        assert!(
            self.broken.is_empty(),
            "{} of {} requirements are broken:\n{}",
            self.broken.len(),
            self.rows,
            self.broken.join("\n")
        );
    }
}
