//! What a client calls: from a message to the part that answers it, and the answer back.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::Service;
use super::store::HandedBlob;
use crate::handoff::HandoffError;
use crate::handoff::varlink::link::{Link, Received};
use crate::handoff::varlink::message::{Call, Fault, encode_fault, encode_reply, parameters};
use crate::handoff::varlink::wire::{self, Refusal};
use crate::handoff::varlink::{OCI, REPOSITORY, SERVICE, STORE, VarlinkError, interface};
use crate::oci::Digest;
use crate::registry::RegistryError;

/// Most handles that a connection may have open.
const MAX_HANDLES: usize = 64;

/// What composefs has beside, which is of its own files.
const NOT_HERE: [&str; 8] =
    ["InitRepository", "EnsureRepository", "Fsck", "Gc", "ImageObjects", "ListImageRefs", "Mount", "Pull"];

/// A connection and what it has opened.
pub(super) struct Session<'a> {
    pub(super) service: &'a Service,
    link: Link,
    handles: BTreeSet<u64>,
    next_handle: u64,
}

/// What is said to a call, before it is written.
type Answer = Result<Vec<u8>, Fault>;

impl<'a> Session<'a> {
    pub(super) fn new(service: &'a Service, link: Link) -> Self {
        Self { service, link, handles: BTreeSet::new(), next_handle: 1 }
    }

    /// Answers calls until the client goes. `silent` is told when there is none.
    pub(super) fn run(mut self, silent: impl Fn(bool)) -> Result<(), VarlinkError> {
        loop {
            silent(true);
            // What has begun counts as silent until all of it is there: the link bounds that.
            let Some(Received { bytes, descriptors }) = self.link.receive(None)? else { return Ok(()) };
            silent(false);
            let call = Call::parse(&bytes)?;
            self.answer(&call, &bytes, descriptors)?;
        }
    }

    fn answer(&mut self, call: &Call, bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<(), VarlinkError> {
        let (interface, method) = call.split();
        let answer = match (interface, method) {
            // Its replies have descriptors.
            (OCI, "GetLayer") => match asked(bytes).and_then(|asked| self.get_layer(asked, call.more)) {
                Ok(_) if call.oneway => return Ok(()),
                Ok(layer) => return layer.send(|reply, descriptors| self.send(reply, descriptors)),
                Err(fault) => Err(fault),
            },
            (OCI, "PutLayer") => {
                asked(bytes).and_then(|asked| self.put_layer(asked, descriptors)).and_then(|said| replied(&said))
            }
            (OCI, _) => self.oci(method, bytes),
            // Its reply may have one.
            (STORE, "OpenBlob") => match asked(bytes).and_then(|asked| self.open_blob(&asked)) {
                Ok(_) if call.oneway => return Ok(()),
                Ok(HandedBlob { said, file }) => {
                    let descriptors: Vec<_> = file.iter().map(AsFd::as_fd).collect();
                    return self.send(&encode_reply(&said, false)?, &descriptors);
                }
                Err(fault) => Err(fault),
            },
            (STORE, "PutBlob") => {
                asked(bytes).and_then(|asked| self.put_blob(&asked, descriptors)).and_then(|said| replied(&said))
            }
            (STORE, _) => self.of_store(method, bytes),
            (REPOSITORY, "OpenRepository") => asked(bytes).and_then(|asked| self.open_repository(&asked)),
            (REPOSITORY, "CloseRepository") => asked(bytes).and_then(|asked| self.close_repository(&asked)),
            (REPOSITORY, _) => Err(no_method(&call.method, method)),
            (SERVICE, _) => of_service(method, bytes),
            _ => Err(Fault::NoInterface(interface.to_owned())),
        };
        if call.oneway {
            return Ok(());
        }
        let reply = match answer {
            Ok(reply) => reply,
            Err(fault) => encode_fault(interface, fault)?,
        };
        self.send(&reply, &[])
    }

    fn send(&self, reply: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), VarlinkError> {
        self.link.send(reply, descriptors)
    }

    fn oci(&mut self, method: &str, bytes: &[u8]) -> Answer {
        match method {
            "GetInfo" => replied(&wire::Features { features: vec![wire::FEATURE.to_owned()] }),
            "ListImages" => self.list_images(asked(bytes)?).and_then(|said| replied(&said)),
            "Inspect" => self.inspect(&asked(bytes)?).and_then(|said| replied(&said)),
            "Check" => self.check(&asked(bytes)?).and_then(|said| replied(&said)),
            "Tag" => self.tag(&asked(bytes)?).and_then(|()| replied(&wire::Nothing {})),
            "Untag" => self.untag(&asked(bytes)?).and_then(|()| replied(&wire::Nothing {})),
            "HasLayer" => self.has_layer(&asked(bytes)?).and_then(|said| replied(&said)),
            "FinalizeImage" => self.finalize_image(&asked(bytes)?).and_then(|said| replied(&said)),
            _ => Err(no_method(&format!("{OCI}.{method}"), method)),
        }
    }

    fn of_store(&mut self, method: &str, bytes: &[u8]) -> Answer {
        match method {
            "FindImage" => self.find_image(&asked(bytes)?).and_then(|said| replied(&said)),
            "ListReferrers" => self.list_referrers(&asked(bytes)?).and_then(|said| replied(&said)),
            "HasBlob" => self.has_blob(&asked(bytes)?).and_then(|said| replied(&said)),
            "PutManifest" => self.put_manifest(&asked(bytes)?).and_then(|said| replied(&said)),
            _ => Err(no_method(&format!("{STORE}.{method}"), method)),
        }
    }

    fn open_repository(&mut self, asked: &wire::OpenRepository) -> Answer {
        let message = "this service has one repository, a node's registry: name none, or its data directory".to_owned();
        if asked.user == Some(true) || asked.system == Some(true) {
            return Err(Refusal::RepoNotFound { message }.into());
        }
        if let Some(path) = &asked.path {
            let is_same = |own: &std::path::Path| std::fs::canonicalize(own).ok() == std::fs::canonicalize(path).ok();
            if path.is_empty() || !is_same(&self.service.0.options.path) {
                return Err(Refusal::RepoNotFound { message }.into());
            }
        }
        if self.handles.len() >= MAX_HANDLES {
            let message = format!("{MAX_HANDLES} handles are open: close some");
            return Err(Refusal::InternalError { message }.into());
        }
        let device = self.service.0.cache.device().map_err(internal)?;
        let handle = self.next_handle;
        self.next_handle += 1;
        self.handles.insert(handle);
        let hash_algorithm = Some("blake3".to_owned());
        replied(&wire::OpenedRepository { handle, hash_algorithm, objects_device_id: Some(device) })
    }

    fn close_repository(&mut self, &wire::Handle { handle }: &wire::Handle) -> Answer {
        match self.handles.remove(&handle) {
            true => replied(&wire::Nothing {}),
            false => Err(Refusal::InvalidHandle { handle }.into()),
        }
    }

    /// Whether the repository is open under this handle.
    pub(super) fn is_open(&self, handle: u64) -> Result<(), Fault> {
        match self.handles.contains(&handle) {
            true => Ok(()),
            false => Err(Refusal::InvalidHandle { handle }.into()),
        }
    }
}

fn of_service(method: &str, bytes: &[u8]) -> Answer {
    match method {
        "GetInfo" => replied(&wire::ServiceInfo {
            vendor: "peat-blob".to_owned(),
            product: "peat-blobd".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            url: String::new(),
            interfaces: [SERVICE, REPOSITORY, OCI, STORE].map(str::to_owned).into(),
        }),
        "GetInterfaceDescription" => {
            let wire::Interface { interface } = asked(bytes)?;
            let description = match interface.as_str() {
                SERVICE => interface::SERVICE,
                REPOSITORY => interface::REPOSITORY,
                OCI => interface::OCI,
                STORE => interface::STORE,
                _ => return Err(Fault::NoInterface(interface)),
            };
            replied(&wire::Description { description: description.to_owned() })
        }
        _ => Err(no_method(&format!("{SERVICE}.{method}"), method)),
    }
}

fn no_method(whole: &str, method: &str) -> Fault {
    match NOT_HERE.contains(&method) || matches!(method, "ComputeId" | "OciMount") {
        true => Fault::NotImplemented(whole.to_owned()),
        false => Fault::NoMethod(whole.to_owned()),
    }
}

fn asked<'a, P: Deserialize<'a>>(bytes: &'a [u8]) -> Result<P, Fault> {
    parameters(bytes).map_err(|error| Fault::BadParameter(error.to_string()))
}

fn replied(said: &impl Serialize) -> Answer {
    encode_reply(said, false).map_err(internal)
}

/// Something that went wrong here.
pub(super) fn internal(error: impl std::fmt::Display) -> Fault {
    Refusal::InternalError { message: error.to_string() }.into()
}

pub(super) fn refused(message: impl Into<String>) -> Fault {
    Refusal::InvalidRequest { message: message.into() }.into()
}

pub(super) fn digest(text: &str) -> Result<Digest, Fault> {
    text.parse().map_err(|error: crate::oci::DigestError| Refusal::InvalidDigest { message: error.to_string() }.into())
}

/// What the registry said, of an image that was named so.
pub(super) fn of_registry(image: &str) -> impl Fn(RegistryError) -> Fault {
    move |error| match error {
        RegistryError::NoManifest { .. } | RegistryError::NoRepository(_) => {
            Refusal::NoSuchImage { image: image.to_owned() }.into()
        }
        error => internal(error),
    }
}

/// What was wrong with a layer.
pub(super) fn of_layer(diff_id: &Digest) -> impl Fn(HandoffError) -> Fault {
    move |error| match error {
        HandoffError::DiffersFromDiffId { expected, actual } => {
            Refusal::DiffIdMismatch { expected: expected.to_string(), actual: actual.to_string() }.into()
        }
        HandoffError::Registry(RegistryError::NoBlob { .. }) => Refusal::NoSuchLayer { diff_id: diff_id.to_string() }.into(),
        HandoffError::Frame(_)
        | HandoffError::NoDirectory { .. }
        | HandoffError::NotADirectory(_)
        | HandoffError::Missing(_)
        | HandoffError::Link(_)
        | HandoffError::Leaves(_)
        | HandoffError::NotAFile(_)
        | HandoffError::WrongLength { .. }
        | HandoffError::OverLimit(_)
        | HandoffError::CannotShare { .. } => {
            let hint = error.hint().map_or_else(String::new, |hint| format!(" ({hint})"));
            refused(format!("{error}{hint}"))
        }
        error => internal(error),
    }
}
