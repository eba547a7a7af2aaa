//! Real daemons over each kind of link: what is sent arrives, identical, with a receipt. No limits on time but a deadline.
//!
//! Root is needed, and the built programs: `tests/run lab`, which sets PEAT_BLOB_BIN_DIR.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use peat_blob_lab::{Daemons, Duty, Lab, Peering, Profile};

const DEADLINE: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);
/// Thin links want no hints, and patience.
const FLAGS: [&str; 4] = ["--gossip=false", "--stall=60s", "--log=warn", "--carry=false"];

struct Scene {
    lab: Lab,
    daemons: Daemons,
    file: PathBuf,
    directory: tempfile::TempDir,
}

impl Scene {
    fn new(profile: &Profile, peering: Peering, size: usize) -> Self {
        let programs = std::env::var_os("PEAT_BLOB_BIN_DIR").expect("PEAT_BLOB_BIN_DIR names the built programs: tests/run lab");
        let directory = tempfile::tempdir().expect("a directory");
        let lab = Lab::new(profile).unwrap_or_else(|error| panic!("{error}"));
        let daemons = Daemons::start(&lab, Path::new(&programs), directory.path(), peering, &FLAGS);
        let daemons = daemons.unwrap_or_else(|error| panic!("{error}"));
        let file = directory.path().join("orders.bin");
        let bytes: Vec<u8> = (0..size as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(&file, bytes).expect("written");
        Self { lab, daemons, file, directory }
    }

    /// Sends the file from the first host, and compares what the others got.
    fn send(&self, to: &[&str]) {
        let to: Vec<_> = to.iter().map(|name| self.lab.host(name)).collect();
        let sent = self.daemons.send(&self.file, self.lab.host("a"), &to, DEADLINE);
        sent.unwrap_or_else(|error| panic!("{error}\n{}{}", self.lab.counts(), self.daemons.logs(&self.lab)));
        for host in to {
            let received = std::fs::read(self.daemons.inbox(host).join("orders.bin")).expect("it is delivered");
            assert!(received == std::fs::read(&self.file).expect("it is there"), "{} has other bytes", host.name());
        }
    }
}

fn profile(name: &str) -> Profile {
    name.parse().expect("it has a name")
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_over_a_lan() {
    Scene::new(&profile("lan"), Peering::First, 5_000_000).send(&["b"]);
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_over_a_satellite() {
    Scene::new(&profile("satcom"), Peering::First, 200_000).send(&["b"]);
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_over_a_radio_that_is_on_and_off() {
    let mut profile = profile("radio");
    profile.link.duty = Some(Duty { on: 5 * SECOND, off: 3 * SECOND });
    Scene::new(&profile, Peering::First, 60_000).send(&["b"]);
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_down_a_chain() {
    Scene::new(&profile("mesh"), Peering::Previous, 300_000).send(&["b", "f"]);
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_to_all_of_a_star() {
    Scene::new(&profile("star:3"), Peering::First, 500_000).send(&["b", "c", "d"]);
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_though_the_link_is_cut_in_the_middle() {
    let mut profile = profile("satcom");
    (profile.link.delay, profile.link.loss) = (Duration::from_millis(20), 0.0);
    let scene = Scene::new(&profile, Peering::First, 2_000_000);
    thread::scope(|scope| {
        let sending = scope.spawn(|| scene.send(&["b"]));
        let pair = || scene.lab.counts().pair(0, 1);
        wait_until(|| pair().delivered.bytes > 500_000);
        scene.lab.cut("a", "b");
        // The sender has tried in vain several times.
        wait_until(|| pair().cut.packets > 20);
        assert!(!sending.is_finished());
        let there = scene.directory.path().join("b-inbox/orders.bin");
        assert!(!there.exists());
        scene.lab.join("a", "b");
    });
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "it did not happen");
        thread::park_timeout(Duration::from_millis(5));
    }
}
