//! Files by targets: a sign for where each target stands with each file. What a node signs, it signs of a distribution as a whole; so
//! the files of one distribution have the same signs, and those of a bundle need not. Bounded, and says what it leaves out.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Table, presets};
use peat_blobapi::blob::{GetDistributionResponse, Target};

use crate::show;

/// Files that are shown at most; each distribution has the same share of them.
const ROWS: usize = 24;
/// Characters of a path that are shown at most.
const PATH_WIDTH: usize = 48;
/// Characters of a target's name that are shown at most.
const NAME_WIDTH: usize = 12;
/// Characters between two columns.
const GAP: usize = 2;

/// What a person sees for a state: the sign, and the word for it.
const SIGNS: [(&str, char, &str); 9] = [
    ("", '·', "nothing signed"),
    ("pending", '○', "pending"),
    ("fetching", '▸', "fetching"),
    ("held", '■', "held"),
    ("delivered", '✓', "delivered"),
    ("superseded", '≥', "superseded"),
    ("failed", '✗', "failed"),
    ("refused", '!', "refused"),
    ("cancelled", '–', "cancelled"),
];
/// What stands where a target is not meant, and for states of daemons to come.
const NOT_MEANT: char = ' ';
const UNKNOWN: (char, &str) = ('?', "unknown to this version");

/// The files of distributions by their targets, in at most so many columns of characters. Empty where no files are known.
pub(crate) fn text(statuses: &[GetDistributionResponse], width: usize) -> String {
    let share = (ROWS / statuses.len().max(1)).max(1);
    let rows: Vec<(String, BTreeMap<&str, &Target>)> = statuses
        .iter()
        .flat_map(|status| {
            let targets: BTreeMap<_, _> = status.targets.iter().map(|target| (target.endpoint_id.as_str(), target)).collect();
            status.files.iter().take(share).map(move |file| (shortened(&show::path(&file.path), PATH_WIDTH), targets.clone()))
        })
        .take(ROWS)
        .collect();
    let targets = in_order(statuses);
    if rows.is_empty() || targets.is_empty() {
        return String::new();
    }
    let names: Vec<_> = targets.iter().map(|target| shortened(&column_name(target), NAME_WIDTH)).collect();
    let path_width = rows.iter().map(|(path, _)| path.chars().count()).max().unwrap_or_default().max("file".len());
    let mut left = width.saturating_sub(path_width);
    let fits = names.iter().take_while(|name| {
        let needed = name.chars().count() + GAP;
        let fits = needed <= left;
        left = left.saturating_sub(needed);
        fits
    });
    let shown = fits.count().max(1);

    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(std::iter::once("file").chain(names.iter().take(shown).map(String::as_str)));
    let mut seen = BTreeSet::new();
    for (path, of) in &rows {
        let mut cells = vec![path.clone()];
        for target in &targets[..shown] {
            let sign = of.get(target.endpoint_id.as_str()).map(|target| sign(&target.state));
            seen.extend(sign);
            cells.push(sign.map_or(NOT_MEANT, |(sign, _)| sign).to_string());
        }
        table.add_row(cells);
    }
    table.column_iter_mut().for_each(|column| _ = column.set_padding((0, GAP as u16)));
    let mut lines: Vec<String> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    let files: u64 = statuses.iter().map(|status| status.distribution.file_count).sum();
    let more = |count: u64, thing: &str| format!("… and {} more", show::count(count, thing));
    if files > rows.len() as u64 {
        lines.push(more(files - rows.len() as u64, "file"));
    }
    if targets.len() > shown {
        lines.push(format!("{}: `why ID TARGET` asks for one", more((targets.len() - shown) as u64, "target")));
    }
    lines.push(seen.iter().map(|(sign, word)| format!("{sign} {word}")).collect::<Vec<_>>().join("  "));
    lines.join("\n")
}

/// All targets once: those that have something left to do first, since others may be cut off.
fn in_order(statuses: &[GetDistributionResponse]) -> Vec<&Target> {
    let mut all: BTreeMap<&str, (bool, &Target)> = BTreeMap::new();
    for target in statuses.iter().flat_map(|status| &status.targets) {
        let (is_done, _) = all.entry(&target.endpoint_id).or_insert((true, target));
        *is_done &= target.receipt;
    }
    let mut order: Vec<_> = all.into_values().collect();
    order.sort_by_key(|(is_done, target)| (*is_done, column_name(target)));
    order.into_iter().map(|(_, target)| target).collect()
}

fn column_name(target: &Target) -> String {
    if target.name.is_empty() { show::short(&target.endpoint_id).to_owned() } else { show::printable(&target.name) }
}

fn sign(state: &str) -> (char, &'static str) {
    SIGNS.iter().find(|(known, ..)| *known == state).map_or(UNKNOWN, |(_, sign, word)| (*sign, *word))
}

/// The text, or its end behind an ellipsis: of paths the end says most, and names that share a beginning differ there.
fn shortened(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most { text.to_owned() } else { std::iter::once('…').chain(text.chars().skip(length - most + 1)).collect() }
}

#[cfg(test)]
mod tests {
    use peat_blobapi::blob::{Distribution, File};

    use super::*;

    fn status(files: &[&str], targets: &[(&str, &str)]) -> GetDistributionResponse {
        let file = |path: &&str| File { path: path.as_bytes().to_vec(), ..Default::default() };
        let target = |(name, state): &(&str, &str)| Target {
            endpoint_id: format!("id of {name}"),
            name: (*name).to_owned(),
            state: (*state).to_owned(),
            receipt: matches!(*state, "delivered" | "superseded"),
            ..Default::default()
        };
        let distribution = Distribution { file_count: files.len() as u64, ..Default::default() };
        GetDistributionResponse {
            distribution: distribution.into(),
            targets: targets.iter().map(target).collect(),
            files: files.iter().map(file).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_bundle_is_files_by_targets_with_a_legend_of_what_is_seen() {
        let statuses = [
            status(&["orders.txt"], &[("bravo", "delivered"), ("charlie", "fetching")]),
            status(&["maps/north.bin"], &[("bravo", "refused"), ("delta", "")]),
        ];
        let expected = "\
file            bravo  charlie  delta
orders.txt      ✓      ▸
maps/north.bin  !               ·
! refused  · nothing signed  ▸ fetching  ✓ delivered";
        assert_eq!(text(&statuses, 80), expected);
    }

    #[test]
    fn who_is_not_done_comes_first_and_what_does_not_fit_is_told() {
        let targets: Vec<_> = (0..30).map(|index| format!("node-{index:02}")).collect();
        let targets: Vec<_> =
            targets.iter().map(|name| (name.as_str(), if name == "node-29" { "failed" } else { "delivered" })).collect();
        let files: Vec<_> = (0..100).map(|index| format!("file-{index}")).collect();
        let files: Vec<_> = files.iter().map(String::as_str).collect();
        let shown = text(&[status(&files, &targets)], 60);
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines[0].starts_with("file     node-29  node-00  node-01"), "{shown}");
        assert!(lines.iter().all(|line| line.chars().count() <= 60), "{shown}");
        assert_eq!(lines.len(), 1 + ROWS + 3, "{shown}");
        assert!(shown.contains("… and 76 files more\n… and 25 targets more"), "{shown}");
        assert!(shown.ends_with("✓ delivered  ✗ failed"), "{shown}");
    }

    #[test]
    fn names_of_others_are_cut_and_not_obeyed() {
        let long = "very/".repeat(40) + "deep.txt";
        let shown = text(&[status(&[&long, "a\u{1b}[2J"], &[("n\u{1b}", "new word")])], 80);
        assert!(shown.contains("…") && shown.contains("deep.txt") && !shown.contains('\u{1b}'), "{shown}");
        assert!(shown.ends_with("? unknown to this version"), "{shown}");
        assert_eq!(text(&[status(&[], &[("bravo", "held")])], 80), "", "there is nothing to show of files that are not known");
        assert_eq!(text(&[status(&["a"], &[])], 80), "");
    }
}
