//! Conversion to MXFP4 on all cores, without a disk: `cargo bench -p mx`. Rates count input bytes.

use std::time::{Duration, Instant};

use mx::{BLOCK, ScaleRule, Ties, bf16, int4, quantize_mxfp4};

/// Elements converted at a time: their f32 fit the first cache.
const CHUNK: usize = 4096;
/// Elements each thread converts over and over.
const ELEMENTS: usize = 1 << 22;
const TIME: Duration = Duration::from_secs(2);

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for threads in [1, threads] {
        report("BF16", 2.0, threads, from_bf16);
        report("INT4", 0.5 + 2.0 / int4::GROUP as f64, threads, from_int4);
    }
}

fn report(name: &str, bytes: f64, threads: usize, convert: fn(u64) -> u64) {
    let start = Instant::now();
    let elements: u64 = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads).map(|i| scope.spawn(move || convert(i as u64))).collect();
        runs.into_iter().map(|run| run.join().expect("no panic")).sum()
    });
    let rate = elements as f64 / start.elapsed().as_secs_f64();
    println!(
        "{name} to MXFP4, {threads} thread(s): {:.2} GB/s, {:.2} G elements/s",
        rate * bytes / 1e9,
        rate / 1e9
    );
}

/// Numbers without a pattern (xorshift).
fn noise(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed * 2 + 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

/// Repeats `step` on every chunk until the time is over; returns the elements done.
fn repeat(mut step: impl FnMut(usize, &mut [f32])) -> u64 {
    let (start, mut done) = (Instant::now(), 0);
    let (mut values, mut packed, mut scales) =
        (vec![0f32; CHUNK], vec![0u8; CHUNK / 2], vec![0u8; CHUNK / BLOCK]);
    while start.elapsed() < TIME {
        for at in (0..ELEMENTS).step_by(CHUNK) {
            step(at, &mut values);
            quantize_mxfp4(&values, ScaleRule::Even, Ties::Even, &mut packed, &mut scales);
            std::hint::black_box((&packed, &scales));
        }
        done += ELEMENTS as u64;
    }
    done
}

fn from_bf16(seed: u64) -> u64 {
    // Exponents around that of 0.02, the size of trained weights.
    let weights: Vec<u16> =
        noise(seed).take(ELEMENTS).map(|n| (n & 0x81ff | 0x3c00) as u16).collect();
    repeat(|at, values| {
        for (value, &bits) in values.iter_mut().zip(&weights[at..at + CHUNK]) {
            *value = bf16::to_f32(bits);
        }
    })
}

fn from_int4(seed: u64) -> u64 {
    let packed: Vec<u8> = noise(seed).take(ELEMENTS / 2).map(|n| n as u8).collect();
    let scales: Vec<u16> =
        noise(seed + 9).take(ELEMENTS / int4::GROUP).map(|n| (n & 0xff | 0x3b00) as u16).collect();
    repeat(|at, values| {
        let (packed, scales) = (&packed[at / 2..], &scales[at / int4::GROUP..]);
        int4::dequantize(&packed[..CHUNK / 2], &scales[..CHUNK / int4::GROUP], values);
        values.iter_mut().for_each(|value| *value = bf16::round(*value));
    })
}
