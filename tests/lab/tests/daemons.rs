//! Real daemons over each kind of link: what is sent arrives, identical, with a receipt. No limits on time but a deadline.
//!
//! Root is needed, and the built programs: `tests/run lab`, which sets PEAT_BLOB_BIN_DIR.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use peat_blob_lab::{Daemons, Duty, Lab, Peering, Profile, Seat};

const DEADLINE: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);
/// Thin links want no hints, and patience.
const FLAGS: [&str; 4] = ["--gossip=false", "--stall=60s", "--log=warn", "--carry=false"];

struct Scene<'a> {
    lab: &'a Lab,
    daemons: Daemons<'a>,
    directory: tempfile::TempDir,
}

fn lab(profile: &Profile) -> Lab {
    Lab::new(profile).unwrap_or_else(|error| panic!("{error}"))
}

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab, peering: Peering) -> Self {
        let programs = std::env::var_os("PEAT_BLOB_BIN_DIR").expect("PEAT_BLOB_BIN_DIR names the built programs: tests/run lab");
        let directory = tempfile::tempdir().expect("a directory");
        let daemons = Daemons::start(Seat::each(lab), Path::new(&programs), directory.path(), peering, &FLAGS);
        Self { lab, daemons: daemons.unwrap_or_else(|error| panic!("{error}")), directory }
    }

    /// Sends a file from the first host, and compares what the others got.
    fn send(&self, size: u32, to: &[usize]) {
        // Noise (xorshift64), since what can be compressed hardly crosses.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        let bytes: Vec<u8> = (0..size).map(|_| noise()).collect();
        let file = self.directory.path().join("orders.bin");
        std::fs::write(&file, &bytes).expect("written");
        let sent = self.daemons.send(&file, to, DEADLINE);
        sent.unwrap_or_else(|error| panic!("{error}\n{}{}", self.lab.counts(), self.daemons.logs()));
        for seat in to {
            assert!(std::fs::read(self.delivered(*seat)).expect("it is delivered") == bytes, "host {seat} has other bytes");
        }
    }

    fn delivered(&self, seat: usize) -> PathBuf {
        self.daemons.inbox(seat).join("orders.bin")
    }
}

fn profile(name: &str) -> Profile {
    name.parse().expect("it has a name")
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_over_a_lan() {
    Scene::new(&lab(&profile("lan")), Peering::First).send(5_000_000, &[1]);
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_over_a_satellite() {
    Scene::new(&lab(&profile("satcom")), Peering::First).send(200_000, &[1]);
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_over_a_radio_that_is_on_and_off() {
    let mut profile = profile("radio");
    profile.link.duty = Some(Duty { on: 5 * SECOND, off: 3 * SECOND });
    Scene::new(&lab(&profile), Peering::First).send(60_000, &[1]);
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_down_a_chain() {
    Scene::new(&lab(&profile("mesh")), Peering::Previous).send(300_000, &[1, 5]);
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_to_all_of_a_star() {
    Scene::new(&lab(&profile("star:3")), Peering::First).send(500_000, &[1, 2, 3]);
}

#[test]
#[ignore = "needs root and the built programs: tests/run lab"]
fn a_file_is_delivered_though_the_link_is_cut_in_the_middle() {
    let mut profile = profile("satcom");
    (profile.link.delay, profile.link.loss) = (Duration::from_millis(20), 0.0);
    let lab = lab(&profile);
    let scene = Scene::new(&lab, Peering::First);
    thread::scope(|scope| {
        let sending = scope.spawn(|| scene.send(2_000_000, &[1]));
        let pair = || lab.counts().pair(0, 1);
        wait_until(|| pair().delivered.bytes > 500_000);
        lab.cut("a", "b");
        // The sender has tried in vain several times.
        wait_until(|| pair().cut.packets > 20);
        assert!(!sending.is_finished() && !scene.delivered(1).exists());
        lab.join("a", "b");
    });
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "it did not happen");
        thread::park_timeout(Duration::from_millis(5));
    }
}
