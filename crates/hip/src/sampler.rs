//! The sampler: what is wanted of a batch's rows, to the device; what came out, back.

use std::collections::HashMap;
use std::f64::consts::LOG2_E;

use model::{DeviceError, Draw, Limits, OutputRow, RowOutput, SamplingParams, TokenCounts, Want};

use crate::kernels::sample::{Adjustment, Buffers, Drawn, MAX_TOP, NONE, Request, sample};
use crate::weights::{Plain, bytes_of};
use crate::{Device, Kernels, Memory, Pinned, Stream};

/// Rows that there is room for.
const ROWS: usize = Limits::LOGIT_ROWS;

/// Memory for the requests and results of up to [`Limits::LOGIT_ROWS`] rows.
pub struct Sampler {
    vocab: usize,
    /// Requests, then masks, then adjustments; copied as one.
    staged: Pinned,
    memory: Memory,
    tokens: Memory,
    results: Memory,
    fetched: Pinned,
}

/// Adjustments that fit in one launch: any row's at least.
fn capacity(vocab: usize) -> usize {
    vocab.max(1 << 18)
}

/// Words of a mask.
fn mask_words(vocab: usize) -> usize {
    vocab.div_ceil(32)
}

fn staged_bytes(vocab: usize) -> usize {
    ROWS * (size_of::<Request>() + mask_words(vocab) * 4)
        + capacity(vocab) * size_of::<Adjustment>()
        + 32 // up to the next multiples of 16
}

impl Sampler {
    /// Room for logits of `vocab` tokens.
    ///
    /// # Errors
    /// Too little memory.
    pub fn new(device: &Device, vocab: usize) -> Result<Sampler, DeviceError> {
        Ok(Sampler {
            vocab,
            staged: device.allocate_pinned(staged_bytes(vocab))?,
            memory: device.allocate(staged_bytes(vocab))?,
            tokens: device.allocate(ROWS * 4)?,
            results: device.allocate(ROWS * size_of::<Drawn>())?,
            fetched: device.allocate_pinned(ROWS * size_of::<Drawn>())?,
        })
    }

    /// Bytes of device memory that [`Sampler::new`] takes.
    pub fn bytes(vocab: usize) -> usize {
        staged_bytes(vocab) + ROWS * (size_of::<Drawn>() + 4)
    }

    /// The tokens of the rows that were queued last, u32, in device memory.
    pub fn tokens(&self) -> &Memory {
        &self.tokens
    }

    /// Queues what `outputs` want of as many rows of `logits`, which are used up, and the fetching
    /// of the results. Waits for masks that are in the making. What was queued before must have
    /// ended.
    ///
    /// # Errors
    /// More rows than there is room for, a request out of range, or a failed device.
    pub fn queue(
        &mut self,
        stream: &Stream,
        kernels: &Kernels,
        logits: &Memory,
        outputs: &[OutputRow],
    ) -> Result<(), DeviceError> {
        let rows = outputs.len();
        if rows > ROWS {
            return Err(DeviceError(format!("{rows} rows to sample, there is room for {ROWS}")));
        }
        let mut first = 0;
        while first < rows {
            if first > 0 {
                stream.synchronize()?; // the staged numbers are on their way until then
            }
            let launch = Launch::new(&outputs[first..], self.vocab)?;
            self.launch(stream, kernels, logits, first, &launch)?;
            first += launch.requests.len();
        }
        let bytes = rows * size_of::<Drawn>();
        // SAFETY: `fetched` is read by `results`, after the caller has waited.
        unsafe { stream.fetch(&self.results, &mut self.fetched, bytes)? };
        Ok(())
    }

    fn launch(
        &mut self,
        stream: &Stream,
        kernels: &Kernels,
        logits: &Memory,
        first: usize,
        launch: &Launch,
    ) -> Result<(), DeviceError> {
        let mut at = [0; 4];
        let parts =
            [bytes_of(&launch.requests), bytes_of(&launch.masks), bytes_of(&launch.adjustments)];
        for (i, part) in parts.into_iter().enumerate() {
            self.staged.as_mut_slice()[at[i]..at[i] + part.len()].copy_from_slice(part);
            at[i + 1] = (at[i] + part.len()).next_multiple_of(16);
        }
        // SAFETY: `staged` is written again after the stream has been waited for.
        unsafe { stream.send(&self.staged, &self.memory, 0, at[3])? };
        let buffers = Buffers {
            logits,
            first,
            requests: self.memory.ptr(),
            masks: self.memory.ptr() + at[1] as u64,
            adjustments: self.memory.ptr() + at[2] as u64,
            tokens: &self.tokens,
            results: &self.results,
        };
        Ok(sample(stream, kernels, launch.requests.len(), self.vocab, buffers)?)
    }

    /// The results of what was queued, once it has ended.
    ///
    /// # Errors
    /// A token that is not in the vocabulary: the device computes nonsense.
    pub fn results(&self, outputs: &[OutputRow]) -> Result<Vec<RowOutput>, DeviceError> {
        let rows = self.fetched.as_slice().chunks_exact(size_of::<Drawn>());
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
}

impl Launch {
    /// Takes as many of `outputs` as have room, at least one.
    fn new(outputs: &[OutputRow], vocab: usize) -> Result<Launch, DeviceError> {
        let mut launch = Launch::default();
        for output in outputs {
            let own = match &output.want {
                Want::Sample(draw) => adjustments(&draw.params, draw.counts.as_deref()),
                Want::Score(_) => HashMap::new(),
            };
            if let Some(id) = own.keys().find(|&&id| id as usize >= vocab) {
                return Err(DeviceError(format!("token {id} is not one of {vocab}")));
            }
            if launch.adjustments.len() + own.len() > capacity(vocab) {
                break;
            }
            let mut request = request(output, vocab)?;
            request.first_adjustment = launch.adjustments.len() as u32;
            request.adjustments = own.len() as u32;
            launch.adjustments.extend(own.into_values());
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
