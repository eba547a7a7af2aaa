//! What a client is told when something is wrong: the specification's body and codes (distribution-spec 1.1, "Error Codes").

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::route::NoRoute;
use crate::ErrorKind;
use crate::oci::{ManifestError, NameError};
use crate::registry::RegistryError;

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    detail: serde_json::Value,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), detail: serde_json::Value::Null, headers: Vec::new() }
    }

    pub(super) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    pub(super) fn respond(self) -> Response<Body> {
        let error = serde_json::json!({ "code": self.code, "message": self.message, "detail": self.detail });
        let body = serde_json::json!({ "errors": [error] }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl From<NoRoute> for Problem {
    fn from(why: NoRoute) -> Self {
        match why {
            NoRoute::Unknown => Self::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "the distribution protocol has no such path"),
            NoRoute::Name(error) => error.into(),
        }
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Self {
        let code = match &error {
            NameError::Repository(_) => "NAME_INVALID",
            NameError::Tag(_) => "TAG_INVALID",
            NameError::Digest(_) => "DIGEST_INVALID",
        };
        Self::new(StatusCode::BAD_REQUEST, code, error.to_string())
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        use RegistryError as Error;
        let (status, code) = match &error {
            Error::NoRepository(_) => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Error::NoManifest { .. } => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Error::NoBlob { .. } => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Error::NoUpload(_) => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            Error::TooManyUploads(_) => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            Error::OutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            Error::DigestDiffers { .. } => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            Error::Missing(_) => (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN"),
            Error::Manifest(why) if matches!(**why, ManifestError::TooLarge(_)) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID")
            }
            Error::Manifest(_) | Error::SizeDiffers { .. } | Error::TooDeep => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Error::Name(_) | Error::NoName(_) => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Error::NotComing { .. } => (StatusCode::SERVICE_UNAVAILABLE, "BLOB_UNKNOWN"),
            Error::FalseClaim(_) => (StatusCode::BAD_GATEWAY, "DIGEST_INVALID"),
            Error::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "UNKNOWN"),
            Error::Content(_) | Error::Catalog(_) if error.kind() == ErrorKind::NoSpace => {
                (StatusCode::INSUFFICIENT_STORAGE, "UNKNOWN")
            }
            Error::Content(_) | Error::Catalog(_) | Error::Archive(_) | Error::Remote(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN")
            }
        };
        if status.is_server_error() {
            tracing::warn!(%error, "the registry cannot answer a request");
        }
        let detail = match &error {
            Error::Missing(digests) => digests.iter().take(100).map(ToString::to_string).collect::<Vec<_>>().into(),
            error => serde_json::json!({ "hint": error.hint() }),
        };
        Self { detail, ..Self::new(status, code, error.to_string()) }
    }
}
