//! Tells clients the contract, in both versions of gRPC's service for it. It says what may be called, and nothing of the node.

use std::sync::Arc;

use connectrpc::{ConnectError, InboundStream, RequestContext, Response, ServiceResult, ServiceStream};
use n0_future::{StreamExt as _, stream};
use peat_blobapi::reflection::{FILES, File};

use super::Daemon;

/// What gRPC calls not found.
const NOT_FOUND: i32 = 5;

/// A file and all that it imports, the file first.
fn closure(file: &'static File) -> Vec<Vec<u8>> {
    let mut files = vec![file];
    let mut next = 0;
    while let Some(imports) = files.get(next).map(|file| file.imports) {
        let imported = FILES.iter().filter(|file| imports.contains(&file.name));
        let new: Vec<_> = imported.filter(|file| !files.iter().any(|known| known.name == file.name)).collect();
        files.extend(new);
        next += 1;
    }
    files.into_iter().map(|file| file.descriptor.to_vec()).collect()
}

fn named(name: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.name == name)
}

fn containing(symbol: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.symbols.contains(&symbol))
}

/// The two versions differ in nothing but their names.
macro_rules! serve {
    ($version:ident) => {
        pub(crate) mod $version {
            use peat_blobapi::reflection::$version::oneof::server_reflection_request::MessageRequest;
            use peat_blobapi::reflection::$version::oneof::server_reflection_response::MessageResponse;
            use peat_blobapi::reflection::$version::*;

            use super::*;

            /// The service.
            pub(crate) struct Service(pub(crate) Arc<Daemon>);

            // The generated traits return what can be encoded as a message; these return the messages.
            #[allow(refining_impl_trait)]
            impl ServerReflection for Service {
                async fn server_reflection_info(
                    &self,
                    _ctx: RequestContext,
                    requests: InboundStream<ServerReflectionRequest>,
                ) -> ServiceResult<ServiceStream<ServerReflectionResponse>> {
                    let begin = (requests, Arc::clone(&self.0));
                    Ok(Response::new(Box::pin(stream::unfold(begin, |(mut requests, daemon)| async move {
                        let request = tokio::select! {
                            request = requests.next() => request?,
                            () = daemon.stopped() => return None,
                        };
                        Some((request.and_then(|request| answer(request.to_owned_message())), (requests, daemon)))
                    }))))
                }
            }

            fn answer(request: ServerReflectionRequest) -> Result<ServerReflectionResponse, ConnectError> {
                let files = |file: Option<&'static File>, what: &str| match file {
                    Some(file) => FileDescriptorResponse { file_descriptor_proto: closure(file), ..Default::default() }.into(),
                    None => absent(what),
                };
                let response: MessageResponse = match &request.message_request {
                    None => return Err(ConnectError::invalid_argument("message_request: ask for something")),
                    Some(MessageRequest::FileByFilename(name)) => files(named(name), name),
                    Some(MessageRequest::FileContainingSymbol(symbol)) => files(containing(symbol), symbol),
                    Some(MessageRequest::FileContainingExtension(extension)) => absent(&extension.containing_type),
                    Some(MessageRequest::AllExtensionNumbersOfType(name)) if containing(name).is_some() => {
                        ExtensionNumberResponse { base_type_name: name.clone(), ..Default::default() }.into()
                    }
                    Some(MessageRequest::AllExtensionNumbersOfType(name)) => absent(name),
                    Some(MessageRequest::ListServices(_)) => {
                        let names = FILES.iter().flat_map(|file| file.services);
                        let service = names.map(|name| ServiceResponse { name: (*name).to_owned(), ..Default::default() });
                        ListServiceResponse { service: service.collect(), ..Default::default() }.into()
                    }
                };
                Ok(ServerReflectionResponse {
                    valid_host: request.host.clone(),
                    original_request: request.into(),
                    message_response: Some(response),
                    ..Default::default()
                })
            }

            fn absent(what: &str) -> MessageResponse {
                let error_message = format!("the contract has no {what:?}");
                ErrorResponse { error_code: NOT_FOUND, error_message, ..Default::default() }.into()
            }
        }
    };
}

serve!(v1);
serve!(v1alpha);
