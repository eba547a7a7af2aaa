//! The lab as it runs: real namespaces, devices, programs, and the clock. Root is needed: `tests/run lab`.
//!
//! A busy machine is late, so what is measured is the best of several.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use peat_blob_lab::{Lab, Link, Profile, Reorder};

const DEADLINE: Duration = Duration::from_secs(120);
const TRIES: usize = 8;

fn lab(profile: &Profile) -> Lab {
    Lab::new(profile).unwrap_or_else(|error| panic!("{error}"))
}

fn profile(name: &str) -> Profile {
    name.parse().expect("it has a name")
}

/// A socket in a host. What it waits for comes within the time given, or not at all.
fn socket(lab: &Lab, host: &str, wait: Duration) -> UdpSocket {
    let host = lab.host(host);
    let socket = host.enter(|| UdpSocket::bind((host.address(), 0))).expect("entered").expect("bound");
    socket.set_read_timeout(Some(wait)).expect("a socket");
    socket
}

fn receive(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => return Some(buffer[..length].to_vec()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            // A machine that is stopped for a moment interrupts waits that have an end (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "{what} did not happen");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A busy machine makes packets late, never early. So the most punctual of the first and of the last hundreds tell the rate.
#[test]
#[ignore = "needs root: tests/run lab"]
fn what_waits_leaves_within_two_percent_of_the_rate() {
    let (size, count) = (1000_usize, 1000_u32);
    let profile = Profile { link: Link::new(4_000_000, Duration::from_millis(10), 2_000_000), ..profile("lan") };
    let each = profile.link.sending(size as u64).as_secs_f64();
    let lab = lab(&profile);
    let (from, to) = (socket(&lab, "a", DEADLINE), socket(&lab, "b", Duration::from_secs(10)));
    from.connect(to.local_addr().unwrap()).unwrap();
    let (mut first, mut last) = (f64::INFINITY, f64::INFINITY);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..count {
                // IP and UDP add 28 bytes to each.
                let mut packet = vec![0; size - 28];
                packet[..4].copy_from_slice(&n.to_le_bytes());
                from.send(&packet).unwrap();
                wait_until("the medium takes it", || lab.counts().pair(0, 1).sent.packets + 100 > u64::from(n));
            }
        });
        let start = Instant::now();
        // Who is too busy to take a packet loses it. Then the next one tells.
        while let Some(packet) = receive(&to) {
            let n = u32::from_le_bytes(packet[..4].try_into().unwrap());
            let late = start.elapsed().as_secs_f64() - f64::from(n) * each;
            match n {
                0..200 => first = first.min(late),
                800.. => last = last.min(late),
                _ => {}
            }
            if n + 1 == count {
                break;
            }
        }
    });
    let drift = (last - first) / (800.0 * each);
    assert!(drift.abs() < 0.02, "a packet takes {drift} more than its time");
}

#[test]
#[ignore = "needs root: tests/run lab"]
fn a_round_trip_takes_its_time_and_little_more() {
    let lab = lab(&Profile { link: Link::new(100_000_000, Duration::from_millis(100), 50_000), ..profile("lan") });
    let (here, there) = (socket(&lab, "a", DEADLINE), socket(&lab, "b", DEADLINE));
    here.connect(there.local_addr().unwrap()).unwrap();
    there.connect(here.local_addr().unwrap()).unwrap();
    let round_trip = |_| {
        let start = Instant::now();
        here.send(b"there").unwrap();
        assert_eq!(receive(&there).as_deref(), Some(&b"there"[..]));
        there.send(b"back").unwrap();
        assert_eq!(receive(&here).as_deref(), Some(&b"back"[..]));
        start.elapsed()
    };
    let best = (0..TRIES).map(round_trip).min().unwrap();
    assert!((Duration::from_millis(200)..Duration::from_millis(210)).contains(&best), "{best:?}");
}

#[test]
#[ignore = "needs root: tests/run lab"]
fn the_medium_counts_what_hosts_send_and_get_and_loses_its_share() {
    let mut profile = Profile { seed: 5, ..profile("lan") };
    profile.link = Link { loss: 0.2, ..Link::new(20_000_000, Duration::from_millis(5), 1 << 20) };
    let lab = lab(&profile);
    let (from, to) = (socket(&lab, "a", DEADLINE), socket(&lab, "b", Duration::from_millis(100)));
    from.connect(to.local_addr().unwrap()).unwrap();
    let count = 3000_u64;
    let (received, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                received.fetch_add(u64::from(receive(&to).is_some()), Ordering::Relaxed);
            }
        });
        for n in 1..=count {
            from.send(&[0; 72]).unwrap();
            // No more than a socket's buffer holds, however busy the receiver is.
            let arrived = || received.load(Ordering::Relaxed) + lab.counts().pair(0, 1).lost.packets;
            wait_until("all but a few are lost or received", || arrived() + if n < count { 100 } else { 0 } >= n);
        }
        ended.store(true, Ordering::Relaxed);
    });
    let received = received.into_inner();
    let pair = lab.counts().pair(0, 1);
    assert_eq!((pair.sent.packets, pair.sent.bytes), (count, count * 100));
    assert_eq!((pair.delivered.packets, pair.delivered.packets + pair.lost.packets), (received, count));
    // 4.5 standard deviations.
    assert!((pair.lost.packets as f64 - 600.0).abs() < 4.5 * (3000.0 * 0.2 * 0.8_f64).sqrt(), "{pair:?}");
}

#[test]
#[ignore = "needs root: tests/run lab"]
fn a_stream_over_a_bad_chain_arrives_whole() {
    let mut profile = profile("mesh");
    profile.link.loss = 0.005;
    profile.link.duplicate = 0.01;
    profile.link.jitter = Duration::from_millis(3);
    profile.link.reorder = Some(Reorder { share: 0.01, by: Duration::from_millis(8) });
    let lab = lab(&profile);
    let last = lab.host("f");
    let listener = last.enter(|| TcpListener::bind((last.address(), 0))).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sent = bytes.clone();
    let mut stream = lab.host("a").enter(|| TcpStream::connect(address)).unwrap().unwrap();
    let sender = std::thread::spawn(move || stream.write_all(&sent).unwrap());
    let (mut incoming, _) = listener.accept().unwrap();
    incoming.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut received = Vec::new();
    incoming.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert!(received == bytes);
    let counts = lab.counts();
    let carried = counts.links().iter().find(|(name, _)| name == "d to e").unwrap().1.bytes;
    assert!(carried >= 1_000_000, "{counts}");
}

#[test]
#[ignore = "needs root: tests/run lab"]
fn nothing_passes_a_cut_until_it_is_taken_back() {
    let lab = lab(&profile("star:2"));
    let from = socket(&lab, "a", DEADLINE);
    let (b, c) = (socket(&lab, "b", DEADLINE), socket(&lab, "c", DEADLINE));
    let send = |text: &str, to: &UdpSocket| from.send_to(text.as_bytes(), to.local_addr().unwrap()).map(|_| ()).unwrap();
    lab.cut("b", "a");
    send("lost", &b);
    send("passes", &c);
    assert_eq!(receive(&c).as_deref(), Some(&b"passes"[..]));
    wait_until("the cut is counted", || lab.counts().pair(0, 1).cut.packets == 1);
    lab.join("a", "b");
    send("again", &b);
    assert_eq!(receive(&b).as_deref(), Some(&b"again"[..]));
}

#[test]
#[ignore = "needs root: tests/run lab"]
fn a_capture_has_each_packet_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lab.pcap");
    let lab = lab(&profile("lan"));
    lab.capture(&file).unwrap();
    let (from, to) = (socket(&lab, "a", DEADLINE), socket(&lab, "b", DEADLINE));
    for text in ["one", "three"] {
        from.send_to(text.as_bytes(), to.local_addr().unwrap()).unwrap();
        assert_eq!(receive(&to).as_deref(), Some(text.as_bytes()));
    }
    lab.end_capture().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    // Header of the file, and two packets with their headers of 16 bytes; IP and UDP are 28.
    assert_eq!(bytes.len(), 24 + (16 + 28 + 3) + (16 + 28 + 5));
    assert_eq!(bytes[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
    assert!(bytes.ends_with(b"three"));
}

#[test]
#[ignore = "needs root: tests/run lab"]
fn a_lab_that_goes_takes_processes_and_namespaces_with_it() {
    let lab = lab(&profile("lan"));
    let mut child =
        lab.host("b").command("sh").args(["-c", "sleep 1000 & echo $!; wait"]).stdout(Stdio::piped()).spawn().unwrap();
    let grandchild = first_line(&mut child);
    let namespace = lab.host("b").namespace();
    assert!(namespace.exists());
    drop(lab);
    assert!(!namespace.exists());
    wait_until("both end", || !runs(&child.id().to_string()) && !runs(&grandchild));
    assert!(!child.wait().unwrap().success());
}

#[test]
#[ignore = "needs root: tests/run lab"]
fn what_a_killed_lab_left_behind_is_swept_up_and_other_labs_stay() {
    let program = env!("CARGO_BIN_EXE_peat-blob-lab");
    let other = lab(&profile("lan"));
    let mut command = Command::new(program);
    command.args(["run", "--profile", "lan", "--", "sh", "-c", "echo $$; exec sleep 1000"]);
    let mut killed = command.stdout(Stdio::piped()).spawn().unwrap();
    let sleeper = first_line(&mut killed);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let prefix = format!("pbl-{}-", killed.id());
    let left =
        || std::fs::read_dir("/run/netns").unwrap().flatten().any(|e| e.file_name().to_string_lossy().starts_with(&prefix));
    assert!(left());
    assert!(Command::new(program).arg("sweep").status().unwrap().success());
    assert!(!left());
    wait_until("what ran there ends", || !runs(&sleeper));
    assert!(other.hosts().iter().all(|host| host.namespace().exists()));
}

#[test]
#[ignore = "needs root: tests/run lab"]
fn the_program_runs_in_its_host_and_its_exit_code_is_handed_on() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_peat-blob-lab")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let script = "ip -brief address show lab0 | grep -o '10.77.0.[0-9]*'; echo $LAB_A; exit 7";
    let (code, output) = run(&["run", "--profile", "star:2", "--host", "c", "--", "sh", "-c", script]);
    assert_eq!((code, output.as_str()), (Some(7), "10.77.0.3\n10.77.0.1\n"));
    let wrong = [["--profile", "lane", "a"], ["--profile", "lan", "c"]];
    for [flag, name, host] in wrong {
        assert_eq!(run(&["run", flag, name, "--host", host, "--", "true"]).0, Some(2));
    }
}

fn first_line(child: &mut std::process::Child) -> String {
    let mut line = String::new();
    let output = child.stdout.take().expect("it is piped");
    BufReader::new(output).read_line(&mut line).expect("it says something");
    line.trim().to_owned()
}

/// Whether a process is there, and is not merely waiting for its parent to notice its end.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
