//! Server-sent events, as far as OpenAI's API uses them: `data` fields.

/// Bytes of a stream so far, up to the event that is not complete yet.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The line that is not complete.
    line: Vec<u8>,
    /// Data of the event that is not complete.
    data: Vec<String>,
}

impl Events {
    /// Takes the next bytes, cut anywhere. Returns the data of the events they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if let Some(data) = line.strip_prefix("data:") {
                self.data.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
            } else if line.is_empty() && !self.data.is_empty() {
                complete.push(std::mem::take(&mut self.data).join("\n"));
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_cut() {
        let stream = "data: {\"a\": \"ö\"}\n\n: a comment\n\nevent: x\ndata: one\ndata:two\n\n\
                      data: crlf\r\n\r\nid: 7\n\ndata: [DONE]\n\ndata: never complete\n";
        let expected = ["{\"a\": \"ö\"}", "one\ntwo", "crlf", "[DONE]"];
        for size in 1..=stream.len() {
            let mut events = Events::default();
            let parts = stream.as_bytes().chunks(size);
            let found: Vec<String> = parts.flat_map(|part| events.push(part)).collect();
            assert_eq!(found, expected, "in pieces of {size} bytes");
        }
    }
}
