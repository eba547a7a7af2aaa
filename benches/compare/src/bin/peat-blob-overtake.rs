//! Whether what is urgent waits for what is not: a small critical file, sent while a large one is on its way as bulk, against the same on an
//! idle link.
//!
//! ```text
//! cargo build --release --workspace && sudo target/release/peat-blob-overtake --runs 5
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

const MIB: u64 = 1024 * 1024;
const URGENT_BYTES: u64 = MIB;
/// When so much of the large one has crossed, it is under way.
const UNDER_WAY_BYTES: u64 = 2 * MIB;
const DEADLINE: Duration = Duration::from_secs(300);

/// Measures how long a critical file takes beside a bulk transfer. Needs root.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often.
    #[arg(long, default_value_t = 5)]
    runs: u64,
    /// A bulk transfer of 16 MiB, once: shows that it works.
    #[arg(long)]
    quick: bool,
    /// Where peat-blobd and peat-blobctl are; without it, beside this program.
    #[arg(long, env = "PEAT_BLOB_BIN_DIR")]
    programs: Option<PathBuf>,
    /// MiB of the bulk transfer.
    #[arg(long, default_value_t = 1024)]
    bulk: u64,
    /// Mbit/s of the link, each way.
    #[arg(long, default_value_t = 10)]
    rate: u64,
}

fn main() -> ExitCode {
    peat_blob_lab::ended("peat-blob-overtake", measure(&Arguments::parse()))
}

fn measure(arguments: &Arguments) -> Outcome<()> {
    let programs = programs(arguments.programs.as_deref())?;
    let (bulk, runs) = if arguments.quick { (16, 1) } else { (arguments.bulk, arguments.runs) };
    let mut profile: Profile = "wan".parse()?;
    profile.link.rate = arguments.rate * 1_000_000;
    profile.link.loss = 0.0;
    println!("| run | on an idle link | beside {bulk} MiB of bulk | ratio |\n|---|---|---|---|");
    for run in 0..runs {
        profile.seed = run;
        let (idle, beside) = once(&profile, bulk * MIB, &programs)?;
        let ratio = beside.div_duration_f64(idle);
        println!("| {run} | {:.2} s | {:.2} s | {ratio:.2} |", idle.as_secs_f64(), beside.as_secs_f64());
    }
    Ok(())
}

fn once(profile: &Profile, bulk: u64, programs: &Path) -> Outcome<(Duration, Duration)> {
    let directory = tempfile::Builder::new().prefix("peat-blob-overtake-").tempdir()?;
    let file = |name: &str, size: u64| -> Outcome<PathBuf> {
        let path = directory.path().join(name);
        std::io::copy(&mut File::open("/dev/urandom")?.take(size), &mut File::create(&path)?)?;
        Ok(path)
    };
    let (first, second, large) = (file("first", URGENT_BYTES)?, file("second", URGENT_BYTES)?, file("large", bulk)?);
    let lab = Lab::new(profile)?;
    let daemons = Daemons::start(Seat::each(&lab), programs, directory.path(), Peering::First, &["--log=warn"])?;
    let outcome = || -> Outcome<(Duration, Duration)> {
        daemons.connected(1, DEADLINE)?;
        let urgent = |path: &Path| -> Outcome<Duration> {
            let start = Instant::now();
            daemons.send_with(path, &[1], &["--priority", "critical", "--wait", "--timeout", "300s"])?;
            Ok(start.elapsed())
        };
        let idle = urgent(&first)?;
        let before = lab.counts().pair(0, 1).delivered.bytes;
        daemons.send_with(&large, &[1], &["--priority", "bulk"])?;
        let start = Instant::now();
        while lab.counts().pair(0, 1).delivered.bytes < before + UNDER_WAY_BYTES {
            if start.elapsed() > DEADLINE {
                return Err("the bulk transfer did not begin".into());
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        let beside = urgent(&second)?;
        match fs::metadata(daemons.inbox(1).join("large")) {
            Ok(_) => Err("the bulk transfer was over before".into()),
            Err(_) => Ok((idle, beside)),
        }
    };
    outcome().map_err(|error| format!("{error}\n{}{}", lab.counts(), daemons.logs()).into())
}
