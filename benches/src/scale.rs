//! What a fleet costs each of its nodes as it grows, as a page with a table and a plot. Counts are of a simulation, and the same
//! on every machine; seconds are this machine's.

use std::fmt::Write as _;
use std::path::PathBuf;

use peat_blob_tests::scale::{Report, run as simulate};

use crate::Outcome;
use crate::measure::{MIB, resident_bytes};
use crate::page;

/// Fleets, each with ten times as many distributions as nodes.
const SIZES: [usize; 5] = [10, 30, 100, 300, 1000];
/// Those of a quick run.
const QUICK: usize = 2;

/// A figure of a report by which fleets are compared.
struct Figure {
    name: &'static str,
    of: fn(&Report) -> f64,
}

/// Per node and distribution: what does not grow with the fleet is the same in each line of the table.
const FIGURES: [Figure; 6] = [
    Figure { name: "envelopes that are news", of: |report| each(report, report.working.news) },
    Figure { name: "the same brought again", of: |report| each(report, report.working.repeats) },
    Figure { name: "hints", of: |report| each(report, report.working.hints) },
    Figure { name: "bytes", of: |report| each(report, report.working.bytes) },
    Figure { name: "calls of reconcile", of: |report| each(report, report.working.calls) },
    Figure { name: "microseconds of them", of: |report| each(report, report.working.seconds) * 1e6 },
];

fn each(report: &Report, of_a_node: f64) -> f64 {
    of_a_node / report.distributions as f64
}

/// Runs the fleets and writes `scale.md` and `scale.svg`.
///
/// # Errors
/// When an argument is not known, or the page cannot be read or written.
pub fn run(arguments: &[String]) -> Outcome<()> {
    let (mut sizes, mut out) = (&SIZES[..], None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--quick" => sizes = &SIZES[..QUICK],
            "--most" => {
                let most: usize = rest.next().ok_or("--most wants a number of nodes")?.parse()?;
                sizes = &SIZES[..SIZES.iter().filter(|nodes| **nodes <= most).count().max(QUICK)];
            }
            "--out" => out = Some(PathBuf::from(rest.next().ok_or("--out wants a directory")?)),
            other => return Err(format!("{other:?} is none of --quick, --most NODES, --out DIRECTORY").into()),
        }
    }
    let mut reports = Vec::new();
    for nodes in sizes {
        let report = simulate(*nodes, 10 * nodes);
        eprintln!("{nodes} nodes: {report:?}");
        if report.delivered < report.due {
            return Err(format!("{} of {} arrived among {nodes} nodes", report.delivered, report.due).into());
        }
        reports.push((report, resident_bytes()? / MIB));
    }
    let figures = table(&reports);
    print!("{figures}");
    let Some(out) = out else { return Ok(()) };
    let plotted = "![Of a node and a distribution, against a fleet of ten nodes](scale.svg)";
    page::write(&out.join("scale.md"), &format!("{plotted}\n\n{figures}"))?;
    Ok(std::fs::write(out.join("scale.svg"), plot(&reports))?)
}

fn table(reports: &[(Report, f64)]) -> String {
    let mut text = "| nodes | distributions | envelopes | receipts |".to_owned();
    let mut put = |line: std::fmt::Arguments<'_>| text.write_fmt(line).expect("a string takes all");
    FIGURES.iter().for_each(|figure| put(format_args!(" {} |", figure.name)));
    put(format_args!(
        " bytes to join, a node | frames in ten idle minutes | calls in them | MiB in all |\n|{}\n",
        "---|".repeat(14)
    ));
    for (report, memory) in reports {
        let Report { nodes, distributions, envelopes, delivered, .. } = report;
        put(format_args!("| {nodes} | {distributions} | {envelopes} | {delivered} |"));
        FIGURES.iter().for_each(|figure| put(format_args!(" {:.1} |", (figure.of)(report))));
        let (joining, idle) = (report.joining.bytes, report.idle);
        put(format_args!(" {joining:.0} | {:.0} | {:.1} | {memory:.0} |\n", idle.frames, idle.calls));
    }
    put(format_args!(
        "| grows as N to the | | {:.2} | {:.2} |",
        exponent(reports, |report| report.envelopes as f64),
        exponent(reports, |report| report.delivered as f64)
    ));
    FIGURES.iter().for_each(|figure| put(format_args!(" {:.2} |", exponent(reports, figure.of))));
    put(format_args!(" {:.2} | | | |\n", exponent(reports, |report| report.joining.bytes)));
    text
}

/// The slope of a line through the logarithms (least squares), from the second fleet on: the smallest is one group.
fn exponent(reports: &[(Report, f64)], of: impl Fn(&Report) -> f64) -> f64 {
    let points: Vec<(f64, f64)> = reports
        .iter()
        .skip(usize::from(reports.len() > 2))
        .map(|(report, _)| ((report.nodes as f64).ln(), of(report).ln()))
        .collect();
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (above, below) =
        points.iter().fold((0.0, 0.0), |(a, b), point| (a + (point.0 - x) * (point.1 - y), b + (point.0 - x).powi(2)));
    above / below
}

/// A line for each figure, over the number of nodes, both logarithmic; each against its value in the smallest fleet.
fn plot(reports: &[(Report, f64)]) -> String {
    const COLOURS: [&str; FIGURES.len()] = ["#c2410c", "#a16207", "#15803d", "#0e7490", "#4338ca", "#be185d"];
    let x = |nodes: f64| 60.0 + (nodes / 10.0).log10() * 250.0;
    let y = |times: f64| 200.0 - times.log10() * 90.0;
    let mut body = String::new();
    let mut put = |line: std::fmt::Arguments<'_>| body.write_fmt(line).expect("a string takes all");
    for times in [0.1, 1.0, 10.0] {
        put(format_args!(
            "<path d=\"M60 {0:.1}H570\" stroke=\"#cbd5e1\"/><text x=\"8\" y=\"{0:.1}\">x {times}</text>\n",
            y(times)
        ));
    }
    for (report, _) in reports {
        put(format_args!("<text x=\"{:.1}\" y=\"312\">{}</text>\n", x(report.nodes as f64) - 10.0, report.nodes));
    }
    for ((number, figure), colour) in (0_u32..).zip(&FIGURES).zip(COLOURS) {
        let first = reports.first().map_or(1.0, |(report, _)| (figure.of)(report));
        let points: Vec<String> = reports
            .iter()
            .map(|(report, _)| format!("{:.1},{:.1}", x(report.nodes as f64), y((figure.of)(report) / first)))
            .collect();
        put(format_args!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n", points.join(" ")));
        put(format_args!("<text x=\"590\" y=\"{}\" fill=\"{colour}\">{}</text>\n", 110 + number * 18, figure.name));
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"780\" height=\"330\" viewBox=\"0 0 780 330\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"22\" font-size=\"15\">Of a node and a distribution, against a fleet of ten nodes</text>\n{body}</svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_with_the_square_has_an_exponent_of_two_and_the_plot_a_line_for_each_figure() {
        let report = |nodes| Report {
            nodes,
            distributions: 10 * nodes,
            envelopes: nodes * nodes,
            due: 1,
            delivered: 1,
            joining: Default::default(),
            working: peat_blob_tests::scale::Counts { bytes: nodes as f64, ..Default::default() },
            idle: Default::default(),
        };
        let reports = [10, 30, 100].map(|nodes| (report(nodes), 1.0));
        assert!((exponent(&reports, |report| report.envelopes as f64) - 2.0).abs() < 1e-9);
        assert_eq!(plot(&reports).matches("<polyline").count(), FIGURES.len());
        assert_eq!(table(&reports).lines().count(), 6);
    }
}
