use std::hint::black_box;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::App;
use crate::error::ApiError;

/// Lets a request pass if it has the key, if none is set, or if it only asks for `/health`.
pub(crate) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let allowed = match &app.config.api_key {
        Some(key) if request.uri().path() != "/health" => has_key(request.headers(), key),
        _ => true,
    };
    if allowed {
        return next.run(request).await;
    }
    let message = "the API key is missing or wrong: expected the header Authorization: Bearer KEY";
    ApiError::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key").into_response()
}

fn has_key(headers: &HeaderMap, key: &str) -> bool {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_first_chunk::<7>())
        .is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case(b"bearer ") && equal(given, key.as_bytes())
        })
}

/// Compares in a time that tells the key's length at most.
fn equal(given: &[u8], key: &[u8]) -> bool {
    let different = given.iter().zip(key).fold(0, |bits, (a, b)| black_box(bits | (a ^ b)));
    given.len() == key.len() && different == 0
}
