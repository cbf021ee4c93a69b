//! The sampler: what is wanted of a batch's rows, to the device; what came out, back.

use std::collections::HashMap;
use std::f64::consts::LOG2_E;

use model::{
    Batch, DeviceError, Draw, Limits, OutputRow, RowOutput, SamplingParams, TokenCounts, Want,
};

use crate::kernels::sample::{
    Adjustment, Buffers, Drawn, MAX_TOP, NONE, Request, TEAMS_BYTES, count_carried, sample,
};
use crate::steps::UNDER_WAY;
use crate::weights::{Plain, bytes_of};
use crate::{Device, Kernels, Memory, Pinned, Stream};

/// Rows that there is room for.
const ROWS: usize = Limits::LOGIT_ROWS;

/// Memory for the requests and results of up to [`Limits::LOGIT_ROWS`] rows at a time.
pub struct Sampler {
    vocab: usize,
    /// Requests, masks, adjustments, pairs of requests and carried rows; copied as one. For each
    /// batch under way.
    staged: [Pinned; UNDER_WAY],
    memory: Memory,
    tokens: Memory,
    results: Memory,
    teams: Memory,
    /// For each batch under way.
    fetched: [Pinned; UNDER_WAY],
}

/// The outputs of a batch whose logits are there.
#[derive(Clone, Copy)]
pub struct Round<'a> {
    /// The batch.
    pub batch: &'a Batch,
    /// The first of its outputs that this is about.
    pub first: usize,
    /// How many there are.
    pub rows: usize,
    /// Device address of the tokens of all the batch's rows, u32: those of carried rows are read.
    pub tokens: u64,
    /// Which of the memories it uses: 0 or 1.
    pub slot: usize,
}

impl<'a> Round<'a> {
    fn outputs(&self) -> &'a [OutputRow] {
        &self.batch.outputs[self.first..self.first + self.rows]
    }
}

/// Adjustments that fit in one launch: any row's at least, with one for a carried token.
fn capacity(vocab: usize) -> usize {
    vocab.max(1 << 18) + 1
}

/// Words of a mask.
fn mask_words(vocab: usize) -> usize {
    vocab.div_ceil(32)
}

fn staged_bytes(vocab: usize) -> usize {
    ROWS * (size_of::<Request>() + mask_words(vocab) * 4 + size_of::<[u32; 2]>())
        + capacity(vocab) * size_of::<Adjustment>()
        + 48 // up to the next multiples of 16
}

impl Sampler {
    /// Room for logits of `vocab` tokens, and for the tokens of batches of `outputs` outputs. To be
    /// used on `stream`.
    ///
    /// # Errors
    /// Too little memory, or a failed device.
    pub fn new(
        device: &Device,
        stream: &Stream,
        vocab: usize,
        outputs: usize,
    ) -> Result<Sampler, DeviceError> {
        let pinned = |bytes| -> Result<[Pinned; UNDER_WAY], DeviceError> {
            Ok([device.allocate_pinned(bytes)?, device.allocate_pinned(bytes)?])
        };
        let teams = device.allocate(TEAMS_BYTES)?;
        stream.fill(&teams, 0)?;
        Ok(Sampler {
            vocab,
            staged: pinned(staged_bytes(vocab))?,
            memory: device.allocate(staged_bytes(vocab))?,
            tokens: device.allocate(outputs * 4)?,
            results: device.allocate(ROWS * size_of::<Drawn>())?,
            teams,
            fetched: pinned(ROWS * size_of::<Drawn>())?,
        })
    }

    /// Bytes of device memory that [`Sampler::new`] takes.
    pub fn bytes(vocab: usize, outputs: usize) -> usize {
        staged_bytes(vocab) + ROWS * size_of::<Drawn>() + TEAMS_BYTES + outputs * 4
    }

    /// The tokens of the latest batch's outputs that were queued, u32, in device memory.
    pub fn tokens(&self) -> &Memory {
        &self.tokens
    }

    /// Queues what a round's outputs want of as many rows of `logits`, which are used up, and the
    /// fetching of the results. Waits for masks that are in the making. What was queued with this
    /// slot before must have ended.
    ///
    /// # Errors
    /// More rows than there is room for, a request out of range, or a failed device.
    pub fn queue(
        &mut self,
        stream: &Stream,
        kernels: &Kernels,
        logits: &Memory,
        round: Round<'_>,
    ) -> Result<(), DeviceError> {
        let Round { rows, slot, .. } = round;
        if rows > ROWS {
            return Err(DeviceError(format!("{rows} rows to sample, there is room for {ROWS}")));
        }
        let mut first = 0;
        while first < rows {
            if first > 0 {
                stream.synchronize()?; // the staged numbers are on their way until then
            }
            let launch = Launch::new(round, first, self.vocab)?;
            self.launch(stream, kernels, logits, round, first, &launch)?;
            first += launch.requests.len();
        }
        let bytes = rows * size_of::<Drawn>();
        // SAFETY: `fetched` is read by `results`, after the caller has waited.
        unsafe { stream.fetch(&self.results, &mut self.fetched[slot], bytes)? };
        Ok(())
    }

    fn launch(
        &mut self,
        stream: &Stream,
        kernels: &Kernels,
        logits: &Memory,
        round: Round<'_>,
        first: usize,
        launch: &Launch,
    ) -> Result<(), DeviceError> {
        let Launch { requests, masks, adjustments, carried } = launch;
        let staged = &mut self.staged[round.slot];
        let mut at = [0; 5];
        let parts = [bytes_of(requests), bytes_of(masks), bytes_of(adjustments), bytes_of(carried)];
        for (i, part) in parts.into_iter().enumerate() {
            staged.as_mut_slice()[at[i]..at[i] + part.len()].copy_from_slice(part);
            at[i + 1] = (at[i] + part.len()).next_multiple_of(16);
        }
        // SAFETY: `staged` is written again after the stream has been waited for.
        unsafe { stream.send(staged, &self.memory, 0, at[4])? };
        let [requests, masks, adjustments, pairs] =
            [at[0], at[1], at[2], at[3]].map(|at| self.memory.ptr() + at as u64);
        if !carried.is_empty() {
            let numbers = [requests, adjustments, round.tokens, pairs];
            count_carried(stream, kernels, carried.len(), numbers)?;
        }
        let buffers = Buffers {
            logits,
            first,
            first_token: round.first + first,
            requests,
            masks,
            adjustments,
            tokens: &self.tokens,
            results: &self.results,
            teams: &self.teams,
        };
        Ok(sample(stream, kernels, launch.requests.len(), self.vocab, buffers)?)
    }

    /// The results of what was queued with this slot, once it has ended.
    ///
    /// # Errors
    /// A token that is not in the vocabulary: the device computes nonsense.
    pub fn results(
        &self,
        slot: usize,
        outputs: &[OutputRow],
    ) -> Result<Vec<RowOutput>, DeviceError> {
        let rows = self.fetched[slot].as_slice().chunks_exact(size_of::<Drawn>());
        outputs.iter().zip(rows).map(|(output, row)| self.result(output, row)).collect()
    }

    /// Reads a [`Drawn`].
    fn result(&self, output: &OutputRow, row: &[u8]) -> Result<RowOutput, DeviceError> {
        let word = |i: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| row[4 * i + byte]));
        let in_vocab = |id: u32| match (id as usize) < self.vocab {
            true => Ok(id),
            false => Err(DeviceError(format!("the sampler returned token {id}"))),
        };
        let value = |i: usize| f32::from_bits(word(i));
        let wanted = output.logprobs.unwrap_or(0).min(self.vocab);
        Ok(RowOutput {
            token: in_vocab(word(0))?,
            logprob: output.logprobs.map(|_| value(1)),
            top: (2..2 + wanted)
                .map(|i| Ok((in_vocab(word(i))?, value(i + MAX_TOP))))
                .collect::<Result<_, DeviceError>>()?,
        })
    }
}

/// What the rows of one launch want.
#[derive(Default)]
struct Launch {
    requests: Vec<Request>,
    masks: Vec<u32>,
    adjustments: Vec<Adjustment>,
    /// Requests whose row's own token is to be counted, and these rows.
    carried: Vec<[u32; 2]>,
}

impl Launch {
    /// Takes as many of the round's outputs as have room, from `first` on, at least one.
    fn new(round: Round<'_>, first: usize, vocab: usize) -> Result<Launch, DeviceError> {
        let mut launch = Launch::default();
        for output in &round.outputs()[first..] {
            let own = match &output.want {
                Want::Sample(draw) => adjustments(&draw.params, draw.counts.as_deref()),
                Want::Score(_) => HashMap::new(),
            };
            if let Some(id) = own.keys().find(|&&id| id as usize >= vocab) {
                return Err(DeviceError(format!("token {id} is not one of {vocab}")));
            }
            let carried = counts(output) && round.batch.carries(output.row);
            let own_len = own.len() + usize::from(carried);
            if launch.adjustments.len() + own_len > capacity(vocab) {
                break;
            }
            let mut request = request(output, vocab)?;
            request.first_adjustment = launch.adjustments.len() as u32;
            request.adjustments = own_len as u32;
            launch.adjustments.extend(own.into_values());
            if carried {
                launch.adjustments.push(Adjustment::default());
                launch.carried.push([launch.requests.len() as u32, output.row as u32]);
            }
            if let Want::Sample(Draw { mask: Some(mask), .. }) = &output.want
                && let Some(mask) = mask.wait()
            {
                let words = mask_words(vocab);
                request.mask = (launch.masks.len() / words) as u32;
                let given = mask.words().iter().copied().chain(std::iter::repeat(0));
                launch.masks.extend(given.take(words));
            }
            launch.requests.push(request);
        }
        Ok(launch)
    }
}

/// Whether a draw depends on how often tokens occurred.
fn counts(output: &OutputRow) -> bool {
    matches!(&output.want, Want::Sample(Draw { counts: Some(_), .. }))
}

/// What bias and penalties do to single tokens.
fn adjustments(params: &SamplingParams, counts: Option<&TokenCounts>) -> HashMap<u32, Adjustment> {
    let mut own: HashMap<u32, Adjustment> = HashMap::new();
    if let Some(counts) = counts {
        for (&id, &generated) in &counts.output {
            own.insert(id, Adjustment { id, generated, seen: 1, bias: 0.0 });
        }
        // A token of the prompt alone is only repeated.
        for &id in counts.prompt.iter().filter(|_| params.repetition_penalty != 1.0) {
            own.entry(id).or_insert(Adjustment { id, seen: 1, ..Adjustment::default() });
        }
    }
    for &(id, bias) in &params.logit_bias {
        own.entry(id).or_insert(Adjustment { id, ..Adjustment::default() }).bias += bias;
    }
    own
}

/// A row's request, but for its adjustments and mask.
fn request(output: &OutputRow, vocab: usize) -> Result<Request, DeviceError> {
    let logprobs = match output.logprobs {
        None => 0,
        Some(count) if count <= MAX_TOP => count.min(vocab) as u32 + 1,
        Some(count) => {
            let message = format!("{count} log-probabilities are wanted, at most {MAX_TOP} can be");
            return Err(DeviceError(message));
        }
    };
    let request = Request { logprobs, scored: NONE, mask: NONE, ..Request::default() };
    let draw = match &output.want {
        Want::Score(token) if *token as usize >= vocab => {
            return Err(DeviceError(format!("token {token} is not one of {vocab}")));
        }
        Want::Score(token) => return Ok(Request { scored: *token, ..request }),
        Want::Sample(draw) => draw,
    };
    let params = &draw.params;
    let scale = match params.temperature {
        0.0 => 0.0,
        // Finite: an infinite scale times no distance would not be a number.
        temperature => (LOG2_E / temperature as f64).min(1e30) as f32,
    };
    Ok(Request {
        seed: params.seed,
        index: draw.index,
        scale,
        min_p: params.min_p,
        top_k: params.top_k,
        top_p: ((params.top_p * (1 << 24) as f32).round() as u32).clamp(1, 1 << 24),
        presence: params.presence_penalty,
        frequency: params.frequency_penalty,
        repetition: params.repetition_penalty,
        ..request
    })
}

impl Plain for Request {}
impl Plain for Adjustment {}
impl Plain for [u32; 2] {}
