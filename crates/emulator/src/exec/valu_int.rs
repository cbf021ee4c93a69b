//! Integer vector instructions.

use super::map::{
    self, int1, int2, int3, op, plain, put_mask, put32, put64, scalar64, src64, vdst,
};
use crate::env::Env;
use crate::inst::{Exec, ExecFn, Inst, Operand};
use crate::wave::{Row, Wave};

#[inline(always)]
fn sx24(x: u32) -> i32 {
    ((x << 8) as i32) >> 8
}

#[inline(always)]
fn mulhi(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

#[inline(always)]
fn med3<T: Ord>(a: T, b: T, c: T) -> T {
    let (lo, hi) = if a < b { (a, b) } else { (b, a) };
    hi.min(c).max(lo)
}

#[inline(always)]
fn bfe(a: u32, b: u32, c: u32) -> u32 {
    let (off, n) = (b & 31, c & 31);
    (a >> off) & ((1u32 << n) - 1)
}

#[inline(always)]
fn bfe_signed(a: u32, b: u32, c: u32) -> u32 {
    let (off, n) = (b & 31, c & 31);
    if n == 0 {
        return 0;
    }
    let x = ((a as i32) >> off) as u32;
    if off + n > 31 { x } else { ((x << (32 - n)) as i32 >> (32 - n)) as u32 }
}

/// Byte `sel` of the eight bytes of `a` (high) and `b` (low), or a constant.
#[inline(always)]
fn perm(a: u32, b: u32, sel: u32) -> u32 {
    let all = u64::from(a) << 32 | u64::from(b);
    let mut r = 0;
    for k in 0..4 {
        let s = sel >> (8 * k) & 0xff;
        let byte = match s {
            0..=7 => (all >> (8 * s)) as u32 & 0xff,
            8..=11 => 0xff * ((all >> (16 * (s - 8) + 15)) as u32 & 1),
            12 => 0,
            _ => 0xff,
        };
        r |= byte << (8 * k);
    }
    r
}

#[inline(always)]
fn ffbh_signed(x: u32) -> u32 {
    let x = if (x as i32) < 0 { !x } else { x };
    if x == 0 { !0 } else { x.leading_zeros() }
}

#[inline(always)]
fn first(x: u32, n: u32) -> u32 {
    if x == 0 { !0 } else { n }
}

#[inline(always)]
fn half(f: impl Fn(u16, u16) -> u16) -> impl Fn(u32, u32) -> u32 {
    move |a, b| f(a as u16, b as u16).into()
}

fn sad8(a: u32, b: u32) -> u32 {
    (0..4).map(|k| (a >> (8 * k) & 0xff).abs_diff(b >> (8 * k) & 0xff)).sum()
}

fn dot4_signed(a: u32, b: u32) -> u32 {
    let at = |x: u32, k: u32| i32::from((x >> (8 * k)) as u8 as i8);
    (0..4).map(|k| at(a, k) * at(b, k)).sum::<i32>() as u32
}

/// `v_bitop3`: the truth table's bit index is a·4 + b·2 + c, applied bitwise.
///
/// # Safety
/// As for [`map::src`].
#[inline(always)]
unsafe fn bitop3(w: &mut Wave, i: &Inst, mask: u32) {
    let t = u32::from(i.mods.bitop3);
    let m: [u32; 8] = std::array::from_fn(|k| 0u32.wrapping_sub(t >> k & 1));
    let f = move |a: u32, b: u32, c: u32| {
        let pick = |x: u32, hi: u32, lo: u32| (x & hi) | (!x & lo);
        let hi = pick(b, pick(c, m[7], m[6]), pick(c, m[5], m[4]));
        let lo = pick(b, pick(c, m[3], m[2]), pick(c, m[1], m[0]));
        pick(a, hi, lo) & mask
    };
    // SAFETY: passed on from the caller.
    unsafe { int3(w, i, f) }
}

/// Addition and subtraction with carry; `rev` swaps the operands, `sub` subtracts.
///
/// # Safety
/// As for [`map::src`].
#[inline(always)]
unsafe fn carry(w: &mut Wave, i: &Inst, (sub, rev, with_in): (bool, bool, bool)) {
    let cin = if with_in { scalar64(w, i.src[2]) } else { 0 };
    let (mut t0, mut t1) = (map::Tmp::uninit(), map::Tmp::uninit());
    // SAFETY: passed on from the caller; both point to 64 lanes.
    let (a, b): (&[u32; 64], &[u32; 64]) = unsafe {
        let a = map::src(w, i, 0, map::Ty::Int, &mut t0);
        let b = map::src(w, i, 1, map::Ty::Int, &mut t1);
        (&*a.cast(), &*b.cast())
    };
    let (a, b) = if rev { (b, a) } else { (a, b) };
    let mut out = Row([0; 64]);
    let mut carry = 0u64;
    for l in 0..64 {
        let c = cin >> l & 1;
        let (x, y) = (u64::from(a[l]), u64::from(b[l]));
        let r = if sub { x.wrapping_sub(y).wrapping_sub(c) } else { x + y + c };
        out.0[l] = r as u32;
        carry |= u64::from(r >> 32 != 0) << l;
    }
    if i.modified {
        super::modifiers::commit(w, i, map::Ty::Int, &out);
    } else {
        put32(w, vdst(i.dst), &out.0);
    }
    put_mask(w, i.dst2, carry);
}

fn mad64(w: &mut Wave, i: &Inst, signed: bool) {
    let (a, b, c) = (src64(w, i, 0, false), src64(w, i, 1, false), src64(w, i, 2, false));
    let mut over = 0u64;
    let out = std::array::from_fn(|l| {
        if signed {
            let p = i128::from(a[l] as u32 as i32) * i128::from(b[l] as u32 as i32);
            let r = p + i128::from(c[l] as i64);
            over |= u64::from(i64::try_from(r).is_err()) << l;
            r as u64
        } else {
            let p = u64::from(a[l] as u32) * u64::from(b[l] as u32);
            let (r, o) = p.overflowing_add(c[l]);
            over |= u64::from(o) << l;
            r
        }
    });
    put64(w, i.dst, &out);
    put_mask(w, i.dst2, over);
}

/// A 64-bit function of up to three sources.
///
/// # Safety
/// None of its own: unsafe to fit the other lane loops.
#[inline(always)]
unsafe fn map64<F: Fn(u64, u64, u64) -> u64>(w: &mut Wave, i: &Inst, f: F) {
    let a = src64(w, i, 0, false);
    let b = if i.nsrc > 1 { src64(w, i, 1, false) } else { [0; 64] };
    let c = if i.nsrc > 2 { src64(w, i, 2, false) } else { [0; 64] };
    let mut out = [0; 64];
    for l in 0..64 {
        out[l] = f(a[l], b[l], c[l]);
    }
    put64(w, i.dst, &out);
}

/// # Safety
/// As for [`map::src`].
#[inline(always)]
unsafe fn cndmask(w: &mut Wave, i: &Inst, _: ()) {
    let sel = scalar64(w, i.src[2]);
    let m = Row(std::array::from_fn(|l| 0u32.wrapping_sub((sel >> l & 1) as u32)));
    let (mut t0, mut t1) = (map::Tmp::uninit(), map::Tmp::uninit());
    // `v_cndmask_b32` takes float modifiers.
    let ty = if i.sdwa.is_some() { map::Ty::Int } else { map::Ty::F32 };
    // SAFETY: passed on from the caller; both point to 64 lanes.
    let (a, b): (&[u32; 64], &[u32; 64]) = unsafe {
        (&*map::src(w, i, 0, ty, &mut t0).cast(), &*map::src(w, i, 1, ty, &mut t1).cast())
    };
    let out = Row(std::array::from_fn(|l| (b[l] & m.0[l]) | (a[l] & !m.0[l])));
    if i.modified {
        super::modifiers::commit(w, i, map::Ty::Int, &out);
    } else {
        put32(w, vdst(i.dst), &out.0);
    }
}

fn mbcnt(w: &mut Wave, i: &Inst, high: bool) {
    let mut t = (map::Tmp::uninit(), map::Tmp::uninit());
    // SAFETY: the instruction comes from the decoder; both point to 64 lanes.
    let (m, add): (&[u32; 64], &[u32; 64]) = unsafe {
        let m = map::src(w, i, 0, map::Ty::Int, &mut t.0);
        (&*m.cast(), &*map::src(w, i, 1, map::Ty::Int, &mut t.1).cast())
    };
    let out = std::array::from_fn(|l| {
        let below = match (high, l >= 32) {
            (false, true) => !0,
            (true, false) => 0,
            _ => (1u32 << (l % 32)) - 1,
        };
        (m[l] & below).count_ones().wrapping_add(add[l])
    });
    put32(w, vdst(i.dst), &out);
}

fn pk_mov(w: &mut Wave, i: &Inst) {
    let (a, b) = (src64(w, i, 0, false), src64(w, i, 1, false));
    let hi = |x: u64, on: bool| if on { x >> 32 } else { x & 0xffff_ffff };
    // The low result comes from source 0, the high from source 1.
    let (s0, s1) = (i.mods.op_sel & 1 != 0, i.mods.op_sel >> 1 & 1 != 0);
    let out = std::array::from_fn(|l| hi(a[l], s0) | hi(b[l], s1) << 32);
    put64(w, i.dst, &out);
}

fn swap(w: &mut Wave, i: &Inst) {
    let Operand::V { r, .. } = i.src[0] else { return };
    let (a, b, exec) = (vdst(i.dst), usize::from(r), w.exec());
    for l in 0..64 {
        if exec >> l & 1 == 1 {
            let x = w.v[a].0[l];
            w.v[a].0[l] = w.v[b].0[l];
            w.v[b].0[l] = x;
        }
    }
}

/// Saturating signed addition or subtraction where clamped, else wrapping.
///
/// # Safety
/// As for [`map::src`].
#[inline(always)]
unsafe fn add_sub(w: &mut Wave, i: &Inst, (signed, sub, rev): (bool, bool, bool)) {
    let clamp = i.mods.clamp;
    let f = move |a: u32, b: u32| {
        let (a, b) = if rev { (b, a) } else { (a, b) };
        match (clamp, signed, sub) {
            (false, _, false) => a.wrapping_add(b),
            (false, _, true) => a.wrapping_sub(b),
            (true, false, false) => a.saturating_add(b),
            (true, false, true) => a.saturating_sub(b),
            (true, true, false) => (a as i32).saturating_add(b as i32) as u32,
            (true, true, true) => (a as i32).saturating_sub(b as i32) as u32,
        }
    };
    // SAFETY: passed on from the caller.
    unsafe { int2(w, i, f) }
}

/// The table: mnemonic without encoding suffix, and code.
pub(super) static OPS: &[(&str, Exec)] = &[
    ("v_mov_b32", op!(int1, |a| a)),
    ("v_accvgpr_read_b32", op!(int1, |a| a)),
    ("v_accvgpr_write_b32", op!(int1, |a| a)),
    ("v_accvgpr_mov_b32", op!(int1, |a| a)),
    ("v_not_b32", op!(int1, |a| !a)),
    ("v_bfrev_b32", op!(int1, |a| a.reverse_bits())),
    ("v_ffbh_u32", op!(int1, |a| first(a, a.leading_zeros()))),
    ("v_ffbl_b32", op!(int1, |a| first(a, a.trailing_zeros()))),
    ("v_ffbh_i32", op!(int1, ffbh_signed)),
    ("v_bcnt_u32_b32", op!(int2, |a, b| a.count_ones().wrapping_add(b))),
    ("v_add_u32", op!(add_sub, (false, false, false))),
    ("v_sub_u32", op!(add_sub, (false, true, false))),
    ("v_subrev_u32", op!(add_sub, (false, true, true))),
    ("v_add_i32", op!(add_sub, (true, false, false))),
    ("v_sub_i32", op!(add_sub, (true, true, false))),
    ("v_mul_lo_u32", op!(int2, |a, b| a.wrapping_mul(b))),
    ("v_mul_hi_u32", op!(int2, mulhi)),
    (
        "v_mul_hi_i32",
        op!(int2, |a, b| { ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32 }),
    ),
    ("v_mul_u32_u24", op!(int2, |a, b| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff))),
    ("v_mul_i32_i24", op!(int2, |a, b| sx24(a).wrapping_mul(sx24(b)) as u32)),
    ("v_mul_hi_u32_u24", op!(int2, |a, b| mulhi(a & 0xff_ffff, b & 0xff_ffff))),
    (
        "v_mul_hi_i32_i24",
        op!(int2, |a, b| { ((i64::from(sx24(a)) * i64::from(sx24(b))) >> 32) as u32 }),
    ),
    (
        "v_mad_u32_u24",
        op!(int3, |a, b, c| { (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff).wrapping_add(c) }),
    ),
    (
        "v_mad_i32_i24",
        op!(int3, |a, b, c| { (sx24(a).wrapping_mul(sx24(b)) as u32).wrapping_add(c) }),
    ),
    ("v_mad_u32_u16", op!(int3, |a, b, c| (a & 0xffff).wrapping_mul(b & 0xffff).wrapping_add(c))),
    (
        "v_mad_i32_i16",
        op!(int3, |a, b, c| {
            (i32::from(a as i16) * i32::from(b as i16)).wrapping_add(c as i32) as u32
        }),
    ),
    ("v_lshlrev_b32", op!(int2, |a, b| b << (a & 31))),
    ("v_lshrrev_b32", op!(int2, |a, b| b >> (a & 31))),
    ("v_ashrrev_i32", op!(int2, |a, b| (b as i32 >> (a & 31)) as u32)),
    ("v_and_b32", op!(int2, |a, b| a & b)),
    ("v_or_b32", op!(int2, |a, b| a | b)),
    ("v_xor_b32", op!(int2, |a, b| a ^ b)),
    ("v_xnor_b32", op!(int2, |a, b| !(a ^ b))),
    ("v_min_i32", op!(int2, |a, b| (a as i32).min(b as i32) as u32)),
    ("v_max_i32", op!(int2, |a, b| (a as i32).max(b as i32) as u32)),
    ("v_min_u32", op!(int2, |a, b| a.min(b))),
    ("v_max_u32", op!(int2, |a, b| a.max(b))),
    ("v_bfe_u32", op!(int3, bfe)),
    ("v_bfe_i32", op!(int3, bfe_signed)),
    ("v_bfi_b32", op!(int3, |a, b, c| (a & b) | (!a & c))),
    ("v_bfm_b32", op!(int2, |a, b| ((1u32 << (a & 31)) - 1) << (b & 31))),
    (
        "v_alignbit_b32",
        op!(int3, |a, b, c| { ((u64::from(a) << 32 | u64::from(b)) >> (c & 31)) as u32 }),
    ),
    (
        "v_alignbyte_b32",
        op!(int3, |a, b, c| { ((u64::from(a) << 32 | u64::from(b)) >> (8 * (c & 3))) as u32 }),
    ),
    ("v_perm_b32", op!(int3, perm)),
    ("v_lshl_or_b32", op!(int3, |a, b, c| a << (b & 31) | c)),
    ("v_lshl_add_u32", op!(int3, |a, b, c| (a << (b & 31)).wrapping_add(c))),
    ("v_add_lshl_u32", op!(int3, |a, b, c| a.wrapping_add(b) << (c & 31))),
    ("v_and_or_b32", op!(int3, |a, b, c| (a & b) | c)),
    ("v_or3_b32", op!(int3, |a, b, c| a | b | c)),
    ("v_add3_u32", op!(int3, |a, b, c| a.wrapping_add(b).wrapping_add(c))),
    ("v_xad_u32", op!(int3, |a, b, c| (a ^ b).wrapping_add(c))),
    ("v_min3_i32", op!(int3, |a, b, c| (a as i32).min(b as i32).min(c as i32) as u32)),
    ("v_max3_i32", op!(int3, |a, b, c| (a as i32).max(b as i32).max(c as i32) as u32)),
    ("v_med3_i32", op!(int3, |a, b, c| med3(a as i32, b as i32, c as i32) as u32)),
    ("v_min3_u32", op!(int3, |a, b, c| a.min(b).min(c))),
    ("v_max3_u32", op!(int3, |a, b, c| a.max(b).max(c))),
    ("v_med3_u32", op!(int3, med3)),
    ("v_sad_u32", op!(int3, |a, b, c| a.abs_diff(b).wrapping_add(c))),
    ("v_sad_u8", op!(int3, |a, b, c| sad8(a, b).wrapping_add(c))),
    ("v_dot4_i32_i8", op!(int3, |a, b, c| dot4_signed(a, b).wrapping_add(c))),
    ("v_dot4c_i32_i8", op!(int3, |a, b, c| dot4_signed(a, b).wrapping_add(c))),
    ("v_bitop3_b32", op!(bitop3, !0)),
    ("v_bitop3_b16", op!(bitop3, 0xffff)),
    ("v_add_u16", op!(int2, half(|a, b| a.wrapping_add(b)))),
    ("v_sub_u16", op!(int2, half(|a, b| a.wrapping_sub(b)))),
    ("v_subrev_u16", op!(int2, half(|a, b| b.wrapping_sub(a)))),
    ("v_mul_lo_u16", op!(int2, half(|a, b| a.wrapping_mul(b)))),
    ("v_lshlrev_b16", op!(int2, half(|a, b| b << (a & 15)))),
    ("v_lshrrev_b16", op!(int2, half(|a, b| b >> (a & 15)))),
    ("v_ashrrev_i16", op!(int2, half(|a, b| (b as i16 >> (a & 15)) as u16))),
    ("v_min_i16", op!(int2, half(|a, b| (a as i16).min(b as i16) as u16))),
    ("v_max_i16", op!(int2, half(|a, b| (a as i16).max(b as i16) as u16))),
    ("v_min_u16", op!(int2, half(|a, b| a.min(b)))),
    ("v_max_u16", op!(int2, half(|a, b| a.max(b)))),
    ("v_mad_u16", op!(int3, |a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff)),
    ("v_mad_i16", op!(int3, |a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff)),
    ("v_cndmask_b32", op!(cndmask, ())),
    ("v_add_co_u32", op!(carry, (false, false, false))),
    ("v_sub_co_u32", op!(carry, (true, false, false))),
    ("v_subrev_co_u32", op!(carry, (true, true, false))),
    ("v_addc_co_u32", op!(carry, (false, false, true))),
    ("v_subb_co_u32", op!(carry, (true, false, true))),
    ("v_subbrev_co_u32", op!(carry, (true, true, true))),
    ("v_mad_u64_u32", plain!(|w, i| mad64(w, i, false))),
    ("v_mad_i64_i32", plain!(|w, i| mad64(w, i, true))),
    ("v_mov_b64", op!(map64, |a, _, _| a)),
    ("v_lshlrev_b64", op!(map64, |a, b, _| b << (a & 63))),
    ("v_lshrrev_b64", op!(map64, |a, b, _| b >> (a & 63))),
    ("v_ashrrev_i64", op!(map64, |a, b, _| (b as i64 >> (a & 63)) as u64)),
    ("v_lshl_add_u64", op!(map64, |a, b, c| (a << (b & 7)).wrapping_add(c))),
    ("v_mbcnt_lo_u32_b32", plain!(|w, i| mbcnt(w, i, false))),
    ("v_mbcnt_hi_u32_b32", plain!(|w, i| mbcnt(w, i, true))),
    ("v_pk_mov_b32", plain!(pk_mov)),
    ("v_swap_b32", plain!(swap)),
    ("v_nop", plain!(|_, _| ())),
];
