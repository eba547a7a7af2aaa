//! What ours is to reach, and whether it does. A goal that is missed says so.

use crate::report::{Row, amount};

/// One goal of one piece of work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// At most so many times the ideal time.
    Time(f64),
    /// At most so many times the time of the best other tool that encrypts.
    OfEncrypted(f64),
    /// At most so many times the size over the sender's link.
    Sent(f64),
    /// At most so many MiB over the sender's link, both ways together.
    Wire(f64),
    /// At most such a share of the size more than without interruptions.
    Twice(f64),
    /// At most so many bytes a second, both ways together.
    Idle(f64),
}

/// How much memory any program may have, in MiB.
pub(crate) const MEMORY: f64 = 150.0;

impl Goal {
    /// What is asked for, what came of it, and whether that is enough. None where it was not measured.
    pub(crate) fn judge(self, row: &Row, all: &[Row]) -> String {
        let (asked, limit, got) = match self {
            Self::Time(limit) => (format!("time {limit:.2} x ideal"), limit, row.times_ideal()),
            Self::OfEncrypted(limit) => {
                let others = all.iter().filter(|other| other.is_peer_of(row) && other.tool.encrypts());
                let best = others.filter_map(Row::seconds).min_by(f64::total_cmp);
                let got = row.seconds().zip(best).map(|(ours, best)| ours / best);
                (format!("time {limit:.2} x best encrypted"), limit, got)
            }
            Self::Sent(limit) => (format!("sent {limit:.2} x size"), limit, row.sent()),
            Self::Wire(limit) => (format!("{limit:.1} MiB both ways"), limit, row.both_ways().map(|bytes| bytes / MIB)),
            Self::Twice(limit) => {
                let whole = all.iter().find(|other| other.work.name == "wan" && other.tool == row.tool);
                let got = row.sent().zip(whole.and_then(Row::sent)).map(|(cut, whole)| 100.0 * (cut - whole).max(0.0));
                (format!("sent twice {:.0} %", 100.0 * limit), 100.0 * limit, got)
            }
            Self::Idle(limit) => (format!("{limit:.0} B/s"), limit, row.idle()),
        };
        match got {
            None => format!("{asked}: not measured"),
            Some(got) if got <= limit => format!("{asked}: met ({})", amount(got)),
            Some(got) => format!("{asked}: **missed** ({})", amount(got)),
        }
    }
}

pub(crate) const MIB: f64 = (1 << 20) as f64;
