//! The figures as Markdown: medians, spread, ratios to what the links allow.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::Outcome;
use crate::run::Measured;
use crate::tool::Tool;
use crate::work::Work;

/// All runs of one tool at one piece of work; or why there are none.
pub(crate) struct Entry {
    pub(crate) work: Work,
    pub(crate) tool: Tool,
    pub(crate) runs: Result<Vec<Measured>, String>,
}

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

/// The table of all entries.
pub(crate) fn table(entries: &[Entry]) -> Outcome<String> {
    let mut text = String::from(
        "| work | tool | time: median (least to greatest) | x ideal | sent, x size | back, KiB | CPU sender \
         | CPU receivers | peak sender | peak receiver |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for entry in entries {
        let (what, tool) = (entry.work.what(), entry.tool.name());
        let runs = match &entry.runs {
            Ok(runs) => runs,
            Err(reason) => {
                writeln!(text, "| {what} | {tool} | {reason} | | | | | | | |")?;
                continue;
            }
        };
        let of = |value: fn(&Measured) -> f64| median(runs.iter().map(value).collect());
        let seconds = |run: &Measured| run.time.as_secs_f64();
        let least = runs.iter().map(seconds).fold(f64::INFINITY, f64::min);
        let greatest = runs.iter().map(seconds).fold(0.0, f64::max);
        let time = of(|run| run.time.as_secs_f64());
        let ideal = entry.work.ideal()?.map_or(String::new(), |ideal| format!("{:.2}", time / ideal.as_secs_f64()));
        let size = entry.work.size as f64;
        let mib = |bytes: f64| format!("{:.0} MiB", bytes / f64::from(1 << 20));
        let linked = entry.work.profile.is_some();
        let sent = if linked { format!("{:.2}", of(|run| run.sent as f64) / size) } else { String::new() };
        let back = if linked { format!("{:.0}", of(|run| run.returned as f64) / 1024.0) } else { String::new() };
        // Over loopback both sides are in one host.
        let (sender, receivers, at_sender, at_receiver) = if linked {
            (
                format!("{:.2} s", of(|run| run.sender.processor)),
                format!("{:.2} s", of(|run| run.receivers.processor)),
                mib(of(|run| run.sender.memory as f64)),
                mib(of(|run| run.receivers.memory as f64)),
            )
        } else {
            let both = format!("both: {:.2} s", of(|run| run.sender.processor));
            (both, String::new(), format!("both: {}", mib(of(|run| run.sender.memory as f64))), String::new())
        };
        writeln!(
            text,
            "| {what} | {tool} | {time:.2} s ({least:.2} to {greatest:.2}) | {ideal} | {sent} | {back} | {sender} \
             | {receivers} | {at_sender} | {at_receiver} |"
        )?;
    }
    Ok(text)
}

/// The machine, the programs and when, each on a line of a list.
pub(crate) fn circumstances(runs: usize, tools: &[Tool], load: &str) -> Outcome<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |name| name.trim_matches([':', ' ', '\t']));
    let cores = std::thread::available_parallelism()?;
    let memory = read("/proc/meminfo").split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 20;
    let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output()?;
    let mut versions: Vec<String> = tools.iter().filter_map(|tool| tool.version()).collect();
    versions.dedup();
    Ok(format!(
        "- {}, {runs} runs of each, by turns\n- {cpu}, {cores} cores, {memory} GiB; Linux {}; load average {load} when it \
         began\n- {}\n",
        String::from_utf8_lossy(&date.stdout).trim(),
        read("/proc/sys/kernel/osrelease").trim(),
        versions.join("; "),
    ))
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
