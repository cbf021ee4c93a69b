//! Opening a checkpoint: which tensor has which format, and a rank's part of it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use crate::shards::{Located, Shards};
use crate::{CheckpointError, Config, Encoded, Matrix, Shape, Split, TensorSpec};

/// How one tensor is stored, decided by the file's header alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// BF16.
    Bf16,
    /// F32.
    F32,
    /// Quark's MXFP4: `X.weight` U8 beside `X.weight_scale` U8.
    Mxfp4,
    /// compressed-tensors' INT4: `X.weight_packed` I32 beside `X.weight_scale` BF16.
    Int4,
}

impl Format {
    /// Name for a table.
    pub fn name(self) -> &'static str {
        match self {
            Format::Bf16 => "BF16",
            Format::F32 => "F32",
            Format::Mxfp4 => "MXFP4",
            Format::Int4 => "INT4",
        }
    }

    /// Bytes of `elements` weights with their scales.
    pub fn bytes(self, elements: usize) -> usize {
        match self {
            Format::Bf16 => elements * 2,
            Format::F32 => elements * 4,
            Format::Mxfp4 => elements / 2 + elements / mx::BLOCK,
            Format::Int4 => elements / 2 + elements / mx::int4::GROUP * 2,
        }
    }
}

/// An opened checkpoint: configuration, mapped shards, and every tensor checked by its header.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    prefix: &'static str,
    config: Config,
    tensors: Vec<(TensorSpec, Format)>,
    by_name: HashMap<String, usize>,
    shards: Shards,
}

impl Checkpoint {
    /// Opens a model directory and checks that it holds what `config.json` calls for.
    ///
    /// # Errors
    /// A missing or truncated file, an unsupported configuration, a missing tensor, or a tensor
    /// whose type or shape differs from what the configuration calls for.
    pub fn open(dir: &Path) -> Result<Checkpoint, CheckpointError> {
        let config = Config::read(dir)?;
        let shards = Shards::open(dir)?;
        let nested = shards.names().any(|name| name.starts_with("language_model."));
        let prefix = if nested { "language_model." } else { "" };
        let mut checkpoint = Checkpoint {
            dir: dir.to_owned(),
            prefix,
            config,
            tensors: Vec::new(),
            by_name: HashMap::new(),
            shards,
        };
        for spec in checkpoint.config.tensors() {
            let format = checkpoint.resolve(&spec)?;
            checkpoint.by_name.insert(spec.name.clone(), checkpoint.tensors.len());
            checkpoint.tensors.push((spec, format));
        }
        Ok(checkpoint)
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every tensor of the architecture with its format, in the forward pass's order.
    pub fn tensors(&self) -> &[(TensorSpec, Format)] {
        &self.tensors
    }

    /// The shards and their sizes in bytes.
    pub fn files(&self) -> impl Iterator<Item = (&Path, usize)> {
        self.shards.files()
    }

    /// How many tensors belong to the vision tower and its projector, which are not used.
    pub fn vision_tensors(&self) -> usize {
        let vision = ["vision_tower.", "mm_projector."];
        self.shards.names().filter(|name| vision.iter().any(|v| name.starts_with(v))).count()
    }

    fn resolve(&self, spec: &TensorSpec) -> Result<Format, CheckpointError> {
        match spec.shape {
            Shape::Vector { len } => {
                let tensor = self.find(&spec.name)?;
                self.expect_shape(&spec.name, tensor, &[len])?;
                self.plain_format(&spec.name, tensor)
            }
            Shape::Matrix { rows, cols } => self.resolve_matrix(&spec.name, rows, cols),
        }
    }

    fn resolve_matrix(
        &self,
        module: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Format, CheckpointError> {
        let (weight, scale) = (format!("{module}.weight"), format!("{module}.weight_scale"));
        let packed = format!("{module}.weight_packed");
        if let Some(tensor) = self.shards.get(&self.full(&packed)) {
            self.expect_dtype(&packed, tensor, Dtype::I32)?;
            self.expect_shape(&packed, tensor, &[rows, cols / 8])?;
            let scales = self.find(&scale)?;
            self.expect_dtype(&scale, scales, Dtype::BF16)?;
            self.expect_shape(&scale, scales, &[rows, cols / mx::int4::GROUP])?;
            self.expect_groups(&packed, tensor, cols)?;
            return Ok(Format::Int4);
        }
        let tensor = self.find(&weight)?;
        if tensor.dtype == Dtype::U8 {
            self.expect_shape(&weight, tensor, &[rows, cols / 2])?;
            let scales = self.find(&scale)?;
            if scales.dtype != Dtype::F8_E8M0 {
                self.expect_dtype(&scale, scales, Dtype::U8)?;
            }
            self.expect_shape(&scale, scales, &[rows, cols / mx::BLOCK])?;
            self.expect_groups(&weight, tensor, cols)?;
            return Ok(Format::Mxfp4);
        }
        self.expect_shape(&weight, tensor, &[rows, cols])?;
        self.plain_format(&weight, tensor)
    }

    fn plain_format(&self, name: &str, tensor: &Located) -> Result<Format, CheckpointError> {
        match tensor.dtype {
            Dtype::BF16 => Ok(Format::Bf16),
            Dtype::F32 => Ok(Format::F32),
            other => Err(self.fault(
                name,
                tensor,
                format!("unknown quantization: type {other:?}, expected BF16, F32, MXFP4 or INT4"),
            )),
        }
    }

    fn expect_groups(
        &self,
        name: &str,
        tensor: &Located,
        cols: usize,
    ) -> Result<(), CheckpointError> {
        match cols % mx::BLOCK {
            0 => Ok(()),
            _ => Err(self.fault(name, tensor, format!("{cols} inputs are no multiple of 32"))),
        }
    }

    fn expect_shape(
        &self,
        name: &str,
        tensor: &Located,
        shape: &[usize],
    ) -> Result<(), CheckpointError> {
        if tensor.shape == shape {
            return Ok(());
        }
        let found = &tensor.shape;
        Err(self.fault(name, tensor, format!("shape {found:?}, config.json calls for {shape:?}")))
    }

    fn expect_dtype(
        &self,
        name: &str,
        tensor: &Located,
        dtype: Dtype,
    ) -> Result<(), CheckpointError> {
        if tensor.dtype == dtype {
            return Ok(());
        }
        let found = tensor.dtype;
        Err(self.fault(name, tensor, format!("type {found:?}, expected {dtype:?}")))
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn find(&self, name: &str) -> Result<&Located, CheckpointError> {
        let full = self.full(name);
        self.shards.get(&full).ok_or_else(|| CheckpointError::Tensor {
            path: self.dir.clone(),
            tensor: full,
            problem: "missing".into(),
        })
    }

    fn fault(&self, name: &str, tensor: &Located, problem: String) -> CheckpointError {
        let path = self.shards.path(tensor.shard).clone();
        CheckpointError::Tensor { path, tensor: self.full(name), problem }
    }

    /// A vector's values.
    ///
    /// # Errors
    /// A name that is no vector of the architecture, or a value that is not finite.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let tensor = self.find(name)?;
        let bytes = self.shards.bytes(tensor);
        let values: Vec<f32> = match self.plain_format(name, tensor)? {
            Format::F32 => f32s(bytes),
            _ => u16s(bytes).into_iter().map(mx::bf16::to_f32).collect(),
        };
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(self.fault(name, tensor, format!("element {i} is {}", values[i]))),
            None => Ok(values),
        }
    }

    /// Rank `rank` of `ranks`'s part of a matrix, by its [`Split`]; only those bytes are touched.
    ///
    /// # Errors
    /// A name that is no matrix of the architecture, a part that does not divide, or a scale that
    /// is NaN or infinite.
    pub fn matrix(
        &self,
        module: &str,
        rank: usize,
        ranks: usize,
    ) -> Result<Matrix, CheckpointError> {
        let missing = || CheckpointError::Tensor {
            path: self.dir.clone(),
            tensor: self.full(module),
            problem: "not a matrix of this architecture".into(),
        };
        let (spec, format) =
            self.by_name.get(module).map(|&i| &self.tensors[i]).ok_or_else(missing)?;
        let Shape::Matrix { rows, cols } = spec.shape else { return Err(missing()) };
        let divides = |n: usize, unit: usize| rank < ranks && n.is_multiple_of(ranks * unit);
        let part = |n: usize| n / ranks * rank..n / ranks * (rank + 1);
        let unit = if matches!(format, Format::Mxfp4 | Format::Int4) { mx::BLOCK } else { 1 };
        let (rows, range) = match spec.split {
            Split::Replicated => (0..rows, 0..cols),
            Split::Rows if divides(rows, 1) => (part(rows), 0..cols),
            Split::Cols if divides(cols, unit) => (0..rows, part(cols)),
            _ => {
                let problem = format!("{module} [{rows}, {cols}] does not divide");
                return Err(CheckpointError::Parallel { ranks, problem });
            }
        };
        let (height, width) = (rows.len(), range.len());
        let part = Part { rows, cols: range, of: cols };
        let data = self.read(module, *format, &part)?;
        Ok(Matrix { rows: height, cols: width, data })
    }

    fn read(&self, module: &str, format: Format, part: &Part) -> Result<Encoded, CheckpointError> {
        let weight = format!("{module}.weight");
        let scale = format!("{module}.weight_scale");
        let bits = |name: &str, bits: usize| -> Result<Vec<u8>, CheckpointError> {
            Ok(part.copy(self.shards.bytes(self.find(name)?), bits))
        };
        Ok(match format {
            Format::Bf16 => Encoded::Bf16(u16s(&bits(&weight, 16)?)),
            Format::F32 => Encoded::F32(f32s(&bits(&weight, 32)?)),
            Format::Mxfp4 => {
                let tensor = self.find(&scale)?;
                // One scale byte per 32 elements: a quarter of a bit each, so in units of blocks.
                let scales = part.blocks().copy(self.shards.bytes(tensor), 8);
                if scales.contains(&mx::e8m0::NAN) {
                    return Err(self.fault(&scale, tensor, "holds 0xFF, an E8M0 NaN".into()));
                }
                Encoded::Mxfp4 { packed: bits(&weight, 4)?, scales }
            }
            Format::Int4 => {
                let tensor = self.find(&scale)?;
                let scales = u16s(&part.blocks().copy(self.shards.bytes(tensor), 16));
                if scales.iter().any(|&s| !mx::bf16::to_f32(s).is_finite()) {
                    return Err(self.fault(&scale, tensor, "holds a NaN or an infinity".into()));
                }
                Encoded::Int4 { packed: bits(&format!("{module}.weight_packed"), 4)?, scales }
            }
        })
    }
}

/// A rectangle of a row-major matrix with `of` columns.
struct Part {
    rows: Range<usize>,
    cols: Range<usize>,
    of: usize,
}

impl Part {
    /// The rectangle in a matrix with one element per block of 32.
    fn blocks(&self) -> Part {
        let cols = self.cols.start / mx::BLOCK..self.cols.end / mx::BLOCK;
        Part { rows: self.rows.clone(), cols, of: self.of / mx::BLOCK }
    }

    /// Copies the rectangle out of elements of `bits` bits; its edges lie on whole bytes.
    fn copy(&self, all: &[u8], bits: usize) -> Vec<u8> {
        let stride = self.of * bits / 8;
        if self.cols.len() == self.of {
            return all[self.rows.start * stride..self.rows.end * stride].to_vec();
        }
        let cols = self.cols.start * bits / 8..self.cols.end * bits / 8;
        let mut out = Vec::with_capacity(self.rows.len() * cols.len());
        for row in all[self.rows.start * stride..self.rows.end * stride].chunks_exact(stride) {
            out.extend_from_slice(&row[cols.clone()]);
        }
        out
    }
}

fn u16s(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
