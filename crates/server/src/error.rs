use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use engine::SubmitError;

/// A refusal in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`. Anthropic's has
/// a `type` beside `error`, which disturbs nobody, so both have it.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    body: Box<Body>,
}

#[derive(Debug, Serialize)]
struct Body {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: &'a Body,
}

/// Seconds after which a client may try again when the queue was full.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            _ if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let body = Body { message: message.into(), kind, param: None, code: None };
        Self { status, body: Box::new(body) }
    }

    /// 400 for the request as a whole.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400 for one field: `{param} {complaint}`.
    pub(crate) fn field(param: impl Into<String>, complaint: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self::bad_request(format!("{param} {complaint}")).with_param(param)
    }

    /// 500: something on this side failed.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn with_param(mut self, param: impl Into<String>) -> Self {
        self.body.param = Some(param.into());
        self
    }

    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.body.code = Some(code);
        self
    }

    /// The refusal of a sequence that does not fit the context.
    pub(crate) fn too_long(param: &str, message: String) -> Self {
        Self::bad_request(message).with_param(param).with_code("context_length_exceeded")
    }

    /// What the engine said to a request whose prompt is in the field `prompt`.
    pub(crate) fn from_submit(error: &SubmitError, prompt: &str) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::EmptyPrompt | SubmitError::BadToken { .. } => {
                Self::bad_request(message).with_param(prompt)
            }
            SubmitError::TooLong { .. } | SubmitError::PoolTooSmall { .. } => {
                Self::too_long("max_tokens", format!("max_tokens is too large: {message}"))
            }
            SubmitError::QueueFull { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, message).with_code("queue_full")
            }
            SubmitError::Stopped(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, message),
        }
    }

    pub(crate) fn message(&self) -> &str {
        &self.body.message
    }

    /// What is sent, also within a stream that has begun already.
    pub(crate) fn envelope(&self) -> impl Serialize {
        Envelope { kind: "error", error: &self.body }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.envelope())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
