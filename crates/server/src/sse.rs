//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use serde::Serialize;

use crate::error::ApiError;
use crate::generation::Pieces;
use crate::transcript::Piece;

/// A route's shape of a streamed answer: each string is one event's JSON text.
pub(crate) trait Chunks: Send + 'static {
    /// What comes before the first piece.
    fn open(&mut self) -> Vec<String>;
    /// What tells of one piece.
    fn piece(&mut self, piece: Piece) -> Vec<String>;
    /// What comes after the last piece.
    fn close(&mut self) -> Option<String>;
}

struct Events<C> {
    pieces: Pieces,
    chunks: C,
    ready: VecDeque<String>,
    ended: bool,
}

/// Streams an answer, then `[DONE]`. A failure is an event with an error in OpenAI's shape, and ends
/// the stream without `[DONE]`. Dropping the response drops `pieces`, which cancels the sequences.
pub(crate) fn respond(pieces: Pieces, mut chunks: impl Chunks) -> Response {
    let ready = chunks.open().into();
    let events = Events { pieces, chunks, ready, ended: false };
    let events = stream::unfold(events, |mut events| async move {
        let data = events.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), events))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

impl<C: Chunks> Events<C> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some(data);
            }
            if self.ended {
                return None;
            }
            match self.pieces.next().await {
                Some(Ok(piece)) => self.ready.extend(self.chunks.piece(piece)),
                Some(Err(reason)) => {
                    tracing::error!(reason, "a stream was broken off");
                    self.pieces = stream::empty().boxed();
                    self.ready.push_back(ApiError::internal(reason).to_json());
                    self.ended = true;
                }
                None => {
                    self.ready.extend(self.chunks.close());
                    self.ready.push_back("[DONE]".to_owned());
                    self.ended = true;
                }
            }
        }
    }
}

/// JSON text on one line.
pub(crate) fn json(value: &impl Serialize) -> String {
    // Only maps with keys that are no strings fail, and the answers' types have none.
    serde_json::to_string(value).unwrap_or_default()
}
