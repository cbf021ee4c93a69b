//! The sampler with several workgroups a row: any number gives the same bits, launch after launch.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod device;
mod numbers;

use std::f32::consts::LOG2_E;

use device::{Gpu, Plain};
use hip::Memory;
use hip::kernels::sample::{Adjustment, Buffers, Drawn, NONE, Request, TEAMS_BYTES, sample};
use model::uniform;
use numbers::Random;

impl Plain for Request {}
impl Plain for Adjustment {}

/// 20 workgroups take 208 tokens each, but for the last; 12 take 348, 2 take 2068.
const VOCAB: usize = 4132;
const ALL: u32 = 1 << 24;
const DRAWN: usize = size_of::<Drawn>() / 4;

#[derive(Clone)]
struct Case {
    logits: Vec<f32>,
    request: Request,
    adjustments: Vec<Adjustment>,
    /// Allowed are the tokens of this remainder by three.
    allowed: Option<usize>,
    /// What must be drawn, where that is plain.
    token: Option<u32>,
}

/// Logits of every kind: a few likely tokens, many, many equal ones, all equal; infinite ones and
/// such that are no numbers; a few allowed; in order of id; one far above the others; the same in
/// order of id; the same of equal others.
fn logits(random: &mut Random, kind: usize) -> Vec<f32> {
    let mut value = |scale: f32| scale * (0..4).map(|_| random.value()).sum::<f32>();
    let mut x: Vec<f32> = (0..VOCAB)
        .map(|id| match kind {
            0 if id % 97 == 5 => value(4.0) + 9.0,
            0 | 4 | 5 => value(4.0),
            1 | 8 => value(1.0),
            2 => value(2.0).round(),
            3 | 10 => -3.5,
            6 => f32::NEG_INFINITY,
            _ => 2.0 - id as f32 / 1024.0,
        })
        .collect();
    match kind {
        4 => (x[207], x[3000]) = (f32::INFINITY, f32::INFINITY),
        5 => x[1379] = f32::NAN,
        6 => (x[0], x[208], x[4131]) = (1.0, 1.5, 1.0),
        8 => x[2600] = x.iter().copied().fold(0.0, f32::max) + 11.5,
        9 => x[0] += 11.5,
        10 => x[2600] += 11.5,
        _ => {}
    }
    x
}
const KINDS: usize = 11;

/// A draw's index whose uniform number is as given.
fn index(fits: impl Fn(f32) -> bool) -> u64 {
    (0..).find(|&index| fits(uniform(1, index))).unwrap()
}

fn cases() -> Vec<Case> {
    let mut random = Random(11);
    let base = Request {
        seed: 1,
        scored: NONE,
        scale: LOG2_E,
        top_p: ALL,
        mask: NONE,
        ..Default::default()
    };
    let share = |x: f32| (x * ALL as f32) as u32;
    let mut cases = Vec::new();
    let mut add = |kind: usize, request: Request| {
        let logits = logits(&mut random, kind);
        let i = cases.len();
        // The first of the largest, as NaN is above all.
        let largest = |a: usize, b: usize| match logits[b].total_cmp(&logits[a]).is_gt() {
            true => b,
            false => a,
        };
        let first = (0..logits.len()).reduce(largest).map(|id| id as u32);
        let plain = request.scale == 0.0 || matches!(kind, 4 | 5);
        let token = first.filter(|_| plain && request.scored == NONE);
        cases.push(Case { logits, request, adjustments: Vec::new(), allowed: None, token });
        if i % 5 == 4 {
            let case = cases.last_mut().unwrap();
            case.allowed = (i % 2 == 0).then_some(i % 3);
            case.adjustments = (0..60)
                .map(|j| j * 67 + i as u32)
                .map(|id| Adjustment {
                    id,
                    generated: id % 3,
                    seen: 1,
                    bias: (id % 5) as f32 - 2.0,
                })
                .collect();
            case.request = Request { repetition: 1.3, presence: 0.5, frequency: 0.25, ..request };
            case.token = None;
        }
    };
    for kind in 0..KINDS {
        add(kind, Request { scale: 0.0, ..base });
        add(kind, Request { index: index(|x| x > 0.99), logprobs: 1, ..base });
        add(kind, Request { index: 2, top_k: 100, logprobs: 21, ..base });
        add(kind, Request { index: 3, top_p: share(0.95), scale: LOG2_E / 0.7, ..base });
        add(kind, Request { index: 4, min_p: 0.03, logprobs: 2, ..base });
        let all = Request { index: 5, top_k: 700, top_p: share(0.6), min_p: 0.001, ..base };
        add(kind, Request { logprobs: 6, scale: LOG2_E / 1.5, ..all });
        add(kind, Request { scored: 77, logprobs: 4, ..base });
    }
    // The last token kept is a slice's last, or the next one's first.
    for top_k in [208, 209, 348, 349, 2068, 2069] {
        add(7, Request { index: index(|x| x > 0.999), top_k, ..base });
        add(
            7,
            Request {
                index: index(|x| x > 0.999),
                min_p: (-(top_k as f32 / 1024.0)).exp(),
                ..base
            },
        );
        let kept = |id: u32| 1.0 - (-f64::from(id) / 1024.0).exp();
        let top_p = (kept(top_k) / kept(VOCAB as u32) * f64::from(ALL)) as u32;
        add(7, Request { index: index(|x| x > 0.999), top_p, ..base });
    }
    cases
}

/// What the device has of some cases.
struct Loaded {
    rows: usize,
    logits: Memory,
    requests: Memory,
    adjustments: Memory,
    masks: Memory,
    tokens: Memory,
    results: Memory,
}

impl Loaded {
    fn new(gpu: &Gpu, cases: &[Case]) -> Loaded {
        let (mut requests, mut adjustments) = (Vec::new(), vec![Adjustment::default()]);
        for case in cases {
            let mut request = case.request;
            request.first_adjustment = adjustments.len() as u32;
            request.adjustments = case.adjustments.len() as u32;
            request.mask = case.allowed.map_or(NONE, |allowed| allowed as u32);
            adjustments.extend(&case.adjustments);
            requests.push(request);
        }
        let words = VOCAB.div_ceil(32);
        let word = |i: usize| {
            let bit = |b: usize| u32::from((i % words * 32 + b) % 3 == i / words) << b;
            (0..32).map(bit).sum::<u32>()
        };
        let logits: Vec<f32> = cases.iter().flat_map(|case| case.logits.clone()).collect();
        let results = gpu.empty::<u32>(cases.len() * DRAWN);
        gpu.stream.fill(&results, 0).unwrap();
        Loaded {
            rows: cases.len(),
            logits: gpu.upload(&logits),
            requests: gpu.upload(&requests),
            adjustments: gpu.upload(&adjustments),
            masks: gpu.upload(&(0..3 * words).map(word).collect::<Vec<u32>>()),
            tokens: gpu.empty::<u32>(cases.len()),
            results,
        }
    }

    fn launch(&self, gpu: &Gpu, teams: &Memory) {
        let buffers = Buffers {
            logits: &self.logits,
            first: 0,
            first_token: 0,
            requests: self.requests.ptr(),
            adjustments: self.adjustments.ptr(),
            masks: self.masks.ptr(),
            tokens: &self.tokens,
            results: &self.results,
            teams,
        };
        sample(&gpu.stream, &gpu.kernels, self.rows, VOCAB, buffers).unwrap();
    }

    /// The words of each row's result.
    fn results(&self, gpu: &Gpu) -> Vec<Vec<u32>> {
        let words: Vec<u32> = gpu.download(&self.results);
        let tokens: Vec<u32> = gpu.download(&self.tokens);
        let results: Vec<Vec<u32>> = words.chunks(DRAWN).map(<[u32]>::to_vec).collect();
        assert!(results.iter().zip(tokens).all(|(result, token)| result[0] == token));
        results
    }
}

fn teams(gpu: &Gpu) -> Memory {
    let teams = gpu.empty::<u8>(TEAMS_BYTES);
    gpu.stream.fill(&teams, 0).unwrap();
    teams
}

/// What launches of so many rows each make of the cases, which are repeated to fill the last.
fn in_launches_of(gpu: &Gpu, teams: &Memory, cases: &[Case], rows: usize) -> Vec<Vec<u32>> {
    let mut results = Vec::new();
    let endless = || cases.iter().cycle();
    while results.len() < cases.len() {
        let launch: Vec<Case> = endless().skip(results.len()).take(rows).cloned().collect();
        let loaded = Loaded::new(gpu, &launch);
        loaded.launch(gpu, teams);
        results.extend(loaded.results(gpu));
    }
    results.truncate(cases.len());
    results
}

/// Launches of any of these numbers of rows do the same.
fn agree(cases: &[Case], rows: &[usize]) {
    let gpu = device::gpu();
    let teams = teams(&gpu);
    let first = in_launches_of(&gpu, &teams, cases, rows[0]);
    for (case, result) in cases.iter().zip(&first) {
        assert!(case.token.is_none_or(|token| token == result[0]), "{:?}", case.request);
    }
    for &rows in &rows[1..] {
        let found = in_launches_of(&gpu, &teams, cases, rows);
        for (i, (found, first)) in found.iter().zip(&first).enumerate() {
            assert_eq!(found, first, "case {i} in launches of {rows}: {:?}", cases[i].request);
        }
    }
}

/// One workgroup a row, 12 and 2.
#[test]
fn any_number_of_workgroups_gives_the_same_bits() {
    agree(&cases(), &[65, 10, 43]);
}

/// 12 and 20.
#[test]
fn a_few_cases() {
    agree(&cases().iter().step_by(20).cloned().collect::<Vec<_>>(), &[10, 1]);
}

#[test]
fn replays_of_different_launches_share_the_teams() {
    let gpu = device::gpu();
    let teams = teams(&gpu);
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.adjustments.is_empty()).collect();
    let loaded = [1, 9].map(|rows| {
        let some = cases.iter().cycle().skip(2 + rows).take(rows).cloned();
        Loaded::new(&gpu, &some.collect::<Vec<_>>())
    });
    let expected = loaded.each_ref().map(|launch| {
        let own = self::teams(&gpu);
        launch.launch(&gpu, &own);
        launch.results(&gpu)
    });
    gpu.stream.begin_capture().unwrap();
    loaded.iter().for_each(|launch| launch.launch(&gpu, &teams));
    let graph = gpu.stream.end_capture().unwrap();
    for _ in 0..3 {
        for launch in &loaded {
            gpu.stream.fill(&launch.results, 0).unwrap();
            gpu.stream.fill(&launch.tokens, u32::MAX).unwrap();
        }
        // SAFETY: its memory is still there.
        unsafe { gpu.stream.run(&graph).unwrap() };
        assert!(loaded.each_ref().map(|launch| launch.results(&gpu)) == expected);
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("a_few_cases");
}
