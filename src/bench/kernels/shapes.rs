//! The sizes of a model on one of its ranks.

use clap::ValueEnum;
use model::HeadShape;

/// Whose shapes the kernels run at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchModel {
    /// Kimi-K2.6 on one of 4 ranks
    #[value(name = "kimi-k2.6")]
    KimiK26,
    /// The model in models/demo, on one rank
    Demo,
}

/// What a rank multiplies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shapes {
    pub(super) ranks: usize,
    pub(super) hidden: usize,
    pub(super) q_latent: usize,
    pub(super) heads: HeadShape,
    /// Softmax factor.
    pub(super) scale: f32,
    /// Hidden units of the dense layers' MLP, on this rank.
    pub(super) dense: usize,
    /// Of the shared experts.
    pub(super) shared: usize,
    /// Of a routed expert.
    pub(super) width: usize,
    pub(super) experts: usize,
    pub(super) top_k: usize,
    pub(super) vocab: usize,
}

impl BenchModel {
    pub(super) fn shapes(self) -> Shapes {
        // 192^-0.5 times the square of YaRN's temperature for a factor of 64, in both models.
        let scale = 0.144_7;
        let heads = |heads| HeadShape { heads, nope: 128, rope: 64, v: 128, latent: 512 };
        match self {
            BenchModel::KimiK26 => Shapes {
                ranks: 4,
                hidden: 7168,
                q_latent: 1536,
                heads: heads(16),
                scale,
                dense: 4608,
                shared: 512,
                width: 512,
                experts: 384,
                top_k: 8,
                vocab: 163_840,
            },
            BenchModel::Demo => Shapes {
                ranks: 1,
                hidden: 384,
                q_latent: 256,
                heads: heads(4),
                scale,
                dense: 768,
                shared: 128,
                width: 128,
                experts: 24,
                top_k: 6,
                vocab: 2304,
            },
        }
    }
}
