use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use tokio::time::timeout;

use crate::App;
use crate::error::ApiError;
use crate::fields::Fields;

/// How long a client may take to send a request's body.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(120);

/// A request's whole body.
#[derive(Debug)]
pub(crate) struct Body(Bytes);

impl FromRequest<Arc<App>> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        match timeout(BODY_TIMEOUT, Bytes::from_request(request, app)).await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let limit = app.config.max_body_bytes;
                let message = format!("the body is larger than {limit} bytes");
                Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message))
            }
            Ok(Err(_)) => Err(ApiError::bad_request("the body could not be read")),
            Err(_) => {
                let message = format!("the body was not complete within {BODY_TIMEOUT:?}");
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
            }
        }
    }
}

/// Reads a body with `convert`, away from the threads that serve connections: a long prompt takes
/// its time to be tokenized.
pub(crate) async fn convert<T: Send + 'static>(
    app: &Arc<App>,
    Body(body): Body,
    convert: fn(Fields, &App) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let app = app.clone();
    tokio::task::spawn_blocking(move || convert(Fields::from_body(&body)?, &app))
        .await
        .map_err(|error| ApiError::internal(format!("reading the request failed: {error}")))?
}
