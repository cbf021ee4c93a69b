//! The byte-level alphabet of GPT-2: one printable character for each of the 256 bytes, in which
//! `tokenizers` spells a BPE vocabulary.

/// The character that stands for `byte`: printable Latin-1 stands for itself, the other 68 bytes
/// are numbered upwards from U+0100.
fn char_of(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        0x00..=0x20 => shifted(u32::from(byte)),
        0x7F..=0xA0 => shifted(u32::from(byte) - 0x7F + 33),
        0xAD => shifted(67),
    }
}

fn shifted(offset: u32) -> char {
    char::from_u32(0x100 + offset).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Spells `bytes` in the alphabet.
pub(crate) fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char_of(byte)).collect()
}

/// The bytes that `spelling` stands for; `None` where a character is not in the alphabet.
pub(crate) fn unspell(spelling: &str) -> Option<Vec<u8>> {
    spelling
        .chars()
        .map(|c| match u32::from(c) {
            code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
            code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
            0x143 => Some(0xAD),
            code => u8::try_from(code).ok().filter(|&byte| char_of(byte) == c),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_comes_back() {
        let mut seen = std::collections::HashSet::new();
        for byte in 0..=u8::MAX {
            let spelled = spell(&[byte]);
            assert_eq!(unspell(&spelled), Some(vec![byte]));
            assert!(seen.insert(spelled));
        }
        // Fixed points of the published alphabet.
        assert_eq!(spell(b" \n\t"), "\u{120}\u{10A}\u{109}");
        assert_eq!(unspell("日"), None);
        assert_eq!(unspell(" "), None);
    }
}
