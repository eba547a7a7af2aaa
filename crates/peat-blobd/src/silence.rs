//! Callers that fall silent in the midst of a request, because their link was cut or somebody stopped them: what they had begun
//! would wait for ever. Must never end a call for being slow: any byte counts, and waiting for this node's own disk does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use connectrpc::{ConnectError, HasMessageView, InboundStream, RequestContext};
use n0_future::{StreamExt as _, stream};
use peat_blobcore::ErrorKind;

use crate::api::errors::answer;

/// How long a caller may send nothing of a request that he has begun.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// What became of the caller of one request.
#[derive(Clone)]
struct Caller {
    longest: Duration,
    fell_silent: Arc<AtomicBool>,
}

/// Ends the body of a request of which nothing has come for so long.
pub(crate) async fn end_silent(State(longest): State<Duration>, request: Request, next: Next) -> Response {
    let caller = Caller { longest, fell_silent: Arc::default() };
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(caller.clone());
    let heard = stream::unfold(Some((body.into_data_stream(), caller)), |waiting| async move {
        let (mut body, caller) = waiting?;
        match tokio::time::timeout(caller.longest, body.next()).await {
            Ok(bytes) => Some((bytes?.map_err(BoxError::from), Some((body, caller)))),
            Err(silence) => {
                caller.fell_silent.store(true, Ordering::Relaxed);
                Some((Err(silence.into()), None))
            }
        }
    });
    next.run(Request::from_parts(parts, Body::from_stream(heard))).await
}

/// A stream that says so where it ends for its caller's silence.
pub(crate) fn explained<M: HasMessageView + 'static>(context: &RequestContext, requests: InboundStream<M>) -> InboundStream<M> {
    let Some(caller) = context.extensions().get::<Caller>().cloned() else { return requests };
    Box::pin(requests.map(move |request| request.map_err(|error| caller.explain(error))))
}

impl Caller {
    fn explain(&self, error: ConnectError) -> ConnectError {
        if !self.fell_silent.load(Ordering::Relaxed) {
            return error;
        }
        let hint = "send it again; a stream that has nothing to say for a while says an empty chunk";
        answer(ErrorKind::TimedOut, format!("nothing more has come for {} s", self.longest.as_secs_f32()), Some(hint.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use connectrpc::client::{ClientConfig, HttpClient};
    use connectrpc::{ErrorCode, Protocol};
    use peat_blob_tests::fleet::{DEADLINE, Fleet, contents, eventually};
    use peat_blobapi::blob::{self, BlobServiceClient, oneof::send_stream_request::Part};
    use tokio::sync::watch;
    use tokio::task::JoinSet;

    use super::*;
    use crate::Config;
    use crate::api::Daemon;
    use crate::server::app;

    /// Longer than the pauses of a caller who is slow, and no longer than a test wants to wait.
    const PATIENCE: Duration = Duration::from_secs(2);

    struct Served {
        fleet: Fleet,
        daemon: Arc<Daemon>,
        client: BlobServiceClient<HttpClient>,
        /// Gone, it would end the daemon.
        _stop: watch::Sender<bool>,
        _serving: JoinSet<()>,
    }

    async fn serve() -> Served {
        let fleet = Fleet::new();
        fleet.enroll("alpha", &[]);
        let node = fleet.describe("alpha").start().await.expect("it starts");
        let (stop, stopping) = watch::channel(false);
        let daemon = Arc::new(Daemon::new(node, Arc::new(Config::new(fleet.path("alpha"))), stopping));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let uri = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("an address");
        let app = app(&daemon, PATIENCE);
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        let config = ClientConfig::new(uri).with_protocol(Protocol::Connect).with_default_timeout(DEADLINE);
        let client = BlobServiceClient::new(HttpClient::plaintext(), config);
        Served { fleet, daemon, client, _stop: stop, _serving: serving }
    }

    /// A file of a stream as far as it has come.
    fn begun() -> Vec<blob::SendStreamRequest> {
        let part = |part| blob::SendStreamRequest { part: Some(part), ..Default::default() };
        let all = blob::Scope { scope: Some(blob::scope::All::default().into()), ..Default::default() };
        let file = blob::StreamedFile { path: b"file".to_vec(), ..Default::default() };
        let options = blob::SendOptions { scope: all.into(), ..Default::default() };
        vec![part(options.into()), part(file.into()), part(Part::Chunk(vec![7; 100_000]))]
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_falls_silent_in_the_midst_is_not_waited_for_and_leaves_nothing() {
        let served = serve().await;
        let spool = served.fleet.path("alpha/content/tmp");
        let (error, ()) = tokio::join!(
            async { served.client.send_stream(stream::iter(begun()).chain(stream::pending())).await.expect_err("cut off") },
            eventually("it is written", || async { !contents(&spool).is_empty() }),
        );
        assert_eq!(error.code, ErrorCode::DeadlineExceeded, "{error}");
        assert!(error.message.as_deref().is_some_and(|message| message.contains("nothing more has come for 2 s")), "{error}");
        eventually("it is gone", || async { contents(&spool).is_empty() }).await;
        let error = served.client.import_parcel(stream::pending()).await.expect_err("cut off");
        assert_eq!(error.code, ErrorCode::DeadlineExceeded, "{error}");
        assert!(served.daemon.node.distributions().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_says_now_and_then_that_he_is_there_is_waited_for() {
        let served = serve().await;
        let empty = blob::SendStreamRequest { part: Some(Part::Chunk(Vec::new())), ..Default::default() };
        let pauses = stream::unfold(0, move |pause| {
            let empty = empty.clone();
            async move {
                tokio::time::sleep(PATIENCE / 20).await;
                (pause < 30).then_some((empty, pause + 1))
            }
        });
        let sent = served.client.send_stream(stream::iter(begun()).chain(pauses)).await.expect("sent").into_owned();
        assert_eq!((sent.file_count, sent.bytes), (1, 100_000));
    }
}
