//! The library's errors as answers of the API: a code that every client knows, and in headers the kind and what to do.

use connectrpc::{ConnectError, ErrorCode};
use peat_blobapi::{HINT_HEADER, KIND_HEADER};
use peat_blobcore::{Error, ErrorKind};

/// An error of the library.
pub(crate) fn failed(error: impl Into<Error>) -> ConnectError {
    let error = error.into();
    answer(error.kind(), error.to_string(), error.hint())
}

/// The longest message of an error. Over gRPC it goes in a header, and few clients take one that is long.
const LONGEST: usize = 1024;

/// A message that may repeat what a caller said, however much that was: its beginning and its end, which says what to do.
pub(crate) fn shortened(message: String) -> String {
    if message.len() <= LONGEST {
        return message;
    }
    let (begin, end) = (message.floor_char_boundary(LONGEST / 2), message.ceil_char_boundary(message.len() - LONGEST / 2));
    format!("{}…{}", &message[..begin], &message[end..])
}

/// What was asked for makes no sense; `field` says where.
pub(crate) fn invalid(field: &str, why: impl std::fmt::Display) -> ConnectError {
    answer(ErrorKind::Usage, format!("{field}: {why}"), None)
}

/// An error of a kind.
pub(crate) fn answer(kind: ErrorKind, message: String, hint: Option<String>) -> ConnectError {
    let code = match kind {
        ErrorKind::Failed => ErrorCode::Internal,
        ErrorKind::Usage => ErrorCode::InvalidArgument,
        ErrorKind::NotFound => ErrorCode::NotFound,
        ErrorKind::Unreachable => ErrorCode::Unavailable,
        ErrorKind::TimedOut => ErrorCode::DeadlineExceeded,
        ErrorKind::Integrity => ErrorCode::DataLoss,
        ErrorKind::Refused => ErrorCode::FailedPrecondition,
        ErrorKind::NoSpace => ErrorCode::ResourceExhausted,
    };
    let mut error = ConnectError::new(code, shortened(message));
    let headers = error.response_headers_mut();
    headers.insert(KIND_HEADER, axum::http::HeaderValue::from_static(kind.as_str()));
    let hint = hint.map(shortened);
    // A hint with a line break or other bytes that no header can carry is left out.
    if let Some(hint) = hint.and_then(|hint| axum::http::HeaderValue::from_str(&hint).ok()) {
        headers.insert(HINT_HEADER, hint);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_short_whatever_it_repeats() {
        let error = invalid("name", "ä".repeat(1 << 20));
        assert!(error.message.is_some_and(|message| message.len() <= LONGEST + '…'.len_utf8() && message.contains("ä…ä")));
    }

    #[test]
    fn an_error_carries_its_kind_and_what_to_do() {
        let error = failed(Error::TimedOut("a wait".to_owned()));
        assert_eq!(error.code, ErrorCode::DeadlineExceeded);
        assert_eq!(error.response_headers()[KIND_HEADER], ErrorKind::TimedOut.to_string());
        assert!(error.response_headers().contains_key(HINT_HEADER));
    }
}
