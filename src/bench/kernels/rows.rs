//! The kernels that move or combine rows.

use hip::kernels::embed::{NONE, Tokens, embed};
use hip::kernels::matmul::{pair_place, tile_bytes};
use hip::kernels::ranks::{Parts, gather_columns, sum_ranks};
use hip::kernels::select::select;
use hip::kernels::swiglu;
use hip::{Error, Memory, Platform};
use model::Limits;

use super::case::{Case, Cost, Work};
use super::check::{close, gated, halves_written, same, sample, words_written};
use super::gpu::{Count, Gpu, Operand, Random};
use super::shapes::Shapes;

/// Rows of a table: `embed`, or of a batch: `select`.
struct Lookup {
    platform: Platform,
    rows: usize,
    width: usize,
    count: Count,
    /// Which row of `from` each row of `out` is.
    indices: Vec<u32>,
    numbers: Memory,
    /// For each row, that the batch before has not drawn its token.
    carried: Memory,
    from: Operand,
    /// `from` is a matrix in the kernels' order, and `out` f32; else both are bf16.
    table: bool,
    out: Memory,
}

impl Lookup {
    fn new(
        gpu: &Gpu,
        random: &mut Random,
        [count, rows, width]: [usize; 3],
        table: bool,
    ) -> Result<Lookup, Error> {
        let indices: Vec<u32> = (0..count).map(|_| random.below(rows) as u32).collect();
        Ok(Lookup {
            platform: gpu.device.platform(),
            rows,
            width,
            count: gpu.count(count)?,
            numbers: gpu.numbers(&indices)?,
            carried: gpu.numbers(&vec![NONE; count])?,
            indices,
            from: Operand::bf16s(gpu, random, rows.next_multiple_of(16) * width, 1.0)?,
            table,
            out: gpu.empty(count * width * if table { 4 } else { 2 })?,
        })
    }

    fn value(&self, row: usize, column: usize) -> f32 {
        if !self.table {
            return self.from.bf16(row * self.width + column);
        }
        let tile = row / 16 * tile_bytes(self.width);
        let pair = tile + pair_place(self.platform, row % 16, column / 2 * 2);
        self.from.bf16(pair / 2 + column % 2)
    }
}

impl Work for Lookup {
    fn cost(&self) -> Cost {
        let mut distinct = self.indices.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let size = if self.table { 4 } else { 2 };
        let values = 2 * distinct.len() + size * self.indices.len();
        // An index for each row; of a token also whether it is carried.
        Cost::of_bytes(values * self.width + if self.table { 8 } else { 4 } * self.indices.len())
    }

    fn outputs(&self) -> Vec<&Memory> {
        vec![&self.out]
    }

    fn launch(&self, gpu: &Gpu, _: usize) -> Result<(), Error> {
        let (stream, kernels, rows) = (&gpu.stream, &gpu.kernels, self.count.rows());
        let (indices, from, out) = (self.numbers.ptr(), &self.from.memory, &self.out);
        match self.table {
            true => {
                let carried = self.carried.ptr();
                let tokens = Tokens { ids: indices, carried, drawn: indices };
                embed(stream, kernels, rows, tokens, from, out, [self.rows, self.width])
            }
            false => select(stream, kernels, rows, indices, from, out, self.width),
        }
    }

    /// All values, to the bit.
    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let out = gpu.download(&self.out)?;
        for (row, &index) in self.indices.iter().enumerate() {
            for i in 0..self.width {
                let at = row * self.width + i;
                let found = if self.table { out.f32(at) } else { out.bf16(at) };
                same("out", &[row, i], found, self.value(index as usize, i))?;
            }
        }
        Ok(())
    }
}

struct Swiglu {
    rows: usize,
    width: usize,
    count: Count,
    gate_up: Operand,
    out: Memory,
}

impl Work for Swiglu {
    fn cost(&self) -> Cost {
        Cost::of_bytes(10 * self.rows * self.width)
    }

    fn outputs(&self) -> Vec<&Memory> {
        vec![&self.out]
    }

    fn launch(&self, gpu: &Gpu, _: usize) -> Result<(), Error> {
        let (rows, x) = (self.count.rows(), &self.gate_up.memory);
        swiglu::swiglu(&gpu.stream, &gpu.kernels, rows, x, &self.out, self.width)
    }

    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let (out, width) = (gpu.download(&self.out)?, self.width);
        halves_written("out", &out)?;
        for row in sample(self.rows, 14, width) {
            for i in 0..width {
                let [g, u] = [i, width + i].map(|i| self.gate_up.f32(2 * row * width + i));
                close("out", &[row, i], out.bf16(row * width + i), gated(g, u))?;
            }
        }
        Ok(())
    }
}

/// All ranks' parts, added or joined.
struct Ranks {
    rows: usize,
    width: usize,
    ranks: usize,
    join: bool,
    count: Count,
    parts: Operand,
    out: Memory,
}

impl Work for Ranks {
    fn cost(&self) -> Cost {
        let out = if self.join { self.ranks } else { 1 };
        Cost::of_bytes(4 * self.rows * self.width * (self.ranks + out))
    }

    fn outputs(&self) -> Vec<&Memory> {
        vec![&self.out]
    }

    fn launch(&self, gpu: &Gpu, _: usize) -> Result<(), Error> {
        let (stream, kernels, rows) = (&gpu.stream, &gpu.kernels, self.count.rows());
        let (width, ranks, stride) = (self.width, self.ranks, self.rows * self.width);
        let parts = Parts { memory: &self.parts.memory, stride, width, ranks };
        match self.join {
            true => gather_columns(stream, kernels, rows, parts, &self.out),
            false => sum_ranks(stream, kernels, rows, parts, &self.out),
        }
    }

    /// Some rows, to the bit.
    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let (out, width) = (gpu.download(&self.out)?, self.width);
        words_written("out", &out)?;
        for row in sample(self.rows, 14, width) {
            for i in 0..width {
                let part = |rank: usize| self.parts.f32((rank * self.rows + row) * width + i);
                if !self.join {
                    let sum = (1..self.ranks).fold(part(0), |sum, rank| sum + part(rank));
                    same("out", &[row, i], out.f32(row * width + i), sum)?;
                    continue;
                }
                for rank in 0..self.ranks {
                    let column = rank * width + i;
                    let found = out.f32(row * self.ranks * width + column);
                    same("out", &[row, column], found, part(rank))?;
                }
            }
        }
        Ok(())
    }
}

/// The table's rows for tokens.
pub(super) fn embed_cases(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    for &rows in tokens {
        let shape = [rows, s.vocab, s.hidden];
        let build =
            move |gpu: &Gpu, random: &mut Random| Ok(Lookup::new(gpu, random, shape, true)?);
        cases.push(Case::new("embed", format!("{rows} of {} x {}", s.vocab, s.hidden), build));
    }
}

/// The gated activation of the dense layers.
pub(super) fn swiglu_cases(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    for &rows in tokens {
        let width = s.dense;
        let build = move |gpu: &Gpu, random: &mut Random| {
            Ok(Swiglu {
                rows,
                width,
                count: gpu.count(rows)?,
                gate_up: Operand::f32s(gpu, random, 2 * rows * width, 8.0)?,
                out: gpu.empty(2 * rows * width)?,
            })
        };
        cases.push(Case::new("swiglu", format!("{rows} x {width}"), build));
    }
}

/// What is done with all ranks' parts, and the choice of rows whose logits are wanted.
pub(super) fn ranks(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    let outputs = tokens.iter().copied().filter(|&rows| rows <= Limits::LOGIT_ROWS);
    let outputs: Vec<usize> = outputs.collect();
    for &count in &outputs {
        let shape = [count, 2 * count, s.hidden];
        let build =
            move |gpu: &Gpu, random: &mut Random| Ok(Lookup::new(gpu, random, shape, false)?);
        cases.push(Case::new("select", format!("{count} x {}", s.hidden), build));
    }
    let mut add = |kernel: &str, width, tokens: &[usize], join| {
        for &rows in tokens {
            let ranks = s.ranks;
            let build = move |gpu: &Gpu, random: &mut Random| {
                let count = gpu.count(rows)?;
                let parts = Operand::f32s(gpu, random, ranks * rows * width, 1e4)?;
                let out = gpu.empty(4 * rows * width * if join { ranks } else { 1 })?;
                Ok(Ranks { rows, width, ranks, join, count, parts, out })
            };
            cases.push(Case::new(kernel, format!("{ranks} x {rows} x {width}"), build));
        }
    };
    add("sum_ranks", s.hidden, tokens, false);
    add("gather_columns", s.vocab / s.ranks, &outputs, true);
}
