//! The figures as Markdown: medians, spread, ratios to what the links allow, and the goals.

use std::fmt::Write as _;
use std::fs;

use crate::Outcome;
use crate::goal::{MEMORY, MIB};
use crate::record::Record;
use crate::run::Measured;
use crate::tool::{TOOLS, Tool};
use crate::work::{WORKS, Work};

/// All runs of one tool at one piece of work.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) work: Work,
    pub(crate) tool: Tool,
    runs: Vec<Measured>,
    failed: Vec<String>,
    load: f64,
    date: String,
}

/// Every tool at every piece of work that it fits, measured or not.
pub(crate) fn rows(records: &[Record]) -> Vec<Row> {
    let fits = |work: &Work| TOOLS.into_iter().filter(|tool| tool.fits(work)).collect::<Vec<Tool>>();
    let pairs = WORKS.into_iter().flat_map(|work| fits(&work).into_iter().map(move |tool| (work, tool)));
    let row = |(work, tool): (Work, Tool)| {
        let these: Vec<&Record> = records.iter().filter(|run| run.work == work.name && run.tool == tool.name()).collect();
        let runs = these.iter().filter_map(|run| run.outcome.clone().ok()).collect();
        let failed = these.iter().filter_map(|run| run.outcome.clone().err()).collect();
        let load = median(these.iter().map(|run| run.load)).unwrap_or(0.0);
        Row { work, tool, runs, failed, load, date: these.last().map(|run| run.date.clone()).unwrap_or_default() }
    };
    pairs.map(row).collect()
}

impl Row {
    fn of(&self, value: impl Fn(&Measured) -> f64) -> Option<f64> {
        median(self.runs.iter().map(value))
    }

    pub(crate) fn seconds(&self) -> Option<f64> {
        self.of(|run| run.seconds)
    }

    /// The time against what the links allow.
    pub(crate) fn times_ideal(&self) -> Option<f64> {
        Some(self.seconds()? / self.work.ideal()?.as_secs_f64())
    }

    /// What the sender's link carried up, in sizes.
    pub(crate) fn sent(&self) -> Option<f64> {
        self.work.profile?;
        self.of(|run| link(run, 0) / self.work.size as f64)
    }

    /// Bytes over the sender's link.
    pub(crate) fn both_ways(&self) -> Option<f64> {
        self.of(|run| link(run, 0) + link(run, 1))
    }

    /// Bytes a second over the sender's link.
    pub(crate) fn idle(&self) -> Option<f64> {
        self.of(|run| (link(run, 0) + link(run, 1)) / run.seconds)
    }

    /// Whether there are figures.
    pub(crate) fn is_measured(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Another tool at the same work.
    pub(crate) fn is_peer_of(&self, other: &Self) -> bool {
        self.work.name == other.work.name && self.tool != other.tool
    }

    /// What the receivers of a star sent, to the sender and to each other, in sizes.
    fn others_sent(&self) -> Option<f64> {
        (self.work.receivers > 1).then_some(())?;
        self.of(|run| run.links.iter().skip(2).step_by(2).map(|(_, bytes)| *bytes as f64).sum::<f64>() / self.work.size as f64)
    }

    /// How often, when last, and how often in vain.
    fn runs(&self) -> String {
        if self.runs.is_empty() && self.failed.is_empty() {
            return "not measured".into();
        }
        let failed = self.failed.last().map(|reason| format!(", {} failed: {reason}", self.failed.len()));
        format!("{} ({}){}", self.runs.len(), self.date, failed.unwrap_or_default())
    }

    fn goals(&self, all: &[Self]) -> String {
        if self.tool != Tool::Ours || !self.is_measured() {
            return String::new();
        }
        let mut goals: Vec<String> = self.work.goals.iter().map(|goal| goal.judge(self, all)).collect();
        // Over loopback both sides are in one figure.
        let sides = if self.work.profile.is_some() { 1.0 } else { 2.0 };
        let peak = self.of(|run| run.sender.memory.max(run.receivers.memory) as f64 / MIB).unwrap_or(0.0);
        if peak > MEMORY * sides {
            goals.push(format!("memory {MEMORY:.0} MiB: **missed** ({peak:.0})"));
        }
        goals.join("; ")
    }
}

fn link(run: &Measured, index: usize) -> f64 {
    run.links.get(index).map_or(0.0, |(_, bytes)| *bytes as f64)
}

/// The middle one, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}

/// Three digits, or as many as are before the point.
pub(crate) fn amount(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// A table of what was carried, one of what was sent for nothing, and the machine and the programs.
pub(crate) fn report(rows: &[Row], records: &[Record]) -> Outcome<String> {
    let (idle, busy): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.work.is_idle());
    let mut text = machine(records)?;
    text.push_str(
        "\n| work | tool | runs | load | time: median (least to greatest) | x ideal | goal | sent, x size | back, KiB \
         | others sent, x size | CPU sender | CPU receivers | peak sender | peak receiver |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in busy {
        writeln!(text, "{}", carried(row, rows))?;
    }
    text.push_str(
        "\n| idle | tool | runs | bytes a second | in an hour | goal | CPU in an hour: sender, receiver |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in idle {
        let hour = |value: fn(&Measured) -> f64| row.of(|run| 3600.0 * value(run) / run.seconds);
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.work.profile.unwrap_or_default(),
            row.tool.name(),
            row.runs(),
            row.idle().map(amount).unwrap_or_default(),
            row.idle().map(|bytes| format!("{} KiB", amount(bytes * 3600.0 / 1024.0))).unwrap_or_default(),
            row.goals(rows),
            hour(|run| run.sender.processor)
                .zip(hour(|run| run.receivers.processor))
                .map(|(one, other)| format!("{} s, {} s", amount(one), amount(other)))
                .unwrap_or_default(),
        )?;
    }
    Ok(text)
}

fn carried(row: &Row, all: &[Row]) -> String {
    let (what, tool) = (row.work.what(), row.tool.name());
    if let Some(reason) = row.tool.lacks(&row.work) {
        return format!("| {what} | {tool} | {reason} | | | | | | | | | | | |");
    }
    let Some(time) = row.seconds() else {
        return format!("| {what} | {tool} | {} | | | | | | | | | | | |", row.runs());
    };
    let seconds = || row.runs.iter().map(|run| run.seconds);
    let (least, greatest) = (seconds().fold(f64::INFINITY, f64::min), seconds().fold(0.0, f64::max));
    let linked = row.work.profile.is_some();
    let processor = |value: Option<f64>| value.map(|value| format!("{value:.2} s")).unwrap_or_default();
    let memory = |value: Option<f64>| value.map(|value| format!("{:.0} MiB", value / MIB)).unwrap_or_default();
    let share = |value: Option<f64>| value.map(|value| format!("{value:.3}")).unwrap_or_default();
    let both = if linked { "" } else { "both: " };
    format!(
        "| {what} | {tool} | {} | {:.1} | {time:.2} s ({least:.2} to {greatest:.2}) | {} | {} | {} | {} | {} | {both}{} | {} \
         | {both}{} | {} |",
        row.runs(),
        row.load,
        row.times_ideal().map(|times| format!("{times:.2}")).unwrap_or_default(),
        row.goals(all),
        share(row.sent()),
        row.of(|run| link(run, 1) / 1024.0).filter(|_| linked).map(|kib| format!("{kib:.0}")).unwrap_or_default(),
        share(row.others_sent()),
        processor(row.of(|run| run.sender.processor)),
        processor(row.of(|run| run.receivers.processor).filter(|_| linked)),
        memory(row.of(|run| run.sender.memory as f64)),
        memory(row.of(|run| run.receivers.memory as f64).filter(|_| linked)),
    )
}

/// The machine that writes this, the programs as they were when they ran, and when that was, each on a line of a list.
fn machine(records: &[Record]) -> Outcome<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |name| name.trim_matches([':', ' ', '\t']));
    let cores = std::thread::available_parallelism()?;
    let memory = read("/proc/meminfo").split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 20;
    let mut text = format!("- {cpu}, {cores} cores, {memory} GiB; Linux {}\n", read("/proc/sys/kernel/osrelease").trim());
    for tool in TOOLS {
        let of_tool = || records.iter().filter(|run| run.tool == tool.name());
        let dates: std::collections::BTreeSet<&str> = of_tool().map(|run| &run.date[..10]).collect();
        let versions: std::collections::BTreeSet<&str> = of_tool().map(|run| run.version.as_str()).collect();
        if let (Some(first), Some(last)) = (dates.first(), dates.last()) {
            let until = if first == last { String::new() } else { format!(" to {last}") };
            writeln!(text, "- {}: {}; {first}{until}", tool.name(), versions.into_iter().collect::<Vec<_>>().join("; "))?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median([].into_iter()), None);
    }
}
