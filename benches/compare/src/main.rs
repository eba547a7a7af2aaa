//! Ours and its peers side by side: the same bytes over the same links, by turns, as a table.
//!
//! ```text
//! cargo build --release --workspace && sudo target/release/peat-blob-compare --runs 5 --out docs/benchmarks/compare.md
//! ```
//! Each run is a new lab and a new directory. Peers that are not installed are left out, and the table says so. It fails when
//! something does not work, never because it was slow.
mod report;
mod run;
mod tool;
mod tracker;
mod usage;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::report::{Entry, circumstances, table};
use crate::tool::{TOOLS, Tool};
use crate::work::{WORKS, Work};

/// What a step comes back with. What went wrong is only ever printed.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Runs peat-blob and other tools side by side over thin links. Needs root.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each tool does each work.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Small files, once: shows that it works.
    #[arg(long)]
    quick: bool,
    /// Where peat-blobd and peat-blobctl are; without it, beside this program.
    #[arg(long, env = "PEAT_BLOB_BIN_DIR")]
    programs: Option<PathBuf>,
    /// Beneath which directory everything is written.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes the table into this file, between the lines `<!-- figures -->`, rather than on standard output.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Which tools, by the beginning of their names; all without it.
    #[arg(long)]
    tool: Vec<String>,
    /// Which works; all without it.
    works: Vec<String>,
}

fn main() -> ExitCode {
    match compare(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peat-blob-compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Outcome<()> {
    let beside = || Ok(std::env::current_exe()?.parent().ok_or("this program is in a directory")?.to_owned());
    let programs = arguments.programs.clone().map_or_else(beside, Outcome::Ok)?;
    let directory = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    if let Some(unknown) = arguments.works.iter().find(|name| !WORKS.iter().any(|work| work.name == **name)) {
        return Err(format!("no work {unknown:?}: one of {}", WORKS.map(|work| work.name).join(", ")).into());
    }
    let load = std::fs::read_to_string("/proc/loadavg")?.split_whitespace().next().unwrap_or("unknown").to_owned();
    let runs = if arguments.quick { 1 } else { arguments.runs.max(1) };
    let wanted = |tool: &Tool| arguments.tool.is_empty() || arguments.tool.iter().any(|name| tool.name().starts_with(name));
    let tools: Vec<Tool> = TOOLS.into_iter().filter(wanted).collect();
    let mut entries = Vec::new();
    for work in
        WORKS.into_iter().filter(|work| arguments.works.is_empty() || arguments.works.iter().any(|name| name == work.name))
    {
        let work: Work = if arguments.quick { work.quick() } else { work };
        let mut these: Vec<Entry> = tools
            .iter()
            .filter(|tool| tool.fits(&work))
            .map(|tool| Entry { work, tool: *tool, runs: tool.is_here().map(|()| Vec::new()) })
            .collect();
        for seed in 0..runs {
            for entry in &mut these {
                let Ok(measured) = &mut entry.runs else { continue };
                eprint!("{}, {}: ", work.what(), entry.tool.name());
                let one = run::run(entry.tool, &work, seed as u64, &programs, &directory)?;
                eprintln!("{:.2} s", one.time.as_secs_f64());
                measured.push(one);
            }
        }
        entries.extend(these);
    }
    let figures = format!("{}\n{}", circumstances(runs, &tools, &load)?, table(&entries)?);
    match &arguments.out {
        None => print!("{figures}"),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let mut parts = text.splitn(3, MARK);
            let (Some(head), Some(_), Some(tail)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(format!("{} has no two lines {MARK}", path.display()).into());
            };
            std::fs::write(path, format!("{head}{MARK}\n{figures}{MARK}{tail}"))?;
        }
    }
    Ok(())
}

/// Before and after the figures in a document.
const MARK: &str = "<!-- figures -->";
