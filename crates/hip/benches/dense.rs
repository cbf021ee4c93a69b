//! The dense kernels at the shapes of Kimi-K2.6 on 4 ranks: times on hardware
//! (`MOONROCK_TEST_PLATFORM=cuda`), or one launch each in the emulator, whose counters then tell
//! what they move. An argument picks cases whose name contains it.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "../tests/device/mod.rs"]
mod device;
#[path = "../tests/random/mod.rs"]
mod random;

use device::Gpu;
use hip::kernels::Rows;
use hip::kernels::attention::{self, GROUP, LATENT, Places, ROPE, attention};
use hip::kernels::matmul::{Output, View, Weights, matmul};
use hip::kernels::rms_norm::add_rms_norm;
use hip::kernels::rope_and_cache::entry_bytes;
use hip::{Event, Memory, Platform};
use model::CacheFormat;
use random::Random;

/// Rotating copies of what a kernel reads are together larger than any cache.
const ROTATED: usize = 256 << 20;
const RUNS: usize = 15;
const HEADS: usize = 16;

struct Bench {
    gpu: Gpu,
    random: Random,
    filter: String,
}

impl Bench {
    fn new() -> Bench {
        let gpu = device::gpu();
        let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
        Bench { gpu, random: Random::new(1), filter: filter.unwrap_or_default() }
    }

    fn on_hardware(&self) -> bool {
        device::platform() == Platform::Cuda
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }

    /// Memory of random bf16.
    fn values(&mut self, count: usize) -> Memory {
        let memory = self.gpu.empty::<u16>(count);
        let part = self.random.bf16s(count.min(1 << 20), 1.0);
        let bytes: Vec<u8> = part.iter().flat_map(|code| code.to_le_bytes()).collect();
        for at in (0..count * 2).step_by(bytes.len()) {
            let length = bytes.len().min(count * 2 - at);
            self.gpu.stream.upload(&bytes[..length], &memory, at).unwrap();
        }
        memory
    }

    /// As many of `values(count)` as do not fit into a cache together.
    fn rotated(&mut self, count: usize) -> Vec<Memory> {
        let copies = if self.on_hardware() { (ROTATED / (2 * count)).clamp(1, 64) } else { 1 };
        (0..copies).map(|_| self.values(count)).collect()
    }

    /// Runs `launch(i)` and prints its median time.
    fn time(&self, name: &str, bytes: usize, operations: usize, launch: impl Fn(usize)) {
        if !self.on_hardware() {
            launch(0);
            self.gpu.stream.synchronize().unwrap();
            return println!("{name}: {bytes} bytes needed");
        }
        let events: Vec<Event> =
            (0..=RUNS).map(|_| Event::new(&self.gpu.device).unwrap()).collect();
        for i in 0..3 {
            launch(i);
        }
        events[0].record(&self.gpu.stream).unwrap();
        for (i, event) in events[1..].iter().enumerate() {
            launch(3 + i);
            event.record(&self.gpu.stream).unwrap();
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

    fn matmul(&mut self, name: &str, n: usize, k: usize, batch: usize, rows: usize) {
        let name = format!("matmul {name} rows {rows}");
        if !self.wants(&name) {
            return;
        }
        let weights = self.rotated(batch * n.div_ceil(16) * 16 * k);
        let x = self.values(rows * batch * k);
        let out = self.gpu.empty::<f32>(rows * batch * n);
        let count = self.gpu.upload(&[rows as u32]);
        let rows_of = Rows { count: count.ptr(), bound: rows };
        let x = View { memory: &x, stride: batch * k, batch: k };
        let view = View { memory: &out, stride: batch * n, batch: n };
        let bytes = batch * (n * k * 2 + rows * (k * 2 + n * 4));
        let Gpu { stream, kernels, .. } = &self.gpu;
        self.time(&name, bytes, 2 * rows * n * k * batch, |i| {
            let w = Weights { memory: &weights[i % weights.len()], n, k, batch };
            matmul(stream, kernels, rows_of, x, w, view, Output::F32).unwrap();
        });
    }

    /// `sequences` of `context` tokens each, `rows` last rows of each.
    fn attention(&mut self, format: CacheFormat, sequences: usize, context: usize, rows: usize) {
        let name =
            format!("attention {format:?} sequences {sequences} context {context} rows {rows}");
        if !self.wants(&name) {
            return;
        }
        const BLOCK: usize = 64;
        let blocks = context / BLOCK;
        let entry = entry_bytes(format, LATENT, ROPE);
        let cache = self.rotated(sequences * context * entry / 2);
        let total = sequences * rows;
        let queries = self.values(total * HEADS * (LATENT + ROPE));
        let out = self.gpu.empty::<u16>(total * HEADS * LATENT);
        let order = self.random.permutation(sequences * blocks);
        let tables: Vec<u32> = order.iter().map(|&block| block as u32).collect();
        let row = |i: usize| (context - rows + i % rows) as u32;
        let positions: Vec<u32> = (0..total).map(row).collect();
        let starts: Vec<u32> = (0..total).map(|i| (i / rows * blocks) as u32).collect();
        let at = |i: usize| positions[i] as usize;
        let first = |i: &usize| i.is_multiple_of(rows) || at(*i).is_multiple_of(GROUP);
        let mut groups: Vec<u32> = (0..total).filter(first).map(|i| i as u32).collect();
        let bound = groups.len();
        groups.push(total as u32);
        let numbers = [&[total as u32, bound as u32], &tables[..], &positions, &starts, &groups]
            .map(|n| self.gpu.upload(n));
        let [count, tables, positions, starts, groups] = &numbers;
        let rows_of = Rows { count: count.ptr(), bound: total };
        let places = Places {
            positions: positions.ptr(),
            table_starts: starts.ptr(),
            tables: tables.ptr(),
            groups: Rows { count: count.ptr() + 4, bound },
            group_rows: groups.ptr(),
        };
        let Gpu { stream, kernels, device } = &self.gpu;
        let workspace = attention::Workspace::new(device, HEADS, context, total).unwrap();
        let bytes = sequences * context * entry;
        let keys = total * (context - rows) + sequences * rows * (rows + 1) / 2;
        let operations = 2 * HEADS * keys * (2 * LATENT + ROPE);
        self.time(&name, bytes, operations, |i| {
            let cache = &cache[i % cache.len()];
            let buffers =
                attention::Buffers { queries: &queries, cache, format, cache_offset: 0, out: &out };
            attention(stream, kernels, &workspace, rows_of, places, buffers, HEADS, BLOCK, 0.1)
                .unwrap();
        });
    }

    fn norm(&mut self, rows: usize) {
        let (name, width) = (format!("add_rms_norm rows {rows}"), 7168);
        if !self.wants(&name) {
            return;
        }
        let residual = self.gpu.upload(&self.random.f32s(rows * width, 1.0));
        let delta = self.gpu.upload(&self.random.f32s(rows * width, 1e-3));
        let weight = self.gpu.upload(&self.random.f32s(width, 1.0));
        let out = self.gpu.empty::<u16>(rows * width);
        let count = self.gpu.upload(&[rows as u32]);
        let rows_of = Rows { count: count.ptr(), bound: rows };
        let Gpu { stream, kernels, .. } = &self.gpu;
        self.time(&name, rows * width * 14, 0, |_| {
            add_rms_norm(stream, kernels, rows_of, &residual, &delta, &weight, &out, width, 1e-5)
                .unwrap();
        });
    }
}

fn main() {
    let mut bench = Bench::new();
    let matrices = [
        ("q_a", 1536, 7168, 1),
        ("q_b", 3072, 1536, 1),
        ("kv_a", 576, 7168, 1),
        ("w_uk", 512, 128, HEADS),
        ("w_uv", 128, 512, HEADS),
        ("o", 7168, 2048, 1),
        ("router", 384, 7168, 1),
        ("shared_gate_up", 1024, 7168, 1),
        ("shared_down", 7168, 512, 1),
        ("head", 40960, 7168, 1),
    ];
    let all_rows: &[usize] =
        if bench.on_hardware() { &[1, 4, 16, 64, 256, 4096] } else { &[1, 16, 64, 128] };
    for (name, n, k, batch) in matrices {
        for &rows in all_rows {
            bench.matmul(name, n, k, batch, rows);
        }
    }
    let decodes: &[(usize, usize)] = if bench.on_hardware() {
        let lengths = [1 << 10, 1 << 12, 1 << 15];
        &lengths.iter().flat_map(|&len| [1, 16, 64, 128].map(|n| (n, len))).collect::<Vec<_>>()
    } else {
        &[(1, 1024), (4, 1024), (1, 4096)]
    };
    for format in [CacheFormat::Bf16, CacheFormat::Fp8] {
        for &(sequences, context) in decodes {
            bench.attention(format, sequences, context, 1);
        }
        bench.attention(format, 1, 2048, 512);
        if bench.on_hardware() {
            bench.attention(format, 1, 1 << 17, 1);
            bench.attention(format, 1, 4096, 4096);
        }
    }
    for rows in [1, 64, 1024] {
        bench.norm(rows);
    }
}
