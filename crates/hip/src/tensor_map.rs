//! How CUDA's kernels are told to copy boxes of a tensor.

use std::ffi::{c_int, c_void};

use crate::sys::Special;
use crate::{Device, Error};

/// `CU_TENSOR_MAP_L2_PROMOTION_L2_128B`.
const LINES_OF_128: c_int = 2;

/// `CUtensorMap`: a tensor in memory, cut into boxes that one instruction copies to LDS.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct TensorMap([u64; 16]);

/// What a tensor consists of.
#[derive(Clone, Copy)]
pub(crate) enum Element {
    /// Eight bytes. A box stands in LDS as it is.
    Eight,
    /// A bf16. A box is of 64 along the first dimension, a line of 128 bytes in LDS, whose 16-byte
    /// parts stand at their place ^ the line % 8, by its address.
    Bf16,
}

impl TensorMap {
    /// The map of a tensor at `address`, a multiple of 16: so many elements along each of `N`
    /// dimensions, whose first are together, while one of another is so many bytes, a multiple of
    /// 16, after the one before. `sizes` are a box's, 256 at most. What a box has beyond the
    /// tensor is 0.
    ///
    /// # Errors
    /// A map that the driver refuses.
    pub(crate) fn new<const N: usize>(
        device: &Device,
        element: Element,
        address: u64,
        elements: [usize; N],
        bytes: [usize; N],
        sizes: [u32; N],
    ) -> Result<TensorMap, Error> {
        let Special::Cuda { encode_tiled, .. } = &device.runtime.special else {
            return Err(Error::Unfit("maps of tensors are CUDA's".into()));
        };
        // `CU_TENSOR_MAP_DATA_TYPE_UINT64`, `.._BFLOAT16`; `CU_TENSOR_MAP_SWIZZLE_NONE`, `.._128B`.
        let (data_type, swizzle) = match element {
            Element::Eight => (4, 0),
            Element::Bf16 => (9, 3),
        };
        let (elements, bytes) = (elements.map(|n| n as u64), bytes.map(|n| n as u64));
        let mut map = TensorMap([0; 16]);
        // SAFETY: all arrays have N numbers and outlive the call; the first dimension's step is
        // the element's size, which the driver knows, so it is told of the others alone.
        let code = unsafe {
            encode_tiled(
                &mut map,
                data_type,
                N as u32,
                address as *mut c_void,
                elements.as_ptr(),
                bytes.as_ptr().add(1),
                sizes.as_ptr(),
                [1; N].as_ptr(),
                0,
                swizzle,
                LINES_OF_128,
                0,
            )
        };
        device.check("describing a tensor", code)?;
        Ok(map)
    }
}
