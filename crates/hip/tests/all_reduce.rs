//! The one-shot sum over ranks against the steps that it replaces, bit for bit: sum_ranks, then
//! add_rms_norm.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod random;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use device::Gpu;
use hip::kernels::Rows;
use hip::kernels::all_reduce::{PUSH_ROWS, all_reduce_norm};
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
    group: Communicator,
}

/// What `body` returns on each of `ranks` devices, each with a thread of its own; nothing on a
/// machine with fewer.
fn on_ranks<T: Send>(ranks: usize, body: impl Fn(Rank) -> T + Sync) -> Vec<T> {
    if !device::there_are(ranks) {
        return Vec::new();
    }
    let runtime = device::runtime();
    // One test at a time: freeing memory waits for all of a device's work, so that kernels of two
    // tests, each waiting for its twin, would wait for each other.
    static DEVICES: Mutex<()> = Mutex::new(());
    let _devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let meeting = Meeting::new(&runtime, ranks).unwrap();
    let start = |index| {
        let gpu = device::gpu_of(&runtime, index);
        let group = meeting.join(index, &gpu.device).unwrap();
        let peers = group.meet(&gpu.stream).unwrap();
        body(Rank { index, gpu, peers, group })
    };
    std::thread::scope(|scope| {
        let start = &start;
        let threads: Vec<_> = (0..ranks).map(|index| scope.spawn(move || start(index))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Rows, what they are bounded by, width. Bounds up to [`PUSH_ROWS`] and beyond: both forms.
const SHAPES: [(usize, usize, usize); 6] =
    [(0, 3, 64), (1, 1, 4), (3, 5, 1028), (17, 18, 64), (3, 17, 1028), (2, 16, 64)];

/// The bits of residual and output, the latter in words.
type Bits = (Vec<u32>, Vec<u32>);

/// A random case: each rank's part, then residual and weight.
fn case(ranks: usize, rows: usize, width: usize) -> (Vec<Vec<f32>>, Vec<f32>, Vec<f32>) {
    let mut random = Random::new((ranks * 1000 + rows * 10 + width) as u64);
    let parts = (0..ranks).map(|_| random.f32s(rows * width, 100.0)).collect();
    (parts, random.f32s(rows * width, 10.0), random.f32s(width, 1.5))
}

fn one_shot(rank: &mut Rank, ranks: usize, shape: (usize, usize, usize)) -> Bits {
    let (mut parts, residual, weight) = case(ranks, shape.0, shape.2);
    let part = parts.swap_remove(rank.index);
    summed(rank, (part, residual, weight), shape)
}

/// The rank's part, residual and weight, summed twice.
fn summed(
    rank: &mut Rank,
    (part, residual, weight): (Vec<f32>, Vec<f32>, Vec<f32>),
    (rows, bound, width): (usize, usize, usize),
) -> Bits {
    let gpu = &rank.gpu;
    let part = gpu.upload_into(&part, bound * width);
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
    agrees(8, &[(1, 2, 8192), (1, 17, 8192)]);
    agrees(4, &[(2, 3, 7168)]);
    agrees(2, &[(256, 256, 8), (16, 16, 8)]);
}

/// A row has the same bits in a batch of any size, summed by either form.
#[test]
fn a_row_s_bits_are_the_same_in_both_forms() {
    const WIDTH: usize = 1028;
    let bounds = [1, 2, PUSH_ROWS, PUSH_ROWS + 1, PUSH_ROWS + 7];
    let (parts, residual, weight) = case(2, PUSH_ROWS, WIDTH);
    let found = on_ranks(2, |mut rank| {
        let mut batches = Vec::new();
        for bound in bounds {
            let rows = bound.min(PUSH_ROWS);
            let rows_of = |values: &[f32]| values[..rows * WIDTH].to_vec();
            let inputs = (rows_of(&parts[rank.index]), rows_of(&residual), weight.clone());
            batches.push(summed(&mut rank, inputs, (rows, bound, WIDTH)));
        }
        batches
    });
    for batches in &found {
        let (residual, out) = &batches[0];
        for (bound, batch) in bounds.iter().zip(batches) {
            assert!(batch.0[..WIDTH] == *residual && batch.1[..WIDTH / 2] == *out, "{bound} rows");
        }
        assert!(batches[2] == batches[3] && batches[3] == batches[4], "{PUSH_ROWS} rows");
    }
    assert!(found.iter().all(|batches| *batches == found[0]), "the ranks differ");
}

/// The epochs' last values, then 0 and more.
#[test]
fn epochs_may_wrap_around() {
    let shape = (2, 2, 1028);
    let found = on_ranks(2, |mut rank| {
        let part = rank.gpu.empty::<f32>(1);
        let epochs = rank.peers.twins(&part).unwrap().epochs;
        // Even, so that both slots have been written when 0 comes.
        rank.gpu.stream.fill(epochs, u32::MAX - 3).unwrap();
        (0..4).map(|_| one_shot(&mut rank, 2, shape)).collect::<Vec<_>>()
    });
    let expected = (!found.is_empty()).then(|| in_steps(&device::gpu(), 2, shape));
    assert!(found.iter().flatten().all(|bits| Some(bits) == expected.as_ref()));
}

/// Else another part at its place would be taken for it, and one rank would wait for the others to
/// ask for their twins.
#[test]
fn a_part_that_twins_know_is_not_given_back() {
    on_ranks(2, |mut rank| {
        const BYTES: usize = 64 << 20;
        let free = || rank.gpu.device.memory().unwrap().0;
        let part = rank.gpu.empty::<u8>(BYTES);
        rank.peers.twins(&part).unwrap();
        let before = free();
        drop(part);
        assert_eq!(free(), before);
        drop(rank.peers);
        assert!(free() >= before + BYTES);
    });
}

/// Becomes true when this is dropped, be it by a panic.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A rank whose twin never comes waits until it is told to stop, in either form; of 8 ranks too,
/// where each workgroup awaits several.
#[test]
fn who_waits_for_a_twin_in_vain_can_be_stopped() {
    const WIDTH: usize = 64;
    for (ranks, bound) in [(2, 1), (2, PUSH_ROWS), (2, PUSH_ROWS + 1), (8, 3), (8, 18)] {
        let ended = AtomicBool::new(false);
        on_ranks(ranks, |mut rank| {
            let _ended = (rank.index == 0).then(|| Ended(&ended));
            let Gpu { stream, kernels, .. } = &rank.gpu;
            let part = rank.gpu.upload(&vec![1.0_f32; bound * WIDTH]);
            let residual = rank.gpu.upload(&vec![1.0_f32; bound * WIDTH]);
            let (weight, out) =
                (rank.gpu.upload(&[1.0_f32; WIDTH]), rank.gpu.poisoned(bound * WIDTH));
            let count = rank.gpu.upload(&[bound as u32]);
            let rows = Rows { count: count.ptr(), bound };
            let twins = rank.peers.twins(&part).unwrap();
            if rank.index != 0 {
                // What it has is read until then.
                while !ended.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                return;
            }
            all_reduce_norm(stream, kernels, rows, twins, &residual, &weight, &out, WIDTH, EPS)
                .unwrap();
            std::thread::sleep(Duration::from_millis(50));
            assert!(!stream.is_idle().unwrap(), "nobody was waited for: {ranks} ranks, {bound}");
            rank.peers.stop();
            let told = Instant::now();
            while !stream.is_idle().unwrap() {
                if told.elapsed() > Duration::from_secs(60) {
                    eprintln!("still waiting: {ranks} ranks, {bound} rows");
                    // To unwind would wait for the kernel.
                    std::process::abort();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("the_steps_bits_on_2_and_4_ranks");
}

const WIDTH: usize = 64;
const ROWS: usize = 3;
/// Bounds of rows that each of the two forms is taken for.
const BOUNDS: [usize; 2] = [ROWS, PUSH_ROWS + 1];

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
            residual: gpu.upload_into(&residual, BOUNDS[1] * WIDTH),
            normed: gpu.poisoned(BOUNDS[1] * WIDTH / 2),
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
        let first = |memory: &Memory, count: usize| {
            let mut values = vec![0; count * 4];
            gpu.stream.download(memory, 0, &mut values).unwrap();
            words(&values)
        };
        (first(&self.residual, ROWS * WIDTH), first(&self.normed, ROWS * WIDTH / 2))
    }
}

/// Replays of two graphs by turns, which sum the same rows in the two forms.
fn replayed(mut rank: Rank, replays: usize) -> Bits {
    let gpu = &rank.gpu;
    let layer = Layer::new(gpu, rank.index..rank.index + 1);
    let part = gpu.poisoned(BOUNDS[1] * WIDTH);
    let twins = rank.peers.twins(&part).unwrap();
    let graphs = BOUNDS.map(|bound| {
        gpu.stream.begin_capture().unwrap();
        layer.multiply(gpu, &layer.weights[0], &part);
        let Layer { count, residual, norm, normed, .. } = &layer;
        let (stream, kernels) = (&gpu.stream, &gpu.kernels);
        let rows = Rows { count: count.ptr(), bound };
        all_reduce_norm(stream, kernels, rows, twins, residual, norm, normed, WIDTH, EPS).unwrap();
        gpu.stream.end_capture().unwrap()
    });
    for replay in 0..replays {
        // One form several times, then the other, then by turns.
        let large = replay % 8 == 3 || replay % 8 == 5 || replay % 8 == 6;
        // SAFETY: its memory is still there.
        unsafe { gpu.stream.run(&graphs[usize::from(large)]).unwrap() };
        if replay % 16 == rank.index {
            gpu.stream.synchronize().unwrap();
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

/// As RCCL may have opened it before, whose calls fail where an error was left behind.
#[test]
fn ranks_gather_where_the_way_to_peers_was_open_before() {
    for _ in 0..2 {
        let found = on_ranks(2, |rank| {
            let own = rank.gpu.upload(&[rank.index as f32 + 1.0]);
            let all = rank.gpu.upload(&[0f32; 2]);
            rank.group.all_gather(&rank.gpu.stream, &own, &all, 1).unwrap();
            rank.gpu.download::<f32>(&all)
        });
        assert!(found.iter().all(|all| all == &[1.0, 2.0]));
    }
}
