//! Messages of varlink (<https://varlink.org/Method-Call>): JSON that ends with a zero byte, and the descriptors that came with it.
//!
//! Pure. Whoever sends them is hostile: what a message may take is bounded before it is read.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Refusal;

/// Longest message: a manifest and a configuration of 4 MiB each, as strings in which every other byte is escaped.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Most descriptors with one message. Linux passes 253 at once.
pub const MAX_FRAME_DESCRIPTORS: usize = 240;
/// Most descriptors of one call, over all its replies.
pub const MAX_CALL_DESCRIPTORS: usize = 256;
/// Longest error that is looked into.
const MAX_FAULT_BYTES: usize = 64 * 1024;

/// Why bytes are no messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It does not end in time.
    #[error("a message has more than {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    /// More came with it than anybody needs.
    #[error("a message came with more than {MAX_FRAME_DESCRIPTORS} descriptors, or a call with more than {MAX_CALL_DESCRIPTORS}")]
    TooManyDescriptors,
    /// It is not what a call or reply looks like.
    #[error("it is no message of varlink: {0}")]
    Malformed(String),
}

impl From<serde_json::Error> for MessageError {
    fn from(error: serde_json::Error) -> Self {
        // What was sent is not repeated.
        Self::Malformed(error.to_string().chars().take(200).collect())
    }
}

/// A message and what came with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<D> {
    /// Its JSON, without the zero byte.
    pub bytes: Vec<u8>,
    /// In the order in which they were sent.
    pub descriptors: Vec<D>,
}

/// Takes what comes apart into messages.
#[derive(Debug)]
pub struct Framer<D> {
    buffer: Vec<u8>,
    /// How far there is no end of a message.
    scanned: usize,
    /// What came with the piece whose last byte is there: of the message that this byte is of, since a sender gives descriptors with
    /// the first bytes of their message, and the system ends a piece where some came.
    descriptors: Vec<(usize, Vec<D>)>,
}

impl<D> Default for Framer<D> {
    fn default() -> Self {
        Self { buffer: Vec::new(), scanned: 0, descriptors: Vec::new() }
    }
}

impl<D> Framer<D> {
    /// Takes in what came at once.
    ///
    /// # Errors
    /// When it is too much. Nothing that comes after counts.
    pub fn push(&mut self, piece: &[u8], descriptors: Vec<D>) -> Result<(), MessageError> {
        self.buffer.extend_from_slice(piece);
        if !descriptors.is_empty() {
            self.descriptors.push((self.buffer.len().saturating_sub(1), descriptors));
        }
        match self.descriptors.iter().map(|(_, some)| some.len()).sum::<usize>() > MAX_CALL_DESCRIPTORS {
            true => Err(MessageError::TooManyDescriptors),
            false => Ok(()),
        }
    }

    /// The next message, if all of it has come.
    ///
    /// # Errors
    /// When it is too long, or too many descriptors are of it.
    pub fn next_message(&mut self) -> Result<Option<Message<D>>, MessageError> {
        let end = self.buffer[self.scanned..].iter().position(|byte| *byte == 0).map(|at| self.scanned + at);
        self.scanned = self.buffer.len();
        if end.unwrap_or(self.buffer.len()) > MAX_MESSAGE_BYTES {
            return Err(MessageError::TooLong);
        }
        let Some(end) = end else { return Ok(None) };
        let rest = self.buffer.split_off(end + 1);
        let mut bytes = std::mem::replace(&mut self.buffer, rest);
        bytes.truncate(end);
        self.scanned = 0;
        let mut own = Vec::new();
        for (at, some) in std::mem::take(&mut self.descriptors) {
            match at <= end {
                true => own.extend(some),
                false => self.descriptors.push((at - end - 1, some)),
            }
        }
        match own.len() > MAX_FRAME_DESCRIPTORS {
            true => Err(MessageError::TooManyDescriptors),
            false => Ok(Some(Message { bytes, descriptors: own })),
        }
    }

    /// Bytes of what has begun and not ended.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }
}

/// What a call is, apart from its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The interface and the method.
    pub method: String,
    /// Whether there may be several replies.
    #[serde(default, skip_serializing_if = "is_not")]
    pub more: bool,
    /// Whether there is to be none.
    #[serde(default, skip_serializing_if = "is_not")]
    pub oneway: bool,
}

fn is_not(what: &bool) -> bool {
    !what
}

impl Call {
    /// What is called.
    ///
    /// # Errors
    /// When it is no call.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Interface and method.
    #[must_use]
    pub fn split(&self) -> (&str, &str) {
        self.method.rsplit_once('.').unwrap_or(("", &self.method))
    }
}

/// Reads the parameters of a call; what is not known is passed over.
///
/// # Errors
/// When some are missing or of another type.
pub fn parameters<'a, P: Deserialize<'a>>(bytes: &'a [u8]) -> Result<P, MessageError> {
    #[derive(Deserialize)]
    struct With<P> {
        parameters: P,
    }
    #[derive(Deserialize)]
    struct Has {
        parameters: Option<serde::de::IgnoredAny>,
    }
    // Calls without parameters may leave them out.
    if serde_json::from_slice::<Has>(bytes)?.parameters.is_none() {
        return Ok(serde_json::from_str("{}")?);
    }
    Ok(serde_json::from_slice::<With<P>>(bytes)?.parameters)
}

pub(super) fn encode_call<P: Serialize>(method: &str, more: bool, parameters: &P) -> Result<Vec<u8>, MessageError> {
    #[derive(Serialize)]
    struct Out<'a, P> {
        #[serde(flatten)]
        call: Call,
        parameters: &'a P,
    }
    encode(&Out { call: Call { method: method.to_owned(), more, oneway: false }, parameters })
}

/// One that gives nothing has no parameters: there are clients (zlink's) that read an empty object as none of their replies.
pub(super) fn encode_reply<P: Serialize>(parameters: &P, continues: bool) -> Result<Vec<u8>, MessageError> {
    #[derive(Serialize)]
    struct Out {
        #[serde(skip_serializing_if = "is_empty")]
        parameters: Value,
        #[serde(skip_serializing_if = "is_not")]
        continues: bool,
    }
    fn is_empty(parameters: &Value) -> bool {
        parameters.as_object().is_some_and(serde_json::Map::is_empty)
    }
    encode(&Out { parameters: serde_json::to_value(parameters)?, continues })
}

fn encode(message: &impl Serialize) -> Result<Vec<u8>, MessageError> {
    let mut bytes = serde_json::to_vec(message)?;
    match bytes.len() > MAX_MESSAGE_BYTES {
        true => Err(MessageError::TooLong),
        false => {
            bytes.push(0);
            Ok(bytes)
        }
    }
}

/// Why a call has no other reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Of the interface that it was of.
    Refused(Refusal),
    NoInterface(String),
    NoMethod(String),
    NotImplemented(String),
    BadParameter(String),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

pub(super) fn encode_fault(interface: &str, fault: Fault) -> Result<Vec<u8>, MessageError> {
    let standard = |name: &str, key: &str, value: String| {
        (format!("org.varlink.service.{name}"), serde_json::json!({ key: value.chars().take(200).collect::<String>() }))
    };
    let (error, parameters) = match fault {
        Fault::Refused(refusal) => {
            let (name, parameters) = refusal.named()?;
            (format!("{interface}.{name}"), parameters)
        }
        Fault::NoInterface(name) => standard("InterfaceNotFound", "interface", name),
        Fault::NoMethod(name) => standard("MethodNotFound", "method", name),
        Fault::NotImplemented(name) => standard("MethodNotImplemented", "method", name),
        Fault::BadParameter(name) => standard("InvalidParameter", "parameter", name),
    };
    encode(&serde_json::json!({ "error": error, "parameters": parameters }))
}

/// What a reply says, and whether others follow.
///
/// # Errors
/// When it is no reply.
pub fn reply<'a, P: Deserialize<'a>>(bytes: &'a [u8]) -> Result<Result<(P, bool), Refusal>, MessageError> {
    #[derive(Deserialize)]
    struct Head {
        error: Option<String>,
        #[serde(default)]
        continues: bool,
    }
    #[derive(Deserialize)]
    struct Failed {
        #[serde(default)]
        parameters: Value,
    }
    let Head { error, continues } = serde_json::from_slice(bytes)?;
    let Some(error) = error else { return Ok(Ok((parameters(bytes)?, continues))) };
    let parameters = match bytes.len() <= MAX_FAULT_BYTES {
        true => serde_json::from_slice::<Failed>(bytes)?.parameters,
        false => Value::Null,
    };
    Ok(Err(Refusal::read(&error, parameters)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_is_read_without_what_is_not_known() {
        let bytes = br#"{"method":"org.composefs.Oci.HasLayer","more":true,"upgrade":false,"parameters":{"x":[1,{"y":2}]}}"#;
        let call = Call::parse(bytes).expect("a call");
        assert_eq!((call.split(), call.more, call.oneway), (("org.composefs.Oci", "HasLayer"), true, false));
        assert_eq!(Call { method: "Alone".to_owned(), more: false, oneway: false }.split(), ("", "Alone"));
        for bad in ["", "[]", "{}", r#"{"method":1}"#, r#"{"method":"a"} b"#, "\u{1}"] {
            assert!(matches!(Call::parse(bad.as_bytes()), Err(MessageError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn what_is_refused_comes_back_as_it_was_meant() {
        let refusals = [
            Refusal::NoSuchLayer { diff_id: "x".to_owned() },
            Refusal::DiffIdMismatch { expected: "a".to_owned(), actual: "b".to_owned() },
            Refusal::FdLimitExceeded { fd_count: 300, max_per_frame: 240 },
            Refusal::InvalidHandle { handle: 7 },
        ];
        for refusal in refusals {
            for interface in ["org.composefs.Oci", "org.composefs.Repository"] {
                let mut bytes = encode_fault(interface, refusal.clone().into()).expect("short");
                assert_eq!(bytes.pop(), Some(0));
                assert_eq!(reply::<()>(&bytes).expect("a reply").expect_err("refused"), refusal);
            }
        }
        let mut bytes = encode_fault("", Fault::NoMethod("x".to_owned())).expect("short");
        bytes.pop();
        let refused = reply::<()>(&bytes).expect("a reply").expect_err("refused");
        assert!(matches!(refused, Refusal::Other { error, .. } if error == "org.varlink.service.MethodNotFound"));
    }

    #[test]
    fn a_message_without_end_and_too_many_descriptors_are_refused() {
        let mut framer = Framer::<u32>::default();
        let piece = vec![b'a'; 1 << 20];
        let failed = (0..17).find_map(|_| {
            framer.push(&piece, Vec::new()).expect("no descriptors");
            framer.next_message().err()
        });
        assert_eq!(failed, Some(MessageError::TooLong));
        let mut framer = Framer::default();
        framer.push(b"a", vec![0; 241]).expect("not for a call");
        framer.push(b"\0", Vec::new()).expect("none");
        assert_eq!(framer.next_message().expect_err("too many"), MessageError::TooManyDescriptors);
        let mut framer = Framer::default();
        framer.push(b"a", vec![0; 200]).expect("some");
        assert_eq!(framer.push(b"a", vec![0; 57]).expect_err("too many"), MessageError::TooManyDescriptors);
    }

    proptest! {
        /// However what was sent is cut, as the system does: a piece ends where descriptors came.
        #[test]
        fn messages_and_their_descriptors_come_out_as_they_went_in(
            sent in prop::collection::vec((prop::collection::vec(1..u8::MAX, 0..40), 0..3usize), 0..12),
            cuts in prop::collection::vec(1..50usize, 1..20),
        ) {
            let mut framer = Framer::default();
            let (mut expected, mut got, mut next, mut cut) = (Vec::new(), Vec::new(), 0, cuts.iter().cycle());
            let mut waiting: Vec<u8> = Vec::new();
            for (bytes, count) in sent {
                let descriptors: Vec<usize> = (next..next + count).collect();
                next += count;
                waiting.extend(&bytes);
                waiting.push(0);
                if count > 0 {
                    // Some of it comes with the descriptors, behind all that waited.
                    let within = (*cut.next().expect("endless")).min(bytes.len() + 1);
                    let upto = waiting.len() - (bytes.len() + 1) + within;
                    framer.push(&waiting[..upto], descriptors.clone()).expect("few");
                    waiting.drain(..upto);
                }
                expected.push(Message { bytes, descriptors });
                while let Some(message) = framer.next_message().expect("short") {
                    got.push(message);
                }
            }
            for piece in waiting.chunks(*cut.next().expect("endless")) {
                framer.push(piece, Vec::new()).expect("none");
                while let Some(message) = framer.next_message().expect("short") {
                    got.push(message);
                }
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(framer.pending(), 0);
        }
    }
}
