//! Places where a test may kill the process. Without the feature `crash-points` they are nothing at all.

/// Marks a place after which durable state has changed. With the feature, the process aborts here when the variable
/// `PEAT_BLOB_CRASH_AT` is `name`, or `name:n` and this is the n-th time that the place is reached.
#[cfg(feature = "crash-points")]
pub(crate) fn point(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static HITS: AtomicU64 = AtomicU64::new(0);
    let Ok(wanted) = std::env::var("PEAT_BLOB_CRASH_AT") else { return };
    let (place, nth) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if place == name && nth.parse() == Ok(HITS.fetch_add(1, Ordering::Relaxed) + 1) {
        std::process::abort();
    }
}

/// Nothing: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn point(_name: &str) {}
