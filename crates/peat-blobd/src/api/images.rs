//! Images over the API: what is taken in and given out goes through the library's registry on threads that may block.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use connectrpc::{ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use n0_future::{StreamExt as _, stream};
use peat_blobapi::blob::oneof::{
    import_image_request::Part, import_image_response::Part as ImportPart, pull_image_response::Part as PullPart,
    push_image_response::Part as PushPart,
};
use peat_blobapi::blob::{self, ImageService};
use peat_blobcore::oci::{Descriptor, Digest, ImageReference, Platform, Reference, Tag};
use peat_blobcore::registry::archive::{Format, ImportOptions, Origin, Taken};
use peat_blobcore::registry::remote::{Credentials, Pushed, Remote, RemoteOptions};
use peat_blobcore::registry::{ImportedImage, PartStep, RegistryError};
use peat_blobcore::{Error, Terms};
use tokio::sync::mpsc;

use super::attachments::new_bundle;
use super::errors::{failed, invalid};
use super::pipe::{Incoming, Outgoing, WAITING};
use super::progress::{Told, Work, follow};
use super::push::Target;
use super::{Daemon, convert, packages};
use crate::silence;

/// The service.
pub(crate) struct Images(pub(crate) Arc<Daemon>);

fn image(field: &str, text: &str) -> Result<ImageReference, ConnectError> {
    let image: ImageReference = text.parse().map_err(|why| invalid(field, why))?;
    match image.registry {
        Some(registry) => Err(invalid(field, format_args!("{registry} is a registry: name the repository alone"))),
        None => Ok(image),
    }
}

/// `os/architecture[/variant]`.
pub(super) fn platform(text: &str) -> Result<Option<Platform>, ConnectError> {
    let mut words = text.split('/').map(str::to_owned);
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(word), None, None, None) if word.is_empty() => Ok(None),
        (Some(os), Some(architecture), variant, None) => Ok(Some(Platform { architecture, os, variant })),
        _ => Err(invalid("platform", format_args!("{text:?} is none: write linux/amd64 or linux/arm/v7"))),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, ConnectError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| failed(Error::Stopped))?.map_err(failed)
}

/// Another registry, and who asks there.
pub(super) fn remote_of(host: &str, insecure: bool, credentials: Option<Credentials>) -> Result<Remote, ConnectError> {
    let options = RemoteOptions { insecure, credentials, ..RemoteOptions::default() };
    Remote::new(host, options).map_err(|error| failed(RegistryError::Remote(Arc::new(error))))
}

/// Takes an image of another registry into this node's, if it is the one that was expected.
pub(super) async fn pull_from(
    daemon: &Daemon,
    remote: Remote,
    image: ImageReference,
    platform: Option<Platform>,
    expected: Option<Digest>,
    told: Arc<Told>,
) -> Result<Digest, ConnectError> {
    let (registry, runtime) = (daemon.node.registry().clone(), tokio::runtime::Handle::current());
    let pull = tokio::task::spawn_blocking(move || {
        let hear = Arc::new(move |part: &Descriptor, step| told.part(part, step));
        registry.pull(&remote, &image, platform.as_ref(), expected.as_ref(), hear, &runtime)
    });
    let pulled = tokio::select! {
        pulled = pull => pulled.map_err(|_| failed(Error::Stopped))?,
        () = daemon.stopped() => return Err(failed(Error::Stopped)),
    };
    let pulled = pulled.map_err(|error| match error {
        RegistryError::DigestDiffers { claimed, actual } if expected == Some(claimed) => differs(&claimed, &actual),
        error => failed(error),
    })?;
    // What is about it comes behind it.
    Ok(pulled.first().expect("an image that was pulled").digest)
}

/// What came is not what was expected.
pub(super) fn differs(expected: &Digest, actual: &Digest) -> ConnectError {
    invalid("expected_digest", format_args!("what came is {actual}, not {expected}; nothing was taken in"))
}

impl Images {
    /// The digest that an image has, by what this node and others say of its tag.
    async fn digest(&self, image: &ImageReference) -> Result<Digest, ConnectError> {
        match image.reference() {
            Reference::Digest(digest) => Ok(digest),
            Reference::Tag(tag) => {
                let named = self.0.node.registry().resolve(&image.repository, &tag).await.map_err(failed)?;
                let (repository, reference) = (image.repository.clone(), image.reference());
                named.map(|named| named.digest).ok_or_else(|| failed(RegistryError::NoManifest { repository, reference }))
            }
        }
    }

    /// The digest of an image, all of which is in this node's registry when this returns.
    async fn here(&self, image: &ImageReference, told: Option<&Told>) -> Result<Digest, ConnectError> {
        let digest = self.digest(image).await?;
        let (registry, repository) = (self.0.node.registry().clone(), image.repository.clone());
        if blocking(move || registry.describe(&repository, &digest)).await?.is_none() {
            let hear = |part: &Descriptor, step: PartStep| told.iter().for_each(|told| told.part(part, step));
            let bring = self.0.node.registry().bring_image(&image.repository, &digest, told.is_some().then_some(&hear));
            tokio::select! {
                brought = bring => brought.map_err(failed)?,
                () = self.0.stopped() => return Err(failed(Error::Stopped)),
            }
        }
        Ok(digest)
    }
}

/// Takes in the images of an archive that comes in pieces, or that lies on this machine.
async fn import(
    daemon: &Daemon,
    mut requests: InboundStream<blob::ImportImageRequest>,
    told: Arc<Told>,
) -> Result<Vec<ImportedImage>, ConnectError> {
    let options = match requests.next().await.transpose()?.and_then(|first| first.to_owned_message().part) {
        Some(Part::Options(options)) => options,
        _ => return Err(invalid("options", "they come first")),
    };
    let name = Some(options.name.as_str()).filter(|name| !name.is_empty());
    let name = name.map(|name| image("name", name)).transpose()?;
    let limits = ImportOptions { platform: platform(&options.platform)?, ..ImportOptions::default() };
    let registry = daemon.node.registry().clone();
    let mut hear = move |file: &Taken<'_>| {
        told.file(file);
        ControlFlow::Continue(())
    };
    if !options.path.is_empty() {
        let path = convert::absolute("path", &options.path)?;
        return blocking(move || registry.import(Origin::Path(&path), name.as_ref(), &limits, &mut hear)).await;
    }
    let (sender, receiver) = mpsc::channel(WAITING);
    let importing = tokio::task::spawn_blocking(move || {
        registry.import(Origin::Stream(Box::new(Incoming::new(receiver))), name.as_ref(), &limits, &mut hear)
    });
    loop {
        let request = tokio::select! {
            request = requests.next() => request,
            () = daemon.stopped() => return Err(failed(Error::Stopped)),
        };
        // A caller who breaks off leaves an archive that has no end.
        match request.transpose()?.map(|request| request.to_owned_message().part) {
            Some(Some(Part::Chunk(chunk))) if chunk.is_empty() => {}
            // An import that has ended early says why below.
            Some(Some(Part::Chunk(chunk))) => {
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Some(_) => return Err(invalid("part", "after the options come chunks")),
            None => break,
        }
    }
    drop(sender);
    importing.await.map_err(|_| failed(Error::Stopped))?.map_err(failed)
}

/// Has an image come to stay, from wherever it is named to be.
async fn pull(daemon: Arc<Daemon>, message: blob::PullImageRequest, told: Arc<Told>) -> Result<Digest, ConnectError> {
    let image: ImageReference = message.image.parse().map_err(|why| invalid("image", why))?;
    let Some(host) = &image.registry else { return Images(daemon).here(&image, Some(&told)).await };
    let user = Some(message.user).filter(|user| !user.is_empty());
    let credentials = user.map(|user| Credentials::Basic { user, password: message.password });
    let remote = remote_of(host, message.insecure, credentials)?;
    pull_from(&daemon, remote, image, platform(&message.platform)?, None, told).await
}

// The generated traits return what can be encoded as a message; these return the messages.
#[allow(refining_impl_trait)]
impl ImageService for Images {
    async fn import_image(
        &self,
        ctx: RequestContext,
        requests: InboundStream<blob::ImportImageRequest>,
    ) -> ServiceResult<ServiceStream<blob::ImportImageResponse>> {
        fn response(part: ImportPart) -> blob::ImportImageResponse {
            blob::ImportImageResponse { part: Some(part), ..Default::default() }
        }
        fn report(images: Vec<ImportedImage>) -> blob::ImportImageResponse {
            let images = images.into_iter().map(|image| blob::ImportedImage {
                repository: image.repository.to_string(),
                tags: image.tags.iter().map(ToString::to_string).collect(),
                digest: image.digest.to_string(),
                bytes: image.size,
                ..Default::default()
            });
            response(ImportPart::Report(Box::new(blob::ImportReport { images: images.collect(), ..Default::default() })))
        }
        let (daemon, told) = (Arc::clone(&self.0), Arc::<Told>::default());
        let (requests, telling) = (silence::explained(&ctx, requests), Arc::clone(&told));
        let work: Work<_> = Box::pin(async move { import(&daemon, requests, telling).await });
        Ok(Response::new(follow(told, work, |it| response(ImportPart::Progress(Box::new(it))), report)))
    }

    async fn export_image(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::ExportImageRequest>,
    ) -> ServiceResult<ServiceStream<blob::ExportImageResponse>> {
        let request = request.to_owned_message();
        let image = image("image", &request.image)?;
        let format = match request.format.as_known() {
            Some(blob::ImageFormat::IMAGE_FORMAT_DOCKER_ARCHIVE) => Format::DockerArchive,
            Some(_) => Format::OciArchive,
            None => return Err(invalid("format", "it is none that this version knows")),
        };
        // What is not there is said before the first byte.
        let digest = self.here(&image, None).await?;
        let (registry, (sender, receiver)) = (self.0.node.registry().clone(), mpsc::channel(WAITING));
        let exporting = tokio::task::spawn_blocking(move || {
            registry.export(&image.repository, &digest, image.tag.as_ref(), format, Outgoing::new(sender)).map(drop)
        });
        let chunks = stream::unfold((receiver, Some(exporting)), |(mut receiver, exporting)| async move {
            let exporting = exporting?;
            if let Some(chunk) = receiver.recv().await {
                return Some((Ok(blob::ExportImageResponse { chunk, ..Default::default() }), (receiver, Some(exporting))));
            }
            match exporting.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some((Err(failed(error)), (receiver, None))),
                Err(_) => Some((Err(failed(Error::Stopped)), (receiver, None))),
            }
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn pull_image(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::PullImageRequest>,
    ) -> ServiceResult<ServiceStream<blob::PullImageResponse>> {
        fn response(part: PullPart) -> blob::PullImageResponse {
            blob::PullImageResponse { part: Some(part), ..Default::default() }
        }
        fn report(digest: Digest) -> blob::PullImageResponse {
            let report = blob::PullReport { digest: digest.to_string(), ..Default::default() };
            response(PullPart::Report(Box::new(report)))
        }
        let told = Arc::<Told>::default();
        let work: Work<_> = Box::pin(pull(Arc::clone(&self.0), request.to_owned_message(), Arc::clone(&told)));
        Ok(Response::new(follow(told, work, |it| response(PullPart::Progress(Box::new(it))), report)))
    }

    async fn list_images(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, blob::ListImagesRequest>,
    ) -> ServiceResult<blob::ListImagesResponse> {
        Response::ok(blob::ListImagesResponse {
            images: self.0.images(|_, _| true).await?.into_values().collect(),
            ..Default::default()
        })
    }

    async fn send_image(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::SendImageRequest>,
    ) -> ServiceResult<blob::SendImageResponse> {
        let message = request.to_owned_message();
        let image = image("image", &message.image)?;
        let options = convert::request(Path::new("/").into(), &message.options, self.0.config().default_priority)?;
        let terms = Terms {
            bundle: options.bundle.unwrap_or_else(|| new_bundle(&self.0)),
            scope: options.scope,
            priority: options.priority,
            lifetime: options.lifetime,
            carry: options.carry,
            together: true,
        };
        let digest = self.here(&image, None).await?;
        let sent = self.0.node.send_package(image.repository, digest, terms).await.map_err(failed)?;
        Response::ok(blob::SendImageResponse { distribution_id: sent.to_string(), ..Default::default() })
    }

    async fn delete_image(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::DeleteImageRequest>,
    ) -> ServiceResult<blob::DeleteImageResponse> {
        let image = image("image", &request.to_owned_message().image)?;
        if image.tag.is_none() && image.digest.is_none() {
            return Err(invalid("image", "say which: repository:tag or repository@digest"));
        }
        let registry = self.0.node.registry().clone();
        blocking(move || registry.delete_manifest(&image.repository, &image.reference())).await?;
        Response::ok(blob::DeleteImageResponse::default())
    }

    async fn tag_image(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::TagImageRequest>,
    ) -> ServiceResult<blob::TagImageResponse> {
        let message = request.to_owned_message();
        let image = image("image", &message.image)?;
        let tag: Tag = message.tag.parse().map_err(|why| invalid("tag", why))?;
        let digest = self.here(&image, None).await?;
        let registry = self.0.node.registry().clone();
        blocking(move || registry.set_tag(&image.repository, &tag, &digest)).await?;
        Response::ok(blob::TagImageResponse::default())
    }

    async fn push_image(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::PushImageRequest>,
    ) -> ServiceResult<ServiceStream<blob::PushImageResponse>> {
        let message = request.to_owned_message();
        let image = image("image", &message.image)?;
        let mut target = Target::parse("target", message.target.into_option().unwrap_or_default())?;
        target.name_like(&image);
        // What is not there is said before anything is sent.
        let digest = self.here(&image, None).await?;
        let told = Arc::<Told>::default();
        let work = target.push(Arc::clone(&self.0), image.repository, digest, Arc::clone(&told));
        let work = Box::pin(async move { work.await.map(|pushed| (digest, pushed)) });
        fn report((digest, pushed): (Digest, Pushed)) -> blob::PushImageResponse {
            let Pushed { sent, bytes, mounted, present } = pushed;
            let report = blob::PushReport { digest: digest.to_string(), sent, bytes, mounted, present, ..Default::default() };
            blob::PushImageResponse { part: Some(PushPart::Report(Box::new(report))), ..Default::default() }
        }
        fn progress(progress: blob::ImageProgress) -> blob::PushImageResponse {
            blob::PushImageResponse { part: Some(PushPart::Progress(Box::new(progress))), ..Default::default() }
        }
        Ok(Response::new(follow(told, work, progress, report)))
    }

    async fn inspect_image(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::InspectImageRequest>,
    ) -> ServiceResult<blob::InspectImageResponse> {
        let image = image("image", &request.to_owned_message().image)?;
        let digest = self.digest(&image).await?;
        Response::ok(self.0.inspect(&image.repository, digest).await?)
    }

    async fn watch_packages(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::WatchPackagesRequest>,
    ) -> ServiceResult<ServiceStream<blob::WatchPackagesResponse>> {
        let request = request.to_owned_message();
        let only = match request.repository.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|why| invalid("repository", why))?),
        };
        let events = self.0.node.package_events(!request.only_new).await.map_err(failed)?;
        Ok(Response::new(packages::watch(Arc::clone(&self.0), events, only)))
    }
}
