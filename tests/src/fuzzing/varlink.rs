//! What other processes send to the socket of layers, and what a service may answer.

use peat_blobcore::handoff::varlink::message::{Call, Framer, Message, MessageError, reply};
use peat_blobcore::handoff::varlink::wire::{FinalizedImage, InspectedImage, OpenedRepository, PutLayerReport};

/// Bytes as messages, in pieces as long as the first byte says, each with a number that stands for a descriptor: how they are cut does
/// not matter, no number is lost or comes twice, and what is read of one is the same however often it is.
///
/// # Panics
/// When a law is broken.
pub fn varlink(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let (pieces, outcome) = messages(bytes, usize::from(*step) + 1, true);
    let (whole, _) = messages(bytes, usize::MAX, false);
    let content = |messages: &[Message<usize>]| messages.iter().map(|message| message.bytes.clone()).collect::<Vec<_>>();
    if outcome.is_ok() {
        assert_eq!(content(&pieces), content(&whole));
    }
    let numbers: Vec<_> = pieces.iter().flat_map(|message| message.descriptors.iter().copied()).collect();
    assert!(numbers.iter().copied().eq(0..numbers.len()), "{numbers:?}");
    for Message { bytes, .. } in &whole {
        if let Ok(call) = Call::parse(bytes) {
            let (interface, method) = call.split();
            assert!(call.method.ends_with(method) && call.method.starts_with(interface));
        }
        let _ = reply::<OpenedRepository>(bytes);
        let _ = reply::<InspectedImage>(bytes);
        let _ = reply::<PutLayerReport>(bytes);
        if let Ok(Err(refusal)) = reply::<FinalizedImage>(bytes) {
            assert!(refusal.to_string().len() < 2 * bytes.len() + 2000);
        }
    }
}

fn messages(bytes: &[u8], step: usize, numbered: bool) -> (Vec<Message<usize>>, Result<(), MessageError>) {
    let (mut framer, mut messages) = (Framer::default(), Vec::new());
    for (number, piece) in bytes.chunks(step).enumerate() {
        if let Err(error) = framer.push(piece, if numbered { vec![number] } else { Vec::new() }) {
            return (messages, Err(error));
        }
        loop {
            match framer.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Err(error)),
            }
        }
    }
    (messages, Ok(()))
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let texts = [
        r#"{"method":"org.varlink.service.GetInfo"}"#.to_owned(),
        r#"{"method":"org.composefs.Repository.OpenRepository","parameters":{"path":null}}"#.to_owned(),
        format!(
            r#"{{"method":"org.composefs.Oci.GetLayer","more":true,"parameters":{{"handle":1,"params":{{"diff_id":"{digest}"}}}}}}"#
        ),
        r#"{"parameters":{"handle":1,"hash_algorithm":"sha512","objects_device_id":2049}}"#.to_owned(),
        r#"{"parameters":{"manifest":"{\"a\":1}","config":"{}","referrers":[]},"continues":true}"#.to_owned(),
        format!(r#"{{"error":"org.composefs.Oci.NoSuchLayer","parameters":{{"diff_id":"{digest}"}}}}"#),
        r#"{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"x"}}"#.to_owned(),
        r#"{"error":"org.composefs.Oci.Other"}"#.to_owned(),
    ];
    let all: Vec<u8> = texts.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
    let each = texts.iter().map(|text| [&[text.len() as u8][..], text.as_bytes(), b"\0"].concat());
    each.chain([[&[6][..], &all].concat(), [&[255][..], &all].concat(), vec![0; 40]]).collect()
}
