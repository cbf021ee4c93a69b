//! Which tensors belong together, and which of them are quantized.

use safetensors::Dtype;

use super::QuantizeOptions;
use super::fnmatch::fnmatch;
use super::plan::{Sink, TensorPlan};
use super::source::{FP8_BLOCK, Source};
use super::table::{VISION, class};
use crate::CheckpointError;
use crate::shards::{Located, Shards};

/// Decides tensor by tensor.
pub(super) struct Planner<'a> {
    shards: &'a Shards,
    options: &'a QuantizeOptions,
    pub(super) by_shard: Vec<Vec<TensorPlan>>,
    pub(super) patterns: Vec<(String, usize)>,
    pub(super) kept: Vec<String>,
    pub(super) skipped: Vec<String>,
    /// Bytes of the largest set of FP8 scales.
    pub(super) scales: usize,
}

impl<'a> Planner<'a> {
    pub(super) fn new(shards: &'a Shards, options: &'a QuantizeOptions) -> Planner<'a> {
        Planner {
            shards,
            options,
            by_shard: shards.files().map(|_| Vec::new()).collect(),
            patterns: options.exclude.iter().map(|pattern| (pattern.clone(), 0)).collect(),
            kept: Vec::new(),
            skipped: Vec::new(),
            scales: 0,
        }
    }

    pub(super) fn tensor(&mut self, name: &str) -> Result<(), CheckpointError> {
        let Some(tensor) = self.shards.get(name) else { return Ok(()) };
        let weight = name.strip_suffix(".weight").filter(|_| tensor.shape.len() == 2);
        if let Some(module) = name.strip_suffix(".weight_packed") {
            let (source, rows, cols) = self.int4(module, name, tensor)?;
            return self.weight(module, name, source, [rows, cols]);
        }
        if let Some(module) = weight {
            let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
            let source = match tensor.dtype {
                Dtype::F8_E4M3 => self.fp8(module, name, tensor)?,
                _ => Source::Plain(tensor.clone()),
            };
            return self.weight(module, name, source, [rows, cols]);
        }
        if self.is_part(name) {
            return Ok(());
        }
        if let Some(module) = name.strip_suffix(".weight") {
            self.excluded(module);
        }
        let elements = tensor.shape.iter().product();
        let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
        self.push(name, name, module, Source::Plain(tensor.clone()), Sink::Same, [1, elements]);
        Ok(())
    }

    /// Whether a tensor belongs to a compressed weight, and goes where that goes.
    fn is_part(&self, name: &str) -> bool {
        let sibling = |suffix: &str, own: &str| {
            let module = name.strip_suffix(suffix)?;
            self.shards.get(&format!("{module}{own}"))
        };
        let fp8 = sibling(".weight_scale_inv", ".weight");
        fp8.is_some_and(|weight| weight.dtype == Dtype::F8_E4M3)
            || sibling(".weight_scale", ".weight_packed").is_some()
            || sibling(".weight_shape", ".weight_packed").is_some()
    }

    /// Decides about a linear layer's weight.
    fn weight(
        &mut self,
        module: &str,
        name: &str,
        source: Source,
        [rows, cols]: [usize; 2],
    ) -> Result<(), CheckpointError> {
        let excluded = self.excluded(module);
        let vision = class(module) == VISION;
        let embedding = module.contains("embed");
        let plain = matches!(source, Source::Plain(_));
        let mut sink = if plain { Sink::Same } else { Sink::Bf16 };
        if !excluded && !vision && !embedding && !module.ends_with("norm") {
            let tensor = source.main();
            if plain && !matches!(tensor.dtype, Dtype::BF16 | Dtype::F32) {
                let problem = format!(
                    "type {:?}, expected BF16, F32, F8_E4M3 with weight_scale_inv, or INT4's \
                     weight_packed",
                    tensor.dtype
                );
                return Err(self.fault(name, tensor, problem));
            }
            if cols.is_multiple_of(mx::BLOCK) {
                sink = Sink::Mxfp4;
            } else if self.options.strict {
                let problem = format!("{cols} inputs are no multiple of 32 (--strict)");
                return Err(self.fault(name, tensor, problem));
            } else {
                self.skipped.push(name.to_owned());
            }
        }
        if sink != Sink::Mxfp4 && !embedding {
            self.kept.push(module.to_owned());
        }
        self.push(name, &format!("{module}.weight"), module, source, sink, [rows, cols]);
        Ok(())
    }

    fn push(
        &mut self,
        name: &str,
        output: &str,
        module: &str,
        source: Source,
        sink: Sink,
        [rows, cols]: [usize; 2],
    ) {
        let (name, output, class) = (name.to_owned(), output.to_owned(), class(module));
        let shard = source.main().shard;
        let plan = TensorPlan { name, output, class, source, sink, rows, cols, at: [0; 2] };
        self.by_shard[shard].push(plan);
    }

    /// Whether a pattern matches the module's name, or its name within the language model. Counts.
    fn excluded(&mut self, module: &str) -> bool {
        let inner = module.strip_prefix("language_model.").unwrap_or(module);
        let mut excluded = false;
        for (pattern, count) in &mut self.patterns {
            if fnmatch(pattern, module) || fnmatch(pattern, inner) {
                *count += 1;
                excluded = true;
            }
        }
        excluded
    }

    fn int4(
        &self,
        module: &str,
        name: &str,
        packed: &Located,
    ) -> Result<(Source, usize, usize), CheckpointError> {
        for part in ["weight_zero_point", "weight_g_idx"] {
            let part = format!("{module}.{part}");
            if let Some(tensor) = self.shards.get(&part) {
                let problem = "only symmetric INT4 in order is supported".to_owned();
                return Err(self.fault(&part, tensor, problem));
            }
        }
        let (&[rows, words], Dtype::I32) = (&packed.shape[..], packed.dtype) else {
            let problem = format!("{:?} {:?}, expected I32 of 2", packed.dtype, packed.shape);
            return Err(self.fault(name, packed, problem));
        };
        let cols = words * 8;
        let scale = self.part(module, "weight_scale", name, packed)?;
        self.expect(module, "weight_scale", &scale, Dtype::BF16, [rows, cols / mx::int4::GROUP])?;
        if !cols.is_multiple_of(mx::int4::GROUP) {
            return Err(self.fault(name, packed, format!("{cols} inputs are no multiple of 32")));
        }
        let shape = format!("{module}.weight_shape");
        if let Some(tensor) = self.shards.get(&shape) {
            let bytes = self.shards.bytes(tensor).chunks_exact(tensor.dtype.bitsize().div_ceil(8));
            let little = |b: &[u8]| b.iter().rev().fold(0u64, |n, &b| n << 8 | b as u64);
            let found: Vec<u64> = bytes.map(little).collect();
            if found != [rows as u64, cols as u64] {
                let problem = format!("says {found:?}, but weight_packed has [{rows}, {cols}]");
                return Err(self.fault(&shape, tensor, problem));
            }
        }
        Ok((Source::Int4 { packed: packed.clone(), scale }, rows, cols))
    }

    fn fp8(
        &mut self,
        module: &str,
        name: &str,
        weight: &Located,
    ) -> Result<Source, CheckpointError> {
        let scale = self.part(module, "weight_scale_inv", name, weight)?;
        let blocks = |n: usize| n.div_ceil(FP8_BLOCK);
        let shape = [blocks(weight.shape[0]), blocks(weight.shape[1])];
        self.expect(module, "weight_scale_inv", &scale, Dtype::F32, shape)?;
        self.scales = self.scales.max(scale.bytes.len());
        Ok(Source::Fp8 { weight: weight.clone(), scale })
    }

    fn part(
        &self,
        module: &str,
        part: &str,
        name: &str,
        weight: &Located,
    ) -> Result<Located, CheckpointError> {
        let found = self.shards.get(&format!("{module}.{part}"));
        found.cloned().ok_or_else(|| self.fault(name, weight, format!("its {part} is missing")))
    }

    fn expect(
        &self,
        module: &str,
        part: &str,
        tensor: &Located,
        dtype: Dtype,
        shape: [usize; 2],
    ) -> Result<(), CheckpointError> {
        if tensor.dtype == dtype && tensor.shape == shape {
            return Ok(());
        }
        let (found, other) = (tensor.dtype, &tensor.shape);
        let problem = format!("{found:?} {other:?}, expected {dtype:?} {shape:?}");
        Err(self.fault(&format!("{module}.{part}"), tensor, problem))
    }

    fn fault(&self, name: &str, tensor: &Located, problem: String) -> CheckpointError {
        let path = self.shards.path(tensor.shard).clone();
        CheckpointError::Tensor { path, tensor: name.to_owned(), problem }
    }
}
