//! Names that other nodes may send: odd ones work, unsafe ones go by the distribution's id, and none leads out of the inbox.

use proptest::prelude::*;

use super::testing::Bench;

#[test]
fn odd_but_safe_names_appear_as_they_are() {
    let bench = Bench::new();
    let (long, deep) = ("n".repeat(255), "deep/".repeat(800) + "file");
    let names =
        ["ü/日本 語.txt", "-rf", "--", "new\nline", " ", ".hidden", "...", "Case", "case", "a\\b", "\u{202e}txt", &long, &deep];
    let files: Vec<(&[u8], &str)> = names.iter().map(|name| (name.as_bytes(), *name)).collect();
    assert_eq!(bench.deliver(&bench.make(1, 10, &files)), vec!["delivered"; names.len()]);
    for name in &names[..names.len() - 1] {
        assert_eq!(bench.read(name).as_deref(), Some(*name), "case pairs and all");
    }
    assert_eq!(bench.read(&deep).as_deref(), Some(&*deep));
}

#[test]
fn a_path_as_long_as_a_manifest_may_have_is_delivered() {
    let bench = Bench::new();
    let longest = "a/".repeat(2047) + "ab";
    assert_eq!(longest.len(), 4096);
    let delivery = bench.make(1, 10, &[(longest.as_bytes(), "deep")]);
    let outcomes = bench.inbox.deliver(std::slice::from_ref(&delivery), &bench.blobs, super::testing::NOW).expect("in order");
    assert!(matches!(outcomes[0][0].1, super::Outcome::Delivered), "{outcomes:?}");
}

#[test]
fn an_edited_file_of_the_longest_name_can_still_be_moved_aside() {
    let bench = Bench::new();
    let long = "n".repeat(255);
    bench.deliver(&bench.make(1, 10, &[(long.as_bytes(), "one")]));
    bench.write(&long, "mine");
    assert_eq!(bench.deliver(&bench.make(2, 20, &[(long.as_bytes(), "two")])), ["delivered"]);
    assert_eq!(bench.names().len(), 2);
}

#[test]
fn unsafe_names_go_by_the_distributions_id_and_nowhere_else() {
    let id = "01".repeat(32);
    let longer = vec![b'x'; 256];
    let too_long = b"a/".repeat(2048);
    let names: [&[u8]; 12] = [
        b"..",
        b"../canary/file",
        b"a/../../canary/file",
        b"/etc/passwd",
        b"",
        b"a//b",
        b"a/",
        b"./a",
        b"nul\0",
        b"\xff",
        &longer,
        &too_long,
    ];
    for name in names {
        let bench = Bench::new();
        assert_eq!(bench.deliver(&bench.make(1, 10, &[(name, "content")])), ["delivered"]);
        assert_eq!(bench.names(), [format!("{id}.bin")], "{name:?}");
    }
    let bench = Bench::new();
    let files: Vec<(&[u8], &str)> = names.iter().map(|name| (*name, "content")).collect();
    assert_eq!(bench.deliver(&bench.make(1, 10, &files)), vec!["delivered"; names.len()]);
    let mut expected: Vec<String> = (0..names.len()).map(|index| format!("{id}.{index}.bin")).collect();
    expected.sort();
    assert_eq!(bench.names(), expected);
}

fn component() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => prop::sample::select(vec![&b"a"[..], b"b", b"canary", b"file", b"out"]).prop_map(<[u8]>::to_vec),
        3 => prop::sample::select(vec![&b".."[..], b".", b"", b"\0", b"\xff", b"..."]).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_path_at_all_reaches_out_of_the_inbox(
        paths in proptest::collection::vec(proptest::collection::vec(component(), 1..6), 1..12),
        together: bool,
    ) {
        let bench = Bench::new();
        // A trap: a link to the outside under a name that the paths use.
        std::os::unix::fs::symlink("../canary", bench.path("out")).expect("a link");
        let paths: Vec<Vec<u8>> = paths.iter().map(|parts| parts.join(&b'/')).collect();
        let files: Vec<(&[u8], &str)> = paths.iter().map(|path| (path.as_slice(), "evil")).collect();
        let mut delivery = bench.make(1, 10, &files);
        delivery.together = together;
        // Also asserts that the canary is untouched and nothing is left over.
        bench.deliver(&delivery);
    }
}
