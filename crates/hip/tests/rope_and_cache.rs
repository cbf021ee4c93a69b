//! Rotary embedding and cache entries against f64.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod random;

use hip::kernels::Rows;
use hip::kernels::rope_and_cache::{Buffers, entry_bytes, rope_and_cache};
use model::{CacheFormat, HeadShape};
use mx::bf16::{from_f32, to_f32};
use random::Random;

const EPS: f32 = 1e-6;
const POSITIONS: usize = 50;
const SLOTS: usize = 40;

/// A pair turned, with the bound of the kernel's error: each product and the sum round once, then
/// bf16 by 2^-8.
fn turned(x: f32, y: f32, cos: f32, sin: f32) -> [(f64, f64); 2] {
    let [x, y, cos, sin] = [x, y, cos, sin].map(f64::from);
    let one = |a: f64, b: f64| {
        (a + b, 2f64.powi(-22) * (a.abs() + b.abs()) + 2f64.powi(-8) * (a + b).abs())
    };
    [one(x * cos, -y * sin), one(y * cos, x * sin)]
}

fn check(codes: &[u16], x: &[f32], turns: &[f32]) {
    for (i, pair) in x.chunks(2).enumerate() {
        let expected = turned(pair[0], pair[1], turns[2 * i], turns[2 * i + 1]);
        for (j, (exact, bound)) in expected.into_iter().enumerate() {
            let found = f64::from(to_f32(codes[2 * i + j]));
            assert!((found - exact).abs() <= bound, "{i} {j}: {found} for {exact}");
        }
    }
}

/// An FP8 entry is exactly MXFP8 of the BF16 entry's latent, and its rope.
fn check_fp8(entry: &[u8], bf16: &[u16], latent: usize) {
    let mut expected: Vec<f32> = bf16[..latent].iter().map(|&code| to_f32(code)).collect();
    let (codes, rest) = entry.split_at(latent);
    let (scales, rope) = rest.split_at(latent / 32);
    for (scale, block) in scales.iter().zip(expected.chunks(32)) {
        let amax = block.iter().fold(0f32, |most, value| most.max(value.abs()));
        assert_eq!(*scale, mx::e8m0::e4m3_scale_byte(amax));
    }
    mx::round_trip_mxfp8(&mut expected);
    for (i, value) in expected.iter().enumerate() {
        assert_eq!(mx::e4m3::decode(codes[i]) * mx::e8m0::decode(scales[i / 32]), *value);
    }
    let expected: Vec<u8> = bf16[latent..].iter().flat_map(|code| code.to_ne_bytes()).collect();
    assert_eq!(rope, expected);
}

fn run(rows: usize, shape: HeadShape) {
    let gpu = device::gpu();
    let mut random = Random::new(rows as u64);
    let HeadShape { heads, nope, rope, latent, .. } = shape;
    let (head, entry, bound) = (nope + rope, latent + rope, rows + 1);
    let q = random.f32s(rows * heads * head, 4.0);
    let kv_a = random.f32s(rows * entry, 2.0);
    // Before each row's values stands what does not count.
    let kv_stride = entry + 8;
    let spread = kv_a.chunks(entry).flat_map(|row| [f32::NAN; 8].into_iter().chain(row.to_vec()));
    let spread: Vec<f32> = spread.collect();
    let norm = random.f32s(latent, 1.5);
    let table = random.f32s(POSITIONS * rope, 1.0);
    let positions: Vec<u32> = (0..rows).map(|_| random.below(POSITIONS) as u32).collect();
    let order = random.permutation(SLOTS);
    let slots: Vec<u32> = order[..rows].iter().map(|&slot| slot as u32).collect();
    let generated = rows / 2;
    let (count, first) = (gpu.upload(&[rows as u32]), gpu.upload(&[generated as u32]));
    let (places, targets) = (gpu.upload_into(&positions, bound), gpu.upload_into(&slots, bound));
    let memory = [
        gpu.upload_into(&q, bound * heads * head),
        gpu.upload_into(&spread, bound * kv_stride),
        gpu.upload(&norm),
        gpu.upload(&table),
    ];
    let expanded = gpu.poisoned(bound * heads * head / 2);
    let absorbed = gpu.poisoned(bound * heads * entry / 2);
    let cache = gpu.poisoned(8 + SLOTS * entry / 2);
    let buffers = Buffers {
        q: &memory[0],
        kv_a: &memory[1],
        kv_stride,
        norm: &memory[2],
        table: &memory[3],
        expanded: &expanded,
        absorbed: &absorbed,
        cache: &cache,
        format: CacheFormat::Bf16,
        cache_offset: 32,
    };
    let rows_of = Rows { count: count.ptr(), bound };
    let (stream, kernels) = (&gpu.stream, &gpu.kernels);
    let (places, targets, first) = (places.ptr(), targets.ptr(), first.ptr());
    rope_and_cache(stream, kernels, rows_of, places, targets, first, shape, buffers, EPS).unwrap();
    let fp8_entry = entry_bytes(CacheFormat::Fp8, latent, rope);
    let fp8 = gpu.poisoned(8 + SLOTS * fp8_entry / 4);
    if latent.is_multiple_of(512) {
        let buffers = Buffers { cache: &fp8, format: CacheFormat::Fp8, ..buffers };
        rope_and_cache(stream, kernels, rows_of, places, targets, first, shape, buffers, EPS)
            .unwrap();
    }
    let fp8: Vec<u8> = gpu.download(&fp8);

    let expanded: Vec<u16> = gpu.download(&expanded);
    let absorbed: Vec<u16> = gpu.download(&absorbed);
    let cache: Vec<u16> = gpu.download(&cache);
    for row in 0..rows {
        let turns = &table[positions[row] as usize * rope..][..rope];
        for h in 0..heads {
            let i = row * heads + h;
            let x = &q[i * head..][..head];
            let (own, query) = (&expanded[i * head..][..head], &absorbed[i * entry..][..entry]);
            for (value, code) in x[..nope].iter().zip(own) {
                assert_eq!(from_f32(*value), *code);
            }
            assert!(query[..latent].iter().all(|&v| v == u16::MAX), "the latent part is not ours");
            let (rope, other) = match row < generated {
                true => (&query[latent..], &own[nope..]),
                false => (&own[nope..], &query[latent..]),
            };
            check(rope, &x[nope..], turns);
            assert!(other.iter().all(|&v| v == u16::MAX), "row {row} has another form");
        }
        let x = &kv_a[row * entry..][..entry];
        let found = &cache[16 + slots[row] as usize * entry..][..entry];
        check(&found[latent..], &x[latent..], turns);
        let mean = x[..latent].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / latent as f64;
        // As in the test of rms_norm.
        let error = (latent as f64 / 2.0 + 6.0) * 2f64.powi(-24) + 2f64.powi(-8);
        for i in 0..latent {
            let exact = f64::from(norm[i]) * f64::from(x[i]) / (mean + f64::from(EPS)).sqrt();
            assert!((f64::from(to_f32(found[i])) - exact).abs() <= error * exact.abs());
        }
        if latent.is_multiple_of(512) {
            check_fp8(&fp8[32 + slots[row] as usize * fp8_entry..][..fp8_entry], found, latent);
        }
    }
    for slot in (0..SLOTS as u32).filter(|slot| !slots.contains(slot)) {
        let other = &cache[16 + slot as usize * entry..][..entry];
        assert!(other.iter().all(|&v| v == u16::MAX), "slot {slot} belongs to others");
        let other = &fp8[32 + slot as usize * fp8_entry..][..fp8_entry];
        assert!(other.iter().all(|&v| v == u8::MAX), "slot {slot} belongs to others");
    }
    assert!(expanded[rows * heads * head..].iter().all(|&v| v == u16::MAX));
    assert!(absorbed[rows * heads * entry..].iter().all(|&v| v == u16::MAX));
}

#[test]
fn queries_and_entries_are_right() {
    run(0, HeadShape { heads: 2, nope: 128, rope: 64, v: 128, latent: 512 });
    run(1, HeadShape { heads: 16, nope: 128, rope: 64, v: 128, latent: 512 });
    run(5, HeadShape { heads: 3, nope: 8, rope: 4, v: 8, latent: 36 });
    run(7, HeadShape { heads: 1, nope: 128, rope: 64, v: 128, latent: 1024 });
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("queries_and_entries_are_right");
}
