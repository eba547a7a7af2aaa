//! Whether bytes wait at each node that they pass: a file, and many small ones, sent along a row of nodes of which each hears its
//! neighbours alone.
//!
//! ```text
//! cargo build --release --workspace && sudo target/release/peat-blob-chain --runs 5
//! ```
//! Each run is a new lab and a new row of daemons. It fails when something does not work, never because it was slow.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use peat_blob_lab::{Daemons, Lab, Peering, Profile, Seat, host_name, programs};

/// What a step comes back with. What went wrong is only ever printed.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const MIB: u64 = 1024 * 1024;
const SMALL_BYTES: u64 = 4096;
const DEADLINE: Duration = Duration::from_secs(600);

/// Measures how long bytes take along a row of nodes that have no way but over their neighbours. Needs root.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often.
    #[arg(long, default_value_t = 5)]
    runs: u64,
    /// 2 MiB, once: shows that it works.
    #[arg(long)]
    quick: bool,
    /// Where peat-blobd and peat-blobctl are; without it, beside this program.
    #[arg(long, env = "PEAT_BLOB_BIN_DIR")]
    programs: Option<PathBuf>,
    /// MiB to send.
    #[arg(long, default_value_t = 16)]
    size: u64,
}

fn main() -> ExitCode {
    peat_blob_lab::ended("peat-blob-chain", measure(&Arguments::parse()))
}

fn measure(arguments: &Arguments) -> Outcome<()> {
    let programs = programs(arguments.programs.as_deref())?;
    let (size, runs) = if arguments.quick { (2, 1) } else { (arguments.size, arguments.runs) };
    let mut profile: Profile = "mesh".parse()?;
    let hops = profile.hosts - 1;
    let one_hop = profile.link.sending(size * MIB).as_secs_f64();
    println!("{size} MiB over {hops} hops, of which one takes {one_hop:.1} s at best\n");
    println!("| run | what | until all have it | x one hop | the first hop carried, x size |\n|---|---|---|---|---|");
    for run in 0..runs {
        for (what, files) in [("one file", 1), ("files of 4 KiB", size * MIB / SMALL_BYTES)] {
            profile.seed = run;
            let (time, carried) = once(&profile, size * MIB, files, &programs)?;
            let (seconds, carried) = (time.as_secs_f64(), carried as f64 / (size * MIB) as f64);
            println!("| {run} | {what} | {seconds:.1} s | {:.2} | {carried:.3} |", seconds / one_hop);
        }
    }
    Ok(())
}

/// The time until everybody has it, and what the first hop carried meanwhile.
fn once(profile: &Profile, size: u64, files: u64, programs: &Path) -> Outcome<(Duration, u64)> {
    let directory = tempfile::Builder::new().prefix("peat-blob-chain-").tempdir()?;
    let random = |path: &Path, size: u64| -> Outcome<()> {
        std::io::copy(&mut File::open("/dev/urandom")?.take(size), &mut File::create(path)?)?;
        Ok(())
    };
    let (first, outbox) = (directory.path().join("first"), directory.path().join("outbox"));
    random(&first, 1024)?;
    fs::create_dir(&outbox)?;
    (0..files).try_for_each(|number| random(&outbox.join(number.to_string()), size / files))?;
    let lab = Lab::new(profile)?;
    for one in 0..profile.hosts {
        for other in one + 2..profile.hosts {
            lab.cut(&host_name(one), &host_name(other));
        }
    }
    let daemons = Daemons::start(Seat::each(&lab), programs, directory.path(), Peering::Previous, &["--log=warn"])?;
    let outcome = || -> Outcome<(Duration, u64)> {
        let all: Vec<usize> = (1..profile.hosts).collect();
        // All stand in connection after this.
        daemons.send(&first, &all, DEADLINE)?;
        let (start, before) = (Instant::now(), lab.counts().links()[0].1.bytes);
        daemons.send(&outbox, &all, DEADLINE)?;
        Ok((start.elapsed(), lab.counts().links()[0].1.bytes - before))
    };
    outcome().map_err(|error| format!("{error}\n{}{}", lab.counts(), daemons.logs()).into())
}
