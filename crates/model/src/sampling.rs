//! What one sequence asks of the sampler. Types only: each backend samples on its own device.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

/// How a next token is drawn from a row of logits.
///
/// Order of operations: `logit_bias` and penalties on the raw logits, then the draw's mask, then
/// temperature, softmax, `min_p`, `top_k`, `top_p`, and one draw. Values are checked by whoever
/// builds the struct.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the largest logit (the lowest id among equals). In 0..=2.
    pub temperature: f32,
    /// Keeps the smallest set of most likely tokens whose probabilities add up to this. In (0, 1].
    pub top_p: f32,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Drops tokens less likely than this share of the most likely one. In [0, 1].
    pub min_p: f32,
    /// Subtracted once from the logit of every token that was generated before. In [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted per occurrence from the logit of every token generated before. In [-2, 2].
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output. > 0.
    pub repetition_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of this sequence's draws: draw `n` depends on `(seed, n)` alone.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Whether a draw needs to know which tokens came before.
    pub fn needs_counts(&self) -> bool {
        self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || self.repetition_penalty != 1.0
    }
}

/// Which tokens a sequence holds, for the penalties.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenCounts {
    /// Distinct tokens of the prompt.
    pub prompt: Arc<HashSet<u32>>,
    /// How often each token was generated.
    pub output: HashMap<u32, u32>,
}

/// One draw: the parameters and what of the sequence's state they depend on.
#[derive(Debug, Clone)]
pub struct Draw {
    /// The sequence's parameters.
    pub params: Arc<SamplingParams>,
    /// How many tokens this sequence has generated before this one.
    pub index: u64,
    /// Present if `params.needs_counts()`. Without the row's own token, if that one is carried.
    pub counts: Option<Arc<TokenCounts>>,
    /// The tokens that may be drawn, if not all: the logits of the others count as -inf, after bias
    /// and penalties. Log-probabilities are those of the raw logits all the same.
    pub mask: Option<LateMask>,
}

/// A mask that may still be in the making while its row is computed: it depends on the row's token,
/// which the batch before draws. Whoever draws waits for it, when the logits are there.
#[derive(Debug, Clone, Default)]
pub struct LateMask(Arc<OnceLock<Option<Arc<TokenMask>>>>);

impl LateMask {
    /// Sets it; only the first call has an effect. With `None` every token may be drawn. Each mask
    /// in a batch must be set at last, whatever becomes of its sequence.
    pub fn set(&self, mask: Option<Arc<TokenMask>>) {
        // An error says that it was set before.
        let _ = self.0.set(mask);
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    /// Waits until it is set. `None`: every token may be drawn.
    pub fn wait(&self) -> Option<&TokenMask> {
        self.0.wait().as_deref()
    }
}

/// Which tokens of a vocabulary may be drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask(Vec<u32>);

impl TokenMask {
    /// Of one bit a token: bit `id % 32` (counted from the least significant) of word `id / 32`. At
    /// least one token below the vocabulary's size must be allowed.
    pub fn new(words: Vec<u32>) -> TokenMask {
        TokenMask(words)
    }

    /// The words that it was made of.
    pub fn words(&self) -> &[u32] {
        &self.0
    }

    /// Whether no token at all may be drawn.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether the token `id` may be drawn; one behind the last word may not.
    pub fn allows(&self, id: u32) -> bool {
        self.0.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }
}

/// A uniform number in [0, 1) that depends on `(seed, index)` alone (splitmix64's finalizer,
/// twice).
///
/// Every backend draws from this sequence, so that one seed gives one answer wherever the
/// probabilities agree.
pub fn uniform(seed: u64, index: u64) -> f32 {
    let mix = |mut z: u64| {
        z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let bits = mix(mix(seed) ^ index);
    (bits >> 40) as f32 / (1u64 << 24) as f32
}
