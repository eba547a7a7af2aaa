//! Hostile requests, one by one: what is sent, as JSON, and what must come. A `$WORD` stands for what is too long to write down.

mod blob;
mod grpc;
mod image;
mod sidecar;
mod store;

use crate::wire::{self, Answer};

/// One request and its answer.
pub(crate) struct Row {
    /// The call, after its service.
    pub(crate) call: &'static str,
    pub(crate) sends: Sends,
    /// The code of the error that must come; empty where none may.
    pub(crate) code: &'static str,
    /// What the error must say.
    pub(crate) says: &'static str,
}

/// What is sent.
pub(crate) enum Sends {
    /// The message of a call that has one answer.
    One(&'static str),
    /// The messages of a stream, or of a call whose answer is one.
    Many(&'static [&'static str]),
    /// The same, to a call whose answer has no end: it must begin.
    Opens(&'static str),
}

/// A service and its rows.
pub(crate) type Table = (&'static str, &'static [Row]);

/// Every service that the daemon serves.
pub(crate) const TABLES: [Table; 7] = [
    ("peat.blob.v1.BlobService", blob::ROWS),
    ("peat.blob.v1.StoreService", store::ROWS),
    ("peat.blob.v1.ImageService", image::ROWS),
    ("peat.sidecar.v1.PeatSidecar", sidecar::ROWS),
    ("grpc.health.v1.Health", grpc::HEALTH),
    ("grpc.reflection.v1.ServerReflection", grpc::REFLECTION),
    ("grpc.reflection.v1alpha.ServerReflection", grpc::REFLECTION),
];

const fn one(call: &'static str, message: &'static str, code: &'static str, says: &'static str) -> Row {
    Row { call, sends: Sends::One(message), code, says }
}

const fn many(call: &'static str, messages: &'static [&'static str], code: &'static str, says: &'static str) -> Row {
    Row { call, sends: Sends::Many(messages), code, says }
}

const fn opens(call: &'static str, message: &'static str) -> Row {
    Row { call, sends: Sends::Opens(message), code: "", says: "" }
}

/// What `$WORD`s stand for.
fn filled(text: &str, words: &[(&str, String)]) -> String {
    let mut text = words.iter().fold(text.to_owned(), |text, (word, meaning)| text.replace(word, meaning));
    while let Some(at) = text.find("$MILLION<") {
        let end = at + text[at..].find('>').expect("it ends");
        let item = text[at + 9..end].to_owned();
        text.replace_range(at..=end, &vec![item; 1_000_000].join(","));
    }
    text
}

impl Row {
    pub(crate) fn is_stream(&self) -> bool {
        !matches!(self.sends, Sends::One(_))
    }

    /// Sends it; what is wrong with the answer, if anything is.
    pub(crate) fn run(&self, address: &str, service: &str, words: &[(&str, String)]) -> Result<(), String> {
        let method = format!("{service}/{}", self.call);
        let stream = "application/connect+json";
        let (kind, body) = match &self.sends {
            Sends::One(message) => ("application/json", filled(message, words).into_bytes()),
            Sends::Opens(message) => (stream, wire::envelope(0, filled(message, words).as_bytes())),
            Sends::Many(messages) => {
                (stream, messages.iter().flat_map(|message| wire::envelope(0, filled(message, words).as_bytes())).collect())
            }
        };
        let head = wire::head(&method, kind, body.len(), "");
        let answer = match self.sends {
            Sends::Opens(_) => wire::opens(address, &head, &body),
            _ => wire::exchange(address, &head, &body),
        };
        let wrong = self.wrong(answer);
        wrong.map_or(Ok(()), |wrong| Err(format!("{method} {}: {wrong}", self.shown())))
    }

    fn wrong(&self, answer: Option<Answer>) -> Option<String> {
        let Some(answer) = answer else { return Some("no answer".to_owned()) };
        if matches!(self.sends, Sends::Opens(_)) {
            return (answer.status != 200).then_some(answer.head);
        }
        let (code, says) = answer.error().unwrap_or_default();
        if code != self.code || !says.contains(self.says) {
            let told: String = says.chars().take(300).collect();
            return Some(format!("wanted {:?} {:?}, got {} {code:?} {told:?}", self.code, self.says, answer.status));
        }
        (says.len() > 4096).then(|| format!("an error of {} bytes, which gRPC cannot carry", says.len()))
    }

    fn shown(&self) -> String {
        match &self.sends {
            Sends::One(message) | Sends::Opens(message) => (*message).to_owned(),
            Sends::Many(messages) => format!("{messages:?}"),
        }
    }
}
