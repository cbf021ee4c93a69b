//! Read-modify-write arithmetic shared by LDS and device memory.

use super::valu_float::{max, min};
use crate::formats::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::inst::AtomicOp;

fn wide(x: [u32; 2]) -> u64 {
    u64::from(x[0]) | u64::from(x[1]) << 32
}

fn narrow(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

fn halves(a: u32, b: u32, f: impl Fn(u32, u32) -> u32) -> u32 {
    f(a & 0xffff, b & 0xffff) | f(a >> 16, b >> 16) << 16
}

/// The new value of a location of `bytes` 4 or 8 that holds `old`.
pub(super) fn apply(
    op: AtomicOp,
    bytes: usize,
    old: [u32; 2],
    src: [u32; 2],
    cmp: u64,
) -> [u32; 2] {
    if bytes == 8 {
        return narrow(apply64(op, wide(old), wide(src), cmp));
    }
    let (o, s) = (old[0], src[0]);
    let (fo, fs) = (f32::from_bits(o), f32::from_bits(s));
    let x = match op {
        AtomicOp::Fadd => (fo + fs).to_bits(),
        AtomicOp::Fmin => min(fo, fs).to_bits(),
        AtomicOp::Fmax => max(fo, fs).to_bits(),
        AtomicOp::PkAddF16 => {
            halves(o, s, |a, b| f32_to_f16(f16_to_f32(a as u16) + f16_to_f32(b as u16)).into())
        }
        AtomicOp::PkAddBf16 => {
            halves(o, s, |a, b| f32_to_bf16((bf16_to_f32(a) + bf16_to_f32(b)).to_bits()))
        }
        _ => integer(op, o.into(), s.into(), cmp, |x| i64::from(x as u32 as i32)) as u32,
    };
    [x, old[1]]
}

fn apply64(op: AtomicOp, o: u64, s: u64, cmp: u64) -> u64 {
    let (fo, fs) = (f64::from_bits(o), f64::from_bits(s));
    match op {
        AtomicOp::Fadd => (fo + fs).to_bits(),
        AtomicOp::Fmin => fo.min(fs).to_bits(),
        AtomicOp::Fmax => fo.max(fs).to_bits(),
        _ => integer(op, o, s, cmp, |x| x as i64),
    }
}

/// Operations on whole numbers: of 32 bits with zeros above, where the result's upper half does not
/// count, or of 64. Others change nothing: the packed forms exist only for 32 bits.
fn integer(op: AtomicOp, o: u64, s: u64, cmp: u64, signed: impl Fn(u64) -> i64) -> u64 {
    match op {
        AtomicOp::Swap => s,
        AtomicOp::CmpSwap if o == cmp => s,
        AtomicOp::Add => o.wrapping_add(s),
        AtomicOp::Sub => o.wrapping_sub(s),
        AtomicOp::Rsub => s.wrapping_sub(o),
        AtomicOp::Smin => signed(o).min(signed(s)) as u64,
        AtomicOp::Umin => o.min(s),
        AtomicOp::Smax => signed(o).max(signed(s)) as u64,
        AtomicOp::Umax => o.max(s),
        AtomicOp::And => o & s,
        AtomicOp::Or => o | s,
        AtomicOp::Xor => o ^ s,
        AtomicOp::Inc if o >= s => 0,
        AtomicOp::Inc => o + 1,
        AtomicOp::Dec if o == 0 || o > s => s,
        AtomicOp::Dec => o - 1,
        _ => o,
    }
}
