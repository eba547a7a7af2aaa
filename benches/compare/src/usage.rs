//! What programs in each host cost: processor time and peak memory, read from /proc while they run.
//!
//! Alike for all tools, whatever processes they start: everything in a host's namespace counts. A process that ends is
//! counted as it was last seen, at most one interval before.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How often /proc is read at first; later each hundredth of the time that has passed, at most a second.
const INTERVAL: Duration = Duration::from_millis(50);

/// What the programs of one host cost.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Seconds of processor time.
    pub(crate) processor: f64,
    /// Bytes: the sum of what each process had at most.
    pub(crate) memory: u64,
}

/// A process as it was seen first and last: ticks then and now, its peak memory.
#[derive(Debug, Clone, Copy)]
struct Seen {
    host: usize,
    ticks: (u64, u64),
    memory: u64,
}

/// Watches the programs in some hosts until it is asked for the sum.
pub(crate) struct Watch<'scope> {
    stop: Sender<()>,
    watching: ScopedJoinHandle<'scope, Vec<Usage>>,
}

impl<'scope> Watch<'scope> {
    /// Begins to watch the programs in these namespaces.
    pub(crate) fn start<'env>(scope: &'scope thread::Scope<'scope, 'env>, namespaces: Vec<PathBuf>) -> Self {
        let (stop, stopped) = channel();
        let mut seen = BTreeMap::new();
        // What ran before is seen before the time begins.
        look(&namespaces, &mut seen, true);
        let watching = scope.spawn(move || {
            let start = Instant::now();
            let interval = || (start.elapsed() / 100).clamp(INTERVAL, Duration::from_secs(1));
            while stopped.recv_timeout(interval()) == Err(RecvTimeoutError::Timeout) {
                look(&namespaces, &mut seen, false);
            }
            look(&namespaces, &mut seen, false);
            let mut usage = vec![Usage::default(); namespaces.len()];
            let second = rustix::param::clock_ticks_per_second() as f64;
            for process in seen.values() {
                usage[process.host].processor += (process.ticks.1 - process.ticks.0) as f64 / second;
                usage[process.host].memory += process.memory;
            }
            usage
        });
        Self { stop, watching }
    }

    /// What each host's programs cost since the start.
    pub(crate) fn end(self) -> Vec<Usage> {
        drop(self.stop);
        self.watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn look(namespaces: &[PathBuf], seen: &mut BTreeMap<u32, Seen>, first: bool) {
    let identity = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let wanted: Vec<_> = namespaces.iter().map(|path| identity(path)).collect();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let process = Path::new("/proc").join(pid.to_string());
        let found = identity(&process.join("ns/net"));
        let Some(host) = wanted.iter().position(|wanted| wanted.is_some() && *wanted == found) else { continue };
        let (Some(ticks), Some(memory)) = (ticks(&process), peak(&process)) else { continue };
        let start = if first { ticks } else { 0 };
        let entry = seen.entry(pid).or_insert(Seen { host, ticks: (start, ticks), memory });
        (entry.ticks.1, entry.memory) = (ticks, memory);
    }
}

/// Of all threads, user and system. See proc_pid_stat(5), fields 14 and 15.
fn ticks(process: &Path) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn peak(process: &Path) -> Option<u64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
