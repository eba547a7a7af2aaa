//! How far the parts of an image are, or the bytes of a blob: bars on a terminal, nothing elsewhere. Only shows; decides nothing.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use peat_blobapi::blob::{ImagePartState, ImageProgress};

use crate::output::Output;
use crate::show;

/// Parts that have a bar. A terminal is no longer than that.
const SHOWN_PARTS: usize = 20;

/// The bars, if somebody looks.
pub(super) struct Parts {
    all: Option<MultiProgress>,
    bars: BTreeMap<String, ProgressBar>,
}

impl Parts {
    pub(super) fn of(output: &Output) -> Self {
        Self { all: output.is_interactive().then(MultiProgress::new), bars: BTreeMap::new() }
    }

    /// How far a part is.
    pub(super) fn show(&mut self, progress: &ImageProgress) {
        let Some(all) = &self.all else { return };
        let key = format!("{} {}", progress.digest, progress.name);
        if !self.bars.contains_key(&key) && self.bars.len() == SHOWN_PARTS {
            return;
        }
        // A digest, or the name in an archive, of which the last part is often the same.
        let name =
            if progress.digest.is_empty() { &*progress.name } else { progress.digest.split(':').next_back().unwrap_or_default() };
        let name = show::printable(&name.chars().take(12).collect::<String>());
        let bar = self.bars.entry(key).or_insert_with(|| add(all, name, progress.size));
        bar.set_position(progress.bytes);
        bar.set_message(state(progress));
    }

    /// The bar of a single thing of so many bytes, for who counts them himself; hidden if nobody looks.
    pub(super) fn single(&self, name: &str, size: u64) -> ProgressBar {
        match &self.all {
            Some(all) => add(all, name.to_owned(), size),
            None => ProgressBar::hidden(),
        }
    }
}

impl Drop for Parts {
    /// Leaves the bars where they are.
    fn drop(&mut self) {
        self.bars.values().for_each(ProgressBar::abandon);
    }
}

/// What has become of a part, in a word.
fn state(progress: &ImageProgress) -> &'static str {
    match progress.state.as_known() {
        Some(ImagePartState::IMAGE_PART_STATE_DONE) => "done",
        Some(ImagePartState::IMAGE_PART_STATE_PRESENT) => "was there",
        Some(ImagePartState::IMAGE_PART_STATE_MOUNTED) => "mounted",
        _ => "",
    }
}

fn add(all: &MultiProgress, name: String, size: u64) -> ProgressBar {
    let template = "{prefix:16!} {bar:32.cyan} {bytes:>10} of {total_bytes:10} {wide_msg}";
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    let bar = all.add(ProgressBar::new(size).with_style(style.progress_chars("█▉▊▋▌▍▎▏ ")));
    bar.set_prefix(name);
    bar
}
