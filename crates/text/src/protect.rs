//! Keeps user text apart from the template's own through rendering.
//!
//! Every special token's name begins and ends with a delimiter such as `<` or `>`. Before
//! rendering, each delimiter in a user string is replaced by a stand-in, a character that occurs
//! nowhere in the input; after rendering the stand-ins are turned back, and their places noted. A
//! name that covers such a place came from a user, wholly or in part, and is text. It doesn't
//! matter what the template does with a string meanwhile (trim, cut, join, tojson), and names that
//! only come about by joining two user strings are caught as well. Template comparisons such as
//! `role == 'assistant'` see the strings unchanged, as long as they hold no delimiter.

use std::collections::HashSet;
use std::ops::Range;

use serde_json::{Map, Value};

use crate::TextError;

/// Delimiters and the stand-ins chosen for one rendering.
pub(crate) struct Protection {
    pairs: Vec<(char, char)>,
}

/// Rendered text, and the byte positions in it of delimiters that users wrote, ascending.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Protected {
    pub(crate) text: String,
    user_delimiters: Vec<usize>,
}

impl Protected {
    /// Whether no user delimiter lies in `range`.
    pub(crate) fn is_template_text(&self, range: &Range<usize>) -> bool {
        let next = self.user_delimiters.partition_point(|&at| at < range.start);
        self.user_delimiters.get(next).is_none_or(|&at| at >= range.end)
    }
}

impl Protection {
    /// Chooses a stand-in for each of `delimiters` from the private use planes, none of which
    /// occurs in `inputs`.
    pub(crate) fn new<'a>(
        delimiters: &HashSet<char>,
        inputs: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TextError> {
        const FIRST: char = '\u{F0000}';
        let used: HashSet<char> =
            inputs.into_iter().flat_map(str::chars).filter(|&c| c >= FIRST).collect();
        let mut free = (FIRST..=char::MAX).filter(|c| !used.contains(c));
        let pairs = delimiters
            .iter()
            .map(|&delimiter| Some((delimiter, free.next()?)))
            .collect::<Option<_>>()
            .ok_or_else(|| {
                TextError::Template("messages use every private character".to_owned())
            })?;
        Ok(Self { pairs })
    }

    /// `text` with stand-ins for its delimiters.
    pub(crate) fn string(&self, text: &str) -> String {
        let stand_in = |c| self.pairs.iter().find(|pair| pair.0 == c).map_or(c, |pair| pair.1);
        text.chars().map(stand_in).collect()
    }

    /// `value` with stand-ins in every string and key.
    pub(crate) fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.string(text)),
            Value::Array(items) => Value::Array(items.iter().map(|v| self.value(v)).collect()),
            Value::Object(entries) => Value::Object(self.entries(entries)),
            other => other.clone(),
        }
    }

    /// [`Protection::value`] for the entries of an object.
    pub(crate) fn entries(&self, entries: &Map<String, Value>) -> Map<String, Value> {
        entries.iter().map(|(key, item)| (self.string(key), self.value(item))).collect()
    }

    /// Turns stand-ins back into the delimiters that users wrote.
    pub(crate) fn restore(&self, rendered: &str) -> Protected {
        let mut text = String::with_capacity(rendered.len());
        let mut user_delimiters = Vec::new();
        for c in rendered.chars() {
            match self.pairs.iter().find(|pair| pair.1 == c) {
                Some(&(delimiter, _)) => {
                    user_delimiters.push(text.len());
                    text.push(delimiter);
                }
                None => text.push(c),
            }
        }
        Protected { text, user_delimiters }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_avoid_the_input_and_come_back_with_their_places() {
        let user = "a<b\u{F0000}\u{F0001}>";
        let protection = Protection::new(&HashSet::from(['<', '>']), [user]).unwrap();
        let inside = protection.string(user);
        assert!(!inside.contains(['<', '>']));
        let protected = protection.restore(&format!("<x>{inside}"));
        assert_eq!(protected.text, format!("<x>{user}"));
        assert_eq!(protected.user_delimiters, [4, 14]);
        assert!(protected.is_template_text(&(0..4)));
        assert!(!protected.is_template_text(&(3..5)));
        assert!(!protected.is_template_text(&(6..15)));
        assert!(protected.is_template_text(&(5..14)));
    }

    #[test]
    fn input_that_uses_up_the_private_planes_is_an_error() {
        let all: String = ('\u{F0000}'..=char::MAX).collect();
        assert!(matches!(
            Protection::new(&HashSet::from(['<']), [all.as_str()]),
            Err(TextError::Template(_))
        ));
    }
}
