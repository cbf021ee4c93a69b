//! Sums over ranks alone, 2 KB to 16 MB: the library's, and the three forms that `--all-reduce`
//! has, each with the residual's addition and norm; of the one-shot form also how many times faster
//! than the library's with the norm it is. On hardware (`MOONROCK_TEST_PLATFORM=cuda`) it prints
//! times in recorded graphs; in the emulator it runs each small case once. The first number among
//! the arguments is how many ranks (2).

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "../tests/device/mod.rs"]
mod device;

use std::sync::Barrier;

use device::Gpu;
use hip::kernels::Rows;
use hip::kernels::all_reduce::{MAX_ROWS, all_reduce_norm};
use hip::kernels::ranks::{Parts, sum_ranks};
use hip::kernels::rms_norm::add_rms_norm;
use hip::{Communicator, Event, Meeting, Memory, Peers, Platform};

/// Sums in a graph: its launch takes no part in the time of one.
const CALLS: usize = 20;
/// Timed replays of each graph.
const REPLAYS: usize = 1000;
const WIDEST: usize = 4096;
const EPS: f32 = 1e-5;

#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// The library's sum and nothing else.
    Library,
    LibraryNorm,
    Ordered,
    OneShot,
}

const FORMS: [(Form, &str); 4] = [
    (Form::Library, "library, sum alone"),
    (Form::LibraryNorm, "library"),
    (Form::Ordered, "ordered"),
    (Form::OneShot, "one-shot"),
];

struct Rank<'a> {
    index: usize,
    ranks: usize,
    gpu: Gpu,
    peers: Peers,
    group: Communicator,
    together: &'a Barrier,
}

/// Buffers of one size.
struct Case {
    rows: usize,
    width: usize,
    count: Memory,
    part: Memory,
    all: Memory,
    residual: Memory,
    weight: Memory,
    out: Memory,
}

impl Rank<'_> {
    fn case(&self, bytes: usize) -> Case {
        let width = WIDEST.min(bytes / 4);
        let (rows, values) = (bytes / 4 / width, bytes / 4);
        let zeros = |count: usize| {
            let memory = self.gpu.empty::<f32>(count);
            self.gpu.stream.fill(&memory, 0).unwrap();
            memory
        };
        Case {
            rows,
            width,
            count: self.gpu.upload(&[rows as u32]),
            part: zeros(values),
            all: zeros(values * self.ranks),
            residual: zeros(values),
            weight: zeros(width),
            out: zeros(values),
        }
    }

    /// Queues one sum.
    fn sum(&mut self, form: Form, case: &Case) {
        let Case { rows, width, count, part, all, residual, weight, out } = case;
        let (rows_of, width) = (Rows { count: count.ptr(), bound: *rows }, *width);
        let Gpu { stream, kernels, .. } = &self.gpu;
        let values = rows * width;
        match form {
            Form::Library | Form::LibraryNorm => {
                self.group.all_reduce(stream, part, values).unwrap();
            }
            Form::Ordered => {
                self.group.all_gather(stream, part, all, values).unwrap();
                let parts = Parts { memory: all, stride: values, width, ranks: self.ranks };
                sum_ranks(stream, kernels, rows_of, parts, part).unwrap();
            }
            Form::OneShot => {
                let twins = self.peers.twins(part).unwrap();
                return all_reduce_norm(
                    stream, kernels, rows_of, twins, residual, weight, out, width, EPS,
                )
                .unwrap();
            }
        }
        if form != Form::Library {
            add_rms_norm(stream, kernels, rows_of, residual, part, weight, out, width, EPS)
                .unwrap();
        }
    }

    /// Microseconds of one sum in each replay of a graph, ascending.
    fn times(&mut self, form: Form, case: &Case) -> Vec<f32> {
        // Libraries get ready before anything is recorded.
        self.sum(form, case);
        self.gpu.stream.synchronize().unwrap();
        self.gpu.stream.begin_capture().unwrap();
        for _ in 0..CALLS {
            self.sum(form, case);
        }
        let graph = self.gpu.stream.end_capture().unwrap();
        let replays = if device::platform() == Platform::Cuda { REPLAYS } else { 1 };
        let events: Vec<Event> =
            (0..=replays).map(|_| Event::new(&self.gpu.device).unwrap()).collect();
        self.together.wait();
        for (i, event) in events.iter().enumerate() {
            if i > 0 {
                // SAFETY: its memory is still there.
                unsafe { self.gpu.stream.run(&graph).unwrap() };
            }
            event.record(&self.gpu.stream).unwrap();
        }
        self.gpu.stream.synchronize().unwrap();
        let mut times: Vec<f32> = events
            .windows(2)
            .map(|pair| pair[1].milliseconds_since(&pair[0]).unwrap() * 1e3 / CALLS as f32)
            .collect();
        times.sort_by(f32::total_cmp);
        times
    }

    fn run(&mut self) {
        let most = if device::platform() == Platform::Cuda { 24 } else { 14 };
        for bytes in (11..=most).map(|log| 1 << log) {
            let case = self.case(bytes);
            let mut line = format!("{:>8} B, {} x {}:", bytes, case.rows, case.width);
            let mut library = 0.0;
            for (form, name) in FORMS {
                if form == Form::OneShot && case.rows > MAX_ROWS {
                    continue;
                }
                let times = self.times(form, &case);
                let at = |share: usize| times[times.len() * share / 100];
                line += &format!("  {name} {:.1} us (p99 {:.1})", at(50), at(99));
                match form {
                    Form::LibraryNorm => library = at(50),
                    Form::OneShot => line += &format!(", {:.2} x", library / at(50)),
                    Form::Library | Form::Ordered => {}
                }
            }
            if self.index == 0 {
                println!("{line}");
            }
            // Nobody frees what another still reads.
            self.together.wait();
        }
    }
}

fn main() {
    let ranks = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(2);
    let runtime = device::runtime();
    let meeting = Meeting::new(&runtime, ranks).unwrap();
    let together = Barrier::new(ranks);
    let start = |index| {
        let gpu = device::gpu_of(&runtime, index);
        let group = meeting.join(index, &gpu.device).unwrap();
        let peers = group.meet(&gpu.stream).unwrap();
        Rank { index, ranks, gpu, peers, group, together: &together }.run();
    };
    std::thread::scope(|scope| {
        let start = &start;
        (0..ranks).for_each(|index| drop(scope.spawn(move || start(index))));
    });
}
