//! What a person sees: bars while it runs, a table at the end. Bars are drawn on a terminal only.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use peat_blobcore::model::EndpointId;
use peat_blobcore::{DistributionStatus, Sent};
use serde_json::{Value, json};

/// Files that the table shows one by one: the largest. The others are summed up in one row.
const SHOWN_FILES: usize = 12;

/// Two bars: bytes and files.
pub(super) struct Bars {
    bytes: ProgressBar,
    files: ProgressBar,
}

impl Bars {
    pub(super) fn new(sent: &Sent, is_interactive: bool) -> Self {
        let style = |template: &str| {
            ProgressStyle::with_template(template).expect("the template is well formed").progress_chars("█▉▊▋▌▍▎▏ ")
        };
        let all = MultiProgress::new();
        if !is_interactive {
            all.set_draw_target(ProgressDrawTarget::hidden());
        }
        let bytes = all.add(ProgressBar::new(sent.files.iter().map(|file| file.size).sum()));
        bytes.set_style(style("bytes {bar:40.cyan} {bytes:>10} of {total_bytes:10} {binary_bytes_per_sec}"));
        let files = all.add(ProgressBar::new(sent.files.len() as u64));
        files.set_style(style("files {bar:40.green} {pos:>10} of {len:10} {per_sec}"));
        Self { bytes, files }
    }

    pub(super) fn bytes(&self, done: u64) {
        self.bytes.set_position(done);
    }

    pub(super) fn files(&self, done: usize) {
        self.files.set_position(done as u64);
    }

    pub(super) fn finish(&self) {
        self.bytes.finish();
        self.files.finish();
    }
}

/// A row a file: the largest ones, and one row for all others.
pub(super) fn table(sent: &Sent, arrivals: &BTreeMap<u32, Duration>, status: &DistributionStatus, target: EndpointId) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["file", "size", "BLAKE3", "time", "rate", "receipt"]);
    let receipt = match status.targets.get(&target).and_then(|target| target.record.as_ref()) {
        Some(record) if record.state.is_receipt() => format!("{} {}", record.state, &record.time.to_string()[11..23]),
        Some(record) => record.state.to_string(),
        None => "none".to_owned(),
    };
    let mut order: Vec<usize> = (0..sent.files.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(sent.files[index].size), index));
    for &index in order.iter().take(SHOWN_FILES) {
        let file = &sent.files[index];
        let arrival = u32::try_from(index).ok().and_then(|index| arrivals.get(&index));
        table.add_row([
            crate::show::path(&file.path),
            HumanBytes(file.size).to_string(),
            format!("{}…", file.blob.short()),
            arrival.map_or_else(|| "–".to_owned(), |time| seconds(*time)),
            arrival.map_or_else(|| "–".to_owned(), |time| rate(file.size, *time)),
            receipt.clone(),
        ]);
    }
    let rest = order.get(SHOWN_FILES..).unwrap_or_default();
    if !rest.is_empty() {
        let bytes: u64 = rest.iter().map(|&index| sent.files[index].size).sum();
        let times = rest.iter().filter_map(|&index| arrivals.get(&u32::try_from(index).ok()?));
        let last = times.max().copied();
        table.add_row([
            format!("{} more", rest.len()),
            HumanBytes(bytes).to_string(),
            String::new(),
            last.map_or_else(String::new, seconds),
            last.map_or_else(String::new, |time| rate(bytes, time)),
            receipt,
        ]);
    }
    for column in [1, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// What it came to.
pub(super) fn summary(sent: &Sent, taken_in: Duration, all: Duration) -> String {
    let bytes: u64 = sent.files.iter().map(|file| file.size).sum();
    let summary = format!(
        "distribution {}: {} files, {}, taken in after {}, receipt after {} ({})",
        sent.distribution.short(),
        sent.files.len(),
        HumanBytes(bytes),
        seconds(taken_in),
        seconds(all),
        rate(bytes, all),
    );
    match peak_memory() {
        Some(bytes) => format!("{summary}\npeak memory of both nodes: {}", HumanBytes(bytes)),
        None => summary,
    }
}

/// All of it for programs.
pub(super) fn document(
    sent: &Sent,
    arrivals: &BTreeMap<u32, Duration>,
    status: &DistributionStatus,
    all: Duration,
    compared: Option<&u64>,
) -> Value {
    let files = sent.files.iter().zip(0..).map(|(file, index)| {
        json!({
            "path": String::from_utf8_lossy(&file.path),
            "size": file.size,
            "blob": file.blob.to_string(),
            "millis": arrivals.get(&index).map(Duration::as_millis),
        })
    });
    json!({
        "distribution_id": sent.distribution.to_string(),
        "state": status.state.as_str(),
        "file_count": sent.files.len(),
        "bytes": sent.files.iter().map(|file| file.size).sum::<u64>(),
        "millis": all.as_millis(),
        "compared_bytes": compared,
        "peak_memory": peak_memory(),
        "files": files.collect::<Vec<_>>(),
    })
}

/// The most resident memory that this process ever had, in bytes, where the system tells (`VmHWM`, proc_pid_status(5)).
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn rate(bytes: u64, time: Duration) -> String {
    let per_second = bytes as f64 / time.as_secs_f64().max(1e-9);
    format!("{}/s", HumanBytes(per_second as u64))
}
