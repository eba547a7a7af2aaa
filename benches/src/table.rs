//! The table that is printed: what was measured, against what, and the ratio.

use std::fmt;

/// Several measurements of one thing. Printed as their median, least and greatest.
#[derive(Debug, Clone)]
pub struct Spread(Vec<f64>);

impl Spread {
    /// # Panics
    /// Without a measurement.
    #[must_use]
    pub fn new(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "something was measured");
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The ratios of measurements that belong together in pairs.
    #[must_use]
    pub fn ratios(ours: &[f64], theirs: &[f64]) -> Self {
        Self::new(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
    }

    /// The middle one, or the mean of the two in the middle.
    #[must_use]
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len().is_multiple_of(2) { f64::midpoint(self.0[middle - 1], self.0[middle]) } else { self.0[middle] }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.median())?;
        match (self.0.first(), self.0.last()) {
            (Some(least), Some(greatest)) if self.0.len() > 1 => write!(f, " ({least:.3} to {greatest:.3})"),
            _ => Ok(()),
        }
    }
}

/// One line of the table, behind the bench's name.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Our figure with its unit.
    pub ours: String,
    /// What it is held against, with its figure.
    pub against: String,
    /// Ours divided by theirs.
    pub ratio: Spread,
}

impl Row {
    /// Measurements of one unit, ours and theirs in pairs.
    #[must_use]
    pub fn pairs(what: impl Into<String>, unit: &str, ours: &[f64], peer: &str, theirs: &[f64]) -> Self {
        let figure = |values: &[f64]| {
            let median = Spread::new(values.to_vec()).median();
            if median >= 100.0 { format!("{median:.0} {unit}") } else { format!("{median:.2} {unit}") }
        };
        let against = format!("{peer}: {}", figure(theirs));
        Self { what: what.into(), ours: figure(ours), against, ratio: Spread::ratios(ours, theirs) }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} | {} | {} | {} |", self.what, self.ours, self.against, self.ratio)
    }
}

/// The head of the table.
#[must_use]
pub fn heading() -> String {
    let load = super::measure::load().map_or_else(|| "unknown".to_owned(), |load| format!("{load:.1}"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cores} cores, load average {load} before the run\n\n| bench | what | ours | against | ratio: median (least to greatest) |\n|---|---|---|---|---|\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_its_median_with_the_ends() {
        assert_eq!(Spread::new(vec![3.0, 1.0, 2.0]).to_string(), "2.000 (1.000 to 3.000)");
        assert_eq!(Spread::ratios(&[1.0, 4.0], &[2.0, 4.0]).to_string(), "0.750 (0.500 to 1.000)");
    }
}
