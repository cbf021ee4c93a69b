//! A name for every request: `x-request-id` in and out, a span around the work, a line at its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument, Span};

use crate::App;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ids are replaced: they would fill the logs.
const MAX_ID_BYTES: usize = 128;

/// Gives the request the id that it brings, or a new one.
pub(crate) async fn request(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let brought = request.headers().get(REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        bytes.len() <= MAX_ID_BYTES && !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic)
    });
    let id = brought.cloned().unwrap_or_else(|| new_id(&app));
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = request.uri().path(),
    );
    let begun = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    response.headers_mut().insert(REQUEST_ID, id);
    let status = response.status();
    response.map(|inner| Body::new(Observed { inner, span, begun, status, complete: false }))
}

fn new_id(app: &App) -> HeaderValue {
    HeaderValue::from_str(&app.next_answer_id("req"))
        .unwrap_or_else(|_| HeaderValue::from_static("req"))
}

/// A response's body within its request's span.
struct Observed {
    inner: Body,
    span: Span,
    begun: Instant,
    status: StatusCode,
    complete: bool,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let _entered = this.span.enter();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        this.complete |= frame.is_none() || this.inner.is_end_stream();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        let (status, milliseconds) = (self.status.as_u16(), self.begun.elapsed().as_millis());
        if self.complete || self.inner.is_end_stream() {
            tracing::info!(status, milliseconds, "answered");
        } else {
            tracing::info!(status, milliseconds, "the client left");
        }
    }
}
