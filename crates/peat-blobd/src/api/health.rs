//! How the daemon is, for clients that ask as gRPC does. The same answer as `/readyz`, for it and for each of its services.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use n0_future::stream;
use peat_blobapi::health::health_check_response::ServingStatus;
use peat_blobapi::health::{self, Health, HealthCheckResponse};
use peat_blobapi::reflection::FILES;

use super::Daemon;
use super::errors::shortened;
use crate::health::is_ready;

/// How often a watched daemon is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The service.
pub(crate) struct Healths(pub(crate) Arc<Daemon>);

// The generated traits return what can be encoded as a message; these return the messages.
#[allow(refining_impl_trait)]
impl Health for Healths {
    async fn check(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, health::HealthCheckRequest>,
    ) -> ServiceResult<HealthCheckResponse> {
        if !is_served(request.service) {
            return Err(ConnectError::not_found(shortened(format!("service: {:?} is not served here", request.service))));
        }
        Response::ok(message(status(&self.0).await))
    }

    async fn watch(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, health::HealthCheckRequest>,
    ) -> ServiceResult<ServiceStream<HealthCheckResponse>> {
        let begin = (Arc::clone(&self.0), is_served(request.service), None);
        Ok(Response::new(Box::pin(stream::unfold(begin, |(daemon, is_served, told)| async move {
            loop {
                let now = if is_served { status(&daemon).await } else { ServingStatus::SERVICE_UNKNOWN };
                if told != Some(now) {
                    return Some((Ok(message(now)), (daemon, is_served, Some(now))));
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                    // That it ends is the last that is told.
                    () = daemon.stopped() => if now != ServingStatus::SERVING { return None },
                }
            }
        }))))
    }
}

fn is_served(service: &str) -> bool {
    service.is_empty() || FILES.iter().any(|file| file.services.contains(&service))
}

async fn status(daemon: &Daemon) -> ServingStatus {
    match is_ready(daemon).await {
        Ok(()) => ServingStatus::SERVING,
        Err(_) => ServingStatus::NOT_SERVING,
    }
}

fn message(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into(), ..Default::default() }
}
