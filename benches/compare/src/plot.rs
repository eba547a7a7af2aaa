//! Plots as SVG: a bar for each tool, grouped by work, with the goal as a line on ours. Made of text alone.

use std::fmt::Write as _;

use crate::goal::Goal;
use crate::report::{Row, amount};
use crate::tool::Tool;

/// In pixels: the whole, where bars begin, how long they are at most, and how high with their space.
const WIDTH: usize = 860;
const LEFT: usize = 190;
const LONGEST: f64 = 560.0;
const STEP: usize = 17;
/// Longer bars are cut off, and say how long they would be.
const GREATEST: f64 = 10.0;

/// The time of each against the ideal, or, where there is none, against the fastest.
pub(crate) fn time(rows: &[Row]) -> String {
    let value = |row: &Row| {
        let fastest =
            || rows.iter().filter(|other| other.work.name == row.work.name).filter_map(Row::seconds).min_by(f64::total_cmp);
        match row.work.ideal() {
            _ if row.work.is_idle() => None,
            Some(_) => row.times_ideal(),
            None => Some(row.seconds()? / fastest()?),
        }
    };
    let goal = |row: &Row| row.work.goals.iter().find_map(|goal| if let Goal::Time(limit) = goal { Some(*limit) } else { None });
    let title = "Time, x ideal (without a rate: x fastest). Line: the goal";
    bars(title, rows, value, |row| if row.work.ideal().is_some() { "" } else { " (x fastest)" }, goal)
}

/// What the sender's link carried up, against the size.
pub(crate) fn sent(rows: &[Row]) -> String {
    let value = |row: &Row| row.sent().filter(|_| !row.work.is_idle());
    let goal = |row: &Row| row.work.goals.iter().find_map(|goal| if let Goal::Sent(limit) = goal { Some(*limit) } else { None });
    bars("Sent over the sender's link, x size. Line: the goal", rows, value, |_| "", goal)
}

fn bars(
    title: &str,
    rows: &[Row],
    value: impl Fn(&Row) -> Option<f64>,
    note: impl Fn(&Row) -> &'static str,
    goal: impl Fn(&Row) -> Option<f64>,
) -> String {
    let length = |value: f64| value.min(GREATEST) / GREATEST * LONGEST;
    let (mut body, mut y, mut work) = (String::new(), 30, "");
    let mut put = |line: std::fmt::Arguments<'_>| body.write_fmt(line).expect("a string takes all");
    for (row, value) in rows.iter().filter_map(|row| Some((row, value(row)?))) {
        if row.work.name != work {
            (work, y) = (row.work.name, y + STEP + 8);
            put(format_args!("<text x=\"8\" y=\"{y}\" font-weight=\"bold\">{}{}</text>\n", row.work.what(), note(row)));
        }
        y += STEP;
        let (top, long) = (y - 11, length(value));
        let colour = if row.tool == Tool::Ours { "#c2410c" } else { "#64748b" };
        let torn = if value > GREATEST { " …" } else { "" };
        put(format_args!("<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{}</text>\n", LEFT - 8, row.tool.name()));
        put(format_args!("<rect x=\"{LEFT}\" y=\"{top}\" width=\"{long:.1}\" height=\"13\" fill=\"{colour}\"/>\n"));
        let goal = goal(row).filter(|_| row.tool == Tool::Ours).map(length);
        // Right of both the bar and the goal.
        let right = LEFT as f64 + long.max(goal.unwrap_or(0.0)) + 6.0;
        put(format_args!("<text x=\"{right:.1}\" y=\"{y}\">{}{torn}</text>\n", amount(value)));
        if let Some(goal) = goal {
            let x = LEFT as f64 + goal;
            put(format_args!("<path d=\"M{x:.1} {}v17\" stroke=\"#15803d\" stroke-width=\"2\"/>\n", top - 2));
        }
    }
    let height = y + 20;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"22\" font-size=\"15\">{title}</text>\n{body}</svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use crate::goal::tests::record;
    use crate::report::rows;

    #[test]
    fn a_bar_is_as_long_as_its_value_and_one_that_is_too_long_is_cut_off() {
        // 20.62 s at best: three times that, and thirty times.
        let plot = super::time(&rows(&[record("satcom", "peat-blob", 61.86, 0), record("satcom", "rsync, bbr", 618.6, 0)]));
        assert!(plot.contains("width=\"168.0\"") && plot.contains(">3.00<"), "{plot}");
        assert!(plot.contains("width=\"560.0\"") && plot.contains(">30.0 …<"), "{plot}");
        assert_eq!(plot.matches("<path").count(), 1, "the goal is ours alone: {plot}");
    }
}
