//! What a case of the bench is, and the list of all.

use hip::kernels::matmul::Output;
use hip::{Error, Memory};

use super::gpu::{Gpu, Random};
use super::shapes::Shapes;
use super::{attention, experts, matmul, norm, prompt, quantized, rope, rows, sampling};

/// The matrix units' rate that bounds a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rate {
    /// BF16 operands, or no matrix instructions.
    Bf16,
    /// FP8 with FP4.
    Fp8,
    /// FP4 with FP4.
    Fp4,
}

/// What a launch must do at least.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// Distinct bytes of the inputs that the shape needs, and of the outputs.
    pub(super) bytes: usize,
    /// Of these the outputs that stand where inputs stood.
    pub(super) in_place: usize,
    /// Multiplications and additions of matrix products; 0 of what has none.
    pub(super) operations: usize,
    pub(super) rate: Rate,
}

impl Cost {
    /// Of a kernel without matrix products.
    pub(super) fn of_bytes(bytes: usize) -> Cost {
        Cost { bytes, in_place: 0, operations: 0, rate: Rate::Bf16 }
    }
}

/// A kernel, or several that belong together, with operands in device memory.
pub(super) trait Work {
    fn cost(&self) -> Cost;

    /// Sets of operands that are taken in turn, so that no cache holds what was read last time.
    fn sets(&self) -> usize {
        1
    }

    /// Buffers that are written and not read.
    fn outputs(&self) -> Vec<&Memory>;

    /// Queues the kernels with a set of operands.
    fn launch(&self, gpu: &Gpu, set: usize) -> Result<(), Error>;

    /// Compares what one launch with set 0 has written with what it must be.
    fn check(&self, gpu: &Gpu) -> anyhow::Result<()>;

    /// `[rows, n, k]` of the BF16 product that the platform's library has too, with such results.
    fn product(&self) -> Option<([usize; 3], Output)> {
        None
    }
}

type Build = Box<dyn FnOnce(&Gpu, &mut Random) -> anyhow::Result<Box<dyn Work>>>;

/// A kernel at a shape.
pub(super) struct Case {
    pub(super) kernel: String,
    pub(super) shape: String,
    build: Build,
}

impl Case {
    pub(super) fn new<W, F>(kernel: impl Into<String>, shape: String, build: F) -> Case
    where
        W: Work + 'static,
        F: FnOnce(&Gpu, &mut Random) -> anyhow::Result<W> + 'static,
    {
        let build: Build = Box::new(|gpu, random| Ok(Box::new(build(gpu, random)?)));
        Case { kernel: kernel.into(), shape, build }
    }

    /// Makes its operands.
    pub(super) fn build(self, gpu: &Gpu, random: &mut Random) -> anyhow::Result<Box<dyn Work>> {
        (self.build)(gpu, random)
    }
}

/// Every kernel at every shape, in the order in which a layer runs them. `tokens`: rows of a
/// batch; `contexts`: keys of each sequence.
pub(super) fn all(shapes: Shapes, tokens: &[usize], contexts: &[usize]) -> Vec<Case> {
    let mut cases = Vec::new();
    rows::embed_cases(&mut cases, shapes, tokens);
    norm::cases(&mut cases, shapes, tokens);
    matmul::attention_inputs(&mut cases, shapes, tokens);
    rope::cases(&mut cases, shapes, tokens);
    attention::cases(&mut cases, shapes, tokens, contexts);
    prompt::cases(&mut cases, shapes, tokens, contexts);
    matmul::attention_outputs(&mut cases, shapes, tokens);
    matmul::shared_expert(&mut cases, shapes, tokens);
    rows::swiglu_cases(&mut cases, shapes, tokens);
    quantized::cases(&mut cases, shapes, tokens);
    experts::cases(&mut cases, shapes, tokens);
    rows::ranks(&mut cases, shapes, tokens);
    matmul::head(&mut cases, shapes, tokens);
    sampling::cases(&mut cases, shapes, tokens);
    cases
}
