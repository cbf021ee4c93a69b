//! Quantization against an independent implementation in exact arithmetic
//! (`tests/data/mxfp4-rtn/make.py`): ties and their neighbours, zeros, denormals, huge values, and
//! largest magnitudes at every rule's edge.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use mx::{BLOCK, ScaleRule, Ties, quantize_mxfp4};

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn every_block_under_every_rule() {
    let text = include_str!("../../../tests/data/mxfp4-rtn/blocks.txt");
    assert!(text.lines().count() > 150);
    for (number, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.split(' ').collect();
        let block: Vec<f32> = (0..BLOCK)
            .map(|i| f32::from_bits(u32::from_str_radix(&cells[0][8 * i..8 * i + 8], 16).unwrap()))
            .collect();
        let rules = [ScaleRule::Even, ScaleRule::Floor, ScaleRule::Ceil];
        for (rule, expected) in rules.into_iter().zip(&cells[1..]) {
            let (mut packed, mut scale) = ([0u8; BLOCK / 2], [0u8; 1]);
            quantize_mxfp4(&block, rule, Ties::Even, &mut packed, &mut scale);
            let found = [&scale[..], &packed[..]].concat();
            assert_eq!(found, bytes(expected), "line {}, {rule:?}", number + 1);
        }
    }
}
