//! The registry of a daemon within this process, spoken to as clients of images do: what distribution-spec 1.1 requires, by its
//! sections, and what is ours beyond it.

mod client;
mod daemon;
mod discovery;
mod elsewhere;
mod images;
mod management;
mod outward;
mod proxy;
mod pull;
mod push;
mod sideload;
mod upstream;
mod watch;
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

/// A table that names tests that are not there says nothing.
#[test]
fn the_table_of_requirements_names_tests_that_are_there() {
    let path = |name: &str| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let table = std::fs::read_to_string(path("../../docs/conformance.md")).expect("the table");
    let mut named = 0;
    for (module, test) in table.split('`').filter_map(|name| name.split_once("::")).filter(|(module, _)| !module.contains('_')) {
        let source = std::fs::read_to_string(path(&format!("tests/registry/{module}.rs"))).expect(module);
        assert!(source.contains(&format!("async fn {test}()")), "{module}::{test}");
        named += 1;
    }
    assert!(named > 30, "{named}");
}
