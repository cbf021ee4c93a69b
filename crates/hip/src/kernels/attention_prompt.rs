//! Expanded MLA for a chunk of a prompt.

use super::attention::ROPE;
use super::{check_room, check_shape};
use crate::tensor_map::{Element, TensorMap};
use crate::{Error, Kernels, Memory, Platform, Stream};

/// Width of a query or key without rope.
pub const NOPE: usize = 128;
/// Width of a value, and of a result.
pub const VALUE: usize = 128;
/// Rows of a block, which a workgroup takes at once.
const BLOCK: usize = 128;
/// Keys in a box that CUDA's kernel copies.
const KEYS: u32 = 128;

/// Rows of one sequence at neighbouring positions.
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    /// Where they begin in queries and results.
    pub row: usize,
    /// How many they are.
    pub rows: usize,
    /// The first one's position.
    pub first: usize,
}

/// The buffers of [`attention_prompt`].
#[derive(Clone, Copy)]
pub struct Buffers<'a> {
    /// bf16 `[.., heads, NOPE + ROPE]`, of which the chunk's rows count.
    pub queries: &'a Memory,
    /// bf16 `[len, heads, NOPE + VALUE]`: for each position up to the chunk's last and each head a
    /// key without rope and a value, the product of its latent.
    pub keys_values: &'a Memory,
    /// bf16 `[len, ROPE]`.
    pub ropes: &'a Memory,
    /// bf16 `[.., heads, VALUE]`, of which the chunk's rows are written.
    pub out: &'a Memory,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    queries: u64,
    keys_values: u64,
    ropes: u64,
    out: u64,
    rows: u32,
    first: u32,
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
/// it, where a key is the head's `NOPE` values and the position's rope. `scale` is positive. A
/// row's bits depend on its query and position, and on keys and values up to there, alone.
///
/// # Errors
/// Buffers that are too small, a failed device.
pub fn attention_prompt(
    stream: &Stream,
    kernels: &Kernels,
    chunk: Chunk,
    buffers: Buffers<'_>,
    heads: usize,
    scale: f32,
) -> Result<(), Error> {
    const NAME: &str = "attention_prompt";
    check_shape(NAME, scale > 0.0, "the scale must be positive")?;
    let Chunk { row, rows, first } = chunk;
    let Buffers { queries, keys_values, ropes, out } = buffers;
    let (len, query, expanded) = (first + rows, heads * (NOPE + ROPE), heads * (NOPE + VALUE));
    check_room(NAME, "queries", queries, (row + rows) * query * 2)?;
    check_room(NAME, "keys and values", keys_values, len * expanded * 2)?;
    check_room(NAME, "ropes", ropes, len * ROPE * 2)?;
    check_room(NAME, "out", out, (row + rows) * heads * VALUE * 2)?;
    let tasks = rows.div_ceil(BLOCK) * heads;
    if tasks == 0 {
        return Ok(());
    }
    let args = Args {
        queries: queries.ptr() + (row * query * 2) as u64,
        keys_values: keys_values.ptr(),
        ropes: ropes.ptr(),
        out: out.ptr() + (row * heads * VALUE * 2) as u64,
        rows: rows as u32,
        first: first as u32,
        heads: heads as u32,
        scale: scale * std::f32::consts::LOG2_E,
    };
    let (device, kernel) = (stream.device(), kernels.get(NAME));
    if device.platform() == Platform::Hip {
        let grid = [tasks as u32, 1, 1];
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
