//! Matrices in MXFP4 on the device: single ones, and a layer's routed experts; and the way of a
//! batch through them.

use checkpoint::{Activations, Config, Matrix};
use model::{DeviceError, RouterShape};

use crate::device::{Device, Memory};
use crate::kernels::experts::{self, Matrices, Scratch};
use crate::kernels::mxfp4::{
    Activated, RowOrder, RowTiles, Tiles, Weights, activated_bytes, weight_bytes,
};
use crate::kernels::route::Choice;
use crate::kernels::sort::{Sorted, slots};
use crate::kernels::{Rows, matmul_mxfp4, quantize};
use crate::modules::Kernels;
use crate::staging::Staging;
use crate::stream::Stream;

/// Matrices of one shape, one after another.
pub struct Quantized {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    codes: Memory,
    scales: Memory,
}

impl Quantized {
    /// Room for `count` matrices like `matrix`.
    fn allocate(device: &Device, matrix: &Matrix, count: usize) -> Result<Quantized, DeviceError> {
        let (codes, scales) = weight_bytes(matrix.rows, matrix.cols);
        Ok(Quantized {
            rows: matrix.rows,
            cols: matrix.cols,
            codes: device.allocate(count * codes)?,
            scales: device.allocate(count * scales)?,
        })
    }

    /// Puts `matrix` at place `index`.
    fn put(
        &self,
        stream: &Stream,
        staging: &mut Staging,
        matrix: &Matrix,
        order: RowOrder,
        index: usize,
    ) -> Result<(), DeviceError> {
        if (matrix.rows, matrix.cols) != (self.rows, self.cols) {
            return Err(DeviceError("a layer's experts differ in shape".into()));
        }
        let (codes, scales) = weight_bytes(self.rows, self.cols);
        let tiles = Tiles::new(matrix, order, stream.device().platform())?;
        let (count, (code_bytes, scale_bytes)) = (tiles.count(), tiles.bytes());
        let (all_codes, all_scales) = (&self.codes, &self.scales);
        staging.upload(stream, all_codes, index * codes, count, code_bytes, |tile, out| {
            tiles.codes(tile, out);
        })?;
        staging.upload(stream, all_scales, index * scales, count, scale_bytes, |tile, out| {
            tiles.scales(tile, out);
        })?;
        Ok(())
    }

    /// Uploads a single matrix.
    pub(crate) fn upload(
        stream: &Stream,
        staging: &mut Staging,
        matrix: &Matrix,
    ) -> Result<Quantized, DeviceError> {
        let quantized = Quantized::allocate(stream.device(), matrix, 1)?;
        quantized.put(stream, staging, matrix, RowOrder::Plain, 0)?;
        Ok(quantized)
    }

    fn view(&self) -> Weights<'_> {
        let Quantized { rows, cols, codes, scales } = self;
        Weights { rows: *rows, cols: *cols, codes, scales }
    }
}

/// A layer's routed experts.
pub struct Experts {
    count: usize,
    added: usize,
    /// `[gate | up]` and `down` of all; there from the first expert on, which has their shapes.
    matrices: Option<(Quantized, Quantized)>,
}

impl Experts {
    pub(crate) fn new(count: usize) -> Experts {
        Experts { count, added: 0, matrices: None }
    }

    pub(crate) fn add(
        &mut self,
        stream: &Stream,
        staging: &mut Staging,
        gate_up: &Matrix,
        down: &Matrix,
    ) -> Result<(), DeviceError> {
        let device = stream.device();
        if self.matrices.is_none() {
            let gate_up = Quantized::allocate(device, gate_up, self.count)?;
            self.matrices = Some((gate_up, Quantized::allocate(device, down, self.count)?));
        }
        let full = self.added == self.count;
        let Some((all_gate_up, all_down)) = self.matrices.as_ref().filter(|_| !full) else {
            return Err(DeviceError(format!("more than {} experts in a layer", self.count)));
        };
        all_gate_up.put(stream, staging, gate_up, RowOrder::GateUp, self.added)?;
        all_down.put(stream, staging, down, RowOrder::Plain, self.added)?;
        self.added += 1;
        Ok(())
    }
}

/// Which experts each row of a batch goes to.
pub struct Routing {
    pub(crate) shape: RouterShape,
    experts: Memory,
    weights: Memory,
}

impl Routing {
    pub(crate) fn new(
        device: &Device,
        rows: usize,
        shape: RouterShape,
    ) -> Result<Routing, DeviceError> {
        let bytes = rows * shape.top_k * 4;
        let (experts, weights) = (device.allocate(bytes)?, device.allocate(bytes)?);
        Ok(Routing { shape, experts, weights })
    }

    pub(crate) fn choice(&self) -> Choice<'_> {
        Choice { experts: &self.experts, weights: &self.weights }
    }
}

/// What the way through MXFP4 matrices takes beside input and output.
pub(crate) struct Moe {
    form: Activations,
    /// Quantized input: codes and scales.
    input: (Memory, Memory),
    sorted: Sorted,
    /// The experts' hidden rows, by slot.
    hidden: (Memory, Memory),
    /// BF16 `[rows, top_k, hidden]`: each expert's part of a row.
    parts: Memory,
}

/// Bytes of [`Moe`]'s buffers: input, hidden rows (codes and scales each), parts.
fn moe_bytes(
    config: &Config,
    rows: usize,
    ranks: usize,
    form: Activations,
) -> ((usize, usize), (usize, usize), usize) {
    let widest = config.hidden_size.max(config.intermediate_size);
    let pairs = rows * config.num_experts_per_tok;
    let width = config.moe_intermediate_size / ranks;
    (
        activated_bytes(form, rows, widest),
        activated_bytes(form, slots(pairs, config.n_routed_experts), width),
        pairs * config.hidden_size * 2,
    )
}

impl Moe {
    pub(crate) fn new(
        device: &Device,
        config: &Config,
        rows: usize,
        ranks: usize,
        form: Activations,
    ) -> Result<Moe, DeviceError> {
        let (input, hidden, parts) = moe_bytes(config, rows, ranks, form);
        let pairs = rows * config.num_experts_per_tok;
        Ok(Moe {
            form,
            input: (device.allocate(input.0)?, device.allocate(input.1)?),
            sorted: Sorted::new(device, pairs, config.n_routed_experts)?,
            hidden: (device.allocate(hidden.0)?, device.allocate(hidden.1)?),
            parts: device.allocate(parts)?,
        })
    }

    /// What [`Moe::new`] takes for the widest form, in bytes.
    pub(crate) fn bytes(config: &Config, rows: usize, ranks: usize) -> usize {
        let (input, hidden, parts) = moe_bytes(config, rows, ranks, Activations::Bf16);
        let pairs = rows * config.num_experts_per_tok;
        input.0 + hidden.0 + parts + slots(pairs, config.n_routed_experts) * 8
    }

    /// `x`, bf16 `[rows, width]`, in the form that matrices are multiplied with.
    fn activated<'a>(
        &'a self,
        stream: &Stream,
        kernels: &Kernels,
        rows: Rows,
        x: &'a Memory,
        width: usize,
    ) -> Result<Activated<'a>, DeviceError> {
        let (codes, scales) = (&self.input.0, &self.input.1);
        let form = self.form;
        if form == Activations::Bf16 {
            return Ok(Activated { form, width, codes: x, scales });
        }
        let out = Activated { form, width, codes, scales };
        quantize::quantize(stream, kernels, rows, x, out)?;
        Ok(out)
    }

    /// `out = x w^T`.
    pub(crate) fn matmul(
        &self,
        stream: &Stream,
        kernels: &Kernels,
        rows: Rows,
        x: &Memory,
        w: &Quantized,
        out: &Memory,
    ) -> Result<(), DeviceError> {
        let x = self.activated(stream, kernels, rows, x, w.cols)?;
        let tiles = RowTiles::for_rows(rows.bound, 1);
        Ok(matmul_mxfp4::matmul_mxfp4(stream, kernels, rows, tiles, x, w.view(), out)?)
    }

    /// `out[r] += sum_k w_k down_k(swiglu(gate_up_k(x[r])))`.
    #[expect(clippy::too_many_arguments, reason = "what the formula has, and where to work")]
    pub(crate) fn experts(
        &self,
        stream: &Stream,
        kernels: &Kernels,
        rows: Rows,
        x: &Memory,
        routing: &Routing,
        experts: &Experts,
        out: &Memory,
    ) -> Result<(), DeviceError> {
        let Some((gate_up, down)) = experts.matrices.as_ref() else {
            return Err(DeviceError("a layer has no experts".into()));
        };
        let x = self.activated(stream, kernels, rows, x, gate_up.cols)?;
        let (codes, scales) = (&self.hidden.0, &self.hidden.1);
        let hidden = Activated { form: self.form, width: down.cols, codes, scales };
        let matrices =
            Matrices { count: experts.count, gate_up: gate_up.view(), down: down.view() };
        let scratch = Scratch { sorted: &self.sorted, hidden, parts: &self.parts };
        let (choice, top_k) = (routing.choice(), routing.shape.top_k);
        Ok(experts::experts(stream, kernels, rows, x, choice, top_k, matrices, scratch, out)?)
    }
}
