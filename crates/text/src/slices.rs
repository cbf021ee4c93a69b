//! The cuts that Kimi's tokenizer makes before anything else. Merges never cross a cut, so that
//! the work for one piece is bounded whatever the text is.

/// Longest slice, in characters.
const SLICE_CHARS: usize = 400_000;
/// Longest run of only whitespace, or of only other characters, inside a slice.
const RUN_CHARS: usize = 25_000;

/// Cuts `text` after every [`SLICE_CHARS`] characters and, within a slice, whenever a run of
/// whitespace or of non-whitespace reaches [`RUN_CHARS`]. The pieces concatenate to `text`.
pub(crate) fn slices(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let (mut slice, mut run) = (0, 0);
    let mut in_space = None;
    for (at, c) in text.char_indices() {
        let space = Some(is_python_space(c));
        if slice == SLICE_CHARS || (run == RUN_CHARS && space == in_space) {
            pieces.push(&text[start..at]);
            start = at;
            run = 0;
            if slice == SLICE_CHARS {
                slice = 0;
            }
        } else if space != in_space {
            run = 0;
        }
        in_space = space;
        slice += 1;
        run += 1;
    }
    if start < text.len() {
        pieces.push(&text[start..]);
    }
    pieces
}

/// Python's `str.isspace` for one character: Unicode whitespace and the four ASCII separators.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(text: &str) -> Vec<usize> {
        let pieces = slices(text);
        assert_eq!(pieces.concat(), text);
        pieces.iter().map(|piece| piece.chars().count()).collect()
    }

    #[test]
    fn runs_are_cut_at_25000() {
        assert_eq!(lengths(""), [0usize; 0]);
        assert_eq!(lengths(&"a".repeat(25_000)), [25_000]);
        assert_eq!(lengths(&"é".repeat(60_001)), [25_000, 25_000, 10_001]);
        let mixed = format!("{} {}", "a".repeat(25_000), "b".repeat(25_001));
        assert_eq!(lengths(&mixed), [50_001, 1]);
        assert_eq!(lengths(&" \u{1f}\n".repeat(10_000)), [25_000, 5_000]);
    }

    #[test]
    fn slices_are_cut_at_400000_and_runs_start_anew() {
        let text = "word ".repeat(100_000);
        assert_eq!(lengths(&text), [400_000, 100_000]);
        // The second slice begins in the middle of a run, which counts from its first character.
        let text = format!("{}{}", "w ".repeat(195_000), "x".repeat(34_000));
        assert_eq!(lengths(&text), [400_000, 24_000]);
    }
}
