//! What the operating system says about time, processors, memory and load.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::Outcome;

/// Bytes of a MiB.
pub(crate) const MIB: f64 = 1024.0 * 1024.0;

/// Seconds that `work` takes, with what it gives.
pub(crate) fn timed<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(f64, T)> {
    let started = Instant::now();
    let result = work()?;
    Ok((started.elapsed().as_secs_f64(), result))
}

/// Processor seconds of this process so far, its kernel's included. Linux counts them in hundredths.
pub(crate) fn cpu_seconds() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may hold anything; user and system time are the 12th and 13th fields behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).ok_or("/proc/self/stat is cut short");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Resident memory of this process in bytes.
pub(crate) fn resident_bytes() -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("/proc/self/status has no VmRSS")?;
    Ok(line.trim_end_matches("kB").trim().parse::<f64>()? * 1024.0)
}

/// The load average of the last minute.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Fills a new file with bytes that differ between seeds and do not compress.
pub(crate) fn write_noise(path: &Path, bytes: u64, seed: u64) -> Outcome<()> {
    use std::io::Write as _;
    let mut file = fs::File::create(path)?;
    let mut state = seed;
    let mut buffer = vec![0; usize::try_from(bytes.min(1 << 20))?];
    let mut left = bytes;
    while left > 0 {
        let step = usize::try_from(left.min(buffer.len() as u64))?;
        for chunk in buffer[..step].chunks_mut(8) {
            // SplitMix64 (Steele, Lea, Flood 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..chunk.len()]);
        }
        file.write_all(&buffer[..step])?;
        left -= step as u64;
    }
    Ok(file.sync_all()?)
}
