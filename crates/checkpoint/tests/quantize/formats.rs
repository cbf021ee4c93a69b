//! Every input format against an independent implementation (`tests/data/mxfp4-rtn/make.py`).

use safetensors::tensor::Dtype;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Tensors, directory, options, quantize, read_all, repository};

/// A tensor's name within its module, and its shape.
type Part = (&'static str, Vec<usize>);

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn weights_of_every_format_become_the_golden_bytes() {
    let file = std::fs::read(repository("tests/data/mxfp4-rtn/sources.json")).unwrap();
    let golden: Value = serde_json::from_slice(&file).unwrap();
    let (rows, cols) = (4, 64);
    assert_eq!((golden["rows"].as_u64(), golden["columns"].as_u64()), (Some(4), Some(64)));
    let weight: [Part; 1] = [("weight", vec![rows, cols])];
    let formats: [(&str, Dtype, &[Part]); 4] = [
        ("bf16", Dtype::BF16, &weight),
        ("f32", Dtype::F32, &weight),
        ("fp8", Dtype::F8_E4M3, &[("weight", vec![rows, cols]), ("weight_scale_inv", vec![1, 1])]),
        (
            "int4",
            Dtype::I32,
            &[("weight_packed", vec![rows, cols / 8]), ("weight_scale", vec![rows, cols / 32])],
        ),
    ];
    let mut tensors = Tensors::new();
    for (format, main, parts) in &formats {
        for (part, shape) in *parts {
            let dtype = match *part {
                "weight_scale_inv" => Dtype::F32,
                "weight_scale" => Dtype::BF16,
                _ => *main,
            };
            for module in ["quantized", "self_attn"] {
                let tensor = (dtype, shape.clone(), bytes(&golden[*format][*part]));
                tensors.insert(format!("{format}.{module}.{part}"), tensor);
            }
        }
    }
    let (input, output) = (directory(&tensors), TempDir::new().unwrap());
    let plan = quantize(options(input.path(), output.path())).unwrap();
    let found = read_all(output.path());
    for (format, ..) in &formats {
        let golden = &golden[*format];
        let (codes, scales) = (bytes(&golden["codes"]), bytes(&golden["scales"]));
        assert_eq!(
            found[&format!("{format}.quantized.weight")],
            (Dtype::U8, vec![rows, cols / 2], codes)
        );
        assert_eq!(
            found[&format!("{format}.quantized.weight_scale")],
            (Dtype::U8, vec![rows, cols / 32], scales)
        );
        let expected = match *format {
            "f32" => (Dtype::F32, vec![rows, cols], bytes(&golden["weight"])),
            _ => (Dtype::BF16, vec![rows, cols], bytes(&golden["decompressed"])),
        };
        assert_eq!(found[&format!("{format}.self_attn.weight")], expected, "{format}");
    }
    assert_eq!(found.len(), 4 * 3);
    plan.verify(&|_| ()).unwrap();
}

/// Blocks of 128 x 128 whose scales are all different, on a shape they do not divide.
#[test]
fn fp8_scales_are_those_of_their_blocks() {
    let (rows, cols) = (200, 288);
    let one = 0x38; // 1.0
    let scales: Vec<f32> = (0..2 * 3).map(|i| 2f32.powi(i)).collect();
    let scale_bytes: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
    let tensors = Tensors::from([
        ("a.weight".to_owned(), (Dtype::F8_E4M3, vec![rows, cols], vec![one; rows * cols])),
        ("a.weight_scale_inv".to_owned(), (Dtype::F32, vec![2, 3], scale_bytes)),
    ]);
    let (input, output) = (directory(&tensors), TempDir::new().unwrap());
    quantize(options(input.path(), output.path())).unwrap();
    let found = read_all(output.path());
    let blocks = &found["a.weight_scale"].2;
    for row in 0..rows {
        for block in 0..cols / 32 {
            let scale = scales[row / 128 * 3 + block * 32 / 128];
            let byte = blocks[row * cols / 32 + block];
            // All 32 are 2^k: the code is 4 (k - 2).
            assert_eq!(mx::e8m0::decode(byte) * 4.0, scale, "{row} {block}");
        }
    }
}
