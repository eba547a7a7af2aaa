//! How things look: for people as text and tables, for programs as JSON. Field names are the API's, in snake case, and ids,
//! sizes and times are as there. Never decides anything.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::HumanBytes;
use peat_blobapi::blob::scope::Scope as Whom;
use peat_blobapi::blob::{
    Distribution, DistributionState, File, GetDistributionResponse, Priority, Scope, SendResponse, Skipped, Target,
};
use peat_blobcore::model::Timestamp;
use serde_json::{Map, Value, json};

/// Text of others with every control character shown rather than obeyed.
pub(crate) fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A path, likewise.
pub(crate) fn path(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

/// The first ten digits of an id: enough for a person.
pub(crate) fn short(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}

/// A node as a person knows it.
pub(crate) fn node(name: &str, id: &str) -> String {
    if name.is_empty() { short(id).to_owned() } else { format!("{} ({})", printable(name), short(id)) }
}

/// A time, to the second.
pub(crate) fn time(millis: u64) -> String {
    let text = Timestamp::from_millis(millis).to_string();
    format!("{} {}Z", &text[..10], &text[11..19])
}

/// A number of things.
pub(crate) fn count(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// A table as wide as the terminal at most.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    if let Some((terminal_size::Width(width), _)) = terminal_size::terminal_size_of(std::io::stdout()) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.add_rows(rows);
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    let lines = table.to_string();
    lines.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Names and values, one a line.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    fields.iter().fold(String::new(), |mut text, (name, value)| {
        let newline = if text.is_empty() { "" } else { "\n" };
        write!(text, "{newline}{name:width$}  {value}").expect("writing to memory cannot fail");
        text
    })
}

/// The word for a state.
pub(crate) fn state(distribution: &Distribution) -> &'static str {
    use DistributionState as State;
    match distribution.state.as_known() {
        Some(State::DISTRIBUTION_STATE_NO_TARGETS) => "no targets",
        Some(State::DISTRIBUTION_STATE_PENDING) => "pending",
        Some(State::DISTRIBUTION_STATE_IN_PROGRESS) => "in progress",
        Some(State::DISTRIBUTION_STATE_COMPLETED) => "completed",
        Some(State::DISTRIBUTION_STATE_PARTIAL) => "partial",
        Some(State::DISTRIBUTION_STATE_EXPIRED) => "expired",
        Some(State::DISTRIBUTION_STATE_FAILED) => "failed",
        Some(State::DISTRIBUTION_STATE_CANCELLED) => "cancelled",
        Some(State::DISTRIBUTION_STATE_UNSPECIFIED) | None => "unknown",
    }
}

/// The word for a priority.
pub(crate) fn priority(distribution: &Distribution) -> &'static str {
    priority_word(distribution.priority.as_known())
}

/// The word for a priority that an answer may not know.
pub(crate) fn priority_word(priority: Option<Priority>) -> &'static str {
    match priority {
        Some(Priority::PRIORITY_BULK) => "bulk",
        Some(Priority::PRIORITY_LOW) => "low",
        Some(Priority::PRIORITY_ROUTINE | Priority::PRIORITY_UNSPECIFIED) => "routine",
        Some(Priority::PRIORITY_PRIORITY) => "priority",
        Some(Priority::PRIORITY_CRITICAL) => "critical",
        None => "unknown",
    }
}

/// Whom it is for, as `--to` takes it.
pub(crate) fn scope(scope: &Scope) -> String {
    match &scope.scope {
        Some(Whom::All(_)) => "all".to_owned(),
        Some(Whom::Nodes(nodes)) => nodes.nodes.join(" "),
        Some(Whom::Labels(selector)) => selector.clone(),
        None => "unknown".to_owned(),
    }
}

/// A path for programs: as text, and the bytes in hex where the text cannot say them.
fn path_fields(bytes: &[u8]) -> Map<String, Value> {
    let mut fields = Map::from_iter([("path".to_owned(), String::from_utf8_lossy(bytes).into())]);
    if std::str::from_utf8(bytes).is_err() {
        let hex = bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        fields.insert("path_hex".to_owned(), hex.into());
    }
    fields
}

/// A distribution for programs.
pub(crate) fn distribution_json(distribution: &Distribution) -> Value {
    json!({
        "distribution_id": distribution.distribution_id,
        "state": state(distribution),
        "sender": distribution.sender,
        "sender_name": distribution.sender_name,
        "bundle": distribution.bundle,
        "root_name": distribution.root_name,
        "file_count": distribution.file_count,
        "bytes": distribution.bytes,
        "removes": distribution.removes,
        "scope": scope(&distribution.scope),
        "priority": priority(distribution),
        "made_at": distribution.made_at,
        "expiry": distribution.expiry,
    })
}

/// A target for programs.
pub(crate) fn target_json(target: &Target) -> Value {
    json!({
        "endpoint_id": target.endpoint_id,
        "name": target.name,
        "state": target.state,
        "receipt": target.receipt,
        "bytes": target.bytes,
        "error": target.error,
        "time": target.time,
        "why": target.why,
    })
}

/// A file for programs.
pub(crate) fn file_json(file: &File) -> Value {
    let mut fields = path_fields(&file.path);
    fields.insert("size".to_owned(), file.size.into());
    fields.insert("blob".to_owned(), file.blob.clone().into());
    fields.insert("sha256".to_owned(), file.sha256.clone().into());
    fields.insert("held".to_owned(), file.held.into());
    fields.into()
}

/// Something that was not sent, for programs.
fn skipped_json(skipped: &Skipped) -> Value {
    let mut fields = path_fields(&skipped.path);
    fields.insert("reason".to_owned(), skipped.reason.clone().into());
    fields.into()
}

/// A distribution with its targets for programs: the object of `status`, `wait`, and the end of `send --wait`.
pub(crate) fn status_json(status: &GetDistributionResponse) -> Value {
    let mut document = distribution_json(&status.distribution);
    document["targets"] = status.targets.iter().map(target_json).collect();
    document["bytes_here"] = status.bytes_here.into();
    if !status.files.is_empty() {
        document["files"] = status.files.iter().map(file_json).collect();
    }
    document
}

/// The same for people.
pub(crate) fn status_text(status: &GetDistributionResponse) -> String {
    let distribution = &status.distribution;
    let mut text = fields(&[
        ("distribution", distribution.distribution_id.clone()),
        ("state", state(distribution).to_owned()),
        ("from", node(&distribution.sender_name, &distribution.sender)),
        ("to", printable(&scope(&distribution.scope))),
        ("content", content(distribution)),
        ("priority", priority(distribution).to_owned()),
        ("made at", time(distribution.made_at)),
        ("expiry", time(distribution.expiry)),
    ]);
    if let Some(bytes) = status.bytes_here {
        write!(text, "\n{:12}  {} verified", "here", HumanBytes(bytes)).expect("writing to memory cannot fail");
    }
    if !status.targets.is_empty() {
        text.push_str("\n\n");
        text.push_str(&targets_text(&status.targets));
    }
    if !status.files.is_empty() {
        text.push_str("\n\n");
        text.push_str(&files_text(&status.files));
    }
    text
}

fn content(distribution: &Distribution) -> String {
    let files = count(distribution.file_count, "file");
    if distribution.removes { format!("{files} to be removed") } else { format!("{files}, {}", HumanBytes(distribution.bytes)) }
}

/// A line per target with its reason.
fn targets_text(targets: &[Target]) -> String {
    let rows = targets.iter().map(|target| {
        let state = if target.state.is_empty() { "–".to_owned() } else { printable(&target.state) };
        let time = if target.time == 0 { String::new() } else { time(target.time) };
        [node(&target.name, &target.endpoint_id), state, HumanBytes(target.bytes).to_string(), time, printable(&target.why)]
    });
    table(["target", "state", "bytes", "since", "why"], rows)
}

fn files_text(files: &[File]) -> String {
    let rows = files.iter().map(|file| {
        let held = if file.held { "here" } else { "–" };
        [path(&file.path), HumanBytes(file.size).to_string(), file.blob.clone(), held.to_owned()]
    });
    table(["file", "size", "blob", "held"], rows)
}

/// What was sent, for programs.
pub(crate) fn sent_json(sent: &SendResponse) -> Value {
    json!({
        "distribution_id": sent.distribution_id,
        "bundle": sent.bundle,
        "file_count": sent.file_count,
        "bytes": sent.bytes,
        "files": sent.files.iter().map(file_json).collect::<Vec<_>>(),
        "skipped": sent.skipped.iter().map(skipped_json).collect::<Vec<_>>(),
    })
}

/// What was sent, for people.
pub(crate) fn sent_text(sent: &SendResponse) -> String {
    format!("distribution {}: {}, {}", sent.distribution_id, count(sent.file_count, "file"), HumanBytes(sent.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_others_are_shown_and_not_obeyed() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(path(b"\xff/ok"), "\u{fffd}/ok");
    }

    #[test]
    fn a_path_that_is_no_text_is_told_in_hex_too() {
        let file = File { path: b"a\xff".to_vec(), ..Default::default() };
        assert_eq!(file_json(&file)["path_hex"], "61ff");
        let file = File { path: b"a".to_vec(), ..Default::default() };
        assert!(file_json(&file).get("path_hex").is_none());
    }
}
