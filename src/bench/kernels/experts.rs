//! The routed experts of a layer: each kernel by itself, on what the kernels before it made, and
//! all together.

use std::cell::OnceCell;
use std::rc::Rc;

use checkpoint::Activations;
use hip::kernels::experts::{self, Scratch, by_pair};
use hip::kernels::experts_down::{experts_combine, experts_down, experts_down_of_rows};
use hip::kernels::experts_gate_up::{Grouping, experts_gate_up};
use hip::kernels::mxfp4::{RowTiles, activated_bytes};
use hip::kernels::quantize::quantize;
use hip::kernels::route::{Choice, Hidden, route};
use hip::kernels::sort::{Sorted, slots, sort};
use hip::{Error, Memory};
use model::RouterShape;

use super::case::{Case, Cost, Work};
use super::gpu::{Count, Gpu, Operand, Random};
use super::quantized::{FORMS, Matrices, Rows, name, rate};
use super::shapes::Shapes;

/// Which kernels a case is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Route,
    Sort,
    GateUp,
    /// Of very few rows with the sum of each row's.
    Down,
    Combine,
    /// `quantize`, and what a layer launches for so many rows.
    Experts,
    /// These behind `route`.
    Layer,
}

impl Stage {
    pub(super) fn has(self, other: Stage) -> bool {
        match self {
            Stage::Layer => true,
            Stage::Experts => other != Stage::Route,
            _ => self == other,
        }
    }
}

/// A layer's weights, of up to hundreds of experts: one for all cases.
pub(super) struct Weights {
    pub(super) gate_up: Matrices,
    pub(super) down: Matrices,
}

/// What a batch was routed to.
pub(super) struct Routing {
    /// f32 `[tokens, experts + 2 * shared]`: logits, and behind them what the shared experts make.
    pub(super) x: Operand,
    pub(super) chosen: Memory,
    pub(super) factors: Memory,
    pub(super) sorted: Sorted,
}

/// A batch on its way.
pub(super) struct Experts {
    pub(super) stage: Stage,
    pub(super) s: Shapes,
    pub(super) tokens: usize,
    pub(super) tiles: RowTiles,
    pub(super) shape: RouterShape,
    pub(super) weights: Rc<Weights>,
    /// Experts that the first routing has used.
    used: usize,
    count: Count,
    pub(super) x: Operand,
    pub(super) bias: Operand,
    pub(super) routings: Vec<Routing>,
    pub(super) input: Rows,
    pub(super) hidden: Rows,
    /// bf16: the shared experts' hidden units.
    pub(super) shared: Memory,
    /// BF16 by pair.
    pub(super) parts: Memory,
    /// f32 by row, added to.
    pub(super) out: Operand,
}

/// Routings by turns: other experts each time, so that no cache has their weights.
const ROUTINGS: usize = 16;

impl Experts {
    fn new(
        gpu: &Gpu,
        random: &mut Random,
        weights: Rc<Weights>,
        s: Shapes,
        stage: Stage,
        form: Activations,
        tokens: usize,
    ) -> Result<Experts, Error> {
        let pairs = tokens * s.top_k;
        let sets = if gpu.emulated || pairs > s.experts { 1 } else { ROUTINGS };
        let routings = (0..sets).map(|_| {
            Ok(Routing {
                x: Operand::f32s(gpu, random, tokens * (s.experts + 2 * s.shared), 2.0)?,
                chosen: gpu.empty(4 * pairs)?,
                factors: gpu.empty(4 * pairs)?,
                sorted: Sorted::new(&gpu.device, pairs, s.experts)?,
            })
        });
        let routings = routings.collect::<Result<Vec<_>, Error>>()?;
        let (count, x) = (gpu.count(tokens)?, Operand::bf16s(gpu, random, tokens * s.hidden, 1.7)?);
        let mut batch = Experts {
            stage,
            s,
            tokens,
            tiles: RowTiles::for_rows(pairs, s.experts).of_groups(form, gpu.device.platform()),
            shape: RouterShape { top_k: s.top_k, normalize: true, scale: 2.827 },
            weights,
            used: 0,
            input: Rows::from_bf16(gpu, form, &count, s.hidden, &x)?,
            count,
            x,
            // So small that it decides between neighbours alone: experts are used alike.
            bias: Operand::f32s(gpu, random, s.experts, 2e-4)?,
            routings,
            hidden: Rows::new(gpu, form, slots(pairs, s.experts), s.width)?,
            shared: gpu.empty(2 * tokens * s.shared)?,
            parts: gpu.empty(2 * pairs * s.hidden)?,
            out: Operand::f32s(gpu, random, tokens * s.hidden, 1.0)?,
        };
        batch.prepare(gpu)?;
        Ok(batch)
    }

    /// Runs what comes before the case's kernels.
    fn prepare(&mut self, gpu: &Gpu) -> Result<(), Error> {
        for (set, routing) in self.routings.iter().enumerate() {
            self.run(gpu, set, Stage::Route)?;
            self.run(gpu, set, Stage::Sort)?;
            if set == 0 {
                let mut chosen = gpu.download(&routing.chosen)?.u32s();
                chosen.sort_unstable();
                chosen.dedup();
                self.used = chosen.len();
            }
        }
        if matches!(self.stage, Stage::Down | Stage::Combine) {
            self.run(gpu, 0, Stage::GateUp)?;
        }
        if self.stage == Stage::Combine {
            self.run(gpu, 0, Stage::Down)?;
        }
        gpu.stream.synchronize()
    }

    /// Whether the case is about pairs that are not sorted.
    pub(super) fn by_pair(&self) -> bool {
        let sorted = matches!(self.stage, Stage::Sort | Stage::Combine);
        by_pair(self.tokens, self.s.top_k) && !sorted
    }

    fn run(&self, gpu: &Gpu, set: usize, stage: Stage) -> Result<(), Error> {
        let (stream, kernels, rows) = (&gpu.stream, &gpu.kernels, self.count.rows());
        let (s, routing, top_k, tiles) = (self.s, &self.routings[set], self.s.top_k, self.tiles);
        let (input, hidden) = (self.input.activated(), self.hidden.activated());
        let choice = Choice { experts: &routing.chosen, weights: &routing.factors };
        let (sorted, parts, out) = (&routing.sorted, &self.parts, &self.out.memory);
        let (gate_up, down) = (self.weights.gate_up.weights(), self.weights.down.weights());
        if stage.has(Stage::Route) {
            let (x, bias) = (&routing.x.memory, &self.bias.memory);
            let shared = Hidden { memory: &self.shared, width: s.shared };
            route(stream, kernels, rows, x, bias, s.experts, self.shape, choice, shared)?;
        }
        match stage {
            Stage::Route => Ok(()),
            Stage::Sort => {
                let each = tiles.count(stream.device().platform());
                sort(stream, kernels, rows, choice.experts, top_k, s.experts, each, sorted)
            }
            Stage::GateUp => {
                let grouping = match self.by_pair() {
                    true => Grouping::ByPair(choice.experts),
                    false => Grouping::Sorted(sorted, tiles),
                };
                let count = s.experts;
                experts_gate_up(
                    stream, kernels, rows, grouping, top_k, input, count, gate_up, hidden,
                )
            }
            Stage::Down if self.by_pair() => experts_down_of_rows(
                stream, kernels, rows, choice, top_k, hidden, s.experts, down, out,
            ),
            Stage::Down => experts_down(
                stream, kernels, rows, sorted, top_k, tiles, hidden, s.experts, down, parts,
            ),
            Stage::Combine => {
                experts_combine(stream, kernels, rows, parts, choice.weights, top_k, s.hidden, out)
            }
            Stage::Experts | Stage::Layer => {
                if input.form != Activations::Bf16 {
                    quantize(stream, kernels, rows, &self.x.memory, input)?;
                }
                let matrices = experts::Matrices { count: s.experts, gate_up, down };
                let scratch = Scratch { sorted, hidden, parts };
                experts::experts(
                    stream, kernels, rows, input, choice, top_k, matrices, scratch, out,
                )
            }
        }
    }
}

impl Work for Experts {
    /// Groups and slots count as they are read or written: 16 bytes for each expert used, which
    /// has a group at least, and 4 for each pair. What is not sorted takes the choices alone.
    fn cost(&self) -> Cost {
        let (s, pairs, form) = (self.s, self.tokens * self.s.top_k, self.input.form);
        let both = |(codes, scales): (usize, usize)| codes + scales;
        let input = both(activated_bytes(form, self.tokens, s.hidden));
        let hidden = both(activated_bytes(form, pairs, s.width));
        let by_pair = self.by_pair();
        let lists = if by_pair { 4 * pairs } else { 16 * self.used + 4 * pairs };
        let gate_up = self.used * self.weights.gate_up.bytes();
        let down = self.used * self.weights.down.bytes();
        let row = 4 * self.tokens * s.hidden;
        let routed = self.tokens * (4 * s.experts + 10 * s.shared) + 4 * s.experts;
        let experts = gate_up + down + 2 * self.tokens * s.hidden + 2 * row;
        let bytes = match self.stage {
            Stage::Route => routed + 8 * pairs,
            Stage::Sort => 4 * pairs + lists,
            Stage::GateUp => gate_up + input + lists + hidden,
            Stage::Down if by_pair => down + hidden + lists + 4 * pairs + 2 * row,
            Stage::Down => down + hidden + lists + 2 * pairs * s.hidden,
            Stage::Combine => 2 * pairs * s.hidden + 4 * pairs + 2 * row,
            Stage::Experts => experts + 8 * pairs,
            Stage::Layer => experts + routed,
        };
        let product = 2 * pairs * s.hidden * s.width;
        let operations = match self.stage {
            Stage::GateUp => 2 * product,
            Stage::Down => product,
            Stage::Experts | Stage::Layer => 3 * product,
            _ => 0,
        };
        let sums = self.stage.has(Stage::Combine) || self.stage == Stage::Down && by_pair;
        let in_place = if sums { row } else { 0 };
        Cost { bytes, in_place, operations, rate: rate(form) }
    }

    fn sets(&self) -> usize {
        // The rows that `down` takes are those of the first routing.
        if self.stage == Stage::Down { 1 } else { self.routings.len() }
    }

    fn outputs(&self) -> Vec<&Memory> {
        let (stage, routing) = (self.stage, &self.routings[0]);
        let mut outputs = Vec::new();
        if stage.has(Stage::Route) {
            outputs.extend([&routing.chosen, &routing.factors, &self.shared]);
        }
        let by_pair = self.by_pair();
        if stage.has(Stage::Sort) && !by_pair {
            let Sorted { pairs, groups, group_count } = &routing.sorted;
            outputs.extend([pairs, groups, group_count]);
        }
        if stage.has(Stage::GateUp) {
            outputs.extend(self.hidden.outputs());
        }
        if stage.has(Stage::Down) && !by_pair {
            outputs.push(&self.parts);
        }
        outputs
    }

    fn launch(&self, gpu: &Gpu, set: usize) -> Result<(), Error> {
        self.run(gpu, set, self.stage)
    }

    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        super::experts_check::check(gpu, self)
    }
}

/// The cases; the weights are made for the first that needs them.
pub(super) fn cases(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    let weights: Rc<OnceCell<Rc<Weights>>> = Rc::default();
    let mut add = |kernel: String, stage, form, tokens| {
        let weights = Rc::clone(&weights);
        let text = match stage {
            Stage::Route => {
                format!("{tokens} x {}, top {}; {} units", s.experts, s.top_k, s.shared)
            }
            Stage::Sort => format!("{tokens} x {}, top {}", s.experts, s.top_k),
            Stage::GateUp => format!("{tokens} x {} x {}", 2 * s.width, s.hidden),
            Stage::Down => format!("{tokens} x {} x {}", s.hidden, s.width),
            Stage::Combine => format!("{tokens} x {} x {}", s.top_k, s.hidden),
            Stage::Experts | Stage::Layer => format!("{tokens} x {}", s.hidden),
        };
        let build = move |gpu: &Gpu, random: &mut Random| {
            let weights = match weights.get() {
                Some(made) => Rc::clone(made),
                None => {
                    let gate_up = Matrices::new(gpu, random, s.experts, 2 * s.width, s.hidden)?;
                    let down = Matrices::new(gpu, random, s.experts, s.hidden, s.width)?;
                    Rc::clone(weights.get_or_init(|| Rc::new(Weights { gate_up, down })))
                }
            };
            Ok(Experts::new(gpu, random, weights, s, stage, form, tokens)?)
        };
        cases.push(Case::new(kernel, text, build));
    };
    for (kernel, stage) in [("route with swiglu", Stage::Route), ("sort", Stage::Sort)] {
        for &tokens in tokens {
            add(kernel.into(), stage, Activations::Bf16, tokens);
        }
    }
    for form in FORMS {
        for (part, stage) in [("gate_up", Stage::GateUp), ("down", Stage::Down)] {
            for &tokens in tokens {
                add(format!("experts_{part} {}", name(form)), stage, form, tokens);
            }
        }
    }
    for &tokens in tokens {
        add("experts_combine".into(), Stage::Combine, Activations::Bf16, tokens);
    }
    for form in FORMS {
        for (part, stage) in [("experts", Stage::Experts), ("expert layer", Stage::Layer)] {
            for &tokens in tokens {
                add(format!("{part} {}", name(form)), stage, form, tokens);
            }
        }
    }
}
