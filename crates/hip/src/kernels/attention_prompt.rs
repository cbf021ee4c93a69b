//! Expanded MLA for chunks of prompts.

use super::attention::ROPE;
use super::{check_room, check_shape};
use crate::tensor_map::{Element, TensorMap};
use crate::{Error, Kernels, Memory, Platform, Stream};

/// Width of a query or key without rope.
pub const NOPE: usize = 128;
/// Width of a value, and of a result.
pub const VALUE: usize = 128;
/// Rows of a block at most, which a workgroup takes at once.
const BLOCK: usize = 128;
/// Keys in a box that CUDA's kernel copies.
const KEYS: u32 = 128;

/// Rows of one sequence at neighbouring positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Where they begin in queries and results.
    pub row: usize,
    /// How many they are.
    pub rows: usize,
    /// The first one's position.
    pub first: usize,
    /// Where the sequence's block numbers begin among all.
    pub table: usize,
}

impl Chunk {
    /// Keys that its last row sees.
    pub fn keys(&self) -> usize {
        self.first + self.rows
    }
}

/// Keys of all chunks.
pub(crate) fn keys(chunks: &[Chunk]) -> usize {
    chunks.iter().map(Chunk::keys).sum()
}

/// The chunks in blocks, as the kernel reads them and in the order that it takes them in: of each
/// the first row, how many they are, the first one's position, and where the sequence's keys begin.
///
/// Long ones come first, so that none is left alone at the end; but one sequence's together, so
/// that workgroups at work together are on the same keys.
pub fn list(chunks: &[Chunk]) -> Vec<u32> {
    let mut key = 0;
    let mut placed = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        placed.push((chunk, key));
        key += chunk.keys();
    }
    placed.sort_by_key(|(chunk, _)| std::cmp::Reverse(chunk.keys()));
    let mut words = Vec::new();
    for (chunk, key) in placed {
        for begin in (0..chunk.rows).step_by(BLOCK).rev() {
            let rows = BLOCK.min(chunk.rows - begin);
            words.extend([chunk.row + begin, rows, chunk.first + begin, key].map(|n| n as u32));
        }
    }
    words
}

/// Words of the [`list`] of so many chunks with so many rows at most.
pub(crate) fn most_listed(chunks: usize, rows: usize) -> usize {
    4 * (chunks + rows / BLOCK)
}

/// The buffers of [`attention_prompt`].
#[derive(Clone, Copy)]
pub struct Buffers<'a> {
    /// bf16 `[.., heads, NOPE + ROPE]`, of which the chunks' rows count.
    pub queries: &'a Memory,
    /// bf16 `[keys, heads, NOPE + VALUE]`, one chunk's after another's: for each position up to the
    /// chunk's last and each head a key without rope and a value, the product of its latent.
    pub keys_values: &'a Memory,
    /// bf16 `[keys, ROPE]`.
    pub ropes: &'a Memory,
    /// bf16 `[.., heads, VALUE]`, of which the chunks' rows are written.
    pub out: &'a Memory,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    queries: u64,
    keys_values: u64,
    ropes: u64,
    out: u64,
    blocks: u64,
    count: u32,
    heads: u32,
    scale: f32,
}

/// The parameter of CUDA's kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct BoxedArgs {
    queries: TensorMap,
    keys_values: TensorMap,
    ropes: TensorMap,
    args: Args,
}

/// `out = sum_j softmax(scale * (q . key_j))_j value_j` over each row's own position and all before
/// it, where a key is the head's `NOPE` values and the position's rope. `blocks` is the address of
/// the chunks' [`list`] in device memory, a multiple of 16; `scale` is positive. A row's bits
/// depend on its query and position, and on keys and values up to there, alone; those of its
/// sequence that come later must be finite.
///
/// # Errors
/// Buffers that are too small, a failed device.
pub fn attention_prompt(
    stream: &Stream,
    kernels: &Kernels,
    chunks: &[Chunk],
    blocks: u64,
    buffers: Buffers<'_>,
    heads: usize,
    scale: f32,
) -> Result<(), Error> {
    const NAME: &str = "attention_prompt";
    check_shape(NAME, scale > 0.0, "the scale must be positive")?;
    let Buffers { queries, keys_values, ropes, out } = buffers;
    let rows = chunks.iter().map(|chunk| chunk.row + chunk.rows).max().unwrap_or(0);
    let len = keys(chunks);
    check_room(NAME, "queries", queries, rows * heads * (NOPE + ROPE) * 2)?;
    check_room(NAME, "keys and values", keys_values, len * heads * (NOPE + VALUE) * 2)?;
    check_room(NAME, "ropes", ropes, len * ROPE * 2)?;
    check_room(NAME, "out", out, rows * heads * VALUE * 2)?;
    let count: usize = chunks.iter().map(|chunk| chunk.rows.div_ceil(BLOCK)).sum();
    let tasks = count * heads;
    if tasks == 0 {
        return Ok(());
    }
    let args = Args {
        queries: queries.ptr(),
        keys_values: keys_values.ptr(),
        ropes: ropes.ptr(),
        out: out.ptr(),
        blocks,
        count: count as u32,
        heads: heads as u32,
        scale: scale * std::f32::consts::LOG2_E,
    };
    let (device, kernel) = (stream.device(), kernels.get(NAME));
    if device.platform() == Platform::Hip {
        let grid = [heads as u32, count as u32, 1];
        // SAFETY: the parameter is the kernel's, and buffers have room.
        return unsafe { stream.launch(kernel, grid, 256, &args) };
    }
    let heads_of = |address, width, count, rows| {
        let bytes = [2, 2 * width, 2 * width * heads];
        TensorMap::new(device, Element::Bf16, address, [width, heads, count], bytes, [64, 1, rows])
    };
    let args = BoxedArgs {
        queries: heads_of(args.queries, NOPE + ROPE, rows, BLOCK as u32)?,
        keys_values: heads_of(args.keys_values, NOPE + VALUE, len, KEYS)?,
        ropes: TensorMap::new(
            device,
            Element::Bf16,
            args.ropes,
            [ROPE, len],
            [2, 2 * ROPE],
            [ROPE as u32, KEYS],
        )?,
        args,
    };
    let grid = [tasks.min(device.cuda_processors()?) as u32, 1, 1];
    // SAFETY: as above.
    unsafe { stream.launch(kernel, grid, 384, &args) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(row: usize, rows: usize, first: usize) -> Chunk {
        Chunk { row, rows, first, table: 0 }
    }

    #[test]
    fn longer_sequences_come_first_and_their_last_rows() {
        let chunks = [chunk(3, 2, 10), chunk(5, 300, 100), chunk(305, 0, 7), chunk(305, 128, 272)];
        let expected = [
            [261, 44, 356, 12],
            [133, 128, 228, 12],
            [5, 128, 100, 12],
            [305, 128, 272, 419],
            [3, 2, 10, 0],
        ];
        assert_eq!(list(&chunks), expected.concat());
    }

    #[test]
    fn no_list_is_longer_than_the_most() {
        for rows in 1..400 {
            for cut in [1, 2, 127, 128, 129] {
                let chunks: Vec<Chunk> =
                    (0..rows).step_by(cut).map(|row| chunk(row, cut.min(rows - row), 0)).collect();
                assert!(list(&chunks).len() <= most_listed(chunks.len(), rows));
            }
        }
    }
}
