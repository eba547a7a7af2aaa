//! What the command line says: a profile by its name, what is changed of it, and what to run where.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use peat_blob_lab::{Direction, Duty, LabError, Partition, Profile, Reorder, host_index};

/// Runs programs in hosts (network namespaces) that thin links join. Needs root.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Makes a lab, runs a program in one of its hosts, prints what went where, and removes the lab.
    Run(Box<Run>),
    /// Lists the profiles.
    Profiles,
    /// Removes what labs left behind that were killed. Each new lab does so too.
    Sweep,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// What the lab is like; see `profiles`.
    #[arg(long)]
    profile: Profile,
    /// In which host the program runs; its end is the end of the lab.
    #[arg(long, default_value = "a")]
    pub(crate) host: String,
    /// A shell command that runs in another host meanwhile, and is killed in the end. Its output goes to standard error.
    #[arg(long, value_name = "HOST=COMMAND", value_parser = with)]
    pub(crate) with: Vec<(String, String)>,
    /// Writes all packets, as hosts send them, into this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,
    /// Bits in a second, of each link: 256k, 2M, 1G.
    #[arg(long, value_parser = rate)]
    rate: Option<u64>,
    /// The same of what one host sends (up) or what comes to it (down), where it is another: b,up,256k.
    #[arg(long, value_name = "HOST,up|down,RATE", value_parser = rate_of)]
    rate_of: Vec<((usize, Direction), u64)>,
    /// Milliseconds from one host to its neighbour and back.
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    rtt: Option<Duration>,
    /// Milliseconds that a packet takes longer at most.
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    jitter: Option<Duration>,
    /// Percentage of packets lost.
    #[arg(long, value_name = "PERCENT")]
    loss: Option<f64>,
    /// Percentage of packets that arrive twice.
    #[arg(long, value_name = "PERCENT")]
    duplicate: Option<f64>,
    /// Percentage of packets that are held back, and for how many milliseconds.
    #[arg(long, value_name = "PERCENT,MS", value_parser = reorder)]
    reorder: Option<Reorder>,
    /// Bytes that wait for a link at most.
    #[arg(long, value_name = "BYTES")]
    queue: Option<u64>,
    /// Seconds for which links work, and for which they do not, by turns.
    #[arg(long, value_name = "ON,OFF", value_parser = duty)]
    duty: Option<Duty>,
    /// The greatest IP packet, in bytes.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Nothing passes between two hosts from one time to another, in seconds from the start: a,b,10,20.
    #[arg(long, value_name = "HOST,HOST,FROM,UNTIL", value_parser = cut)]
    cut: Vec<Partition>,
    /// What all that is random follows from.
    #[arg(long)]
    seed: Option<u64>,
    /// The program, and its arguments. The addresses of the hosts are in its environment: LAB_A, LAB_B, ...
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

impl Run {
    /// The profile with all changes.
    pub(crate) fn profile(&self) -> Result<Profile, LabError> {
        let mut profile = self.profile.clone();
        let link = &mut profile.link;
        link.rate = self.rate.unwrap_or(link.rate);
        link.delay = self.rtt.map_or(link.delay, |rtt| rtt / 2);
        link.jitter = self.jitter.unwrap_or(link.jitter);
        link.loss = self.loss.map_or(link.loss, |percent| percent / 100.0);
        link.duplicate = self.duplicate.map_or(link.duplicate, |percent| percent / 100.0);
        link.reorder = self.reorder.or(link.reorder);
        link.queue = self.queue.unwrap_or(link.queue);
        link.duty = self.duty.or(link.duty);
        profile.rates.extend(self.rate_of.iter().copied());
        profile.mtu = self.mtu.unwrap_or(profile.mtu);
        profile.seed = self.seed.unwrap_or(profile.seed);
        profile.partitions.extend(&self.cut);
        profile.check()?;
        Ok(profile)
    }
}

/// The profiles, one a line.
pub(crate) fn profiles() -> String {
    Profile::NAMED.iter().map(|(name, what)| format!("{name:8} {what}\n")).collect()
}

fn with(text: &str) -> Result<(String, String), String> {
    let (host, command) = text.split_once('=').ok_or("HOST=COMMAND, as in b='iperf3 -s'")?;
    Ok((host.into(), command.into()))
}

fn rate(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number.ok_or_else(|| "bits in a second, as in 256k, 2M, 1G".into())
}

fn rate_of(text: &str) -> Result<((usize, Direction), u64), String> {
    let [name, direction, bits] = text.split(',').collect::<Vec<_>>()[..] else { return Err("HOST,up|down,RATE".into()) };
    let direction = match direction {
        "up" => Direction::Up,
        "down" => Direction::Down,
        other => return Err(format!("{other:?} is neither up nor down")),
    };
    Ok(((host(name)?, direction), rate(bits)?))
}

fn host(name: &str) -> Result<usize, String> {
    host_index(name).ok_or_else(|| format!("no host {name:?}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    Ok(seconds(text)? / 1000)
}

fn reorder(text: &str) -> Result<Reorder, String> {
    let (percent, by) = text.split_once(',').ok_or("PERCENT,MS")?;
    let percent: f64 = percent.parse().map_err(|_| format!("{percent:?} is no number"))?;
    Ok(Reorder { share: percent / 100.0, by: milliseconds(by)? })
}

fn duty(text: &str) -> Result<Duty, String> {
    let (on, off) = text.split_once(',').ok_or("ON,OFF")?;
    Ok(Duty { on: seconds(on)?, off: seconds(off)? })
}

fn cut(text: &str) -> Result<Partition, String> {
    let [one, other, from, until] = text.split(',').collect::<Vec<_>>()[..] else { return Err("HOST,HOST,FROM,UNTIL".into()) };
    Ok(Partition { one: host(one)?, other: host(other)?, from: seconds(from)?, until: seconds(until)? })
}
