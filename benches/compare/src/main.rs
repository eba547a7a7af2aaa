//! Ours and its peers side by side: the same bytes over the same links, by turns, as a table and as plots.
//!
//! ```text
//! cargo build --release --workspace && sudo target/release/peat-blob-compare --runs 5 --out docs/benchmarks/compare.md
//! ```
//! Each run is a new lab and a new directory. Every run goes on record when it ends, and the table is made of the record: so
//! some of it can be measured anew without the rest. It fails when something does not work, never because it was slow.
mod goal;
mod install;
mod payload;
mod plot;
mod record;
mod report;
mod run;
mod tool;
mod usage;
mod work;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use peat_blob_lab::programs;

use crate::record::{Record, Records};
use crate::tool::{TOOLS, Tool};
use crate::work::{WORKS, Work};

/// What a step comes back with. What went wrong is only ever printed.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Runs peat-blob and other tools side by side over thin links. Needs root.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each tool does each work.
    #[arg(long, default_value_t = 5)]
    runs: u64,
    /// Small files, once: shows that it works.
    #[arg(long, conflicts_with = "out")]
    quick: bool,
    /// Installs first what is not there, by apt-get and cargo, and has hosts choose their congestion control. Else it is left out.
    #[arg(long)]
    install: bool,
    /// Where peat-blobd and peat-blobctl are; without it, beside this program.
    #[arg(long, env = "PEAT_BLOB_BIN_DIR")]
    programs: Option<PathBuf>,
    /// Beneath which directory everything is written.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes the table into this file, between the lines `<!-- figures -->`, rather than on standard output. Beside it are the
    /// runs on record, `.jsonl`, and the plots, `.svg`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Adds to the runs on record, rather than replacing those of the same work and tool.
    #[arg(long, requires = "out")]
    add: bool,
    /// Runs nothing: makes the table and the plots anew from what is on record.
    #[arg(long, requires = "out")]
    render: bool,
    /// Which tools, by the beginning of their names; all without it.
    #[arg(long)]
    tool: Vec<String>,
    /// Which works; all without it.
    #[arg(long)]
    work: Vec<String>,
    /// The number of the first run, from which what is random about the links follows.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    peat_blob_lab::ended("peat-blob-compare", compare(&Arguments::parse()))
}

fn compare(arguments: &Arguments) -> Outcome<()> {
    if let Some(unknown) = arguments.work.iter().find(|name| !WORKS.iter().any(|work| work.name == **name)) {
        return Err(format!("no work {unknown:?}: one of {}", WORKS.map(|work| work.name).join(", ")).into());
    }
    if let (true, Some(out)) = (arguments.render, &arguments.out) {
        return render(out, &Records::open(&out.with_extension("jsonl"))?.runs);
    }
    if arguments.install {
        install::install(&TOOLS.into_iter().filter(|tool| is_wanted(arguments, tool)).collect::<Vec<_>>())?;
    }
    let wanted = |work: &Work| arguments.work.is_empty() || arguments.work.iter().any(|name| name == work.name);
    let (mut runs, mut failed) = (Vec::new(), 0);
    for work in WORKS.into_iter().filter(wanted) {
        let tools = tools(arguments, &work);
        for turn in 0..if arguments.quick { 1 } else { arguments.runs } {
            for tool in &tools {
                let record = once(arguments, &work, *tool, arguments.seed + turn)?;
                failed += usize::from(record.outcome.is_err());
                match &arguments.out {
                    None => runs.push(record),
                    Some(out) => {
                        let mut records = Records::open(&out.with_extension("jsonl"))?;
                        records.add(record, turn == 0 && !arguments.add)?;
                        render(out, &records.runs)?;
                    }
                }
            }
        }
    }
    if arguments.out.is_none() && !arguments.quick {
        let mut rows = report::rows(&runs);
        rows.retain(report::Row::is_measured);
        print!("{}", report::report(&rows, &runs)?);
    }
    if failed > 0 { Err(format!("{failed} runs failed").into()) } else { Ok(()) }
}

/// The tools for some work that are wanted, and are here. Says why others are left out.
fn tools(arguments: &Arguments, work: &Work) -> Vec<Tool> {
    let can = |tool: &Tool| {
        let reason = tool.lacks(work).map(str::to_owned).or_else(|| tool.is_here().err());
        reason.inspect(|reason| eprintln!("{}, {}: left out: {reason}", work.what(), tool.name())).is_none()
    };
    TOOLS.into_iter().filter(|tool| tool.fits(work) && is_wanted(arguments, tool)).filter(can).collect()
}

fn is_wanted(arguments: &Arguments, tool: &Tool) -> bool {
    arguments.tool.is_empty() || arguments.tool.iter().any(|name| tool.name().starts_with(name))
}

fn once(arguments: &Arguments, work: &Work, tool: Tool, seed: u64) -> Outcome<Record> {
    let programs = programs(arguments.programs.as_deref())?;
    let directory = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let load = std::fs::read_to_string("/proc/loadavg")?.split_whitespace().next().and_then(|load| load.parse().ok());
    let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"]).output()?;
    let done = if arguments.quick { work.quick() } else { *work };
    let outcome = run::run(tool, &done, seed, &programs, &directory).map_err(|error| error.to_string());
    let said = outcome.as_ref().map_or_else(Clone::clone, |run| format!("{:.2} s", run.seconds));
    eprintln!("{}, {}: {said}", done.what(), tool.name());
    Ok(Record {
        work: work.name.into(),
        tool: tool.name(),
        version: tool.version().unwrap_or_default(),
        date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
        load: load.unwrap_or_default(),
        outcome,
    })
}

/// Puts the figures in their place in a document, and the plots beside it.
fn render(out: &Path, runs: &[Record]) -> Outcome<()> {
    let text = std::fs::read_to_string(out).map_err(|error| format!("{}: {error}", out.display()))?;
    let mut parts = text.splitn(3, MARK);
    let (Some(head), Some(_), Some(tail)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!("{} has no two lines {MARK}", out.display()).into());
    };
    let rows = report::rows(runs);
    std::fs::write(out, format!("{head}{MARK}\n{}{MARK}{tail}", report::report(&rows, runs)?))?;
    let plot = |name: &str| out.with_file_name(format!("{}-{name}.svg", out.file_stem().unwrap_or_default().display()));
    std::fs::write(plot("time"), plot::time(&rows))?;
    Ok(std::fs::write(plot("sent"), plot::sent(&rows))?)
}

/// Before and after the figures in a document.
const MARK: &str = "<!-- figures -->";
