//! What calls for a look at a watched root, what does not, and that nothing falls between the looks.

use std::fs;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Ledger, Notices, WatchLimit, Watcher};
use crate::model::Timestamp;

struct Bench {
    dir: tempfile::TempDir,
    watcher: Watcher,
    notices: Notices,
}

impl Bench {
    /// A root that was looked at once, with these directories.
    fn new(directories: &[&str]) -> Self {
        Self::with(directories, false, WatchLimit::DEFAULT)
    }

    fn with(directories: &[&str], removals: bool, most: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for path in directories {
            fs::create_dir_all(dir.path().join("root").join(path)).expect("a directory");
        }
        fs::create_dir_all(dir.path().join("root")).expect("a root");
        let ledger = Ledger::open(&dir.path().join("ledger.redb")).expect("a ledger");
        let watcher = Watcher::new(&dir.path().join("root"), "box", ledger, Duration::ZERO, removals);
        let notices = Notices::new(removals, Arc::new(WatchLimit::new(most))).expect("the kernel has some");
        let mut bench = Self { dir, watcher, notices };
        bench.look();
        bench
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn write(&self, path: &str) {
        fs::write(self.at(path), path).expect("a file");
    }

    /// How many files a look finds, but for an error.
    fn look(&mut self) -> Option<usize> {
        let date = Timestamp::from_millis(1_000_000);
        let looked = self.watcher.look(Duration::ZERO, date, Some(&mut self.notices)).ok()?;
        Some(looked.ready.len() + looked.unsettled)
    }

    /// Whether what happened since calls for a look.
    fn calls(&self) -> bool {
        self.notices.drain()
    }
}

#[test]
fn a_file_that_is_closed_or_moved_in_calls_for_a_look_and_one_that_is_written_to_does_not() {
    let bench = Bench::new(&["deep/er"]);
    assert!(!bench.calls(), "a look by itself calls for none");
    let nothing = bench.notices.read().expect_err("nothing was told");
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    let mut file = File::create(bench.at("deep/er/file")).expect("made");
    file.write_all(b"some").expect("written");
    assert!(!bench.calls(), "it is still being written");
    drop(file);
    assert!(bench.calls(), "it was closed");
    fs::write(bench.dir.path().join("elsewhere"), "whole").expect("written");
    fs::rename(bench.dir.path().join("elsewhere"), bench.at("moved")).expect("moved");
    assert!(bench.calls(), "it was moved in");
    fs::read(bench.at("moved")).expect("read");
    assert!(!bench.calls(), "it was read");
}

#[test]
fn what_is_not_sent_calls_for_nothing_until_it_has_another_name() {
    let bench = Bench::new(&[".hidden/below", "seen"]);
    for path in [".x", "film.part", "text~", ".hidden/file", ".hidden/below/file", "seen/.x"] {
        bench.write(path);
    }
    fs::create_dir(bench.at(".new")).expect("a directory");
    std::os::unix::fs::symlink("/tmp", bench.at("seen/.link")).expect("a link");
    assert!(!bench.calls());
    fs::rename(bench.at("film.part"), bench.at("film")).expect("renamed");
    assert!(bench.calls());
}

#[test]
fn a_new_directory_is_watched_from_the_look_that_it_calls_for_and_what_was_put_there_before_is_found() {
    let mut bench = Bench::new(&[]);
    fs::create_dir_all(bench.at("new/deep")).expect("directories");
    // Nobody watches there yet.
    bench.write("new/deep/file");
    assert!(bench.calls(), "the directory was made");
    assert_eq!(bench.look(), Some(1));
    assert!(!bench.calls());
    bench.write("new/deep/other");
    assert!(bench.calls(), "it is watched now");
    fs::create_dir(bench.dir.path().join("tree")).expect("a directory");
    fs::write(bench.dir.path().join("tree/file"), "x").expect("written");
    fs::rename(bench.dir.path().join("tree"), bench.at("tree")).expect("moved");
    assert!(bench.calls(), "a directory was moved in");
    assert_eq!(bench.look(), Some(3));
}

#[test]
fn links_are_not_followed() {
    let mut bench = Bench::new(&[]);
    fs::create_dir(bench.dir.path().join("outside")).expect("a directory");
    std::os::unix::fs::symlink(bench.dir.path().join("outside"), bench.at("link")).expect("a link");
    bench.look();
    bench.calls();
    fs::write(bench.dir.path().join("outside/file"), "x").expect("written");
    assert!(!bench.calls());
}

#[test]
fn directories_that_are_gone_are_let_go_of_and_give_their_places_back() {
    let mut bench = Bench::with(&["a", "b/c"], false, 4);
    assert_eq!(bench.notices.failed(), None, "the root and three more");
    fs::remove_dir(bench.at("a")).expect("removed");
    fs::rename(bench.at("b"), bench.dir.path().join("away")).expect("moved");
    bench.look();
    bench.calls();
    fs::write(bench.dir.path().join("away/c/file"), "x").expect("written");
    assert!(!bench.calls(), "it is elsewhere");
    fs::create_dir_all(bench.at("x/y/z")).expect("directories");
    bench.look();
    assert_eq!(bench.notices.failed(), None, "again the root and three more");
    bench.calls();
    bench.write("x/y/z/file");
    assert!(bench.calls());
}

#[test]
fn more_directories_than_may_be_watched_end_it_and_all_places_come_back() {
    let mut bench = Bench::with(&["a", "b"], false, 3);
    assert_eq!(bench.notices.failed(), None);
    bench.write("a/file");
    fs::create_dir(bench.at("c")).expect("a directory");
    assert_eq!(bench.look(), Some(1), "it is looked at all the same");
    let why = bench.notices.failed().expect("there is no place for c");
    assert!(why.contains("too many directories"), "{why}");
    // Those of another root fit once these are dropped.
    let limit = Arc::new(WatchLimit::new(2));
    let one = |bench: &mut Bench| {
        bench.notices = Notices::new(false, Arc::clone(&limit)).expect("the kernel has some");
        bench.look();
        bench.notices.failed().is_none()
    };
    let (mut first, mut second) = (Bench::new(&["a"]), Bench::new(&["a"]));
    assert!(one(&mut first));
    assert!(!one(&mut second), "the first has both");
    drop(first);
    assert!(one(&mut second));
}

#[test]
fn what_is_removed_calls_for_a_look_only_where_somebody_is_told_of_it() {
    for removals in [false, true] {
        let mut bench = Bench::with(&["d"], removals, WatchLimit::DEFAULT);
        for path in ["d/one", "d/two", "d/.hidden"] {
            bench.write(path);
        }
        bench.look();
        bench.calls();
        fs::remove_file(bench.at("d/.hidden")).expect("removed");
        assert!(!bench.calls());
        fs::remove_file(bench.at("d/one")).expect("removed");
        assert_eq!(bench.calls(), removals);
        fs::rename(bench.at("d/two"), bench.dir.path().join("two")).expect("moved");
        assert_eq!(bench.calls(), removals);
    }
}

#[test]
fn a_root_that_goes_and_comes_again_is_missed_and_found() {
    let mut bench = Bench::new(&["d"]);
    let (root, away) = (bench.at(""), bench.dir.path().join("away"));
    fs::rename(&root, &away).expect("moved");
    assert!(bench.calls(), "it has gone");
    assert_eq!(bench.look(), None);
    fs::write(away.join("d/file"), "x").expect("written");
    fs::create_dir(bench.dir.path().join("other")).expect("a directory");
    assert!(!bench.calls(), "neither is it");
    fs::create_dir(&root).expect("made anew");
    assert!(bench.calls(), "it has come");
    assert_eq!(bench.look(), Some(0));
    bench.calls();
    bench.write("file");
    assert!(bench.calls(), "and is watched");
    assert_eq!(bench.look(), Some(1));
    fs::create_dir(bench.dir.path().join("root2")).expect("a directory");
    assert!(!bench.calls(), "its parent is not watched any more");
    fs::remove_dir_all(&root).expect("removed");
    assert!(bench.calls(), "it was removed");
    assert_eq!(bench.look(), None);
    fs::rename(&away, &root).expect("moved back");
    assert!(bench.calls(), "it was moved there");
    assert_eq!(bench.look(), Some(1));
    bench.calls();
    bench.write("d/file");
    assert!(bench.calls());
}

#[test]
fn notices_that_the_kernel_lost_call_for_a_look() {
    let bench = Bench::new(&[]);
    // As many as it keeps, none of which calls for a look.
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("a number");
    let most: u32 = most.trim().parse().expect("a number");
    // The same notice twice in a row is one.
    for _ in 0..=most / 2 {
        for path in ["one~", "two~"] {
            let _closed = File::create(bench.at(path)).expect("made");
        }
    }
    assert!(bench.calls());
    assert!(!bench.calls());
}
