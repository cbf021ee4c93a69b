/// Looks for stop strings in text that comes in pieces.
///
/// The first one to be complete ends the text; of several that are complete at the same character,
/// the longest. Both depend on the text alone, never on how it is cut into pieces.
#[derive(Debug)]
pub(crate) struct StopMatcher {
    strings: Vec<String>,
    /// Whether the stop string itself belongs to the text.
    include: bool,
    /// The end of the text so far, as long as it may be the beginning of a stop string.
    held: String,
}

/// Text that can be shown, and which stop string ends it here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) text: String,
    pub(crate) stopped: Option<usize>,
}

impl StopMatcher {
    /// `strings` are not empty.
    pub(crate) fn new(strings: Vec<String>, include: bool) -> Self {
        Self { strings, include, held: String::new() }
    }

    pub(crate) fn push(&mut self, text: &str) -> Released {
        self.held.push_str(text);
        let matches = self.strings.iter().enumerate().filter_map(|(index, string)| {
            let start = self.held.find(string.as_str())?;
            Some((start + string.len(), start, index))
        });
        if let Some((end, start, index)) = matches.min() {
            self.held.truncate(if self.include { end } else { start });
            return Released { text: std::mem::take(&mut self.held), stopped: Some(index) };
        }
        let kept = self.strings.iter().map(|string| overlap(&self.held, string)).max();
        let rest = self.held.split_off(self.held.len() - kept.unwrap_or(0));
        Released { text: std::mem::replace(&mut self.held, rest), stopped: None }
    }

    /// What was held back, now that no stop string can follow.
    pub(crate) fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that is a beginning, but not all, of `string`.
fn overlap(text: &str, string: &str) -> usize {
    let prefixes = string.char_indices().map(|(at, _)| at).rev();
    prefixes
        .filter(|&length| length <= text.len())
        .find(|&length| text.as_bytes().ends_with(&string.as_bytes()[..length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All text released, for the text cut into pieces of `size` characters.
    fn run(text: &str, stops: &[&str], include: bool, size: usize) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|&s| s.to_owned()).collect(), include);
        let characters: Vec<char> = text.chars().collect();
        let mut all = String::new();
        for piece in characters.chunks(size) {
            let released = matcher.push(&piece.iter().collect::<String>());
            all += &released.text;
            if released.stopped.is_some() {
                return (all, true);
            }
        }
        (all + &matcher.flush(), false)
    }

    #[test]
    fn the_first_complete_stop_string_ends_the_text_however_it_is_cut() {
        let cases: [(&str, &[&str], &str, &str, bool); 8] = [
            ("one STOP two", &["STOP"], "one ", "one STOP", true),
            ("one STO", &["STOP"], "one STO", "one STO", false),
            ("aaab", &["aab"], "a", "aaab", true),
            ("abcd", &["bcd", "c"], "ab", "abc", true),
            ("abcd", &["c", "bc"], "a", "abc", true),
            ("größe 你好!", &["你好"], "größe ", "größe 你好", true),
            ("a你", &["你好"], "a你", "a你", false),
            ("text", &[], "text", "text", false),
        ];
        for (text, stops, without, with, stopped) in cases {
            for size in 1..=text.chars().count() {
                assert_eq!(run(text, stops, false, size), (without.to_owned(), stopped), "{text}");
                assert_eq!(run(text, stops, true, size), (with.to_owned(), stopped), "{text}");
            }
        }
    }

    #[test]
    fn only_what_may_still_match_is_held_back() {
        let mut matcher = StopMatcher::new(vec!["\n\nQ:".to_owned()], false);
        assert_eq!(matcher.push("a\n").text, "a");
        assert_eq!(matcher.push("\nQ").text, "");
        assert_eq!(matcher.push("?").text, "\n\nQ?");
    }
}
