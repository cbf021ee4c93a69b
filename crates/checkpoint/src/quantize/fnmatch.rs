//! Python's `fnmatch.fnmatchcase`: `*`, `?`, `[seq]`, `[!seq]`; everything else is itself.

/// Whether all of `name` matches `pattern`.
pub(super) fn fnmatch(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Where to go on after a mismatch: behind the last star, with one more character given to it.
    let mut retry = None;
    let (mut at, mut seen) = (0, 0);
    while seen < name.len() {
        match pattern.get(at) {
            Some('*') => {
                retry = Some((at + 1, seen));
                at += 1;
                continue;
            }
            Some(_) => {
                let (matched, length) = one(&pattern[at..], name[seen]);
                if matched {
                    at += length;
                    seen += 1;
                    continue;
                }
            }
            None => {}
        }
        let Some((behind, from)) = retry else { return false };
        retry = Some((behind, from + 1));
        (at, seen) = (behind, from + 1);
    }
    pattern[at..].iter().all(|&c| c == '*')
}

/// Whether the first item of `pattern` (not empty, no star) matches `c`, and the item's length.
fn one(pattern: &[char], c: char) -> (bool, usize) {
    match pattern[0] {
        '?' => (true, 1),
        '[' => {
            let negated = pattern.get(1) == Some(&'!');
            let start = if negated { 2 } else { 1 };
            // A bracket that comes first is a member, not the end.
            let end = (start + 1..pattern.len()).find(|&i| pattern[i] == ']');
            match end {
                Some(end) => (contains(&pattern[start..end], c) != negated, end + 1),
                None => (c == '[', 1),
            }
        }
        literal => (literal == c, 1),
    }
}

fn contains(mut set: &[char], c: char) -> bool {
    while let Some(&first) = set.first() {
        match (set.get(1), set.get(2)) {
            (Some('-'), Some(&last)) => {
                if (first..=last).contains(&c) {
                    return true;
                }
                set = &set[3..];
            }
            _ if first == c => return true,
            _ => set = &set[1..],
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of CPython 3.11's fnmatchcase.
    #[test]
    fn answers_as_python_does() {
        let layer = "language_model.model.layers.1.mlp.gate";
        let cases = [
            ("lm_head", "lm_head", true),
            ("lm_head", "language_model.lm_head", false),
            ("*.gate", layer, true),
            ("*.gate", "model.layers.1.mlp.experts.0.gate_proj", false),
            ("*self_attn*", "model.layers.0.self_attn.q_a_proj", true),
            ("*embed*", "model.embed_tokens", true),
            ("*norm*", "model.norm", true),
            ("*layers.[0-1].*", layer, true),
            ("*layers.[!1]*", layer, false),
            ("*layers.?.mlp*", layer, true),
            ("*layers.?.mlp", layer, false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "abc", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("[]]", "]", true),
            ("[!]]", "]", false),
            ("[a", "[a", true),
            ("[", "[", true),
            ("[a-]", "-", true),
            ("[-a]", "-", true),
            ("[c-a]", "b", false),
            ("[ac-e]x", "dx", true),
            ("a.b", "aXb", false),
            ("A*", "abc", false),
            ("[*]", "*", true),
            ("[!a]*", "", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(fnmatch(pattern, name), expected, "{pattern:?} {name:?}");
        }
    }
}
