//! Scalar instructions and program control.

use super::map::{plain, scalar, scalar64};
use super::valu_cmp::condition;
use crate::env::{Env, FaultKind};
use crate::inst::{EXEC, Exec, ExecFn, Extra, Inst, Operand};
use crate::wave::{State, Wave};

fn put(w: &mut Wave, o: Operand, x: u64) {
    match o {
        Operand::S { r, n: 1 } => w.s[usize::from(r & 127)] = x as u32,
        Operand::S { r, .. } => w.set_s64(r, x),
        _ => {}
    }
}

/// Two sources to a destination; SCC by the returned flag, if any.
fn two(w: &mut Wave, i: &Inst, f: fn(u32, u32, bool) -> (u32, Option<bool>)) {
    let (a, b) = (scalar(w, i.src[0]), scalar(w, i.src[1]));
    let (x, scc) = f(a, b, w.scc);
    put(w, i.dst, x.into());
    w.scc = scc.unwrap_or(w.scc);
}

fn two64(w: &mut Wave, i: &Inst, f: fn(u64, u64, bool) -> (u64, Option<bool>)) {
    let (a, b) = (scalar64(w, i.src[0]), scalar64(w, i.src[1]));
    let (x, scc) = f(a, b, w.scc);
    put(w, i.dst, x);
    w.scc = scc.unwrap_or(w.scc);
}

fn nz(x: u32) -> (u32, Option<bool>) {
    (x, Some(x != 0))
}

fn nz64(x: u64) -> (u64, Option<bool>) {
    (x, Some(x != 0))
}

fn saveexec(w: &mut Wave, i: &Inst, f: fn(u64, u64) -> u64) {
    let (s, e) = (scalar64(w, i.src[0]), w.exec());
    put(w, i.dst, e);
    let x = f(s, e);
    w.set_s64(EXEC, x);
    w.scc = x != 0;
}

fn wrexec(w: &mut Wave, i: &Inst, f: fn(u64, u64) -> u64) {
    let (s, e) = (scalar64(w, i.src[0]), w.exec());
    let x = f(s, e);
    w.set_s64(EXEC, x);
    put(w, i.dst, x);
    w.scc = x != 0;
}

/// SOPK: the immediate is the second source, the destination the first.
fn simm(i: &Inst) -> i32 {
    i32::from(i.simm() as i16)
}

fn cmp(w: &mut Wave, i: &Inst, order: std::cmp::Ordering) {
    let (lt, eq) = (order.is_lt(), order.is_eq());
    if let Extra::Cmp(c) = i.extra {
        w.scc = condition(c, lt.into(), eq.into(), 0) & 1 == 1;
    }
}

fn ffs(found: u32, none: bool) -> u32 {
    if none { !0 } else { found }
}

fn flbit_signed(x: u32) -> u32 {
    let y = if (x as i32) < 0 { !x } else { x };
    ffs(y.leading_zeros(), y == 0)
}

fn bfe64(a: u64, b: u64, signed: bool) -> u64 {
    let (off, n) = (b as u32 & 63, (b >> 16) as u32 & 127);
    if n == 0 {
        return 0;
    }
    let (x, s) = (a >> off, 64 - n.min(64));
    if !signed || off + n > 64 {
        let y = if signed { (a as i64 >> off) as u64 } else { x };
        return if s == 0 || off + n > 64 { y } else { y << s >> s };
    }
    ((x << s) as i64 >> s) as u64
}

fn bfe32(a: u32, b: u32, signed: bool) -> u32 {
    let (off, n) = (b & 31, b >> 16 & 127);
    let wide = if signed { a as i32 as i64 as u64 } else { a.into() };
    bfe64(wide, u64::from(off) | u64::from(n) << 16, signed) as u32
}

fn bfm(n: u64, off: u64, bits: u64) -> u64 {
    let (n, off) = (n & (bits - 1), off & (bits - 1));
    ((1u64 << n) - 1) << off
}

fn jump(w: &mut Wave, env: &mut Env, i: &Inst, address: u64) {
    match env.target_of(address) {
        Some(pc) => w.pc = pc,
        None => env.fault(w, i, FaultKind::Illegal, None, Some(address), "jump out of the code"),
    }
}

unsafe fn getpc(w: &mut Wave, i: &Inst, env: &mut Env) {
    put(w, i.dst, env.code_base() + u64::from(i.pc) + u64::from(i.size));
}

unsafe fn setpc(w: &mut Wave, i: &Inst, env: &mut Env) {
    let to = scalar64(w, i.src[0]);
    jump(w, env, i, to);
}

unsafe fn swappc(w: &mut Wave, i: &Inst, env: &mut Env) {
    let to = scalar64(w, i.src[0]);
    put(w, i.dst, env.code_base() + u64::from(i.pc) + u64::from(i.size));
    jump(w, env, i, to);
}

fn branch(w: &mut Wave, i: &Inst, on: bool) {
    if let (Extra::Target(t), true) = (i.extra, on) {
        // A backward branch is where a spinning wave must let others run.
        w.stop |= t < w.pc;
        w.pc = t;
    }
}

fn hwreg(i: &Inst) -> (u16, u32, u32) {
    let x = i.simm();
    (x & 63, u32::from(x >> 6 & 31), u32::from(x >> 11 & 31) + 1)
}

fn field(n: u32) -> u32 {
    if n >= 32 { !0 } else { (1 << n) - 1 }
}

unsafe fn getreg(w: &mut Wave, i: &Inst, env: &mut Env) {
    let (id, off, n) = hwreg(i);
    let x = match id {
        1 => w.mode,
        // HW_ID: wave, SIMD and compute unit, as a plausible placement.
        4 => w.index & 15 | (w.index & 3) << 4 | ((env.group % 32) as u32) << 8,
        20 => (env.group % 8) as u32,
        _ => 0,
    };
    put(w, i.dst, (x >> off & field(n)).into());
}

fn setreg(w: &mut Wave, i: &Inst, x: u32) {
    let (id, off, n) = hwreg(i);
    if id == 1 {
        let m = field(n) << off;
        w.mode = (w.mode & !m) | (x << off & m);
    }
}

unsafe fn endpgm(w: &mut Wave, _: &Inst, env: &mut Env) {
    env.drain_all(w);
    w.state = State::Done;
    w.stop = true;
}

unsafe fn barrier(w: &mut Wave, _: &Inst, env: &mut Env) {
    env.settle(w);
    w.state = State::Barrier;
    w.stop = true;
}

unsafe fn waitcnt(w: &mut Wave, i: &Inst, env: &mut Env) {
    let x = i.simm();
    let vm = usize::from(x & 15 | (x >> 14) << 4);
    env.wait(w, vm, usize::from(x >> 8 & 15));
}

unsafe fn trap(w: &mut Wave, i: &Inst, env: &mut Env) {
    env.fault(w, i, FaultKind::Illegal, None, None, "s_trap: the kernel aborted itself");
}

unsafe fn time(w: &mut Wave, i: &Inst, env: &mut Env) {
    env.clock += 40;
    put(w, i.dst, env.clock);
}

fn gpr_idx(w: &mut Wave, base: u32, mode: u8) {
    w.gpr_idx = base as u8;
    w.gpr_idx_mode = mode & 15;
}

/// The table: mnemonic and code.
pub(super) static OPS: &[(&str, Exec)] = &[
    ("s_mov_b32", plain!(|w, i| two(w, i, |a, _, _| (a, None)))),
    ("s_mov_b64", plain!(|w, i| two64(w, i, |a, _, _| (a, None)))),
    (
        "s_cmov_b32",
        plain!(|w, i| if w.scc {
            two(w, i, |a, _, _| (a, None))
        }),
    ),
    (
        "s_cmov_b64",
        plain!(|w, i| if w.scc {
            two64(w, i, |a, _, _| (a, None))
        }),
    ),
    ("s_not_b32", plain!(|w, i| two(w, i, |a, _, _| nz(!a)))),
    ("s_not_b64", plain!(|w, i| two64(w, i, |a, _, _| nz64(!a)))),
    ("s_brev_b32", plain!(|w, i| two(w, i, |a, _, _| (a.reverse_bits(), None)))),
    ("s_brev_b64", plain!(|w, i| two64(w, i, |a, _, _| (a.reverse_bits(), None)))),
    ("s_bcnt0_i32_b32", plain!(|w, i| two(w, i, |a, _, _| nz(a.count_zeros())))),
    ("s_bcnt1_i32_b32", plain!(|w, i| two(w, i, |a, _, _| nz(a.count_ones())))),
    ("s_bcnt1_i32_b64", plain!(|w, i| two64(w, i, |a, _, _| nz64(a.count_ones().into())))),
    ("s_bcnt0_i32_b64", plain!(|w, i| two64(w, i, |a, _, _| nz64(a.count_zeros().into())))),
    ("s_ff0_i32_b32", plain!(|w, i| two(w, i, |a, _, _| (ffs(a.trailing_ones(), a == !0), None)))),
    ("s_ff1_i32_b32", plain!(|w, i| two(w, i, |a, _, _| (ffs(a.trailing_zeros(), a == 0), None)))),
    (
        "s_ff1_i32_b64",
        plain!(|w, i| two64(w, i, |a, _, _| { (ffs(a.trailing_zeros(), a == 0).into(), None) })),
    ),
    ("s_flbit_i32_b32", plain!(|w, i| two(w, i, |a, _, _| (ffs(a.leading_zeros(), a == 0), None)))),
    (
        "s_flbit_i32_b64",
        plain!(|w, i| two64(w, i, |a, _, _| { (ffs(a.leading_zeros(), a == 0).into(), None) })),
    ),
    ("s_flbit_i32", plain!(|w, i| two(w, i, |a, _, _| (flbit_signed(a), None)))),
    ("s_sext_i32_i8", plain!(|w, i| two(w, i, |a, _, _| (a as i8 as u32, None)))),
    ("s_sext_i32_i16", plain!(|w, i| two(w, i, |a, _, _| (a as i16 as u32, None)))),
    ("s_abs_i32", plain!(|w, i| two(w, i, |a, _, _| nz((a as i32).unsigned_abs())))),
    (
        "s_bitset0_b32",
        plain!(|w, i| {
            let x = scalar(w, i.dst) & !(1u32 << (scalar(w, i.src[0]) & 31));
            put(w, i.dst, x.into())
        }),
    ),
    (
        "s_bitset1_b32",
        plain!(|w, i| {
            let x = scalar(w, i.dst) | 1u32 << (scalar(w, i.src[0]) & 31);
            put(w, i.dst, x.into())
        }),
    ),
    (
        "s_add_u32",
        plain!(|w, i| two(w, i, |a, b, _| {
            let (x, c) = a.overflowing_add(b);
            (x, Some(c))
        })),
    ),
    ("s_sub_u32", plain!(|w, i| two(w, i, |a, b, _| (a.wrapping_sub(b), Some(b > a))))),
    (
        "s_addc_u32",
        plain!(|w, i| two(w, i, |a, b, c| {
            let x = u64::from(a) + u64::from(b) + u64::from(c);
            (x as u32, Some(x >> 32 != 0))
        })),
    ),
    (
        "s_subb_u32",
        plain!(|w, i| two(w, i, |a, b, c| {
            let x = i64::from(a) - i64::from(b) - i64::from(c);
            (x as u32, Some(x < 0))
        })),
    ),
    (
        "s_add_i32",
        plain!(|w, i| two(w, i, |a, b, _| {
            let (x, o) = (a as i32).overflowing_add(b as i32);
            (x as u32, Some(o))
        })),
    ),
    (
        "s_sub_i32",
        plain!(|w, i| two(w, i, |a, b, _| {
            let (x, o) = (a as i32).overflowing_sub(b as i32);
            (x as u32, Some(o))
        })),
    ),
    ("s_absdiff_i32", plain!(|w, i| two(w, i, |a, b, _| nz((a as i32).abs_diff(b as i32))))),
    ("s_mul_i32", plain!(|w, i| two(w, i, |a, b, _| (a.wrapping_mul(b), None)))),
    (
        "s_mul_hi_u32",
        plain!(|w, i| two(w, i, |a, b, _| {
            (((u64::from(a) * u64::from(b)) >> 32) as u32, None)
        })),
    ),
    (
        "s_mul_hi_i32",
        plain!(|w, i| two(w, i, |a, b, _| {
            (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32, None)
        })),
    ),
    (
        "s_min_i32",
        plain!(|w, i| two(w, i, |a, b, _| {
            ((a as i32).min(b as i32) as u32, Some((a as i32) < b as i32))
        })),
    ),
    (
        "s_max_i32",
        plain!(|w, i| two(w, i, |a, b, _| {
            ((a as i32).max(b as i32) as u32, Some(a as i32 > b as i32))
        })),
    ),
    ("s_min_u32", plain!(|w, i| two(w, i, |a, b, _| (a.min(b), Some(a < b))))),
    ("s_max_u32", plain!(|w, i| two(w, i, |a, b, _| (a.max(b), Some(a > b))))),
    ("s_and_b32", plain!(|w, i| two(w, i, |a, b, _| nz(a & b)))),
    ("s_or_b32", plain!(|w, i| two(w, i, |a, b, _| nz(a | b)))),
    ("s_xor_b32", plain!(|w, i| two(w, i, |a, b, _| nz(a ^ b)))),
    ("s_andn2_b32", plain!(|w, i| two(w, i, |a, b, _| nz(a & !b)))),
    ("s_orn2_b32", plain!(|w, i| two(w, i, |a, b, _| nz(a | !b)))),
    ("s_nand_b32", plain!(|w, i| two(w, i, |a, b, _| nz(!(a & b))))),
    ("s_nor_b32", plain!(|w, i| two(w, i, |a, b, _| nz(!(a | b))))),
    ("s_xnor_b32", plain!(|w, i| two(w, i, |a, b, _| nz(!(a ^ b))))),
    ("s_and_b64", plain!(|w, i| two64(w, i, |a, b, _| nz64(a & b)))),
    ("s_or_b64", plain!(|w, i| two64(w, i, |a, b, _| nz64(a | b)))),
    ("s_xor_b64", plain!(|w, i| two64(w, i, |a, b, _| nz64(a ^ b)))),
    ("s_andn2_b64", plain!(|w, i| two64(w, i, |a, b, _| nz64(a & !b)))),
    ("s_orn2_b64", plain!(|w, i| two64(w, i, |a, b, _| nz64(a | !b)))),
    ("s_nand_b64", plain!(|w, i| two64(w, i, |a, b, _| nz64(!(a & b))))),
    ("s_nor_b64", plain!(|w, i| two64(w, i, |a, b, _| nz64(!(a | b))))),
    ("s_xnor_b64", plain!(|w, i| two64(w, i, |a, b, _| nz64(!(a ^ b))))),
    ("s_lshl_b32", plain!(|w, i| two(w, i, |a, b, _| nz(a << (b & 31))))),
    ("s_lshr_b32", plain!(|w, i| two(w, i, |a, b, _| nz(a >> (b & 31))))),
    ("s_ashr_i32", plain!(|w, i| two(w, i, |a, b, _| nz((a as i32 >> (b & 31)) as u32)))),
    ("s_lshl_b64", plain!(|w, i| two64(w, i, |a, b, _| nz64(a << (b & 63))))),
    ("s_lshr_b64", plain!(|w, i| two64(w, i, |a, b, _| nz64(a >> (b & 63))))),
    ("s_ashr_i64", plain!(|w, i| two64(w, i, |a, b, _| nz64((a as i64 >> (b & 63)) as u64)))),
    ("s_lshl1_add_u32", plain!(|w, i| two(w, i, |a, b, _| shift_add(a, b, 1)))),
    ("s_lshl2_add_u32", plain!(|w, i| two(w, i, |a, b, _| shift_add(a, b, 2)))),
    ("s_lshl3_add_u32", plain!(|w, i| two(w, i, |a, b, _| shift_add(a, b, 3)))),
    ("s_lshl4_add_u32", plain!(|w, i| two(w, i, |a, b, _| shift_add(a, b, 4)))),
    ("s_pack_ll_b32_b16", plain!(|w, i| two(w, i, |a, b, _| (a & 0xffff | b << 16, None)))),
    (
        "s_pack_lh_b32_b16",
        plain!(|w, i| two(w, i, |a, b, _| { (a & 0xffff | b & 0xffff_0000, None) })),
    ),
    ("s_pack_hh_b32_b16", plain!(|w, i| two(w, i, |a, b, _| (a >> 16 | b & 0xffff_0000, None)))),
    ("s_bfe_u32", plain!(|w, i| two(w, i, |a, b, _| nz(bfe32(a, b, false))))),
    ("s_bfe_i32", plain!(|w, i| two(w, i, |a, b, _| nz(bfe32(a, b, true))))),
    ("s_bfe_u64", plain!(|w, i| two64(w, i, |a, b, _| nz64(bfe64(a, b, false))))),
    ("s_bfe_i64", plain!(|w, i| two64(w, i, |a, b, _| nz64(bfe64(a, b, true))))),
    (
        "s_bfm_b32",
        plain!(|w, i| two(w, i, |a, b, _| { (bfm(a.into(), b.into(), 32) as u32, None) })),
    ),
    ("s_bfm_b64", plain!(|w, i| two64(w, i, |a, b, _| (bfm(a, b, 64), None)))),
    ("s_cselect_b32", plain!(|w, i| two(w, i, |a, b, c| (if c { a } else { b }, None)))),
    ("s_cselect_b64", plain!(|w, i| two64(w, i, |a, b, c| (if c { a } else { b }, None)))),
    ("s_movk_i32", plain!(|w, i| put(w, i.dst, simm(i) as u32 as u64))),
    (
        "s_cmovk_i32",
        plain!(|w, i| if w.scc {
            put(w, i.dst, simm(i) as u32 as u64)
        }),
    ),
    (
        "s_addk_i32",
        plain!(|w, i| {
            let (x, o) = (scalar(w, i.dst) as i32).overflowing_add(simm(i));
            put(w, i.dst, (x as u32).into());
            w.scc = o;
        }),
    ),
    (
        "s_mulk_i32",
        plain!(|w, i| {
            let x = (scalar(w, i.dst) as i32).wrapping_mul(simm(i));
            put(w, i.dst, (x as u32).into());
        }),
    ),
    ("s_and_saveexec_b64", plain!(|w, i| saveexec(w, i, |s, e| s & e))),
    ("s_or_saveexec_b64", plain!(|w, i| saveexec(w, i, |s, e| s | e))),
    ("s_xor_saveexec_b64", plain!(|w, i| saveexec(w, i, |s, e| s ^ e))),
    ("s_andn2_saveexec_b64", plain!(|w, i| saveexec(w, i, |s, e| s & !e))),
    ("s_andn1_saveexec_b64", plain!(|w, i| saveexec(w, i, |s, e| !s & e))),
    ("s_orn2_saveexec_b64", plain!(|w, i| saveexec(w, i, |s, e| s | !e))),
    ("s_orn1_saveexec_b64", plain!(|w, i| saveexec(w, i, |s, e| !s | e))),
    ("s_nand_saveexec_b64", plain!(|w, i| saveexec(w, i, |s, e| !(s & e)))),
    ("s_andn2_wrexec_b64", plain!(|w, i| wrexec(w, i, |s, e| s & !e))),
    ("s_andn1_wrexec_b64", plain!(|w, i| wrexec(w, i, |s, e| !s & e))),
    (
        "s_bitcmp0_b32",
        plain!(|w, i| w.scc = scalar(w, i.src[0]) >> (scalar(w, i.src[1]) & 31) & 1 == 0),
    ),
    (
        "s_bitcmp1_b32",
        plain!(|w, i| w.scc = scalar(w, i.src[0]) >> (scalar(w, i.src[1]) & 31) & 1 == 1),
    ),
    (
        "s_bitcmp0_b64",
        plain!(|w, i| w.scc = scalar64(w, i.src[0]) >> (scalar(w, i.src[1]) & 63) & 1 == 0),
    ),
    (
        "s_bitcmp1_b64",
        plain!(|w, i| w.scc = scalar64(w, i.src[0]) >> (scalar(w, i.src[1]) & 63) & 1 == 1),
    ),
    ("s_getpc_b64", [getpc as ExecFn; 3]),
    ("s_setpc_b64", [setpc as ExecFn; 3]),
    ("s_swappc_b64", [swappc as ExecFn; 3]),
    ("s_branch", plain!(|w, i| branch(w, i, true))),
    ("s_cbranch_scc0", plain!(|w, i| branch(w, i, !w.scc))),
    ("s_cbranch_scc1", plain!(|w, i| branch(w, i, w.scc))),
    ("s_cbranch_vccz", plain!(|w, i| branch(w, i, w.vcc() == 0))),
    ("s_cbranch_vccnz", plain!(|w, i| branch(w, i, w.vcc() != 0))),
    ("s_cbranch_execz", plain!(|w, i| branch(w, i, w.exec() == 0))),
    ("s_cbranch_execnz", plain!(|w, i| branch(w, i, w.exec() != 0))),
    ("s_getreg_b32", [getreg as ExecFn; 3]),
    ("s_setreg_b32", plain!(|w, i| setreg(w, i, scalar(w, i.src[0])))),
    ("s_setreg_imm32_b32", plain!(|w, i| setreg(w, i, scalar(w, i.src[0])))),
    ("s_set_gpr_idx_on", plain!(|w, i| gpr_idx(w, scalar(w, i.src[0]), i.simm() as u8))),
    ("s_set_gpr_idx_off", plain!(|w, _| gpr_idx(w, 0, 0))),
    ("s_set_gpr_idx_idx", plain!(|w, i| gpr_idx(w, scalar(w, i.src[0]), w.gpr_idx_mode))),
    ("s_set_gpr_idx_mode", plain!(|w, i| gpr_idx(w, w.gpr_idx.into(), i.simm() as u8))),
    ("s_endpgm", [endpgm as ExecFn; 3]),
    ("s_barrier", [barrier as ExecFn; 3]),
    ("s_waitcnt", [waitcnt as ExecFn; 3]),
    ("s_trap", [trap as ExecFn; 3]),
    ("s_memtime", [time as ExecFn; 3]),
    ("s_memrealtime", [time as ExecFn; 3]),
    ("s_sleep", plain!(|w, _| w.stop = true)),
    ("s_nop", plain!(|_, _| ())),
    ("s_setprio", plain!(|_, _| ())),
    ("s_sethalt", plain!(|_, _| ())),
    ("s_icache_inv", plain!(|_, _| ())),
    ("s_dcache_inv", plain!(|_, _| ())),
    ("s_dcache_wb", plain!(|_, _| ())),
    ("s_incperflevel", plain!(|_, _| ())),
    ("s_decperflevel", plain!(|_, _| ())),
    ("s_ttracedata", plain!(|_, _| ())),
    ("s_sendmsg", plain!(|_, _| ())),
    ("s_code_end", [trap as ExecFn; 3]),
];

fn shift_add(a: u32, b: u32, n: u32) -> (u32, Option<bool>) {
    let x = (u64::from(a) << n) + u64::from(b);
    (x as u32, Some(x >> 32 != 0))
}

/// Code for `s_cmp_*` and `s_cmpk_*` of type `ty`.
pub(crate) fn compare(ty: &str) -> Option<Exec> {
    Some(match ty {
        "i32" => plain!(|w, i| {
            let (a, b) = (scalar(w, i.src[0]) as i32, scalar(w, i.src[1]) as i32);
            cmp(w, i, a.cmp(&b))
        }),
        "u32" => plain!(|w, i| {
            let (a, b) = (scalar(w, i.src[0]), scalar(w, i.src[1]));
            cmp(w, i, a.cmp(&b))
        }),
        "u64" => plain!(|w, i| {
            let (a, b) = (scalar64(w, i.src[0]), scalar64(w, i.src[1]));
            cmp(w, i, a.cmp(&b))
        }),
        _ => return None,
    })
}
