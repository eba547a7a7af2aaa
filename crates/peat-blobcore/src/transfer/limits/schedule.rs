//! When which limits hold: times of the week, in UTC, since fleets span time zones and nodes need not know one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::rate::{LimitError, RateChange};
use crate::model::Timestamp;

const DAY_MINUTES: u64 = 24 * 60;
const WEEK_MINUTES: u64 = 7 * DAY_MINUTES;
/// In the order of the week.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A time of some days, and what holds then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// The first of the days, counted from Monday, and how many follow it.
    days: (u8, u8),
    /// Minutes of the day. An end that is not after the beginning is on the next day.
    start: u16,
    end: u16,
    then: Then,
}

/// What holds in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// No limit of any kind.
    Unlimited,
    /// These limits of the node; those of classes and peers stay.
    Rates(RateChange),
}

impl Period {
    /// What holds then.
    #[must_use]
    pub fn then(&self) -> Then {
        self.then
    }

    /// Minutes of the period, from the minute of the week at which it begins on its nth day.
    fn length(&self) -> u64 {
        let (start, end) = (u64::from(self.start), u64::from(self.end));
        if end > start { end - start } else { DAY_MINUTES - start + end }
    }

    fn starts(&self) -> impl Iterator<Item = u64> {
        let (first, more, start) = (u64::from(self.days.0), u64::from(self.days.1), u64::from(self.start));
        (first..=first + more).map(move |day| day % 7 * DAY_MINUTES + start)
    }

    /// Whether it holds in this minute of the week.
    fn holds(&self, minute: u64) -> bool {
        self.starts().any(|start| (minute + WEEK_MINUTES - start) % WEEK_MINUTES < self.length())
    }

    /// Minutes from this one to the next at which it begins or ends.
    fn next_edge(&self, minute: u64) -> u64 {
        let edges = self.starts().flat_map(|start| [start, start + self.length()]);
        let ahead = edges.map(|edge| (edge + WEEK_MINUTES - minute - 1) % WEEK_MINUTES + 1);
        ahead.min().unwrap_or(WEEK_MINUTES)
    }
}

/// The first of these periods that holds at a time, and when to look again at the latest.
pub(super) fn in_force(schedule: &[Period], now: Timestamp) -> (Option<Period>, Option<Timestamp>) {
    let (minutes, within) = (now.as_millis() / 60_000, now.as_millis() % 60_000);
    // The epoch was a Thursday.
    let minute = (minutes + 3 * DAY_MINUTES) % WEEK_MINUTES;
    let next = schedule.iter().map(|period| period.next_edge(minute)).min();
    let until = next.map(|edge| now.plus(Duration::from_millis(edge * 60_000 - within)));
    (schedule.iter().find(|period| period.holds(minute)).copied(), until)
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, more) = self.days;
        match more {
            6 => {}
            0 => write!(f, "{} ", DAYS[usize::from(first)])?,
            _ => write!(f, "{}-{} ", DAYS[usize::from(first)], DAYS[usize::from((first + more) % 7)])?,
        }
        let time = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        write!(f, "{}-{} ", time(self.start), time(self.end))?;
        match self.then {
            Then::Unlimited => f.write_str("unlimited"),
            Then::Rates(rates) => rates.fmt(f),
        }
    }
}

/// `22:00-06:00 unlimited`, `Mon-Fri 08:00-18:00 up=256KiB/s down=1MiB/s`, `Sat 00:00-24:00 1MiB/s`.
impl FromStr for Period {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let what = || {
            LimitError::new("[DAY[-DAY]] HH:MM-HH:MM LIMITS such as `22:00-06:00 unlimited` or `Mon-Fri 08:00-18:00 up=256KiB/s`")
        };
        let (first, rest) = text.trim().split_once(' ').ok_or_else(what)?;
        let (days, times, then) = match first.starts_with(|c: char| c.is_ascii_digit()) {
            true => ((0, 6), first, rest),
            false => {
                let (times, then) = rest.trim_start().split_once(' ').ok_or_else(what)?;
                (days(first)?, times, then)
            }
        };
        let (start, end) = times.split_once('-').ok_or_else(what)?;
        let (start, end) = (time(start).ok_or_else(what)?, time(end).ok_or_else(what)?);
        if start == end || start == 1440 {
            return Err(LimitError::new("a time that begins before it ends; all day is 00:00-24:00"));
        }
        let then = match then.trim() {
            "unlimited" | "none" => Then::Unlimited,
            rates => Then::Rates(rates.parse()?),
        };
        Ok(Self { days, start, end, then })
    }
}

/// `Mon`, `Mon-Fri`, `Fri-Mon`.
fn days(text: &str) -> Result<(u8, u8), LimitError> {
    let day = |name: &str| {
        let place = (0_u8..).zip(DAYS).find(|(_, day)| day.eq_ignore_ascii_case(name));
        place.map(|(place, _)| place).ok_or_else(|| LimitError::new("days as Mon, Tue, Wed, Thu, Fri, Sat, Sun, or Mon-Fri"))
    };
    match text.split_once('-') {
        None => Ok((day(text)?, 0)),
        Some((first, last)) => {
            let (first, last) = (day(first)?, day(last)?);
            // A whole week begins where it is shown to.
            Ok(match (last + 7 - first) % 7 {
                6 => (0, 6),
                more => (first, more),
            })
        }
    }
}

/// Minutes of `HH:MM`, up to 24:00.
fn time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two =
        |text: &str| (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u16>().ok())?;
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= 1440).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-23, a Monday, at midnight.
    const MONDAY: u64 = 1_795_392_000_000;

    fn at(day: u64, time: &str) -> Timestamp {
        Timestamp::from_millis(MONDAY + day * 86_400_000 + u64::from(super::time(time).expect("a time")) * 60_000)
    }

    fn found(schedule: &[&str], now: Timestamp) -> (Option<String>, String) {
        let schedule: Vec<Period> = schedule.iter().map(|text| text.parse().expect("a period")).collect();
        let (period, until) = in_force(&schedule, now);
        (period.map(|period| period.to_string()), until.map(|until| until.to_string()).unwrap_or_default())
    }

    #[test]
    fn the_first_period_that_holds_counts_and_the_next_change_is_known() {
        assert_eq!(at(0, "00:00").to_string(), "2026-11-23T00:00:00.000Z");
        let night = "22:00-06:00 unlimited";
        let work = "Mon-Fri 08:00-18:00 up=256KiB/s down=1MiB/s";
        for (day, time, expected, until) in [
            (0, "23:30", Some(night), "2026-11-24T06:00:00.000Z"),
            (1, "05:59", Some(night), "2026-11-24T06:00:00.000Z"),
            (1, "06:00", None, "2026-11-24T08:00:00.000Z"),
            (4, "17:59", Some(work), "2026-11-27T18:00:00.000Z"),
            (5, "12:00", None, "2026-11-28T22:00:00.000Z"),
            (6, "22:00", Some(night), "2026-11-30T06:00:00.000Z"),
        ] {
            let (period, next) = found(&[night, work], at(day, time));
            assert_eq!((period.as_deref(), next.as_str()), (expected, until), "day {day} {time}");
        }
        assert_eq!(found(&[], at(0, "00:00")), (None, String::new()));
        assert_eq!(
            found(&["Sun-Mon 23:00-01:00 1MiB/s"], at(7, "00:30")).0.as_deref(),
            Some("Sun-Mon 23:00-01:00 up=1MiB/s down=1MiB/s")
        );
        assert_eq!(found(&["Sun 23:00-01:00 unlimited"], at(6, "00:30")).0, None, "that is Saturday's night");
    }

    #[test]
    fn what_is_no_period_is_answered_with_what_to_write_instead() {
        for (text, hint) in [
            ("", "HH:MM-HH:MM"),
            ("22:00-06:00", "HH:MM-HH:MM"),
            ("22-06 unlimited", "HH:MM-HH:MM"),
            ("22:00-25:00 unlimited", "HH:MM-HH:MM"),
            ("2:00-6:00 unlimited", "HH:MM-HH:MM"),
            ("Monday 22:00-06:00 unlimited", "Mon, Tue"),
            ("08:00-08:00 unlimited", "00:00-24:00"),
            ("08:00-09:00 2Mb/s", "2Mbit/s"),
            ("Mon 08:00-09:00 fast", "256KiB/s"),
        ] {
            let error = text.parse::<Period>().expect_err(text).to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    fn period() -> impl Strategy<Value = Period> {
        (0_u8..7, 0_u8..7, 0_u16..1440, 0_u16..=1440).prop_filter_map("empty", |(first, more, start, end)| {
            let days = if more == 6 { (0, 6) } else { (first, more) };
            (start != end).then_some(Period { days, start, end, then: Then::Unlimited })
        })
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_read_again(period in period()) {
            prop_assert_eq!(period.to_string().parse::<Period>(), Ok(period));
        }

        #[test]
        fn between_now_and_the_next_look_nothing_changes(
            schedule in proptest::collection::vec(period(), 1..4),
            now in 0..u64::from(u32::MAX) * 1000,
            share in 0.0..1.0_f64,
        ) {
            let now = Timestamp::from_millis(now);
            let (period, until) = in_force(&schedule, now);
            let until = until.expect("there is a schedule");
            prop_assert!(until > now);
            let between = now.plus(until.since(now).mul_f64(share));
            if between < until {
                prop_assert_eq!(in_force(&schedule, between), (period, Some(until)));
            }
        }
    }
}
