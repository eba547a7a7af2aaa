//! Whether anything is heard over a connection.

use iroh::endpoint::Connection;

/// Who is silent for so many looks, one a second, is out of reach. A machine that slept has looked at nothing meanwhile.
pub(super) const SILENT_LOOKS: u32 = 60;

/// What was heard at the last look at a connection.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    frames: u64,
    /// Looks since something was.
    silent: u32,
}

impl Hearing {
    /// Looks, and says for how many looks nothing was heard.
    pub(super) fn look(&mut self, connection: &Connection) -> u32 {
        self.note(frames_heard(connection))
    }

    /// Whether something was heard since the last look.
    pub(super) fn has_news(&self, connection: &Connection) -> bool {
        self.frames != frames_heard(connection)
    }

    fn note(&mut self, frames: u64) -> u32 {
        self.silent = if self.frames == frames { self.silent.saturating_add(1) } else { 0 };
        self.frames = frames;
        self.silent
    }
}

/// Who has nothing to say is kept in touch with, and so says something every few seconds.
fn frames_heard(connection: &Connection) -> u64 {
    let heard = connection.stats().frame_rx;
    heard.acks + heard.path_acks + heard.ping + heard.stream
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_look_without_news_counts_and_news_begin_anew() {
        let mut hearing = Hearing::default();
        assert_eq!([3, 3, 3, 4, 4].map(|frames| hearing.note(frames)), [0, 1, 2, 0, 1]);
    }
}
