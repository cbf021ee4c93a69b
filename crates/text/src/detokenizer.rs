use crate::Tokenizer;

/// Turns token ids into text as they come, and never emits half a code point: bytes that may still
/// become a character wait for the next token, bytes that cannot become U+FFFD. What it emits
/// in all equals the lossy UTF-8 decoding of all bytes.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    skip_special: bool,
    /// At most three bytes: the beginning of a code point.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// With `skip_special`, tokens that [`Tokenizer::is_special`] names contribute nothing.
    pub fn new(skip_special: bool) -> Self {
        Self { skip_special, pending: Vec::new() }
    }

    /// The text that `id` completes; empty while a code point is incomplete or `id` is unknown.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if !(self.skip_special && tokenizer.is_special(id)) {
            self.pending.extend_from_slice(tokenizer.token_bytes(id).unwrap_or_default());
        }
        let complete = self.pending.len() - incomplete_suffix(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }

    /// Ends the stream: what is left of an incomplete code point becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// How many bytes at the end are a valid but unfinished beginning of a code point.
fn incomplete_suffix(bytes: &[u8]) -> usize {
    // A code point has at most four bytes, so an unfinished one begins in the last three.
    (1..=bytes.len().min(3))
        .rev()
        .find(|&length| {
            let suffix = &bytes[bytes.len() - length..];
            // Continuation bytes cannot begin a code point, so the suffix stands for itself.
            std::str::from_utf8(suffix)
                .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}
