//! How many bytes a second, as people write it.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// Bytes a second that may cross: of blobs and the hashes that come with them. What QUIC, UDP and IP add comes on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// The least that a limit can be: with less, one packet alone would be more than is let through in ten seconds.
    pub const MIN: u64 = 1024;
    /// The greatest; who wants more wants no limit.
    pub const MAX: u64 = 1 << 40;

    /// A rate of so many bytes a second, from [`Rate::MIN`] to [`Rate::MAX`].
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        if (Self::MIN..=Self::MAX).contains(&bytes) { NonZeroU64::new(bytes).map(Self) } else { None }
    }

    /// Bytes a second.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.get()
    }
}

/// Why a text is no limit: what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LimitError(pub(super) String);

impl LimitError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// The longest unit that is a whole number.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes();
        let units = [(1 << 30, "GiB/s"), (1_000_000_000, "GB/s"), (1 << 20, "MiB/s"), (1_000_000, "MB/s"), (1 << 10, "KiB/s")];
        let unit = units.into_iter().chain([(1000, "kB/s")]).find(|(unit, _)| bytes.is_multiple_of(*unit));
        let (unit, name) = unit.unwrap_or((1, "B/s"));
        write!(f, "{}{name}", bytes / unit)
    }
}

/// `2MiB/s`, `500kB/s`, `1.5MB/s`, `2Mbit/s`, or bytes. K, M and G are thousands, Ki, Mi and Gi are 1024s; `/s` may be left out.
impl FromStr for Rate {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let what = || LimitError::new("a rate such as 256KiB/s, 2MB/s or 2Mbit/s, or `none`");
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let unit = unit.strip_suffix("/s").unwrap_or(unit);
        let (factor, divisor): (u128, u128) = match unit.to_ascii_lowercase().as_str() {
            // A letter that stands for bits to some and for bytes to others is asked back.
            "kb" | "mb" | "gb" if unit.ends_with('b') => {
                let prefix = &unit[..1];
                return Err(LimitError::new(format!("{number}{prefix}B/s if it is bytes, {number}{prefix}bit/s if it is bits")));
            }
            "" | "b" => (1, 1),
            "k" | "kb" => (1_000, 1),
            "m" | "mb" => (1_000_000, 1),
            "g" | "gb" => (1_000_000_000, 1),
            "ki" | "kib" => (1 << 10, 1),
            "mi" | "mib" => (1 << 20, 1),
            "gi" | "gib" => (1 << 30, 1),
            "bit" => (1, 8),
            "kbit" | "kbps" => (1_000, 8),
            "mbit" | "mbps" => (1_000_000, 8),
            "gbit" | "gbps" => (1_000_000_000, 8),
            _ => return Err(what()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || number.ends_with('.') || whole.len() > 15 || fraction.len() > 6 || fraction.contains('.') {
            return Err(what());
        }
        // In millionths, so that 1.5 is exact.
        let millionths: u128 = format!("{whole}{fraction:0<6}").parse().map_err(|_| what())?;
        let bytes = u64::try_from(millionths * factor / divisor / 1_000_000).map_err(|_| what())?;
        match bytes {
            0 => Err(LimitError::new("`none` for no limit; so that only what is critical crosses, turn `metered` on")),
            _ => {
                Self::from_bytes(bytes).ok_or_else(|| LimitError::new("a rate from 1KiB/s to 1024GiB/s, or `none` for no limit"))
            }
        }
    }
}

/// Reads a rate, or `none` or `unlimited`.
///
/// # Errors
/// [`LimitError`] with what to write instead.
pub fn rate_or_none(text: &str) -> Result<Option<Rate>, LimitError> {
    match text.trim() {
        "none" | "unlimited" => Ok(None),
        rate => rate.parse().map(Some),
    }
}

/// How much may cross in each direction; nothing where there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// From this node to others.
    pub up: Option<Rate>,
    /// From others to this node.
    pub down: Option<Rate>,
}

impl Rates {
    /// Whether there is no limit at all.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.up.is_none() && self.down.is_none()
    }
}

/// `up=256KiB/s down=none`: read as a [`RateChange`] it says the same.
impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RateChange { up: Some(self.up), down: Some(self.down) }.fmt(f)
    }
}

/// What is to be said of each direction; what is not mentioned stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateChange {
    /// From this node to others.
    pub up: Option<Option<Rate>>,
    /// From others to this node.
    pub down: Option<Option<Rate>>,
}

impl RateChange {
    /// These rates with the change.
    #[must_use]
    pub fn applied_to(self, rates: Rates) -> Rates {
        Rates { up: self.up.unwrap_or(rates.up), down: self.down.unwrap_or(rates.down) }
    }
}

impl fmt::Display for RateChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = [("up", self.up), ("down", self.down)];
        let mut space = "";
        for (side, rate) in sides.into_iter().filter_map(|(side, rate)| Some((side, rate?))) {
            match rate {
                Some(rate) => write!(f, "{space}{side}={rate}")?,
                None => write!(f, "{space}{side}=none")?,
            }
            space = " ";
        }
        Ok(())
    }
}

/// `up=RATE`, `down=RATE`, both, or a rate alone for each of the two.
impl FromStr for RateChange {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let mut change = Self::default();
        for word in text.split_ascii_whitespace() {
            let side = match word.split_once('=') {
                Some(("up", rate)) => (&mut change.up, rate),
                Some(("down", rate)) => (&mut change.down, rate),
                Some(_) => {
                    return Err(LimitError::new(
                        "up=RATE, down=RATE, or both with a space between, as in up=256KiB/s down=1MiB/s",
                    ));
                }
                None => {
                    let both = Some(rate_or_none(text)?);
                    return Ok(Self { up: both, down: both });
                }
            };
            if side.0.replace(rate_or_none(side.1)?).is_some() {
                return Err(LimitError::new("each of up and down once"));
            }
        }
        if change == Self::default() { Err(LimitError::new("up=RATE, down=RATE, or both")) } else { Ok(change) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<u64, String> {
        text.parse::<Rate>().map(Rate::bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn rates_are_written_as_people_write_them() {
        for (text, bytes) in [
            ("2MiB/s", 2 << 20),
            ("2 MiB/s", 2 << 20),
            ("256KiB", 256 << 10),
            ("500kB/s", 500_000),
            ("500k", 500_000),
            ("1.5MB/s", 1_500_000),
            ("2Mbit/s", 250_000),
            ("2mbps", 250_000),
            ("0.064Mbit/s", 8_000),
            ("4096", 4096),
            ("1Gi", 1 << 30),
        ] {
            assert_eq!(read(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_answered_with_what_to_write_instead() {
        for (text, hint) in [
            ("2Mb/s", "2MB/s if it is bytes, 2Mbit/s if it is bits"),
            ("0", "`none` for no limit"),
            ("fast", "such as 256KiB/s"),
            ("1.2.3M", "such as"),
            ("-5", "such as"),
            (".5M", "such as"),
            ("5.", "such as"),
            ("100B/s", "from 1KiB/s"),
            ("9999999GiB/s", "1024GiB/s"),
            ("99999999999999999999999", "such as"),
            ("", "such as"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(hint), "{text}: {error}");
        }
        for (text, hint) in [("up=1M up=2M", "once"), ("left=1M", "up=RATE"), ("", "up=RATE"), ("up=1M 2M", "such as")] {
            let error = text.parse::<RateChange>().expect_err(text).to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn a_direction_that_is_not_mentioned_stays_as_it_is() {
        let before = Rates { up: Rate::from_bytes(2000), down: Rate::from_bytes(3000) };
        let after = |text: &str| text.parse::<RateChange>().expect(text).applied_to(before).to_string();
        assert_eq!(after("up=4kB/s"), "up=4kB/s down=3kB/s");
        assert_eq!(after("down=none"), "up=2kB/s down=none");
        assert_eq!(after("none"), "up=none down=none");
        assert_eq!(after("1MiB/s"), "up=1MiB/s down=1MiB/s");
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_read_again(bytes in Rate::MIN..=Rate::MAX, none in any::<bool>()) {
            let rate = Rate::from_bytes(bytes).expect("within");
            prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
            let rates = Rates { up: Some(rate), down: if none { None } else { Some(rate) } };
            let change: RateChange = rates.to_string().parse().expect("a change");
            prop_assert_eq!(change.applied_to(Rates::default()), rates);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,40}") {
            let _ = text.parse::<RateChange>();
        }
    }
}
