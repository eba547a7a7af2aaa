//! The rules of the inbox, one by one, on a real file system.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use super::testing::{Bench, Fault, NOW, sender, word};
use super::{Inbox, InboxPolicy, Layout, Ledger, Outcome, Owner};
use crate::ErrorKind;
use crate::model::{DistributionId, Timestamp};

const CONFLICT: &str = "a.conflict-20261121T134625.123Z";

#[test]
fn a_file_appears_whole_with_the_time_and_permissions_of_its_sender_but_no_set_uid() {
    let bench = Bench::new();
    let mut delivery = bench.make(1, 10, &[(b"sub/dir/run.sh", "#!/bin/sh\n")]);
    delivery.files[0].1.mode = 0o7755;
    assert_eq!(bench.deliver(&delivery), ["delivered"]);
    let meta = std::fs::metadata(bench.path("sub/dir/run.sh")).expect("the file");
    assert_eq!(meta.permissions().mode() & 0o7777, 0o755);
    assert_eq!(meta.modified().expect("a time"), SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_123));
    assert_eq!(bench.read("sub/dir/run.sh").as_deref(), Some("#!/bin/sh\n"));
}

#[test]
fn times_before_1970_and_beyond_all_file_systems_do_not_fail_a_delivery() {
    let bench = Bench::new();
    for (n, mtime) in [(1, -1), (2, i64::MIN), (3, i64::MAX)] {
        let mut delivery = bench.make(n, 10, &[(format!("f{n}").as_bytes(), "x")]);
        delivery.files[0].1.mtime = mtime;
        assert_eq!(bench.deliver(&delivery), ["delivered"]);
    }
    assert_eq!(std::fs::metadata(bench.path("f1")).expect("the file").mtime_nsec(), 999_000_000);
}

#[test]
fn the_same_delivery_again_writes_nothing_also_after_a_restart() {
    let bench = Bench::new();
    let delivery = bench.make(1, 10, &[(b"a", "one"), (b"b", "two")]);
    assert_eq!(bench.deliver(&delivery), ["delivered", "delivered"]);
    let inode = std::fs::metadata(bench.path("a")).expect("the file").ino();
    let bench = bench.reopen();
    assert_eq!(bench.deliver(&delivery), ["already there", "already there"]);
    assert_eq!(std::fs::metadata(bench.path("a")).expect("the file").ino(), inode);
    assert_eq!(bench.blobs.exports.get(), 2);
}

#[test]
fn the_latest_wins_whatever_the_order_of_arrival_and_restarts() {
    let bench = Bench::new();
    assert_eq!(bench.deliver(&bench.make(1, 20, &[(b"a", "new")])), ["delivered"]);
    let bench = bench.reopen();
    assert_eq!(bench.deliver(&bench.make(2, 10, &[(b"a", "old")])), ["superseded"]);
    assert_eq!(bench.read("a").as_deref(), Some("new"));
    assert_eq!(bench.deliver(&bench.make(3, 30, &[(b"a", "newer")])), ["delivered"]);
    assert_eq!(bench.deliver(&bench.make(1, 20, &[(b"a", "new")])), ["superseded"]);
    assert_eq!((bench.read("a").as_deref(), bench.names().len()), (Some("newer"), 1));
}

#[test]
fn of_two_made_at_the_same_time_the_greater_id_wins() {
    for order in [[1, 2], [2, 1]] {
        let bench = Bench::new();
        for id in order {
            bench.deliver(&bench.make(id, 10, &[(b"a", &format!("by {id}"))]));
        }
        assert_eq!(bench.read("a").as_deref(), Some("by 2"));
    }
}

#[test]
fn in_one_call_the_newest_is_written_and_the_older_ones_are_not() {
    let bench = Bench::new();
    let all = [1, 3, 2].map(|n| bench.make(n, u64::from(n), &[(b"a", &format!("version {n}"))]));
    let outcomes = bench.inbox.deliver(&all, &bench.blobs, NOW).expect("the inbox is in order");
    let words: Vec<String> = outcomes.iter().map(|files| word(&files[0].1)).collect();
    assert_eq!(words, ["superseded", "delivered", "superseded"]);
    assert_eq!((bench.read("a").as_deref(), bench.blobs.exports.get()), (Some("version 3"), 1));
}

#[test]
fn a_changed_file_of_the_same_size_is_delivered() {
    let bench = Bench::new();
    bench.deliver(&bench.make(1, 10, &[(b"a", "aaaa")]));
    assert_eq!(bench.deliver(&bench.make(2, 20, &[(b"a", "bbbb")])), ["delivered"]);
    assert_eq!((bench.read("a").as_deref(), bench.names().len()), (Some("bbbb"), 1));
}

#[test]
fn an_equal_file_that_is_there_is_acknowledged_and_not_rewritten() {
    let bench = Bench::new();
    bench.write("a", "same");
    let inode = std::fs::metadata(bench.path("a")).expect("the file").ino();
    assert_eq!(bench.deliver(&bench.make(1, 10, &[(b"a", "same")])), ["already there"]);
    assert_eq!(std::fs::metadata(bench.path("a")).expect("the file").ino(), inode);
    assert_eq!(bench.deliver(&bench.make(2, 5, &[(b"a", "older")])), ["superseded"], "the ledger has learnt of it");
    assert_eq!(bench.deliver(&bench.make(3, 20, &[(b"a", "same")])), ["already there"], "also from a newer distribution");
    assert_eq!(bench.deliver(&bench.make(4, 15, &[(b"a", "between")])), ["superseded"]);
}

#[test]
fn what_the_user_removed_stays_removed_until_something_newer_comes() {
    let bench = Bench::new();
    let delivery = bench.make(1, 10, &[(b"d/a", "one")]);
    bench.deliver(&delivery);
    std::fs::remove_dir_all(bench.path("d")).expect("the user may remove");
    let bench = bench.reopen();
    assert_eq!(bench.deliver(&delivery), ["already there"]);
    assert_eq!(bench.deliver(&bench.make(2, 5, &[(b"d/a", "older")])), ["superseded"]);
    assert!(bench.names().is_empty());
    assert_eq!(bench.deliver(&bench.make(3, 20, &[(b"d/a", "one")])), ["delivered"]);
}

#[test]
fn what_the_user_edited_stands_until_something_newer_comes_and_is_then_moved_aside() {
    let bench = Bench::new();
    let delivery = bench.make(1, 10, &[(b"a", "one")]);
    bench.deliver(&delivery);
    bench.write("a", "mine");
    assert_eq!(bench.deliver(&delivery), ["already there"]);
    assert_eq!(bench.read("a").as_deref(), Some("mine"));
    assert_eq!(bench.deliver(&bench.make(2, 20, &[(b"a", "two")])), ["delivered"]);
    assert_eq!((bench.read("a").as_deref(), bench.read(CONFLICT).as_deref()), (Some("two"), Some("mine")));
    bench.write("a", "mine again");
    assert_eq!(bench.deliver(&bench.make(3, 30, &[(b"a", "three")])), ["delivered"]);
    assert_eq!(bench.read(&format!("{CONFLICT}-2")).as_deref(), Some("mine again"));
    assert_eq!(bench.read(CONFLICT).as_deref(), Some("mine"));
}

#[test]
fn an_edit_that_keeps_size_and_time_is_an_edit_and_a_touch_is_none() {
    let bench = Bench::new();
    bench.deliver(&bench.make(1, 10, &[(b"a", "one"), (b"b", "one")]));
    let time = std::fs::metadata(bench.path("a")).expect("the file").modified().expect("a time");
    bench.write("a", "ONE");
    std::fs::File::options().write(true).open(bench.path("a")).expect("the file").set_modified(time).expect("a time");
    std::fs::File::options()
        .write(true)
        .open(bench.path("b"))
        .expect("the file")
        .set_modified(SystemTime::now())
        .expect("a time");
    assert_eq!(bench.deliver(&bench.make(2, 20, &[(b"a", "two"), (b"b", "two")])), ["delivered", "delivered"]);
    assert_eq!(bench.names(), ["a", CONFLICT, "b"]);
    assert_eq!(bench.read(CONFLICT).as_deref(), Some("ONE"));
}

#[test]
fn a_file_of_the_users_own_is_moved_aside_never_overwritten() {
    let bench = Bench::new();
    bench.write("a", "mine");
    assert_eq!(bench.deliver(&bench.make(1, 10, &[(b"a", "one")])), ["delivered"]);
    assert_eq!((bench.read("a").as_deref(), bench.read(CONFLICT).as_deref()), (Some("one"), Some("mine")));
}

#[test]
fn a_lost_ledger_delivers_again_and_skips_equal_files() {
    let bench = Bench::new();
    let delivery = bench.make(1, 10, &[(b"a", "one"), (b"b", "two")]);
    bench.deliver(&delivery);
    std::fs::remove_file(bench.path("b")).expect("the user may remove");
    let bench = bench.lose_ledger();
    assert_eq!(bench.deliver(&delivery), ["already there", "delivered"]);
    assert_eq!(bench.names(), ["a", "b"]);
}

#[test]
fn a_forgotten_distribution_is_delivered_again() {
    let bench = Bench::new();
    let (one, two) = (bench.make(1, 10, &[(b"a", "one")]), bench.make(2, 10, &[(b"b", "two")]));
    bench.deliver(&one);
    bench.deliver(&two);
    std::fs::remove_file(bench.path("a")).expect("the user may remove");
    std::fs::remove_file(bench.path("b")).expect("the user may remove");
    assert_eq!(bench.inbox.forget(&one.id).expect("a ledger"), 1);
    assert_eq!((bench.deliver(&one), bench.deliver(&two)), (vec!["delivered".into()], vec!["already there".into()]));
}

#[test]
fn a_directory_where_a_file_should_go_fails_and_loses_nothing() {
    let bench = Bench::new();
    bench.write("a/kept", "kept");
    let delivery = bench.make(1, 10, &[(b"a", "one"), (b"b", "two")]);
    assert_eq!(bench.deliver(&delivery), ["failed: \"a\": a directory of that name is in the way", "delivered"]);
    assert_eq!(bench.read("a/kept").as_deref(), Some("kept"));
    std::fs::rename(bench.path("a"), bench.path("away")).expect("the user may rename");
    assert_eq!(bench.deliver(&delivery), ["delivered", "already there"]);
}

#[test]
fn a_file_where_a_directory_is_needed_fails_and_loses_nothing() {
    let bench = Bench::new();
    bench.write("x/a", "kept");
    let outcome = bench.deliver(&bench.make(1, 10, &[(b"x/a/b/c", "one")]));
    assert_eq!(outcome, ["failed: \"x/a/b/c\": \"x/a\" is in the way and is not a directory"]);
    assert_eq!(bench.read("x/a").as_deref(), Some("kept"));
}

#[test]
fn a_link_to_the_outside_is_never_followed() {
    let bench = Bench::new();
    let canary = bench.dir.path().join("canary");
    symlink(&canary, bench.path("out")).expect("a link");
    symlink("..", bench.path("up")).expect("a link");
    let files: &[(&[u8], &str)] = &[(b"out/file", "evil"), (b"out/sub/new", "evil"), (b"up/canary/file", "evil")];
    assert_eq!(
        bench.deliver(&bench.make(1, 10, files)),
        [
            "failed: \"out/file\": \"out\" is a symbolic link, which is never followed",
            "failed: \"out/sub/new\": \"out\" is a symbolic link, which is never followed",
            "failed: \"up/canary/file\": \"up\" is a symbolic link, which is never followed",
        ]
    );
}

#[test]
fn a_link_or_pipe_under_the_very_name_is_moved_aside() {
    let bench = Bench::new();
    symlink(bench.dir.path().join("canary/file"), bench.path("a")).expect("a link");
    let pipe = std::process::Command::new("mkfifo").arg(bench.path("p")).status().expect("coreutils");
    assert!(pipe.success());
    assert_eq!(bench.deliver(&bench.make(1, 10, &[(b"a", "one"), (b"p", "two")])), ["delivered", "delivered"]);
    assert_eq!((bench.read("a").as_deref(), bench.read("p").as_deref()), (Some("one"), Some("two")));
    assert!(std::fs::symlink_metadata(bench.path(CONFLICT)).expect("moved aside").is_symlink());
}

#[test]
fn a_sender_replaces_only_its_own_files_where_the_policy_says_so() {
    let bench = Bench::with(Owner::Sender);
    bench.deliver(&bench.make(1, 10, &[(b"a", "one")]));
    let mut other = bench.make(2, 20, &[(b"a", "two"), (b"b", "two")]);
    other.sender = sender(2);
    let outcome = bench.deliver(&other);
    assert!(outcome[0].starts_with("failed for good: \"a\" belongs to sender 0101"), "{outcome:?}");
    assert_eq!((outcome[1].as_str(), bench.read("a").as_deref()), ("delivered", Some("one")));
    assert_eq!(bench.deliver(&bench.make(3, 30, &[(b"a", "three")])), ["delivered"]);
}

#[test]
fn a_missing_blob_and_a_damaged_one_fail_their_file_only() {
    let bench = Bench::new();
    let mut delivery = bench.make(1, 10, &[(b"a", "absent"), (b"b", "damaged"), (b"c", "fine"), (b"d", "short")]);
    delivery.files[0].1.blob = crate::model::BlobHash::from_bytes([7; 32]);
    bench.blobs.faults.borrow_mut().insert(delivery.files[1].1.blob, Fault::Damaged);
    delivery.files[3].1.size += 1;
    let outcome = bench.deliver(&delivery);
    assert!(outcome[0].starts_with("failed: \"a\": blob 0707"), "{outcome:?}");
    assert!(outcome[1].starts_with("failed: \"b\": the bytes written are not blob"), "{outcome:?}");
    assert_eq!(outcome[2], "delivered");
    assert!(outcome[3].starts_with("failed: \"d\": the bytes written are not"), "{outcome:?}");
    assert_eq!(bench.names(), ["c"]);
}

#[test]
fn what_the_store_finds_damaged_when_asked_is_missing_from_then_on() {
    let bench = Bench::new();
    let delivery = bench.make(1, 10, &[(b"a", "rotten")]);
    bench.blobs.faults.borrow_mut().insert(delivery.files[0].1.blob, Fault::Rotten);
    let outcomes = bench.inbox.deliver(std::slice::from_ref(&delivery), &bench.blobs, NOW).expect("the inbox is in order");
    let Outcome::Failed { error, retry: true } = &outcomes[0][0].1 else { panic!("{outcomes:?}") };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(bench.names().is_empty());
}

#[test]
fn a_full_disk_fails_with_its_kind_and_leaves_nothing() {
    let bench = Bench::new();
    bench.write("a", "mine");
    let delivery = bench.make(1, 10, &[(b"a", "a big one")]);
    bench.blobs.faults.borrow_mut().insert(delivery.files[0].1.blob, Fault::Full);
    let outcomes = bench.inbox.deliver(std::slice::from_ref(&delivery), &bench.blobs, NOW).expect("the inbox is in order");
    let Outcome::Failed { error, retry: true } = &outcomes[0][0].1 else { panic!("{outcomes:?}") };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(error.hint().as_deref(), Some("free space on the file system"));
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert_eq!((bench.names(), bench.read("a").as_deref()), (vec!["a".into()], Some("mine")));
    bench.blobs.faults.borrow_mut().clear();
    assert_eq!(bench.deliver(&delivery), ["delivered"]);
}

#[test]
fn files_that_belong_together_appear_together_or_not_at_all() {
    let bench = Bench::new();
    let mut delivery = bench.make(1, 10, &[(b"a", "one"), (b"b/c", "two"), (b"d", "three")]);
    delivery.together = true;
    bench.blobs.faults.borrow_mut().insert(delivery.files[2].1.blob, Fault::Full);
    let outcome = bench.deliver(&delivery);
    assert!(outcome[0].starts_with("failed: \"a\" is held back: 1 other files"), "{outcome:?}");
    assert!(outcome[1].starts_with("failed: \"b/c\" is held back"), "{outcome:?}");
    assert!(outcome[2].contains("No space left"), "{outcome:?}");
    assert!(!bench.path("a").exists() && !bench.path("b/c").exists());
    bench.blobs.faults.borrow_mut().clear();
    assert_eq!(bench.deliver(&delivery), ["delivered"; 3]);
}

#[test]
fn a_directory_in_the_way_of_one_holds_back_what_belongs_together() {
    let bench = Bench::new();
    bench.write("b/kept", "kept");
    let mut delivery = bench.make(1, 10, &[(b"a", "one"), (b"b", "two")]);
    delivery.together = true;
    let outcome = bench.deliver(&delivery);
    assert!(outcome[0].contains("held back") && outcome[1].contains("in the way"), "{outcome:?}");
    assert_eq!(bench.names(), ["b/", "b/kept"]);
}

#[test]
fn of_two_files_with_one_path_the_later_counts_in_one_call_and_in_several() {
    let bench = Bench::new();
    let both = bench.make(1, 10, &[(b"a", "first"), (b"a", "second")]);
    assert_eq!(bench.deliver(&both), ["superseded", "delivered"]);
    for order in [[0, 1], [1, 0]] {
        let bench = Bench::new();
        for file in order {
            let mut one = bench.make(1, 10, &[(b"a", "first"), (b"a", "second")]);
            one.files = vec![one.files[file].clone()];
            bench.deliver(&one);
        }
        assert_eq!((bench.read("a").as_deref(), bench.names().len()), (Some("second"), 1));
    }
}

#[test]
fn a_file_and_a_directory_of_one_name_in_one_distribution_fail_the_file() {
    let bench = Bench::new();
    let files: &[(&[u8], &str)] = &[(b"a/b", "one"), (b"a", "two"), (b"a-b", "three")];
    let outcome = bench.deliver(&bench.make(1, 10, files));
    assert_eq!(outcome, ["delivered", "failed for good: \"a\" is a file and also a directory in one distribution", "delivered"]);
    let bench = Bench::new();
    let mut delivery = bench.make(1, 10, files);
    delivery.together = true;
    assert!(bench.deliver(&delivery).iter().all(|outcome| outcome.starts_with("failed for good")));
    assert!(bench.names().is_empty());
}

#[test]
fn ten_thousand_files_of_one_distribution_cross_several_barriers() {
    let bench = Bench::new();
    let names: Vec<String> = (0..10_000).map(|n| format!("d{}/f{n}", n % 100)).collect();
    let files: Vec<(&[u8], &str)> = names.iter().map(|name| (name.as_bytes(), name.as_str())).collect();
    assert!(bench.deliver(&bench.make(1, 10, &files)).iter().all(|word| word == "delivered"));
    let newer: Vec<(&[u8], &str)> = names[..1500].iter().map(|name| (name.as_bytes(), "newer")).collect();
    let mut group = bench.make(2, 20, &newer);
    group.together = true;
    assert!(bench.deliver(&group).iter().all(|word| word == "delivered"), "also what is not split over barriers");
    assert_eq!(bench.names().len(), 10_100);
    assert_eq!((bench.read("d99/f9999").as_deref(), bench.read("d0/f0").as_deref()), (Some("d99/f9999"), Some("newer")));
}

#[test]
fn an_inbox_that_was_removed_is_made_again_and_one_that_cannot_be_says_so() {
    let bench = Bench::new();
    let delivery = bench.make(1, 10, &[(b"a", "one")]);
    std::fs::remove_dir_all(bench.path("")).expect("the user may remove");
    assert_eq!(bench.deliver(&delivery), ["delivered"]);
    let (file, ledger) = (bench.dir.path().join("canary/file"), bench.dir.path().join("other.redb"));
    let inbox = Inbox::open(&file, Ledger::open(&ledger).expect("a ledger"), InboxPolicy::default()).expect("the ledger is fine");
    let error = inbox.deliver(std::slice::from_ref(&delivery), &bench.blobs, NOW).expect_err("a file is no inbox");
    assert!(error.to_string().contains("cannot open the inbox's directory"), "{error}");
}

#[test]
fn an_inbox_that_nobody_can_write_to_fails_each_file_and_stays_open() {
    let bench = Bench::new();
    // Procfs refuses new files to root as well.
    let ledger = bench.path("other.redb");
    let inbox = Inbox::open(std::path::Path::new("/proc/self"), Ledger::open(&ledger).expect("a ledger"), InboxPolicy::default())
        .expect("the ledger is fine");
    let delivery = bench.make(1, 10, &[(b"a", "one"), (b"d/b", "two")]);
    let outcomes = inbox.deliver(std::slice::from_ref(&delivery), &bench.blobs, NOW).expect("the ledger is fine");
    for (_, outcome) in &outcomes[0] {
        let Outcome::Failed { error, retry: true } = outcome else { panic!("{outcome:?}") };
        assert!(error.to_string().contains("cannot make"), "{error}");
    }
}

#[test]
fn a_stamp_is_later_than_all_that_was_accepted_or_given_for_its_paths_and_survives_a_restart() {
    let bench = Bench::new();
    let at = Timestamp::from_millis;
    bench.deliver(&bench.make(1, 500, &[(b"a", "one")]));
    assert_eq!(bench.ledger.stamp(&[b"b"], at(100)).expect("a ledger"), at(100));
    assert_eq!(bench.ledger.stamp(&[b"b", b"a"], at(100)).expect("a ledger"), at(501));
    let bench = bench.reopen();
    assert_eq!(bench.ledger.stamp(&[b"b", b"\xff"], at(50)).expect("a ledger"), at(502), "the clock was set back");
    assert_eq!(bench.ledger.stamp(&[b"a"], at(9_000)).expect("a ledger"), at(9_000));
    assert_eq!(bench.ledger.stamp(&[b"c"], at(1)).expect("a ledger"), at(1));
}

#[test]
fn a_ledger_that_is_no_ledger_is_an_error_with_a_hint() {
    let bench = Bench::new();
    let ledger = bench.dir.path().join("canary/file");
    let error = Ledger::open(&ledger).expect_err("a text is no ledger");
    assert!(error.hint().is_some_and(|hint| hint.contains("move the ledger away")), "{error:?}");
    assert_eq!(bench.inbox.forget(&DistributionId::from_bytes([9; 32])).expect("a ledger"), 0);
}

fn by_origin() -> InboxPolicy {
    InboxPolicy { layout: Layout::Origin, ..InboxPolicy::default() }
}

#[test]
fn each_sender_has_a_folder_of_its_own_where_the_policy_says_so() {
    let bench = Bench::under(by_origin());
    let first = bench.make(1, 10, &[(b"d/a", "of one")]);
    let mut other = bench.make(2, 5, &[(b"d/a", "of two"), (b"../a", "odd")]);
    other.sender = sender(2);
    assert_eq!(bench.deliver(&first), ["delivered"]);
    assert_eq!(bench.deliver(&other), ["delivered", "delivered"], "an older file of another supersedes nothing");
    let (one, two, id) = ("01".repeat(32), "02".repeat(32), "02".repeat(32));
    assert_eq!(bench.read(&format!("{one}/d/a")).as_deref(), Some("of one"));
    assert_eq!(bench.read(&format!("{two}/d/a")).as_deref(), Some("of two"));
    assert_eq!(bench.read(&format!("{two}/{id}.1.bin")).as_deref(), Some("odd"), "what is unsafe stays in the folder too");
    // No path of one sender's leads into the folder of another.
    let mut intruder = bench.make(3, 20, &[(format!("{one}/d/a").as_bytes(), "not of one")]);
    intruder.sender = sender(2);
    assert_eq!(bench.deliver(&intruder), ["delivered"]);
    assert_eq!(bench.read(&format!("{one}/d/a")).as_deref(), Some("of one"));
    assert_eq!(bench.read(&format!("{two}/{one}/d/a")).as_deref(), Some("not of one"));
}

#[test]
fn a_path_that_is_too_long_in_its_senders_folder_gets_a_safe_name_there() {
    let bench = Bench::under(by_origin());
    let long = vec!["d"; 2040].join("/");
    assert_eq!(bench.deliver(&bench.make(1, 10, &[(long.as_bytes(), "deep")])), ["delivered"]);
    let one = "01".repeat(32);
    assert_eq!(bench.names(), [format!("{one}/"), format!("{one}/{one}.bin")]);
}

#[test]
fn another_layout_is_no_lost_ledger_and_what_was_accepted_under_a_name_is_before_what_is_sent_under_it() {
    let bench = Bench::new();
    let shared = bench.make(1, 10, &[(b"a", "one")]);
    bench.deliver(&shared);
    let bench = bench.reopen_under(by_origin());
    let entry = &shared.files[0].1;
    assert!(bench.inbox.knows(&shared.sender, &shared.id, 0, 1, entry).expect("a ledger"));
    assert!(!bench.inbox.knows(&shared.sender, &shared.id, 0, 1, &super::testing::entry(b"b", b"")).expect("a ledger"));
    let ahead = NOW.as_millis() + 1000;
    bench.deliver(&bench.make(2, ahead, &[(b"d/a", "from a clock that is ahead")]));
    assert_eq!(bench.ledger.stamp(&[b"d/a"], NOW).expect("a ledger").as_millis(), ahead + 1);
}

#[test]
fn a_file_keeps_of_its_senders_permissions_what_the_policy_says_and_its_time_if_it_says_so() {
    let kept = |policy: InboxPolicy, mode: u32| {
        let bench = Bench::under(policy);
        let mut delivery = bench.make(1, 10, &[(b"a", "x")]);
        delivery.files[0].1.mode = mode;
        assert_eq!(bench.deliver(&delivery), ["delivered"]);
        let meta = std::fs::metadata(bench.path("a")).expect("the file");
        let kept_time = meta.mtime() == 1_000_000_000;
        (meta.permissions().mode() & 0o7777, kept_time)
    };
    let default = InboxPolicy::default();
    assert_eq!(kept(default, 0o777), (0o755, true), "nobody else may write");
    assert_eq!(kept(default, 0o600), (0o600, true));
    assert_eq!(kept(InboxPolicy { mode: 0o7770, ..default }, 0o6777), (0o770, true), "set-uid is not for a policy to allow");
    assert_eq!(kept(InboxPolicy { mode: 0o640, mtime: false, ..default }, 0o755), (0o640, false));
}

#[test]
fn an_equal_file_that_is_there_keeps_its_own_time_and_permissions() {
    let bench = Bench::new();
    bench.write("a", "same");
    std::fs::set_permissions(bench.path("a"), std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let before = std::fs::metadata(bench.path("a")).expect("the file");
    assert_eq!(bench.deliver(&bench.make(1, 10, &[(b"a", "same")])), ["already there"]);
    let after = std::fs::metadata(bench.path("a")).expect("the file");
    assert_eq!((after.mode(), after.mtime_nsec(), after.ctime_nsec()), (before.mode(), before.mtime_nsec(), before.ctime_nsec()));
}

fn told(bench: &Bench) -> Vec<String> {
    let mut told = Vec::new();
    while let Some((number, arrival)) = bench.inbox.arrival().expect("a ledger") {
        bench.inbox.arrival_done(number).expect("a ledger");
        told.push(format!("{} {}", arrival.path, arrival.distribution.to_string().chars().next_back().expect("hex")));
    }
    told
}

#[test]
fn who_asks_is_told_of_each_file_until_he_says_that_he_has_seen_to_it_also_after_a_restart() {
    let asked = InboxPolicy { arrivals: true, ..InboxPolicy::default() };
    let bench = Bench::under(asked);
    bench.write("equal", "same");
    let delivery = bench.make(1, 10, &[(b"a", "one"), (b"equal", "same")]);
    bench.deliver(&delivery);
    let (number, first) = bench.inbox.arrival().expect("a ledger").expect("it came");
    assert_eq!((first.path.as_str(), first.bundle.as_str(), first.index), ("a", "a bundle", 0));
    assert_eq!((first.file, first.sender, first.made_at), (delivery.files[0].1.clone(), delivery.sender, delivery.made_at));
    let bench = bench.reopen();
    assert_eq!(bench.inbox.arrival().expect("a ledger").map(|(number, _)| number), Some(number), "nobody has seen to it");
    assert_eq!(told(&bench), ["a 1", "equal 1"]);
    bench.deliver(&delivery);
    bench.deliver(&bench.make(2, 5, &[(b"a", "older")]));
    assert!(told(&bench).is_empty(), "nothing came");
    bench.deliver(&bench.make(3, 20, &[(b"a", "three")]));
    let bench = bench.reopen();
    assert_eq!((bench.inbox.arrivals().expect("a ledger"), told(&bench).as_slice()), (1, &["a 3".to_owned()][..]));
    bench.deliver(&bench.make(4, 30, &[(b"a", "four")]));
    let bench = bench.reopen_under(InboxPolicy::default());
    assert_eq!(bench.inbox.arrivals().expect("a ledger"), 0, "nobody asks any more");
    bench.deliver(&bench.make(5, 40, &[(b"a", "five")]));
    assert_eq!(bench.inbox.arrivals().expect("a ledger"), 0);
}

fn with_sidecars() -> InboxPolicy {
    InboxPolicy { sidecar: true, ..InboxPolicy::default() }
}

fn described(bench: &Bench, path: &str) -> serde_json::Value {
    serde_json::from_str(&bench.read(path).expect("a sidecar")).expect("JSON")
}

#[test]
fn a_sidecar_says_what_is_known_of_a_file_and_is_replaced_with_it() {
    for together in [false, true] {
        let bench = Bench::under(with_sidecars());
        let mut delivery = bench.make(1, 10, &[(b"d/a", "one"), (b"b", "two")]);
        delivery.files[0].1.display_name = Some("\"odd\"\n".into());
        delivery.files[0].1.mode = 0o640;
        delivery.together = together;
        assert_eq!(bench.deliver(&delivery), ["delivered", "delivered"]);
        assert_eq!(bench.names(), ["b", "b.peat.json", "d/", "d/a", "d/a.peat.json"]);
        let mode = std::fs::metadata(bench.path("d/a.peat.json")).expect("a sidecar").permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "who may not read the file may not read of it");
        let said = described(&bench, "d/a.peat.json");
        assert_eq!((&said["path"], &said["size"], &said["priority"]), (&"d/a".into(), &3.into(), &"critical".into()));
        assert_eq!((&said["display_name"], &said["mode"]), (&"\"odd\"\n".into(), &"0640".into()));
        assert_eq!(said["blake3"], delivery.files[0].1.blob.to_string());
        assert_eq!(said["distribution"], delivery.id.to_string());
        assert_eq!(bench.deliver(&delivery), ["already there", "already there"]);
        let bench = bench.reopen();
        assert_eq!(bench.deliver(&bench.make(2, 20, &[(b"b", "two and more")])), ["delivered"]);
        assert_eq!(described(&bench, "b.peat.json")["size"], 12);
        assert_eq!(bench.deliver(&bench.make(3, 5, &[(b"b", "older")])), ["superseded"]);
        assert_eq!(described(&bench, "b.peat.json")["size"], 12);
        assert_eq!(bench.names().len(), 5);
    }
}

#[test]
fn a_sidecar_never_takes_a_name_that_anything_else_has() {
    let bench = Bench::under(with_sidecars());
    bench.write("a.peat.json", "the user's");
    let long = "n".repeat(255);
    let files: [(&[u8], &str); 4] = [(b"a", "one"), (b"b", "two"), (b"b.peat.json", "sent"), (long.as_bytes(), "long")];
    assert_eq!(bench.deliver(&bench.make(1, 10, &files)), ["delivered"; 4]);
    assert_eq!(bench.read("a.peat.json").as_deref(), Some("the user's"));
    assert_eq!(bench.read("b.peat.json").as_deref(), Some("sent"));
    assert_eq!(described(&bench, "b.peat.json.peat.json")["size"], 4);
    assert_eq!(bench.names().len(), 6, "{:?}", bench.names());
    // A newer version of the file beside it changes nothing of that, and a sidecar that was edited stays as it is.
    bench.write("b.peat.json.peat.json", "edited");
    let newer: [(&[u8], &str); 2] = [(b"b", "newer"), (b"b.peat.json", "sent again")];
    assert_eq!(bench.deliver(&bench.make(2, 20, &newer)), ["delivered"; 2]);
    assert_eq!(bench.read("b.peat.json").as_deref(), Some("sent again"));
    assert_eq!(bench.read("b.peat.json.peat.json").as_deref(), Some("edited"));
    // A file that is sent replaces a sidecar, whatever its time: nobody sent that.
    bench.deliver(&bench.make(3, 30, &[(b"c", "three")]));
    assert_eq!(bench.deliver(&bench.make(4, 25, &[(b"c.peat.json", "sent")])), ["delivered"]);
    assert_eq!(bench.read("c.peat.json").as_deref(), Some("sent"));
    assert!(!bench.names().iter().any(|name| name.contains("conflict")), "{:?}", bench.names());
}

#[test]
fn a_sidecar_goes_with_a_file_that_its_user_removed_and_is_forgotten_with_its_distribution() {
    let bench = Bench::under(with_sidecars());
    let delivery = bench.make(1, 10, &[(b"a", "one"), (b"b", "two"), (b"c", "three")]);
    bench.deliver(&delivery);
    std::fs::remove_file(bench.path("a")).expect("the user may remove");
    std::fs::remove_file(bench.path("b")).expect("the user may remove");
    bench.write("b.peat.json", "edited");
    let bench = bench.reopen();
    assert_eq!(bench.names(), ["b.peat.json", "c", "c.peat.json"]);
    assert_eq!(bench.inbox.forget(&delivery.id).expect("a ledger"), 3, "as many as there are files");
    assert_eq!(bench.deliver(&delivery), ["delivered", "delivered", "already there"]);
    assert_eq!(bench.names(), ["a", "a.peat.json", "b", "b.peat.json", "c", "c.peat.json"]);
    assert_eq!(bench.read("b.peat.json").as_deref(), Some("edited"));
}
