//! Requests in JSON that are long lists of nothing. Read, three bytes of one may take a hundred times as much memory; of messages in
//! protobuf their reader counts that itself. Must never change a request.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use n0_future::{StreamExt as _, stream};

use crate::server::MAX_REQUEST_BYTES;

/// Items of all lists together, and fields. What a call may name is far less.
const MAX_ITEMS: usize = 200_000;
/// Calls whose requests go on and on: none of these has a list of messages.
const STREAMS: [&str; 5] = ["/SendStream", "/ImportParcel", "/ImportImage", "StoreService/ImportBlob", "/ServerReflectionInfo"];

/// What the last message of a stream is marked with (Connect).
const END_OF_STREAM: u8 = 2;

/// Refuses a request with too many items before anybody reads it.
pub(crate) async fn refuse_long(request: Request, next: Next) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.contains("json") || STREAMS.iter().any(|call| request.uri().path().ends_with(call)) {
        return next.run(request).await;
    }
    let kind = kind.to_owned();
    let (parts, body) = request.into_parts();
    let mut body = body.into_data_stream().fuse();
    let (mut come, mut bytes, mut items) = (Vec::new(), 0, 0);
    // What is longer than any request may be is refused by who reads it, as is what ends with an error.
    while bytes <= MAX_REQUEST_BYTES
        && let Some(piece) = body.next().await
    {
        if let Ok(piece) = &piece {
            bytes += piece.len();
            items += piece.iter().filter(|byte| **byte == b',').count();
        }
        let is_end = piece.is_err();
        come.push(piece);
        if items > MAX_ITEMS {
            return refusal(&kind);
        }
        if is_end {
            break;
        }
    }
    next.run(Request::from_parts(parts, Body::from_stream(stream::iter(come).chain(body)))).await
}

/// As each protocol has it: in the body, in the last message of a stream, or in headers.
fn refusal(kind: &str) -> Response {
    let what = format!("more than {MAX_ITEMS} items: send fewer at a time");
    let error = format!("{{\"code\":\"resource_exhausted\",\"message\":\"{what}\"}}");
    if kind.starts_with("application/json") {
        return (StatusCode::TOO_MANY_REQUESTS, [(header::CONTENT_TYPE, "application/json")], error).into_response();
    }
    if kind.starts_with("application/connect+json") {
        let end = format!("{{\"error\":{error}}}");
        let length = u32::try_from(end.len()).expect("it is short").to_be_bytes();
        let body = [&[END_OF_STREAM][..], &length, end.as_bytes()].concat();
        return ([(header::CONTENT_TYPE, "application/connect+json")], body).into_response();
    }
    let kind = HeaderValue::try_from(kind).expect("it was a header");
    let what = HeaderValue::try_from(what).expect("it is plain text");
    let status = HeaderValue::from_static("8");
    ([(header::CONTENT_TYPE.as_str(), kind), ("grpc-status", status), ("grpc-message", what)]).into_response()
}
