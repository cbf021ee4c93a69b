//! The one-shot sum over ranks against the steps that it replaces, bit for bit: sum_ranks, then
//! add_rms_norm.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod random;

use device::Gpu;
use hip::kernels::Rows;
use hip::kernels::all_reduce::all_reduce_norm;
use hip::kernels::matmul::{Output, View, Weights, matmul};
use hip::kernels::ranks::{Parts, sum_ranks};
use hip::kernels::rms_norm::{add_rms_norm, rms_norm};
use hip::{Communicator, Meeting, Memory, Peers, Platform};
use random::Random;

const EPS: f32 = 1e-5;

struct Rank {
    index: usize,
    gpu: Gpu,
    peers: Peers,
    _group: Communicator,
}

/// What `body` returns on each of `ranks` devices, each with a thread of its own; nothing on a
/// machine with fewer.
fn on_ranks<T: Send>(ranks: usize, body: impl Fn(Rank) -> T + Sync) -> Vec<T> {
    let runtime = device::runtime();
    if runtime.devices().unwrap() < ranks {
        eprintln!("{ranks} devices are needed: not run");
        return Vec::new();
    }
    let meeting = Meeting::new(&runtime, ranks).unwrap();
    let start = |index| {
        let gpu = device::gpu_of(&runtime, index);
        let group = meeting.join(index, &gpu.device).unwrap();
        let peers = group.meet(&gpu.stream).unwrap();
        body(Rank { index, gpu, peers, _group: group })
    };
    std::thread::scope(|scope| {
        let start = &start;
        let threads: Vec<_> = (0..ranks).map(|index| scope.spawn(move || start(index))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Rows, what they are bounded by, width.
const SHAPES: [(usize, usize, usize); 4] = [(0, 3, 64), (1, 1, 4), (3, 5, 1028), (17, 18, 64)];

/// The bits of residual and output, the latter in words.
type Bits = (Vec<u32>, Vec<u32>);

/// A random case: each rank's part, then residual and weight.
fn case(ranks: usize, rows: usize, width: usize) -> (Vec<Vec<f32>>, Vec<f32>, Vec<f32>) {
    let mut random = Random::new((ranks * 1000 + rows * 10 + width) as u64);
    let parts = (0..ranks).map(|_| random.f32s(rows * width, 100.0)).collect();
    (parts, random.f32s(rows * width, 10.0), random.f32s(width, 1.5))
}

fn one_shot(rank: &mut Rank, ranks: usize, (rows, bound, width): (usize, usize, usize)) -> Bits {
    let (parts, residual, weight) = case(ranks, rows, width);
    let gpu = &rank.gpu;
    let part = gpu.upload_into(&parts[rank.index], bound * width);
    let residual = gpu.upload_into(&residual, bound * width);
    let (weight, count) = (gpu.upload(&weight), gpu.upload(&[rows as u32]));
    let out = gpu.poisoned(bound * width / 2);
    let rows_of = Rows { count: count.ptr(), bound };
    let (stream, kernels) = (&gpu.stream, &gpu.kernels);
    let twins = rank.peers.twins(&part).unwrap();
    // Twice, so that the second begins where the first has ended.
    for _ in 0..2 {
        all_reduce_norm(stream, kernels, rows_of, twins, &residual, &weight, &out, width, EPS)
            .unwrap();
    }
    let out: Vec<u32> = gpu.download(&out);
    let written = rows * width / 2;
    assert!(out[written..].iter().all(|&word| word == u32::MAX), "rows beyond the last");
    let mut values = vec![0; rows * width * 4];
    stream.download(&residual, 0, &mut values).unwrap();
    (words(&values), out[..written].to_vec())
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// The same by the two kernels, twice, on one device.
fn in_steps(gpu: &Gpu, ranks: usize, (rows, bound, width): (usize, usize, usize)) -> Bits {
    let (parts, residual, weight) = case(ranks, rows, width);
    let mut side_by_side = Vec::new();
    for part in &parts {
        side_by_side.extend_from_slice(part);
        side_by_side.resize(side_by_side.len() + (bound - rows) * width, f32::NAN);
    }
    let memory = gpu.upload(&side_by_side);
    let residual = gpu.upload_into(&residual, bound * width);
    let (weight, count) = (gpu.upload(&weight), gpu.upload(&[rows as u32]));
    let (sum, out) = (gpu.poisoned(bound * width), gpu.poisoned(bound * width / 2));
    let rows_of = Rows { count: count.ptr(), bound };
    let (stream, kernels) = (&gpu.stream, &gpu.kernels);
    let parts = Parts { memory: &memory, stride: bound * width, width, ranks };
    for _ in 0..2 {
        sum_ranks(stream, kernels, rows_of, parts, &sum).unwrap();
        add_rms_norm(stream, kernels, rows_of, &residual, &sum, &weight, &out, width, EPS).unwrap();
    }
    let out: Vec<u32> = gpu.download(&out);
    let mut values = vec![0; rows * width * 4];
    stream.download(&residual, 0, &mut values).unwrap();
    (words(&values), out[..rows * width / 2].to_vec())
}

fn agrees(ranks: usize, shapes: &[(usize, usize, usize)]) {
    let found = on_ranks(ranks, |mut rank| {
        shapes.iter().map(|&shape| one_shot(&mut rank, ranks, shape)).collect::<Vec<_>>()
    });
    let gpu = device::gpu();
    for (rank, results) in found.iter().enumerate() {
        for (&shape, result) in shapes.iter().zip(results) {
            assert!(*result == in_steps(&gpu, ranks, shape), "rank {rank} of {ranks}, {shape:?}");
        }
    }
}

#[test]
fn the_steps_bits_on_2_and_4_ranks() {
    agrees(2, &SHAPES);
    agrees(4, &SHAPES);
}

#[test]
fn the_steps_bits_on_8_ranks_and_at_the_limits() {
    agrees(8, &[(1, 2, 8192)]);
    agrees(4, &[(2, 3, 7168)]);
    agrees(2, &[(256, 256, 8)]);
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("the_steps_bits_on_2_and_4_ranks");
}

const WIDTH: usize = 64;
const ROWS: usize = 3;

/// A layer whose parts depend on what the layer before has summed: `part = normed w^T`, then the
/// sum over ranks.
struct Layer {
    count: Memory,
    weights: Vec<Memory>,
    norm: Memory,
    residual: Memory,
    normed: Memory,
}

impl Layer {
    /// With the weights of `ranks`, and the normed residual that the first step multiplies.
    fn new(gpu: &Gpu, ranks: std::ops::Range<usize>) -> Layer {
        let mut random = Random::new(77);
        let (norm, residual) = (random.f32s(WIDTH, 1.5), random.f32s(ROWS * WIDTH, 1.0));
        let weights = ranks.map(|rank| {
            let weights = Random::new(rank as u64).bf16s(WIDTH * WIDTH, 1.0);
            gpu.upload_dense(&weights, WIDTH, WIDTH)
        });
        let layer = Layer {
            count: gpu.upload(&[ROWS as u32]),
            weights: weights.collect(),
            norm: gpu.upload(&norm),
            residual: gpu.upload(&residual),
            normed: gpu.poisoned(ROWS * WIDTH / 2),
        };
        let (x, w, out) = (&layer.residual, &layer.norm, &layer.normed);
        rms_norm(&gpu.stream, &gpu.kernels, layer.rows(), x, w, out, [WIDTH, WIDTH], EPS).unwrap();
        layer
    }

    fn rows(&self) -> Rows {
        Rows { count: self.count.ptr(), bound: ROWS }
    }

    fn multiply(&self, gpu: &Gpu, weights: &Memory, part: &Memory) {
        let x = View { memory: &self.normed, stride: WIDTH, batch: 0 };
        let w = Weights { memory: weights, n: WIDTH, k: WIDTH, batch: 1 };
        let out = View { memory: part, stride: WIDTH, batch: 0 };
        matmul(&gpu.stream, &gpu.kernels, self.rows(), x, w, out, Output::F32).unwrap();
    }

    fn bits(&self, gpu: &Gpu) -> Bits {
        (gpu.download(&self.residual), gpu.download(&self.normed))
    }
}

fn replayed(mut rank: Rank, replays: usize) -> Bits {
    let gpu = &rank.gpu;
    let layer = Layer::new(gpu, rank.index..rank.index + 1);
    let part = gpu.poisoned(ROWS * WIDTH);
    let twins = rank.peers.twins(&part).unwrap();
    gpu.stream.begin_capture().unwrap();
    layer.multiply(gpu, &layer.weights[0], &part);
    let Layer { residual, norm, normed, .. } = &layer;
    let (stream, kernels) = (&gpu.stream, &gpu.kernels);
    all_reduce_norm(stream, kernels, layer.rows(), twins, residual, norm, normed, WIDTH, EPS)
        .unwrap();
    let graph = stream.end_capture().unwrap();
    for replay in 0..replays {
        // SAFETY: its memory is still there.
        unsafe { stream.run(&graph).unwrap() };
        if replay % 16 == rank.index {
            stream.synchronize().unwrap();
        }
    }
    layer.bits(gpu)
}

/// All ranks' layers on one device.
fn layers_in_steps(gpu: &Gpu, ranks: usize, steps: usize) -> Bits {
    let layer = Layer::new(gpu, 0..ranks);
    let part = gpu.poisoned(ROWS * WIDTH);
    let sum = gpu.poisoned(ROWS * WIDTH);
    for _ in 0..steps {
        let mut parts = Vec::new();
        for weights in &layer.weights {
            layer.multiply(gpu, weights, &part);
            parts.extend(gpu.download::<f32>(&part));
        }
        let parts = gpu.upload(&parts);
        let parts = Parts { memory: &parts, stride: ROWS * WIDTH, width: WIDTH, ranks };
        let (stream, kernels) = (&gpu.stream, &gpu.kernels);
        sum_ranks(stream, kernels, layer.rows(), parts, &sum).unwrap();
        let Layer { residual, norm, normed, .. } = &layer;
        add_rms_norm(stream, kernels, layer.rows(), residual, &sum, norm, normed, WIDTH, EPS)
            .unwrap();
        stream.synchronize().unwrap();
    }
    layer.bits(gpu)
}

/// One wrong sum would change all sums after it.
#[test]
fn a_recorded_sum_is_right_in_every_replay() {
    let full = std::env::var_os("MOONROCK_FULL").is_some();
    let replays = match (device::platform(), full) {
        (Platform::Cuda, _) => 100_000,
        (Platform::Hip, true) => 10_000,
        (Platform::Hip, false) => 100,
    };
    for ranks in [2, 4] {
        let found = on_ranks(ranks, |rank| replayed(rank, replays));
        let Some(first) = found.first() else { continue };
        assert!(found.iter().all(|bits| bits == first), "the {ranks} ranks differ");
        assert!(*first == layers_in_steps(&device::gpu(), ranks, replays), "{ranks} ranks");
    }
}
