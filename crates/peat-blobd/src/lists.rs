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

/// Refuses a request with too many items before anybody reads it.
pub(crate) async fn refuse_long(request: Request, next: Next) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.contains("json") || STREAMS.iter().any(|call| request.uri().path().ends_with(call)) {
        return next.run(request).await;
    }
    let is_connect = kind.starts_with("application/json");
    let (parts, body) = request.into_parts();
    let mut body = body.into_data_stream();
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
            return refusal(is_connect);
        }
        if is_end {
            break;
        }
    }
    next.run(Request::from_parts(parts, Body::from_stream(stream::iter(come).chain(body)))).await
}

/// As each protocol has it: in the body, or in headers.
fn refusal(is_connect: bool) -> Response {
    let what = format!("more than {MAX_ITEMS} items: send fewer at a time");
    if is_connect {
        let body = format!("{{\"code\":\"resource_exhausted\",\"message\":\"{what}\"}}");
        return (StatusCode::TOO_MANY_REQUESTS, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    }
    let what = HeaderValue::try_from(what).expect("it is plain text");
    let kind = HeaderValue::from_static("application/grpc+json");
    ([(header::CONTENT_TYPE.as_str(), kind), ("grpc-status", HeaderValue::from_static("8")), ("grpc-message", what)])
        .into_response()
}
