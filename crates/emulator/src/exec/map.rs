//! Lane loops: fetch sources with their modifiers, apply a closure to 64 lanes, write back.
//!
//! Each loop works on blocks of 16 lanes held in local arrays, which the compiler turns into vector
//! registers; a full EXEC without modifiers writes straight into the register file.

use std::mem::MaybeUninit;

use super::modifiers;
use crate::inst::{Inst, Operand};
use crate::wave::{Row, Wave};

/// How modifiers act on a source or result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ty {
    /// Integer: no modifiers but sign extension.
    Int,
    /// Single precision.
    F32,
    /// Half precision in the low (or selected) half.
    F16,
}

/// A scratch row left uninitialised until used.
pub(crate) type Tmp = MaybeUninit<Row>;

/// Pointer to the 64 lanes of source `k`, directly in the register file or built in `tmp`.
///
/// # Safety
/// `i` must come from the decoder; the pointer is good until `w` or `tmp` changes.
#[inline(always)]
pub(crate) unsafe fn src(w: &Wave, i: &Inst, k: usize, ty: Ty, tmp: &mut Tmp) -> *const u32 {
    match i.src[k] {
        // SAFETY: the decoder keeps r below 512.
        Operand::V { r, .. } if !i.modified => unsafe { w.v.as_ptr().add(r.into()) }.cast(),
        Operand::V { .. } => modifiers::fetch(w, i, k, ty, tmp),
        o => {
            let x = scalar(w, o);
            let x = if i.modified { modifiers::apply_scalar(i, k, ty, x) } else { x };
            tmp.write(Row([x; 64])).0.as_ptr()
        }
    }
}

/// The lanes of source `k` and how far its blocks of 16 are apart: a scalar has one for all.
///
/// # Safety
/// As for [`src`].
#[inline(always)]
unsafe fn blocks(w: &Wave, i: &Inst, k: usize, ty: Ty, tmp: &mut Tmp) -> (*const u32, usize) {
    if matches!(i.src[k], Operand::V { .. }) {
        // SAFETY: passed on from the caller.
        return (unsafe { src(w, i, k, ty, tmp) }, 16);
    }
    let x = scalar(w, i.src[k]);
    let x = if i.modified { modifiers::apply_scalar(i, k, ty, x) } else { x };
    let first = tmp.as_mut_ptr().cast::<[u32; 16]>();
    // SAFETY: the row holds four such blocks.
    unsafe { first.write([x; 16]) };
    (first.cast(), 0)
}

/// The 32-bit value of a scalar operand or constant.
#[inline(always)]
pub(crate) fn scalar(w: &Wave, o: Operand) -> u32 {
    match o {
        Operand::S { r, .. } => w.s[usize::from(r & 127)],
        o => scalar64(w, o) as u32,
    }
}

/// The 64-bit value of a scalar operand or constant.
#[inline(always)]
pub(crate) fn scalar64(w: &Wave, o: Operand) -> u64 {
    match o {
        Operand::S { r, n: 1 } => w.s[usize::from(r & 127)].into(),
        Operand::S { r, .. } => w.s64(r),
        Operand::Imm(x) => x,
        Operand::Scc => w.scc.into(),
        Operand::Vccz => (w.vcc() == 0).into(),
        Operand::Execz => (w.exec() == 0).into(),
        Operand::Aperture(lds) => {
            if lds {
                super::LDS_APERTURE
            } else {
                super::SCRATCH_APERTURE
            }
        }
        Operand::None | Operand::V { .. } => 0,
    }
}

/// Register index of a vector destination (v0 if the decoder allowed something else).
#[inline(always)]
pub(crate) fn vdst(o: Operand) -> usize {
    match o {
        Operand::V { r, .. } => r.into(),
        _ => 0,
    }
}

macro_rules! map_fn {
    ($name:ident, $ty_in:expr, $ty_out:expr, $($k:literal $a:ident),+) => {
        /// Applies a function of one dword per source to every lane.
        ///
        /// # Safety
        /// As for [`src`].
        #[inline(always)]
        pub(crate) unsafe fn $name<F>(w: &mut Wave, i: &Inst, f: F)
        where
            F: Fn($(map_fn!(@u32 $a)),+) -> u32,
        {
            $(let mut $a = Tmp::uninit();)+
            // SAFETY: passed on from the caller.
            $(let $a = unsafe { blocks(w, i, $k, $ty_in, &mut $a) };)+
            let full = w.exec() == !0 && !i.modified;
            let mut out = Tmp::uninit();
            let to: *mut u32 = if full {
                // SAFETY: the decoder keeps registers below 512.
                unsafe { w.v.as_mut_ptr().add(vdst(i.dst)).cast() }
            } else {
                out.as_mut_ptr().cast()
            };
            for block in 0..4 {
                // SAFETY: every pointer is to 64 lanes; blocks are read before they are written.
                unsafe {
                    $(let $a: [u32; 16] = $a.0.add($a.1 * block).cast::<[u32; 16]>().read();)+
                    let mut r = [0u32; 16];
                    for l in 0..16 {
                        r[l] = f($($a[l]),+);
                    }
                    to.add(16 * block).cast::<[u32; 16]>().write(r);
                }
            }
            if !full {
                // SAFETY: the loop above wrote all 64 lanes.
                modifiers::commit(w, i, $ty_out, unsafe { out.assume_init_ref() });
            }
        }
    };
    (@u32 $a:ident) => { u32 };
}

map_fn!(int1, Ty::Int, Ty::Int, 0 a);
map_fn!(int2, Ty::Int, Ty::Int, 0 a, 1 b);
map_fn!(int3, Ty::Int, Ty::Int, 0 a, 1 b, 2 c);
map_fn!(flt1, Ty::F32, Ty::F32, 0 a);
map_fn!(flt2, Ty::F32, Ty::F32, 0 a, 1 b);
map_fn!(flt3, Ty::F32, Ty::F32, 0 a, 1 b, 2 c);
map_fn!(half1, Ty::F16, Ty::F16, 0 a);
map_fn!(half2, Ty::F16, Ty::F16, 0 a, 1 b);
map_fn!(half3, Ty::F16, Ty::F16, 0 a, 1 b, 2 c);
// Conversions whose source and result differ in type.
map_fn!(flt_to_int, Ty::F32, Ty::Int, 0 a);
map_fn!(flt2_to_int, Ty::F32, Ty::Int, 0 a, 1 b);
map_fn!(int_to_flt, Ty::Int, Ty::F32, 0 a);
map_fn!(half_to_flt, Ty::F16, Ty::F32, 0 a);
map_fn!(flt_to_half, Ty::F32, Ty::F16, 0 a);
map_fn!(half_to_int, Ty::F16, Ty::Int, 0 a);
map_fn!(int_to_half, Ty::Int, Ty::F16, 0 a);

/// The 64-bit lanes of source `k`; 32-bit registers are zero-extended.
#[inline(always)]
pub(crate) fn src64(w: &Wave, i: &Inst, k: usize, float: bool) -> [u64; 64] {
    let mut x = match i.src[k] {
        Operand::V { r, n } => {
            let lo = &w.v[usize::from(r)].0;
            let hi = if n >= 2 { w.v[usize::from(r) + 1].0 } else { [0; 64] };
            let mut x = [0; 64];
            for l in 0..64 {
                x[l] = u64::from(lo[l]) | u64::from(hi[l]) << 32;
            }
            x
        }
        o => [scalar64(w, o); 64],
    };
    if float && i.modified {
        let (abs, neg) = (i.mods.abs >> k & 1 == 1, i.mods.neg >> k & 1 == 1);
        for v in &mut x {
            if abs {
                *v &= !(1 << 63);
            }
            if neg {
                *v ^= 1 << 63;
            }
        }
    }
    x
}

/// Writes 64-bit lanes to a register pair under EXEC.
#[inline(always)]
pub(crate) fn put64(w: &mut Wave, dst: Operand, x: &[u64; 64]) {
    let (mut lo, mut hi) = ([0; 64], [0; 64]);
    for l in 0..64 {
        lo[l] = x[l] as u32;
        hi[l] = (x[l] >> 32) as u32;
    }
    put32(w, vdst(dst), &lo);
    put32(w, vdst(dst) + 1, &hi);
}

/// Writes 32-bit lanes under EXEC.
#[inline(always)]
pub(crate) fn put32(w: &mut Wave, r: usize, x: &[u32; 64]) {
    let exec = w.exec();
    let to = &mut w.v[r].0;
    if exec == !0 {
        *to = *x;
        return;
    }
    for (l, (t, v)) in to.iter_mut().zip(x).enumerate() {
        let keep = 0u32.wrapping_sub((exec >> l & 1) as u32);
        *t = (*t & !keep) | (v & keep);
    }
}

/// Bit `l` of the result is the top bit of lane `l`.
#[inline(always)]
pub(crate) fn mask_of(x: &[u32; 64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_loadu_ps, _mm_movemask_ps};
        x.chunks_exact(4).enumerate().fold(0, |m, (k, c)| {
            // SAFETY: SSE is part of x86-64, and the chunk holds 16 bytes.
            let bits = unsafe { _mm_movemask_ps(_mm_loadu_ps(c.as_ptr().cast())) };
            m | (bits as u64) << (4 * k)
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        x.iter().enumerate().fold(0, |m, (l, v)| m | u64::from(v >> 31) << l)
    }
}

/// Writes a lane mask to a scalar destination; lanes off in EXEC read zero.
pub(crate) fn put_mask(w: &mut Wave, dst: Operand, mask: u64) {
    if let Operand::S { r, .. } = dst {
        let m = mask & w.exec();
        w.set_s64(r, m);
    }
}

/// The variants of one instruction's code: see [`crate::simd::Simd`].
macro_rules! op {
    ($map:path, $f:expr) => {{
        unsafe fn portable(w: &mut Wave, i: &Inst, _: &mut Env) {
            // SAFETY: passed on from the caller.
            unsafe { $map(w, i, $f) }
        }
        #[cfg_attr(
            target_arch = "x86_64",
            target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")
        )]
        unsafe fn avx2(w: &mut Wave, i: &Inst, _: &mut Env) {
            // SAFETY: passed on from the caller.
            unsafe { $map(w, i, $f) }
        }
        #[cfg_attr(
            target_arch = "x86_64",
            target_feature(
                enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt"
            )
        )]
        unsafe fn avx512(w: &mut Wave, i: &Inst, _: &mut Env) {
            // SAFETY: passed on from the caller.
            unsafe { $map(w, i, $f) }
        }
        [portable as ExecFn, avx2 as ExecFn, avx512 as ExecFn]
    }};
}
pub(crate) use op;

/// An instruction written as a function of wave and instruction only.
macro_rules! plain {
    ($f:expr) => {{
        unsafe fn run(w: &mut Wave, i: &Inst, _: &mut Env) {
            let f: fn(&mut Wave, &Inst) = $f;
            f(w, i)
        }
        [run as ExecFn; 3]
    }};
}
pub(crate) use plain;
