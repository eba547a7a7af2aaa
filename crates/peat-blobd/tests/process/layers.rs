//! The socket of layers of a real process: good clients are served and bad ones leave nothing behind.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use peat_blobcore::handoff::varlink::{Client, ClientOptions, WhichRepository, wire};
use peat_blobcore::model::Sha256Digest;
use peat_blobcore::oci::Digest;
use sha2::{Digest as _, Sha256};

use crate::service::Service;

const DEADLINE: Duration = Duration::from_secs(60);
const ROUNDS: usize = 100;

fn digest(bytes: &[u8]) -> Digest {
    Digest::Sha256(Sha256Digest::from_bytes(Sha256::digest(bytes).into()))
}

fn connect(socket: &Path) -> (Client, u64) {
    let options = ClientOptions { patience: DEADLINE, answer: DEADLINE };
    let mut client = Client::connect(socket, options).unwrap();
    let handle = client.open_repository(&WhichRepository::Only).unwrap().handle;
    (client, handle)
}

fn pipe(bytes: &[u8]) -> OwnedFd {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(bytes).unwrap();
    reader.into()
}

/// A layer of one file in the stream, and its stream.
fn layer(content: &[u8]) -> Vec<u8> {
    [&[1][..], &u32::try_from(content.len()).unwrap().to_le_bytes(), content].concat()
}

/// Does what a client can do wrong, and goes away.
fn misbehave(socket: &Path, directory: &Path, round: usize) {
    let raw = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(socket).unwrap();
        // It may be cut off meanwhile.
        let _ = stream.write_all(bytes);
        stream
    };
    let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
    let put = |stream: OwnedFd, slots: &[OwnedFd]| {
        let (mut client, handle) = connect(socket);
        let slots: Vec<_> = slots.iter().map(|slot| slot.as_fd()).collect();
        assert!(client.put_layer(handle, &digest(b"none"), false, stream, &slots).is_err());
    };
    let file = [&[2][..], &4_u64.to_le_bytes(), &0_u32.to_le_bytes(), &1_u32.to_le_bytes(), b"f"].concat();
    match round % 10 {
        0 => drop(raw(br#"{"method":"org.composefs"#)),
        1 => {
            // Garbage ends a connection.
            assert_eq!(raw(b"\xff\xfe[\0").read(&mut [0]).unwrap_or_default(), 0);
        }
        2 => drop(raw(&[b'a'; 300_000])),
        3 => put(pipe(&file), &[open("/dev/null".as_ref())]),
        4 => put(open(directory), &[open(directory)]),
        5 => put(pipe(&file), &[open(directory)]),
        6 => put(pipe(&file), &(0..239).map(|_| open("/dev/null".as_ref())).collect::<Vec<_>>()),
        7 => {
            // A layer that is asked for and not read.
            let (mut client, handle) = connect(socket);
            drop(client.get_layer(handle, &digest(b"content")).unwrap());
        }
        8 => {
            // Many descriptors with a message that is none.
            let stream = UnixStream::connect(socket).unwrap();
            let null = open("/dev/null".as_ref());
            let fds = [null.as_fd(); 240];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(240))];
            let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
            assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
            let text = [io::IoSlice::new(b"{}\0")];
            rustix::net::sendmsg(&stream, &text, &mut control, rustix::net::SendFlags::NOSIGNAL).unwrap();
        }
        _ => {
            // A call whose answer nobody waits for.
            let (client, _) = connect(socket);
            drop(client);
            drop(raw(b"{\"method\":\"org.varlink.service.GetInfo\"}\0"));
        }
    }
}

#[test]
fn clients_that_are_bad_a_hundred_times_cost_no_descriptor() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("layers.sock");
    let mut service = Service::start(&format!("varlink = 'unix://{}'", socket.display()), &[]);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let (mut client, handle) = connect(&socket);
    let content = b"content".to_vec();
    let slot = OwnedFd::from(File::open(directory.path()).unwrap());
    let put = client.put_layer(handle, &digest(&content), false, pipe(&layer(&content)), &[slot.as_fd()]).unwrap();
    assert!(!put.already_present);
    let config = format!(r#"{{"rootfs":{{"diff_ids":["{}"]}}}}"#, digest(&content));
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        digest(config.as_bytes()),
        config.len(),
        digest(&content),
        content.len()
    );
    let layers = [wire::LayerRef { diff_id: digest(&content).to_string(), layer_verity: put.layer_verity }];
    let made = client.finalize_image(handle, &manifest, &config, &layers, Some("a:v1")).unwrap();
    assert_eq!(made.manifest_digest, digest(manifest.as_bytes()).to_string());
    drop(client);

    // What opens once and stays has opened once each has gone wrong.
    (0..10).for_each(|round| misbehave(&socket, directory.path(), round));
    let count = || std::fs::read_dir(format!("/proc/{}/fd", service.id())).unwrap().count();
    let settled = |least: usize| {
        let begun = Instant::now();
        loop {
            let now = count();
            if now <= least || begun.elapsed() > DEADLINE {
                return now;
            }
            std::thread::yield_now();
        }
    };
    // The daemon has others come and go of its own; with a layer in use there are some more than at the first look.
    let before = {
        let (mut client, handle) = connect(&socket);
        client.features().unwrap();
        client.close_repository(handle).unwrap();
        count()
    };
    (0..ROUNDS).for_each(|round| misbehave(&socket, directory.path(), round));
    let after = settled(before);
    assert!(after <= before, "{before} descriptors before, {after} after");
    let (mut client, handle) = connect(&socket);
    let mut out = Vec::new();
    let given = client.get_layer(handle, &digest(&content)).unwrap();
    given.open().unwrap().reader(1 << 20).copy_to(&digest(&content), &mut out).unwrap();
    assert_eq!(out, content);

    service.signal("TERM");
    service.hears("STOPPING=1");
    assert_eq!(service.ends(), Some(0), "{}", service.log());
    assert!(!socket.exists());
}
