//! What a watched outbox takes for removed, and above all what it does not.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{Ledger, Watcher};
use crate::model::{BlobHash, Timestamp};

const WINDOW: Duration = Duration::from_secs(2);
const DATE: Timestamp = Timestamp::from_millis(1_000_000);

struct Bench {
    dir: tempfile::TempDir,
    ledger: Ledger,
    watcher: Watcher,
    now: Duration,
    sends: u32,
}

impl Bench {
    /// A root with these files, which were sent.
    fn new(files: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("root")).expect("a root");
        let ledger = Ledger::open(&dir.path().join("ledger.redb")).expect("a ledger");
        let watcher = Watcher::new(&dir.path().join("root"), "box", ledger.clone(), WINDOW, true);
        let mut bench = Self { dir, ledger, watcher, now: Duration::from_secs(100), sends: 0 };
        files.iter().for_each(|path| bench.write(path, path));
        bench.look(0);
        bench.look(2);
        bench.look(1);
        bench
    }

    fn restart(&mut self, deletions: bool) {
        self.watcher = Watcher::new(&self.root(), "box", self.ledger.clone(), WINDOW, deletions);
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("beneath the root")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.root().join(path)).expect("removed");
    }

    /// Looks after so many seconds, and does what a sender does: the files that were sent, those that were told to be gone, and what
    /// was said against it.
    fn look(&mut self, after: u64) -> (Vec<String>, Vec<String>, String) {
        self.now += Duration::from_secs(after);
        let looked = self.watcher.look(self.now, DATE, None).expect("looked");
        let sent: Vec<_> =
            looked.ready.iter().map(|file| (file.path.clone(), file.as_sent(BlobHash::from_bytes([1; 32])))).collect();
        let gone: Vec<_> = looked.gone.iter().map(|(path, file)| (path.clone(), file.as_gone(DATE))).collect();
        for (files, what) in [(&sent, "sends"), (&gone, "removes")] {
            self.sends += 1;
            let bundle = format!("{what} {}", self.sends);
            self.ledger.begin_sending("box", &bundle, files).expect("noted");
            self.ledger.end_sending("box", &bundle, true).expect("noted");
        }
        self.watcher.settled(sent.iter().map(|(path, _)| path.as_slice()));
        if !gone.is_empty() {
            self.watcher.told();
        }
        let names = |files: &[(Vec<u8>, _)]| files.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect();
        (names(&sent), names(&gone), looked.held.unwrap_or_default())
    }

    /// Looks for a while; nothing is to be taken for removed, and this is to be said.
    fn holds(&mut self, why: &str) {
        for _ in 0..5 {
            let (sent, gone, held) = self.look(2);
            assert_eq!((sent, gone), (vec![], vec![]), "{held}");
            assert!(held.contains(why), "{held:?} has not {why:?}");
        }
    }
}

fn none() -> (Vec<String>, Vec<String>, String) {
    Default::default()
}

fn gone(path: &str) -> (Vec<String>, Vec<String>, String) {
    (Vec::new(), vec![path.to_owned()], String::new())
}

#[test]
fn a_file_that_is_missed_for_the_window_is_told_of_once_and_is_a_new_one_when_it_is_back() {
    let mut bench = Bench::new(&["a", "d/b"]);
    bench.remove("d/b");
    assert_eq!([bench.look(1), bench.look(1)], [none(), none()], "not for long enough");
    assert_eq!(bench.look(1), gone("d/b"));
    assert_eq!([bench.look(2), bench.look(2)], [none(), none()]);
    bench.restart(true);
    assert_eq!([bench.look(2), bench.look(2)], [none(), none()], "nor after a restart");
    bench.write("d/b", "d/b");
    assert_eq!(bench.look(1), none());
    assert_eq!(bench.look(2).0, ["d/b"], "its receivers have it no more, though its content is the same");
    bench.remove("a");
    bench.look(1);
    bench.write("a", "other");
    assert_eq!(bench.look(2), none(), "it was written anew, not removed");
    assert_eq!(bench.look(2).0, ["a"]);
}

#[test]
fn what_goes_while_nobody_looks_is_told_of_and_what_goes_while_deletions_are_off_never() {
    let mut bench = Bench::new(&["a", "b", "c"]);
    bench.remove("a");
    bench.restart(true);
    assert_eq!([bench.look(2), bench.look(2)], [none(), gone("a")]);
    bench.restart(false);
    bench.remove("b");
    assert_eq!([bench.look(2), bench.look(2)], [none(), none()]);
    bench.restart(true);
    assert_eq!([bench.look(2), bench.look(2)], [none(), none()]);
    // In this order: a file that has the inode of one that is gone may be that one.
    bench.write("d", "d");
    bench.remove("c");
    bench.look(2);
    assert_eq!(bench.look(2).1, ["c"]);
}

#[test]
fn a_file_that_is_renamed_is_sent_under_its_new_name_before_the_old_one_goes() {
    let mut bench = Bench::new(&["a", "b"]);
    fs::rename(bench.root().join("a"), bench.root().join("c")).expect("renamed");
    assert_eq!(bench.look(1), none());
    assert_eq!(bench.look(2), (vec!["c".into()], vec![], String::new()));
    assert_eq!(bench.look(2), gone("a"));
    fs::rename(bench.root().join("b"), bench.root().join(".b")).expect("renamed");
    bench.look(1);
    assert_eq!(bench.look(2), gone("b"), "a name that is not sent is as good as none");
}

#[test]
fn a_file_that_became_a_directory_is_gone_and_one_that_became_a_link_or_cannot_be_reached_is_not() {
    let mut bench = Bench::new(&["a", "b", "d/c", "e"]);
    bench.write("new/x", "x");
    bench.remove("a");
    fs::rename(bench.root().join("new"), bench.root().join("a")).expect("renamed");
    bench.look(1);
    assert_eq!(bench.look(2), (vec!["a/x".into()], vec!["a".into()], String::new()));
    bench.remove("b");
    std::os::unix::fs::symlink("e", bench.root().join("b")).expect("a link");
    bench.holds("1 files are missed in directories that cannot be looked at");
    fs::rename(bench.root().join("d"), bench.dir.path().join("elsewhere")).expect("moved");
    std::os::unix::fs::symlink(bench.dir.path().join("elsewhere"), bench.root().join("d")).expect("a link");
    bench.holds("2 files are missed in directories that cannot be looked at");
    bench.remove("e");
    bench.look(2);
    let (_, gone, held) = bench.look(2);
    assert_eq!(gone, ["e"], "what is away is no reason to keep others");
    assert!(held.contains("2 files"), "{held}");
}

#[test]
fn a_root_that_is_away_empty_or_another_one_removes_nothing_and_goes_on_when_it_is_back() {
    let mut bench = Bench::new(&["a", "b"]);
    let (root, away) = (bench.root(), bench.dir.path().join("away"));
    // As when a mount falls off: the empty directory beneath it shows.
    fs::rename(&root, &away).expect("moved");
    assert!(bench.watcher.look(bench.now, DATE, None).is_err());
    fs::create_dir(&root).expect("a directory");
    bench.holds("2 files are missed, and the root is another directory");
    bench.restart(true);
    bench.holds("the root is another directory");
    // Also when somebody writes into it.
    bench.write("c", "c");
    bench.look(2);
    assert_eq!(bench.look(2).0, ["c"]);
    bench.holds("the root is another directory");
    fs::remove_dir_all(&root).expect("removed");
    fs::rename(&away, &root).expect("moved back");
    bench.look(2);
    assert_eq!(bench.look(2), gone("c"), "it was in the other one, and is not in this");
    assert_eq!(bench.look(2), none());
    bench.remove("a");
    bench.remove("b");
    bench.holds("2 files are missed, and the root is empty");
    bench.write(".here", "");
    bench.look(2);
    assert_eq!(bench.look(2).1, ["a", "b"], "a file says that the root is there");
    assert_eq!(bench.look(2), none());
}

#[test]
fn a_root_that_has_moved_with_all_that_it_had_goes_on_and_turning_deletions_off_accepts_what_it_lacks() {
    let mut bench = Bench::new(&["a", "b"]);
    let (root, old) = (bench.root(), bench.dir.path().join("old"));
    let move_it = || {
        let _none_at_first = fs::remove_dir_all(&old);
        fs::rename(&root, &old).expect("moved");
        fs::create_dir(&root).expect("a directory");
        for file in fs::read_dir(&old).expect("listed").map(|file| file.expect("a file")) {
            fs::copy(file.path(), root.join(file.file_name())).expect("copied");
        }
    };
    move_it();
    // Its files have other times and inodes, and the same content: the sender notes them as they are.
    bench.look(2);
    bench.look(2);
    assert_eq!(bench.look(2), none());
    bench.remove("a");
    bench.look(2);
    assert_eq!(bench.look(2), gone("a"));
    bench.write("c", "c");
    bench.look(2);
    bench.look(2);
    move_it();
    bench.remove("b");
    bench.look(2);
    bench.look(2);
    bench.holds("the root is another directory");
    bench.restart(false);
    bench.look(2);
    bench.restart(true);
    assert_eq!([bench.look(2), bench.look(2)], [none(), none()]);
    bench.write("d", "d");
    bench.remove("c");
    bench.look(2);
    assert_eq!(bench.look(2).1, ["c"]);
}

#[test]
fn what_lay_on_a_file_system_beneath_the_root_stays_while_that_is_away() {
    let mut bench = Bench::new(&["a", "mount/b", "mount/d/c"]);
    // As if the directory had been a mount when its files were sent.
    let paths = [&b"mount/b"[..], b"mount/d/c"];
    let sent = bench.ledger.sent_files("box", paths.into_iter()).expect("read");
    let mounted = |file| super::SentFile { mounted: Some(true), ..file };
    let rows: Vec<_> = paths.iter().zip(sent).map(|(path, file)| (path.to_vec(), file.map(mounted))).collect();
    bench.ledger.note_sent("box", &rows).expect("noted");
    bench.remove("mount/b");
    fs::remove_dir_all(bench.root().join("mount/d")).expect("removed");
    bench.holds("2 files are missed in directories that cannot be looked at, or that were mounts");
    fs::remove_dir(bench.root().join("mount")).expect("removed");
    bench.holds("2 files are missed");
}

#[test]
fn a_path_that_another_root_has_sent_too_is_known_to_be() {
    let bench = Bench::new(&["a", "b"]);
    let rows = bench.ledger.sent_files("box", [&b"a"[..]].into_iter()).expect("read");
    let row = rows.into_iter().next().flatten().expect("it was sent");
    for root in ["another", "box2"] {
        bench
            .ledger
            .note_sent(root, &[(b"a".to_vec(), Some(row.clone())), (root.into(), Some(row.as_gone(DATE)))])
            .expect("noted");
    }
    let elsewhere = |root: &str, path: &[u8]| bench.ledger.is_sent_from_another(root, path).expect("read");
    assert!(elsewhere("box", b"a") && elsewhere("another", b"a") && elsewhere("another", b"b"));
    assert!(!elsewhere("box", b"b") && !elsewhere("box", b"box2") && !elsewhere("box2", b"another"));
}
