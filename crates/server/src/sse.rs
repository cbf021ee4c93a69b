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

/// A route's shape of a streamed answer.
pub(crate) trait Chunks: Send + 'static {
    /// What comes before the first piece.
    fn open(&mut self) -> Vec<Event>;
    /// What tells of one piece.
    fn piece(&mut self, piece: Piece) -> Vec<Event>;
    /// What comes after the last piece.
    fn close(&mut self) -> Vec<Event>;
    /// What comes instead of the rest if the answer cannot be completed.
    fn fail(&mut self, error: &ApiError) -> Event;
}

struct Events<C> {
    pieces: Pieces,
    chunks: C,
    ready: VecDeque<Event>,
    ended: bool,
}

/// Streams an answer. Dropping the response drops `pieces`, which cancels the sequences.
pub(crate) fn respond(pieces: Pieces, mut chunks: impl Chunks) -> Response {
    let ready = chunks.open().into();
    let events = Events { pieces, chunks, ready, ended: false };
    let events = stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        Some((Ok::<_, Infallible>(event), events))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

impl<C: Chunks> Events<C> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.pieces.next().await {
                Some(Ok(piece)) => self.ready.extend(self.chunks.piece(piece)),
                Some(Err(error)) => {
                    tracing::error!(?error, "a stream was broken off");
                    self.pieces = stream::empty().boxed();
                    self.ready.push_back(self.chunks.fail(&error));
                    self.ended = true;
                }
                None => {
                    self.ready.extend(self.chunks.close());
                    self.ended = true;
                }
            }
        }
    }
}

/// An event that is known by its data alone.
pub(crate) fn data(value: &impl Serialize) -> Event {
    Event::default().data(json(value))
}

/// An event with a name, which its data repeats as `type`.
pub(crate) fn named(name: &str, value: &impl Serialize) -> Event {
    Event::default().event(name).data(json(value))
}

/// The end of OpenAI's streams, after the last piece.
pub(crate) fn done() -> Event {
    Event::default().data("[DONE]")
}

/// JSON text on one line.
fn json(value: &impl Serialize) -> String {
    // Only maps with keys that are no strings fail, and the answers' types have none.
    serde_json::to_string(value).unwrap_or_default()
}
