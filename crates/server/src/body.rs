use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;

use crate::App;
use crate::error::ApiError;
use crate::fields::Fields;

/// A request's body, or why it could not be read.
pub(crate) type Body = Result<Bytes, BytesRejection>;

/// Reads a body with `convert`, away from the threads that serve connections: a long prompt takes
/// its time to be tokenized.
pub(crate) async fn convert<T: Send + 'static>(
    app: &Arc<App>,
    body: Body,
    convert: fn(Fields, &App) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let limit = app.config.max_body_bytes;
            let message = format!("the body is larger than {limit} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        }
        _ => ApiError::bad_request("the body could not be read"),
    })?;
    let app = app.clone();
    tokio::task::spawn_blocking(move || convert(Fields::from_body(&body)?, &app))
        .await
        .map_err(|error| ApiError::internal(format!("reading the request failed: {error}")))?
}
