use std::hint::black_box;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::App;
use crate::error::ApiError;

/// Lets a request pass if it has one of the keys, if there are none, or if it only asks for
/// `/health`.
pub(crate) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let keys = &app.config.api_keys;
    if keys.is_empty() || request.uri().path() == "/health" || has_key(request.headers(), keys) {
        return next.run(request).await;
    }
    let message = "the API key is missing or wrong: expected the header Authorization: Bearer KEY \
        or x-api-key: KEY";
    ApiError::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key").into_response()
}

/// OpenAI's clients send `Authorization: Bearer KEY`, Anthropic's `x-api-key: KEY`.
fn has_key(headers: &HeaderMap, keys: &[String]) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_first_chunk::<7>()?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    let given = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()));
    // Compared with all of them, so that the time does not tell which one is close.
    given.is_some_and(|given| {
        keys.iter().fold(false, |found, key| found | equal(given, key.as_bytes()))
    })
}

/// Compares in a time that tells the key's length at most.
fn equal(given: &[u8], key: &[u8]) -> bool {
    let different = given.iter().zip(key).fold(0, |bits, (a, b)| black_box(bits | (a ^ b)));
    given.len() == key.len() && different == 0
}
