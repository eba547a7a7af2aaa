//! The pure part of the library stays pure: it imports neither a runtime nor a file system, a clock or a socket.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules that decide. Everything else is effects.
const PURE: [&str; 5] = ["model", "document", "reconcile", "oci", "transfer/limits"];
const FORBIDDEN: [&str; 10] = [
    "tokio",
    "std::fs",
    "std::net",
    "std::thread",
    "std::io",
    "std::time::Instant",
    "std::time::SystemTime",
    "rustix",
    "redb",
    "getrandom",
];
/// What the pure modules may use of the rest of the crate.
const EFFECTS: [&str; 8] = ["identity", "replica", "content", "network", "transfer", "exchange", "driver", "node"];

#[test]
fn pure_modules_import_no_effects() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = 0;
    for module in PURE {
        for path in rust_files(&source.join(module)) {
            files += 1;
            let text = fs::read_to_string(&path).expect("readable");
            // Tests beside the code may do what they want.
            let code = text.split("#[cfg(test)]\nmod tests {").next().expect("splitting gives one part at least");
            for line in code.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
                let forbidden = FORBIDDEN.iter().any(|name| mentions(line, name));
                let effects = EFFECTS.iter().any(|name| mentions(line, &format!("crate::{name}")));
                assert!(!forbidden && !effects, "{}: {line}", path.display());
            }
        }
        let head = fs::read_to_string(source.join(module).join("mod.rs")).expect("each pure module has a head");
        assert!(head.contains("#![deny(clippy::disallowed_methods, clippy::disallowed_types)]"), "{module}/mod.rs");
    }
    assert!(files > 20, "the pure modules were found");
}

fn mentions(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        let ends = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        ends(before) && ends(after)
    })
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        // Whole files of tests are named so.
        let is_test =
            path.file_stem().is_some_and(|name| ["tests", "laws", "bench", "queue_tests"].iter().any(|test| name == *test));
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            found.push(path);
        }
    }
    found
}
