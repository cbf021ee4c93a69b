//! The routed experts of one layer of Kimi-K2.6 on one of 4 ranks: times on hardware
//! (`MOONROCK_TEST_PLATFORM=cuda`), or one launch each in the emulator, whose counters then tell
//! what they move. Arguments: the form of the activations (`bf16`, `mxfp8`, `mxfp4`), then numbers
//! of tokens.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "../tests/device/mod.rs"]
mod device;
#[path = "../tests/numbers/mod.rs"]
mod numbers;

use checkpoint::Activations;
use device::Gpu;
use hip::kernels::Rows;
use hip::kernels::experts_down::{experts_combine, experts_down};
use hip::kernels::experts_gate_up::experts_gate_up;
use hip::kernels::mxfp4::{RowTiles, activated_bytes, weight_bytes};
use hip::kernels::quantize::quantize;
use hip::kernels::route::{Choice, route};
use hip::kernels::sample::Drawn;
use hip::kernels::sort::{Sorted, slots, sort};
use hip::{Event, Memory, Platform, Round, Sampler};
use model::{Batch, Draw, OutputRow, RouterShape, SamplingParams, Want};
use numbers::{Random, activated, weights};

const HIDDEN: usize = 7168;
const WIDTH: usize = 512;
const EXPERTS: usize = 384;
const TOP_K: usize = 8;
const VOCAB: usize = 163_840;
const RUNS: usize = 15;

/// Runs `launch(i)` and prints its median time.
fn time(gpu: &Gpu, name: &str, bytes: usize, operations: usize, launch: impl Fn(usize)) {
    if device::platform() == Platform::Hip {
        launch(0);
        gpu.stream.synchronize().unwrap();
        return println!("{name}: {bytes} bytes needed");
    }
    let events: Vec<Event> = (0..=RUNS).map(|_| Event::new(&gpu.device).unwrap()).collect();
    (0..3).for_each(&launch);
    events[0].record(&gpu.stream).unwrap();
    for (i, event) in events[1..].iter().enumerate() {
        launch(3 + i);
        event.record(&gpu.stream).unwrap();
    }
    let mut times: Vec<f32> =
        events.windows(2).map(|pair| pair[1].milliseconds_since(&pair[0]).unwrap()).collect();
    times.sort_by(f32::total_cmp);
    let median = f64::from(times[RUNS / 2]) * 1e-3;
    println!(
        "{name}: {:.1} us, {:.2} TB/s, {:.1} TFLOP/s",
        median * 1e6,
        bytes as f64 / median * 1e-12,
        operations as f64 / median * 1e-12
    );
}

/// Device memory filled with the first bytes of `pattern` over and over.
fn filled(gpu: &Gpu, bytes: usize, pattern: &[u8]) -> Memory {
    let memory = gpu.device.allocate(bytes).unwrap();
    for at in (0..bytes).step_by(pattern.len()) {
        gpu.stream.upload(&pattern[..pattern.len().min(bytes - at)], &memory, at).unwrap();
    }
    memory
}

/// A layer's weights: random codes, scales of 2^-8.
struct Layer {
    gate_up: (Memory, Memory),
    down: (Memory, Memory),
}

impl Layer {
    fn new(gpu: &Gpu, random: &mut Random) -> Layer {
        let codes: Vec<u8> = (0..1 << 24).map(|_| random.bits() as u8).collect();
        let matrices = |rows, cols| {
            let (code_bytes, scale_bytes) = weight_bytes(rows, cols);
            (
                filled(gpu, EXPERTS * code_bytes, &codes),
                filled(gpu, EXPERTS * scale_bytes, &vec![119; 1 << 24]),
            )
        };
        Layer { gate_up: matrices(2 * WIDTH, HIDDEN), down: matrices(HIDDEN, WIDTH) }
    }
}

fn layer(gpu: &Gpu, random: &mut Random, layer: &Layer, form: Activations, tokens: usize) {
    let pairs = tokens * TOP_K;
    let tiles = RowTiles::for_rows(pairs, EXPERTS);
    let count = gpu.upload(&[tokens as u32]);
    let rows = Rows { count: count.ptr(), bound: tokens };
    let (stream, kernels) = (&gpu.stream, &gpu.kernels);
    let bf16: Vec<u8> = (0..tokens * HIDDEN)
        .flat_map(|_| mx::bf16::from_f32(random.value()).to_le_bytes())
        .collect();
    let x = gpu.upload(&bf16);
    let room = |rows, width| {
        let (codes, scales) = activated_bytes(form, rows, width);
        (gpu.empty::<u8>(codes), gpu.empty::<u8>(scales))
    };
    let (codes, hidden) = (room(tokens, HIDDEN), room(slots(pairs, EXPERTS), WIDTH));
    let quantized = form != Activations::Bf16;
    let input = if quantized { codes } else { (x, gpu.empty::<u8>(0)) };
    let raw = if quantized { gpu.upload(&bf16) } else { gpu.empty::<u8>(0) };
    let y = gpu.empty::<f32>(pairs * HIDDEN);
    let out = gpu.upload(&vec![0f32; tokens * HIDDEN]);
    let sorted = Sorted::new(&gpu.device, pairs, EXPERTS).unwrap();
    let bias = gpu.upload(&[0f32; EXPERTS]);
    let (chosen, factors) = (gpu.empty::<u32>(pairs), gpu.empty::<f32>(pairs));
    let shape = RouterShape { top_k: TOP_K, normalize: true, scale: 2.827 };
    // Other experts in each run, so that no cache has them.
    let copies = if device::platform() == Platform::Hip { 1 } else { 4 };
    let logits: Vec<Memory> = (0..copies)
        .map(|_| gpu.upload(&(0..tokens * EXPERTS).map(|_| random.value()).collect::<Vec<f32>>()))
        .collect();

    let choice = Choice { experts: &chosen, weights: &factors };
    let run_route = |i: usize| {
        let logits = &logits[i % copies];
        route(stream, kernels, rows, logits, &bias, EXPERTS, shape, choice).unwrap();
    };
    let tile_count = tiles.count();
    let run_sort = |_| {
        sort(stream, kernels, rows, &chosen, TOP_K, EXPERTS, tile_count, &sorted).unwrap();
    };
    let run_quantize = |_| {
        if quantized {
            quantize(stream, kernels, rows, &raw, activated(form, HIDDEN, &input)).unwrap();
        }
    };
    let run_gate_up = |_| {
        let x = activated(form, HIDDEN, &input);
        let (w, h) = (weights(2 * WIDTH, HIDDEN, &layer.gate_up), activated(form, WIDTH, &hidden));
        experts_gate_up(stream, kernels, rows, &sorted, TOP_K, tiles, x, EXPERTS, w, h).unwrap();
    };
    let run_down = |_| {
        let (h, w) = (activated(form, WIDTH, &hidden), weights(HIDDEN, WIDTH, &layer.down));
        experts_down(stream, kernels, rows, &sorted, TOP_K, tiles, h, EXPERTS, w, &y).unwrap();
    };
    let run_combine = |_| {
        experts_combine(stream, kernels, rows, &y, &factors, TOP_K, HIDDEN, &out).unwrap();
    };
    let named = |part: &str| format!("{part} {form:?} tokens {tokens}");

    time(gpu, &named("route"), tokens * EXPERTS * 4, 0, run_route);
    time(gpu, &named("sort"), pairs * 8, 0, run_sort);
    time(gpu, &named("quantize"), bf16.len(), 0, run_quantize);
    let mut used: Vec<u32> = gpu.download(&chosen);
    used.sort_unstable();
    used.dedup();
    let each = |rows, cols| {
        let (codes, scales) = weight_bytes(rows, cols);
        used.len() * (codes + scales)
    };
    let (bytes, more) = (each(2 * WIDTH, HIDDEN), each(HIDDEN, WIDTH));
    let products = 2 * pairs * HIDDEN * WIDTH;
    time(gpu, &named("gate_up"), bytes, 2 * products, run_gate_up);
    time(gpu, &named("down"), more + pairs * HIDDEN * 4, products, run_down);
    time(gpu, &named("combine"), (pairs + 2 * tokens) * HIDDEN * 4, 0, run_combine);
    if device::platform() == Platform::Cuda {
        time(gpu, &named("layer"), bytes + more, 3 * products, |i| {
            run_route(i);
            run_sort(i);
            run_quantize(i);
            run_gate_up(i);
            run_down(i);
            run_combine(i);
        });
    }
}

/// The sampler: logits of a few likely tokens.
fn sampling(gpu: &Gpu, random: &mut Random, rows: usize) {
    let row: Vec<f32> = (0..VOCAB)
        .map(|_| random.value() * 4.0 + if random.below(4000) == 0 { 12.0 } else { 0.0 })
        .collect();
    let logits = gpu.upload(&row.repeat(rows));
    let nucleus = SamplingParams { top_p: 0.95, ..SamplingParams::default() };
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    for (name, params) in [("greedy", greedy), ("top-p", nucleus)] {
        let params = std::sync::Arc::new(params);
        let draw = Draw { params, index: 0, counts: None, mask: None };
        let output = OutputRow { row: 0, want: Want::Sample(draw), logprobs: None };
        let batch = Batch { outputs: vec![output; rows], ..Batch::default() };
        let round = Round { batch: &batch, first: 0, rows, tokens: 0, slot: 0 };
        let mut sampler = Sampler::new(&gpu.device, VOCAB, rows).unwrap();
        let sampler = std::cell::RefCell::new(&mut sampler);
        let bytes = rows * (VOCAB * 4 + size_of::<Drawn>());
        time(gpu, &format!("sample {name} rows {rows}"), bytes, 0, |_| {
            let mut sampler = sampler.borrow_mut();
            sampler.queue(&gpu.stream, &gpu.kernels, &logits, round).unwrap();
        });
        gpu.stream.synchronize().unwrap();
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let form = match arguments.first().map(String::as_str) {
        Some("mxfp4") => Activations::Mxfp4,
        Some("mxfp8") => Activations::Mxfp8,
        _ => Activations::Bf16,
    };
    let mut tokens: Vec<usize> =
        arguments.iter().skip(1).map(|count| count.parse().unwrap()).collect();
    if tokens.is_empty() {
        tokens = vec![1];
    }
    let gpu = device::gpu();
    let mut random = Random(1);
    let weights = Layer::new(&gpu, &mut random);
    for count in tokens {
        layer(&gpu, &mut random, &weights, form, count);
    }
    sampling(&gpu, &mut random, 1);
    sampling(&gpu, &mut random, 32);
}
