//! One large file from process to process: ours, a QUIC stream of the same iroh, and TCP, by turns.

use crate::measure::{MIB, write_noise};
use crate::streams::Cost;
use crate::table::Row;
use crate::{Options, Outcome, pair, streams};

/// Measures all three by turns.
pub(crate) fn run(options: &Options) -> Outcome<Vec<Row>> {
    let directory = options.temporary()?;
    let root = directory.path().join("outbox");
    std::fs::create_dir(&root)?;
    write_noise(&root.join("large"), options.large, 2)?;
    let (mut ours, mut quic, mut tcp) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs {
        tcp.push(streams::tcp(options.large)?);
        quic.push(streams::quic(options.large)?);
        ours.push(pair::send(options, &root)?);
    }
    let mib = options.large as f64 / MIB;
    let rates = |seconds: Vec<f64>| seconds.into_iter().map(|seconds| mib / seconds).collect::<Vec<_>>();
    let seconds = |costs: &[Cost]| rates(costs.iter().map(|cost| cost.seconds).collect());
    let cpu = |costs: &[Cost]| costs.iter().map(|cost| cost.sender + cost.receiver).collect::<Vec<_>>();
    let whole: Vec<Cost> = ours.iter().map(|sent| sent.whole).collect();
    let of = |pick: fn(&pair::Sent) -> f64| ours.iter().map(pick).collect::<Vec<_>>();
    let (bytes, durable) = (rates(of(|sent| sent.bytes)), rates(of(|sent| sent.durable)));
    let peer = "a QUIC stream, no disk";
    let (quic_rates, quic_cpu) = (seconds(&quic), cpu(&quic));
    Ok(vec![
        Row::pairs(format!("fetch of {mib:.0} MiB: verified, written"), "MiB/s", &bytes, peer, &quic_rates),
        Row::pairs("the same, durable", "MiB/s", &durable, peer, &quic_rates),
        Row::pairs("send to receipt", "MiB/s", &seconds(&whole), peer, &quic_rates),
        Row::pairs("send to receipt", "MiB/s", &seconds(&whole), "TCP, no disk", &seconds(&tcp)),
        Row::pairs("processor time, both sides, send to receipt", "s", &cpu(&whole), peer, &quic_cpu),
        Row::pairs("of it the sender's", "s", &of(|sent| sent.whole.sender), "TCP, both sides", &cpu(&tcp)),
        Row::pairs("of it the receiver's", "s", &of(|sent| sent.whole.receiver), "TCP, both sides", &cpu(&tcp)),
    ])
}
