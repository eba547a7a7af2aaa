//! Hostile clients of a real daemon: for every call a table of requests and what must come, and callers who do not go on. It neither
//! crashes, nor leaks, nor blocks, and what it has stays as it was.
#![allow(clippy::unwrap_used, reason = "in a test")]

mod callers;
mod every;
mod flood;
mod segments;
#[path = "../process/service.rs"]
#[allow(dead_code, reason = "shared with the tests of the process")]
mod service;
mod subject;
mod table;
mod wire;

use peat_blobapi::reflection::FILES;
use subject::Subject;
use table::TABLES;

/// What all requests together may add to the daemon's memory, at its highest: some twenty of the longest.
const MEMORY: u64 = 160 << 20;

/// The calls that the daemon says it serves, as `service/call`.
fn calls() -> Vec<String> {
    let calls = FILES.iter().flat_map(|file| {
        let of = |service: &'static str| {
            let call =
                move |symbol: &&str| symbol.strip_prefix(service)?.strip_prefix('.').map(|call| format!("{service}/{call}"));
            file.symbols.iter().filter_map(call)
        };
        file.services.iter().flat_map(move |service| of(service))
    });
    calls.collect()
}

#[test]
fn every_call_has_a_row() {
    let rows: Vec<_> =
        TABLES.iter().flat_map(|(service, rows)| rows.iter().map(move |row| format!("{service}/{}", row.call))).collect();
    let calls = calls();
    assert!(calls.len() > 50, "{calls:?}");
    for call in &calls {
        let count = rows.iter().filter(|row| *row == call).count();
        assert!(count >= 2, "{call} has {count} rows: write down what is hostile to it");
    }
    for row in &rows {
        assert!(calls.contains(row), "{row} is no call");
    }
}

#[test]
fn hostile_requests_are_answered_and_leave_nothing() {
    let subject = Subject::start("");
    subject.keep();
    let (held, files) = (subject.holds(), subject.files());
    subject.forget_peak();
    let before = subject.memory("VmRSS");
    let mut wrong = Vec::new();
    for (service, rows) in TABLES {
        for row in rows {
            wrong.extend(row.run(&subject.address, service, &subject.words).err());
        }
    }
    wrong.extend(every::run(&subject.address));
    let grown = subject.memory("VmHWM").saturating_sub(before);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(!subject.service.log().contains("panicked"), "{}", subject.service.log());
    assert!(grown < MEMORY, "{} MiB more at its highest", grown >> 20);
    subject.settles(files);
    assert_eq!(subject.holds(), held, "what was there is there, and nothing else");
    let head = wire::head("peat.blob.v1.BlobService/ReadBlob", "application/connect+proto", 71, "");
    let read = [&[0x0a, 64][..], blake3::hash(subject::KEPT).to_string().as_bytes()].concat();
    let answer = wire::exchange(&subject.address, &head, &wire::envelope(0, &read)).unwrap();
    assert!(answer.body.windows(subject::KEPT.len()).any(|window| window == subject::KEPT), "{answer:?}");
    subject.call("grpc.health.v1.Health/Check", "{}");
}
