//! How soon payload comes again when a link is back: a transfer under way, the link cut for a while, the medium's counts.
//!
//! ```text
//! cargo build --release --workspace && sudo target/release/peat-blob-return --runs 5
//! ```
//! Each run is a new lab and a new pair of daemons. It fails when something does not work, never because it was slow.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use peat_blob_lab::{Daemons, Lab, Peering, Profile, Seat, programs};

/// What a step comes back with. What went wrong is only ever printed.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// An IP packet from here on carries payload: acknowledgements and questions are shorter. A probe of a path has 1228 bytes and is
/// taken for payload; there are two in a minute.
const PAYLOAD_BYTES: u64 = 1000;
/// From so long on a node counts as out of reach, and its connection is kept: it says in its log that it is heard again.
const SILENT: Duration = Duration::from_secs(65);
/// After so long a connection has ended. Then handshakes come first, whose packets are as long as those of payload.
const CONNECTED: Duration = Duration::from_secs(10 * 60);
/// When so much of payload has crossed, the transfer goes on.
const FLOW_BYTES: u64 = 32 * 1024;
const DEADLINE: Duration = Duration::from_secs(300);

/// Measures how soon payload comes again when a link is back. Needs root.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each outage is measured over each link.
    #[arg(long, default_value_t = 5)]
    runs: u64,
    /// An outage of seconds, and one of more than a minute: shows that it works.
    #[arg(long)]
    quick: bool,
    /// Where peat-blobd and peat-blobctl are; without it, beside this program.
    #[arg(long, env = "PEAT_BLOB_BIN_DIR")]
    programs: Option<PathBuf>,
    /// Which links, as the lab names them; a radio is on until it is cut. Without it satcom and radio.
    #[arg(long)]
    profile: Vec<String>,
    /// For how many seconds the link is off; several may be given. Without it 5 and 30.
    #[arg(long)]
    off: Vec<u64>,
    /// The number of the first run, from which what is random about the links follows.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// From the link's return on.
struct Return {
    /// Until the receiver gets the first packet with payload.
    first: Duration,
    /// Until it has got [`FLOW_BYTES`].
    flow: Duration,
}

fn main() -> ExitCode {
    peat_blob_lab::ended("peat-blob-return", measure(&Arguments::parse()))
}

fn measure(arguments: &Arguments) -> Outcome<()> {
    let programs = programs(arguments.programs.as_deref())?;
    let or = |given: &[String], usual: &[&str]| match given {
        [] => usual.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
        given => given.to_vec(),
    };
    let (profiles, runs) =
        if arguments.quick { (vec!["satcom".into()], 1) } else { (or(&arguments.profile, &["satcom", "radio"]), arguments.runs) };
    let offs = match &arguments.off[..] {
        [] if arguments.quick => vec![2, 70],
        [] => vec![5, 30],
        given => given.to_vec(),
    };
    println!(
        "| link | off | first payload, round trips: median (least to greatest) | {} KiB, seconds | runs |\n|---|---|---|---|---|",
        FLOW_BYTES / 1024
    );
    for name in &profiles {
        for off in &offs {
            let mut profile: Profile = name.parse()?;
            profile.link.duty = None;
            let round_trip = profile.link.delay * 2;
            let (mut firsts, mut flows) = (Vec::new(), Vec::new());
            for run in 0..runs {
                profile.seed = arguments.seed + run;
                // Timers and the return meet at another moment in each run.
                let more = Duration::from_millis(run * 370 % 1000);
                let Return { first, flow } = once(&profile, Duration::from_secs(*off) + more, &programs)?;
                firsts.push(first.div_duration_f64(round_trip));
                flows.push(flow.as_secs_f64());
                eprintln!(
                    "{name}, off {off} s: first after {:.2} s, {:.2} round trips; flow after {:.2} s",
                    first.as_secs_f64(),
                    firsts[firsts.len() - 1],
                    flow.as_secs_f64()
                );
            }
            let first = if Duration::from_secs(*off) < CONNECTED { spread(&mut firsts) } else { "-".into() };
            println!("| {name} | {off} s | {first} | {} | {runs} |", spread(&mut flows));
        }
    }
    Ok(())
}

/// The median, the least and the greatest.
fn spread(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(greatest)) = (values.first(), values.last()) else { return "-".into() };
    let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
    format!("{median:.1} ({least:.1} to {greatest:.1})")
}

/// Cuts the link of a transfer that is under way, for so long.
fn once(profile: &Profile, off: Duration, programs: &Path) -> Outcome<Return> {
    let directory = tempfile::Builder::new().prefix("peat-blob-return-").tempdir()?;
    let file = directory.path().join("payload.bin");
    // More than half a minute of the link, of noise.
    let size = profile.link.rate / 8 * 40;
    std::io::copy(&mut File::open("/dev/urandom")?.take(size), &mut File::create(&file)?)?;
    let lab = Lab::new(profile)?;
    let daemons = Daemons::start(Seat::each(&lab), programs, directory.path(), Peering::First, &["--log=info"])?;
    let outcome = returns(&lab, &daemons, &file, size / 5, off);
    outcome.map_err(|error| format!("{error}\n{}{}", lab.counts(), daemons.logs()).into())
}

fn returns(lab: &Lab, daemons: &Daemons<'_>, file: &Path, before: u64, off: Duration) -> Outcome<Return> {
    daemons.connected(1, DEADLINE)?;
    daemons.offer(file, &[1])?;
    wait_until(|| delivered(lab) > before)?;
    lab.cut("a", "b");
    thread::sleep(off);
    if fs::metadata(daemons.inbox(1).join("payload.bin")).is_ok() {
        return Err("it was delivered before the cut".into());
    }
    lab.join("a", "b");
    let (back, mut seen, mut payload, mut first) = (Instant::now(), delivered(lab), 0, None);
    wait_until(|| {
        let now = delivered(lab);
        if now - seen >= PAYLOAD_BYTES {
            first.get_or_insert(back.elapsed());
            payload += now - seen;
        }
        seen = now;
        payload >= FLOW_BYTES
    })?;
    let flow = back.elapsed();
    if (SILENT..CONNECTED).contains(&off) && !daemons.logs().contains("heard again") {
        return Err("it came over another connection".into());
    }
    Ok(Return { first: first.ok_or("nothing came")?, flow })
}

/// Bytes that have come from the sender to the receiver.
fn delivered(lab: &Lab) -> u64 {
    lab.counts().pair(0, 1).delivered.bytes
}

/// Looks every millisecond, in which a thin link carries no two packets.
fn wait_until(mut condition: impl FnMut() -> bool) -> Outcome<()> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > DEADLINE {
            return Err("it did not happen".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
