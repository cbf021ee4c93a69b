//! Inputs that make careless tokenizers quadratic.

use std::time::{Duration, Instant};

use crate::TOKENIZER;

/// 200 kB, and 400 kB that go on after a run's end. Measured on two shared cores, optimized: 20 to
/// 190 ms each; a quadratic splitter or merge loop needs minutes, so that a second tells the two
/// apart on any machine.
#[test]
fn pathological_inputs_take_linear_time() {
    let units = [
        "a",
        " ",
        "\n",
        " \n",
        "é",
        "日",
        "<",
        "<|im_end|",
        "A",
        "'s",
        "\u{301}",
        "1",
        "aB",
        ".",
        "😀",
        "\t\r",
        "a\u{301}",
    ];
    // Reading the tokenizer is no part of what is measured.
    assert_eq!(TOKENIZER.encode("a").len(), 1);
    for unit in units {
        let text = unit.repeat(200_000 / unit.len());
        for text in [format!("{text}x"), format!("{text} {text}")] {
            let start = Instant::now();
            let ids = TOKENIZER.encode_with_specials(&text);
            let took = start.elapsed();
            assert_eq!(TOKENIZER.decode(&ids, false), text);
            assert!(took < Duration::from_secs(1), "{unit:?}: {took:?}");
        }
    }
}
