//! What the experts' kernels must have written.

use anyhow::ensure;
use checkpoint::Activations;
use hip::kernels::sort::Sorted;
use mx::{BLOCK, bf16};

use super::check::{Exact, close, gated, halves_written, same, sample};
use super::experts::{Experts, Stage};
use super::gpu::{Bytes, Gpu};
use super::quantized::{HostRows, product};

/// Checks what the case's stages wrote, each against what it had read.
pub(super) fn check(gpu: &Gpu, batch: &Experts) -> anyhow::Result<()> {
    let (stage, routing) = (batch.stage, &batch.routings[0]);
    let chosen = gpu.download(&routing.chosen)?;
    let factors = gpu.download(&routing.factors)?;
    if stage.has(Stage::Route) {
        check_route(batch, &chosen, &factors)?;
        check_shared(gpu, batch)?;
    }
    let chosen = chosen.u32s();
    let slots = match batch.by_pair() {
        true => (0..chosen.len()).collect(),
        false => check_sort(gpu, batch, &routing.sorted, &chosen, stage.has(Stage::Sort))?,
    };
    if stage.has(Stage::GateUp) {
        check_gate_up(gpu, batch, &chosen, &slots)?;
    }
    if stage.has(Stage::Down) && batch.by_pair() {
        return check_rows(gpu, batch, &chosen, &factors);
    }
    if stage.has(Stage::Down) {
        check_down(gpu, batch, &chosen, &slots)?;
    }
    if stage.has(Stage::Combine) {
        check_combine(gpu, batch, &factors)?;
    }
    Ok(())
}

/// Relative error of a score: e^-l is exp2 of a product that rounds by 2^-24 of at most 1.45 |l|
/// (so by |l| 2^-24 of the result), an exp2 of an ulp or two, a sum and a quotient of half an ulp
/// each.
fn score_error(logit: f32) -> f64 {
    (f64::from(logit.abs()) + 4.0) * 2f64.powi(-23)
}

/// Every row: nothing that was left is better than what was chosen, but for rounding.
fn check_route(batch: &Experts, chosen: &Bytes, factors: &Bytes) -> anyhow::Result<()> {
    let (s, shape, x) = (batch.s, batch.shape, &batch.routings[0].x);
    for row in 0..batch.tokens {
        let logit = |e: usize| x.f32(row * (s.experts + 2 * s.shared) + e);
        let score = |e: usize| 1.0 / (1.0 + (-f64::from(logit(e))).exp());
        let biased = |e: usize| score(e) + f64::from(batch.bias.f32(e));
        // The sum s + b, of magnitude below 2, rounds by 2^-24 more.
        let error = |e: usize| score_error(logit(e)) * score(e) + 2f64.powi(-23);
        let own: Vec<usize> =
            (0..s.top_k).map(|k| chosen.u32(row * s.top_k + k) as usize).collect();
        let valid = own.is_sorted_by(|a, b| a < b) && own.iter().all(|&e| e < s.experts);
        ensure!(valid, "chosen[{row}] is {own:?}, expected ascending experts");
        let worst = own.iter().map(|&e| biased(e) + error(e)).fold(f64::INFINITY, f64::min);
        for e in (0..s.experts).filter(|e| !own.contains(e)) {
            let better = biased(e) - error(e) > worst;
            ensure!(!better, "chosen[{row}] is {own:?}, expected expert {e} among them");
        }
        let sum: f64 = own.iter().map(|&e| score(e)).sum();
        for (k, &e) in own.iter().enumerate() {
            let value = score(e) / (sum + 1e-20) * f64::from(shape.scale);
            // The sum's error is at most that of its worst score and top_k roundings.
            let relative = score_error(2.0) * 2.0 + (s.top_k + 3) as f64 * 2f64.powi(-24);
            let exact = Exact { value, bound: relative * value };
            close("weights", &[row, k], factors.f32(row * s.top_k + k), exact)?;
        }
    }
    Ok(())
}

/// Some rows, all of their columns.
fn check_shared(gpu: &Gpu, batch: &Experts) -> anyhow::Result<()> {
    let (s, x, shared) = (batch.s, &batch.routings[0].x, gpu.download(&batch.shared)?);
    halves_written("shared", &shared)?;
    for row in sample(batch.tokens, 14, s.shared) {
        let behind = row * (s.experts + 2 * s.shared) + s.experts;
        for i in 0..s.shared {
            let [g, u] = [i, s.shared + i].map(|i| x.f32(behind + i));
            close("shared", &[row, i], shared.bf16(row * s.shared + i), gated(g, u))?;
        }
    }
    Ok(())
}

/// Compares, if it is `wanted`, with a stable counting sort. Returns the slot of every pair.
fn check_sort(
    gpu: &Gpu,
    batch: &Experts,
    sorted: &Sorted,
    chosen: &[u32],
    wanted: bool,
) -> anyhow::Result<Vec<usize>> {
    let size = 16 * batch.tiles.count(gpu.device.platform());
    let mut own: Vec<Vec<usize>> = vec![Vec::new(); batch.s.experts];
    for (pair, &expert) in chosen.iter().enumerate() {
        own[expert as usize].push(pair);
    }
    let (pairs, groups) = (gpu.download(&sorted.pairs)?, gpu.download(&sorted.groups)?);
    let (mut slots, mut slot, mut group) = (vec![0; chosen.len()], 0, 0);
    for (expert, own) in own.iter().enumerate() {
        for (i, &pair) in own.iter().enumerate() {
            slots[pair] = slot + i;
            if wanted {
                same("pairs", &[slot + i], pairs.u32(slot + i), pair as u32)?;
            }
        }
        for (i, part) in own.chunks(size).enumerate() {
            let first = slot + i * size;
            let expected = [expert, first, part.len(), 0].map(|n| n as u32);
            if wanted {
                let found = [0, 1, 2, 3].map(|i| groups.u32(4 * group + i));
                same("groups", &[group], found, expected)?;
            }
            group += 1;
        }
        slot += own.len().next_multiple_of(16);
    }
    if wanted {
        same("group_count", &[0], gpu.download(&sorted.group_count)?.u32(0), group as u32)?;
    }
    Ok(slots)
}

/// `silu(g) u` of a unit.
fn swiglu(x: &[f32], gate: &[f32], up: &[f32]) -> Exact {
    let (g, u) = (product(x, gate), product(x, up));
    let silu = |g: f64| g / (1.0 + (-g).exp());
    // |silu'| is below 1.1. e^-g is off by (|g| + 2) 2^-23 (see `score_error`), and the sum, the
    // quotient and the product by an ulp each.
    let relative = (g.value.abs() + 5.0) * 2f64.powi(-23);
    let value = silu(g.value) * u.value;
    let from_sums = 1.1 * g.bound * (u.value.abs() + u.bound) + silu(g.value).abs() * u.bound;
    Exact { value, bound: relative * value.abs() + from_sums }
}

/// Checks some blocks of some pairs: their codes must be what some values within the bounds of
/// `h` round to.
fn check_gate_up(
    gpu: &Gpu,
    batch: &Experts,
    chosen: &[u32],
    slots: &[usize],
) -> anyhow::Result<()> {
    let (s, hidden) = (batch.s, batch.hidden.download(gpu)?);
    let (input, weights) = (batch.input.download(gpu)?, &batch.weights.gate_up);
    for (pair, &slot) in slots.iter().enumerate() {
        for block in 0..s.width / BLOCK {
            written(batch.hidden.form, &hidden, slot, block, pair)?;
        }
    }
    for pair in sample(slots.len(), 28, batch.tokens) {
        let (x, expert) = (input.row(pair / s.top_k), chosen[pair] as usize);
        for block in sample(s.width / BLOCK, 1, pair) {
            // Of every 64 rows of the matrix 32 are gate rows, the others up rows.
            let row = |i: usize| weights.row(expert, block * 2 * BLOCK + i);
            let h: Vec<Exact> =
                (0..BLOCK).map(|unit| swiglu(&x, &row(unit), &row(BLOCK + unit))).collect();
            check_block(batch.hidden.form, &hidden, slots[pair], block, pair, &h)?;
        }
    }
    Ok(())
}

/// Whether a block is not as it was poisoned: no scale, and no BF16 of a finite number, has all
/// bits set.
fn written(
    form: Activations,
    hidden: &HostRows,
    slot: usize,
    block: usize,
    pair: usize,
) -> anyhow::Result<()> {
    let written = match form {
        Activations::Bf16 => {
            (block * BLOCK..(block + 1) * BLOCK).all(|unit| !hidden.code(slot, unit).is_nan())
        }
        _ => hidden.scale(slot, block) != mx::e8m0::NAN,
    };
    ensure!(written, "h[{pair}, {}..] was not written, or is not a number", block * BLOCK);
    Ok(())
}

fn check_block(
    form: Activations,
    hidden: &HostRows,
    slot: usize,
    block: usize,
    pair: usize,
    h: &[Exact],
) -> anyhow::Result<()> {
    let ends: Vec<[f32; 2]> =
        h.iter().map(|h| [(h.value - h.bound) as f32, (h.value + h.bound) as f32]).collect();
    let scale = if form == Activations::Bf16 { 127 } else { hidden.scale(slot, block) };
    if form != Activations::Bf16 {
        let most = ends.iter().map(|[low, high]| low.abs().max(high.abs()));
        let least = ends.iter().map(|[low, high]| match low * high <= 0.0 {
            true => 0.0,
            false => low.abs().min(high.abs()),
        });
        let (most, least) = (most.fold(0.0, f32::max), least.fold(0.0, f32::max));
        let range = hidden.rule(least)..=hidden.rule(most);
        ensure!(range.contains(&scale), "scale[{pair}, {block}] is {scale}, expected {range:?}");
    }
    for (i, [low, high]) in ends.into_iter().enumerate() {
        let (unit, found) = (block * BLOCK + i, hidden.code(slot, block * BLOCK + i));
        let range = match form {
            Activations::Bf16 => bf16::round(low)..=bf16::round(high),
            _ => hidden.round(low, scale)..=hidden.round(high, scale),
        };
        ensure!(
            range.contains(&found),
            "h[{pair}, {unit}] is {found} times 2^{}, expected {range:?}",
            i32::from(scale) - 127
        );
    }
    Ok(())
}

fn check_down(gpu: &Gpu, batch: &Experts, chosen: &[u32], slots: &[usize]) -> anyhow::Result<()> {
    let (hidden, parts) = (batch.hidden.download(gpu)?, gpu.download(&batch.parts)?);
    let width = batch.s.hidden;
    halves_written("y", &parts)?;
    for pair in sample(slots.len(), 28, batch.tokens) {
        let h = hidden.row(slots[pair]);
        for column in sample(width, 6, pair) {
            let exact = product(&h, &batch.weights.down.row(chosen[pair] as usize, column));
            close("y", &[pair, column], parts.bf16(pair * width + column), exact.to_bf16())?;
        }
    }
    Ok(())
}

/// Some columns of each of very few rows, which are added to `out` at once.
fn check_rows(gpu: &Gpu, batch: &Experts, chosen: &[u32], factors: &Bytes) -> anyhow::Result<()> {
    let (hidden, out) = (batch.hidden.download(gpu)?, gpu.download(&batch.out.memory)?);
    let (width, top_k) = (batch.s.hidden, batch.s.top_k);
    for row in 0..batch.tokens {
        for column in sample(width, 30, row) {
            let before = f64::from(batch.out.f32(row * width + column));
            let (mut sum, mut bound, mut magnitudes) = (before, 0.0, before.abs());
            for k in 0..top_k {
                let pair = row * top_k + k;
                let w = batch.weights.down.row(chosen[pair] as usize, column);
                let y = product(&hidden.row(pair), &w).to_bf16();
                let factor = f64::from(factors.f32(pair));
                sum += factor * y.value;
                bound += factor.abs() * y.bound;
                magnitudes += factor.abs() * (y.value.abs() + y.bound);
            }
            // Each multiply-add rounds by half an ulp of a sum that the magnitudes bound.
            let bound = bound + top_k as f64 * 2f64.powi(-24) * magnitudes;
            close(
                "out",
                &[row, column],
                out.f32(row * width + column),
                Exact { value: sum, bound },
            )?;
        }
    }
    Ok(())
}

/// Some rows, all of their columns: fused multiply-adds in the order of the choices, to the bit.
fn check_combine(gpu: &Gpu, batch: &Experts, factors: &Bytes) -> anyhow::Result<()> {
    let (parts, out) = (gpu.download(&batch.parts)?, gpu.download(&batch.out.memory)?);
    let (width, top_k) = (batch.s.hidden, batch.s.top_k);
    for row in sample(batch.tokens, 14, width) {
        for column in 0..width {
            let mut expected = batch.out.f32(row * width + column);
            for pair in row * top_k..(row + 1) * top_k {
                expected = factors.f32(pair).mul_add(parts.bf16(pair * width + column), expected);
            }
            same("out", &[row, column], out.f32(row * width + column), expected)?;
        }
    }
    Ok(())
}
