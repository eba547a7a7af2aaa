//! What ours is to reach, and whether it does. A goal that is missed says so.

use crate::report::{Row, amount};

/// One goal of one piece of work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// At most so many times the ideal time.
    Time(f64),
    /// At most so many times the time of the best other tool that encrypts.
    OfEncrypted(f64),
    /// At most so many times the time of the best other tool.
    OfPeer(f64),
    /// At most so many times its own time for an image that its registry has.
    OfWarm(f64),
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
            Self::OfPeer(limit) => {
                let best = all.iter().filter(|other| other.is_peer_of(row)).filter_map(Row::seconds).min_by(f64::total_cmp);
                (format!("time {limit:.2} x best other"), limit, row.seconds().zip(best).map(|(ours, best)| ours / best))
            }
            Self::OfWarm(limit) => {
                let warm = all.iter().find(|other| other.work.name == "image-warm" && other.tool == row.tool);
                let got = row.seconds().zip(warm.and_then(Row::seconds)).map(|(cold, warm)| cold / warm);
                (format!("time {limit:.2} x its warm pull"), limit, got)
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

#[cfg(test)]
pub(crate) mod tests {
    use crate::record::Record;
    use crate::report::{Row, rows};
    use crate::run::Measured;
    use crate::tool::Tool;
    use crate::usage::Usage;

    pub(crate) fn record(work: &str, tool: &str, seconds: f64, up: u64) -> Record {
        let links = vec![("a up".into(), up), ("a down".into(), 0)];
        let measured = Measured { seconds, links, sender: Usage::default(), receivers: Usage::default() };
        let (work, tool, version, date) = (work.into(), tool.into(), String::new(), "2026-01-01 00:00".into());
        Record { work, tool, version, date, load: 0.0, outcome: Ok(measured) }
    }

    /// What the first goal of ours at some work comes to.
    fn judged(work: &str, records: &[Record]) -> String {
        let all = rows(records);
        let row: &Row = all.iter().find(|row| row.work.name == work && row.tool == Tool::Ours).expect("ours is at every work");
        row.work.goals[0].judge(row, &all)
    }

    #[test]
    fn a_time_is_held_against_the_ideal() {
        // 20.62 s at best.
        assert_eq!(judged("satcom", &[record("satcom", "peat-blob", 22.0, 0)]), "time 1.10 x ideal: met (1.07)");
        assert_eq!(judged("satcom", &[record("satcom", "peat-blob", 41.2, 0)]), "time 1.10 x ideal: **missed** (2.00)");
        assert_eq!(judged("satcom", &[]), "time 1.10 x ideal: not measured");
    }

    #[test]
    fn the_best_tool_is_one_that_encrypts_and_does_the_same_work() {
        let mut records = vec![record("small", "peat-blob", 2.0, 0), record("small", "rsync, bbr", 1.0, 0)];
        assert_eq!(judged("small", &records), "time 0.50 x best encrypted: not measured");
        records.extend([record("small", "rsync over ssh, bbr", 4.0, 0), record("small", "syncthing, bbr", 8.0, 0)]);
        records.push(record("loopback", "syncthing, bbr", 1.0, 0));
        assert_eq!(judged("small", &records), "time 0.50 x best encrypted: met (0.50)");
    }

    #[test]
    fn what_is_sent_twice_is_what_is_sent_more_than_without_interruptions() {
        let size = 64 << 20;
        let records = [record("wan", "peat-blob", 11.0, size), record("interrupted", "peat-blob", 120.0, size + size / 50)];
        assert_eq!(judged("interrupted", &records), "sent twice 1 %: **missed** (2.00)");
    }

    #[test]
    fn idle_bytes_are_those_of_a_second() {
        assert_eq!(judged("idle-thin", &[record("idle-thin", "peat-blob", 300.0, 6000)]), "20 B/s: met (20.0)");
        assert_eq!(judged("idle-thin", &[record("idle-thin", "peat-blob", 300.0, 6600)]), "20 B/s: **missed** (22.0)");
    }
}
