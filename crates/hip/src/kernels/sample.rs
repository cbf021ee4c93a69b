//! Draws or scores one token for each row of logits.

use super::{check_room, check_shape};
use crate::{Device, Error, Kernels, Memory, Platform, Stream};

/// Most likely tokens that a row can be asked for.
pub const MAX_TOP: usize = 20;
/// Workgroups at most where they wait for one another: all must be resident at once, one on each
/// compute unit. gfx950 has 256, an H200 132, the smallest H100 114.
const WORKGROUPS: usize = 128;
/// Workgroups of a row at most: so many take 8192 tokens each of Kimi-K2's, two loads a thread.
const MAX_MEMBERS: usize = 20;
/// Bytes of the memory of one row's workgroups.
const TEAM_BYTES: usize = 52_160;
/// Bytes of [`Buffers::teams`].
pub const TEAMS_BYTES: usize = WORKGROUPS / 2 * TEAM_BYTES;
/// Tokens of a vocabulary at most.
const MAX_VOCAB: usize = 1 << 18;
/// No token, no mask.
pub const NONE: u32 = u32::MAX;

/// What is wanted of a row.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Request {
    /// Seed of the sequence.
    pub seed: u64,
    /// Which of its draws this is.
    pub index: u64,
    /// The token to score, or [`NONE`] to draw one.
    pub scored: u32,
    /// log2(e) / temperature; 0 takes the largest logit.
    pub scale: f32,
    /// As in [`model::SamplingParams`].
    pub min_p: f32,
    /// As in [`model::SamplingParams`].
    pub top_k: u32,
    /// `top_p * 2^24`, at least 1.
    pub top_p: u32,
    /// 0: none. n + 1: the token's own and the n largest.
    pub logprobs: u32,
    /// Where the row's adjustments begin.
    pub first_adjustment: u32,
    /// How many they are.
    pub adjustments: u32,
    /// Which of the masks holds, or [`NONE`].
    pub mask: u32,
    /// As in [`model::SamplingParams`].
    pub presence: f32,
    /// As in [`model::SamplingParams`].
    pub frequency: f32,
    /// As in [`model::SamplingParams`].
    pub repetition: f32,
}

/// What changes a token's logit. At most one for each token of a row.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Adjustment {
    /// The token.
    pub id: u32,
    /// How often it was generated.
    pub generated: u32,
    /// 1 if it occurs at all, in prompt or output.
    pub seen: u32,
    /// Its bias.
    pub bias: f32,
}

/// What came out of a row.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Drawn {
    /// The drawn or scored token.
    pub token: u32,
    /// Its log-probability under the raw logits; undefined if none was wanted.
    pub logprob: f32,
    /// The most likely tokens, best first, as many as were wanted.
    pub top_ids: [u32; MAX_TOP],
    /// Their log-probabilities.
    pub top_logprobs: [f32; MAX_TOP],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    logits: u64,
    requests: u64,
    adjustments: u64,
    masks: u64,
    tokens: u64,
    results: u64,
    teams: u64,
    vocab: u32,
    members: u32,
}

/// What [`sample`] works on. The requests' numbers are trusted.
#[derive(Clone, Copy)]
pub struct Buffers<'a> {
    /// f32 `[.., vocab]`; rows that are drawn from are changed.
    pub logits: &'a Memory,
    /// The first of the rows, in `logits` and `results`.
    pub first: usize,
    /// The same in `tokens`.
    pub first_token: usize,
    /// Device address of a [`Request`] for each row, the first one's first.
    pub requests: u64,
    /// Device address of the [`Adjustment`]s of all rows.
    pub adjustments: u64,
    /// Device address of masks of a bit for each token, in whole words.
    pub masks: u64,
    /// u32 `[..]`, written: the tokens.
    pub tokens: &'a Memory,
    /// [`Drawn`] `[..]`, written.
    pub results: &'a Memory,
    /// Where the workgroups of a row meet, [`TEAMS_BYTES`], zero before the first launch. Launches
    /// that share it must follow one another.
    pub teams: &'a Memory,
}

/// Workgroups that serve a row of so many, each with a part of the vocabulary. Results do not
/// depend on it.
fn members(device: &Device, rows: usize) -> Result<usize, Error> {
    let resident = match device.platform() {
        Platform::Hip => WORKGROUPS,
        Platform::Cuda => device.cuda_processors()?.min(WORKGROUPS),
    };
    Ok((resident / rows.max(1)).clamp(1, MAX_MEMBERS))
}

/// Does for `rows` rows what their requests say, as [`model::Backend::sample`].
///
/// # Errors
/// Buffers that are too small, a vocabulary that the kernel does not know, a failed device.
pub fn sample(
    stream: &Stream,
    kernels: &Kernels,
    rows: usize,
    vocab: usize,
    buffers: Buffers<'_>,
) -> Result<(), Error> {
    const NAME: &str = "sample";
    let Buffers { logits, first, first_token, tokens, results, teams, .. } = buffers;
    let fits = vocab.is_multiple_of(4) && vocab <= MAX_VOCAB;
    check_shape(NAME, fits, "the vocabulary must be a multiple of 4 and at most 262,144")?;
    check_room(NAME, "logits", logits, (first + rows) * vocab * 4)?;
    check_room(NAME, "tokens", tokens, (first_token + rows) * 4)?;
    check_room(NAME, "results", results, (first + rows) * size_of::<Drawn>())?;
    check_room(NAME, "teams", teams, TEAMS_BYTES)?;
    let members = members(stream.device(), rows)? as u32;
    let args = Args {
        logits: logits.ptr() + (first * vocab * 4) as u64,
        requests: buffers.requests,
        adjustments: buffers.adjustments,
        masks: buffers.masks,
        tokens: tokens.ptr() + (first_token * 4) as u64,
        results: results.ptr() + (first * size_of::<Drawn>()) as u64,
        teams: teams.ptr(),
        vocab: vocab as u32,
        members,
    };
    // SAFETY: the arguments are the kernel's, the buffers have room for `rows` rows.
    unsafe { stream.launch(kernels.get(NAME), [rows as u32, members, 1], 1024, &args) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CountArgs {
    requests: u64,
    adjustments: u64,
    tokens: u64,
    pairs: u64,
}

/// Counts the tokens of `count` rows, which were not known when their requests were made, as
/// generated. All are device addresses: `pairs` of a request's index and its row's in `tokens`, two
/// u32 each; `tokens` a u32 for each row. The last of such a request's adjustments is free for the
/// token.
///
/// # Errors
/// A failed device.
pub fn count_carried(
    stream: &Stream,
    kernels: &Kernels,
    count: usize,
    [requests, adjustments, tokens, pairs]: [u64; 4],
) -> Result<(), Error> {
    let args = CountArgs { requests, adjustments, tokens, pairs };
    // SAFETY: the arguments are the kernel's; the numbers are trusted.
    unsafe { stream.launch(kernels.get("count_carried"), [count as u32, 1, 1], 256, &args) }
}
