//! Which name a file gets beneath an inbox. Text only: nothing here looks at a disk.

use super::inbox::Layout;
use crate::model::{DistributionId, EndpointId, FileEntry, MAX_COMPONENT_BYTES, RelativePath, Timestamp};

/// Where a file belongs: at its own path, or when that is unsafe at `{distribution}.bin`, with the file's index before the
/// suffix when the distribution has several files.
pub(crate) fn inbox_path(id: &DistributionId, index: u32, file_count: u64, entry: &FileEntry) -> RelativePath {
    entry.relative_path().unwrap_or_else(|_| safe("", id, index, file_count))
}

/// Where a file goes in an inbox of this layout. With a folder before it a path may be too long to be safe.
pub(super) fn place(
    layout: Layout,
    sender: &EndpointId,
    id: &DistributionId,
    index: u32,
    file_count: u64,
    entry: &FileEntry,
) -> RelativePath {
    let path = inbox_path(id, index, file_count, entry);
    match layout {
        Layout::Shared => path,
        Layout::Origin => RelativePath::parse(format!("{sender}/{path}").as_bytes())
            .unwrap_or_else(|_| safe(&format!("{sender}/"), id, index, file_count)),
    }
}

/// The path as its sender named it, where it lies in the sender's own folder.
pub(super) fn beneath_origin<'a>(path: &'a str, sender: &EndpointId) -> Option<&'a str> {
    path.strip_prefix(&sender.to_string())?.strip_prefix('/')
}

fn safe(folder: &str, id: &DistributionId, index: u32, file_count: u64) -> RelativePath {
    let number = if file_count > 1 { format!(".{index}") } else { String::new() };
    RelativePath::parse(format!("{folder}{id}{number}.bin").as_bytes()).expect("hex, digits and dots are a safe name")
}

/// The directory (empty for the inbox itself) and the name in it.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The name of a temporary file.
pub(super) fn temp(number: u64) -> String {
    format!(".peat-{number:016x}")
}

/// `name.conflict-<time>`, with a number from the second attempt on. The name is cut where the whole would be too long for a
/// file system; the time has no colons, which some file systems refuse.
pub(super) fn conflict(name: &str, now: Timestamp, attempt: u32) -> String {
    let time: String = now.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let number = if attempt == 0 { String::new() } else { format!("-{}", attempt + 1) };
    let suffix = format!(".conflict-{time}{number}");
    let mut end = name.len().min(MAX_COMPONENT_BYTES - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned() + &suffix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_name_tells_the_time_and_fits_whatever_the_name() {
        let now = Timestamp::from_millis(1_795_268_785_123);
        assert_eq!(conflict("plan.txt", now, 0), "plan.txt.conflict-20261121T134625.123Z");
        assert_eq!(conflict("plan.txt", now, 1), "plan.txt.conflict-20261121T134625.123Z-2");
        let long = conflict(&"ü".repeat(127), now, 0);
        assert!(long.len() <= MAX_COMPONENT_BYTES && long.ends_with("Z"), "{long}");
    }
}
