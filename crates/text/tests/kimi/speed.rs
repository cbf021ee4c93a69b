//! Inputs that make careless tokenizers quadratic.

use std::time::{Duration, Instant};

use crate::TOKENIZER;

/// Each input has 200 kB. A linear tokenizer needs about 50 ms of the second, a quadratic one
/// minutes, so that the bound tells them apart on any machine. Unoptimized it means nothing.
#[test]
#[cfg_attr(debug_assertions, ignore = "a bound for optimized code")]
fn pathological_inputs_take_linear_time() {
    for unit in [
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
    ] {
        let text = unit.repeat(200_000 / unit.len());
        // Several runs together would hide behind the cut at 25,000 characters; so would one.
        for text in [text.clone(), format!("{text}x"), format!("{} {text}", &text)] {
            let start = Instant::now();
            let ids = TOKENIZER.encode_with_specials(&text);
            let took = start.elapsed();
            assert_eq!(TOKENIZER.decode(&ids, false), text);
            assert!(took < Duration::from_secs(1), "{unit:?}: {took:?}");
            eprintln!("{unit:?} {} kB: {took:?}, {} tokens", text.len() / 1000, ids.len());
        }
    }
}
