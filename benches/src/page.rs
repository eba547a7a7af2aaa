//! Pages of the documentation that hold figures: what stands between two marks is replaced, the rest is kept.

use std::path::Path;

use crate::Outcome;

/// What the page holds beside what is measured: it is replaced between two of these.
const MARK: &str = "<!-- figures -->";

/// Puts figures into a page.
///
/// # Errors
/// When it cannot be read or written, or has no place for them.
pub(crate) fn write(page: &Path, figures: &str) -> Outcome<()> {
    let text = std::fs::read_to_string(page)?;
    let mut parts = text.splitn(3, MARK);
    let (Some(before), Some(_), Some(after)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!("{} has not {MARK} twice", page.display()).into());
    };
    Ok(std::fs::write(page, format!("{before}{MARK}\n{figures}{MARK}{after}"))?)
}
