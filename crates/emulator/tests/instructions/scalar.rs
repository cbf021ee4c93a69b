//! Scalar instructions: a in s[16:17], b in s[18:19], result in s[20:21], SCC after it.

use super::{EDGES, Quad, Random, VECTOR, assemble};
use crate::harness::{Machine, read, strict};

/// From a, b and the incoming SCC: result and SCC (`None`: unchanged).
type Model = fn(u64, u64, bool) -> (u64, Option<bool>);

struct Case(&'static str, Model);

fn lo(x: u64) -> u32 {
    x as u32
}

fn i(x: u64) -> i64 {
    i64::from(x as u32 as i32)
}

fn w(x: u32) -> (u64, Option<bool>) {
    (x.into(), None)
}

fn nz(x: u32) -> (u64, Option<bool>) {
    (x.into(), Some(x != 0))
}

fn nz64(x: u64) -> (u64, Option<bool>) {
    (x, Some(x != 0))
}

fn set(on: bool) -> (u64, Option<bool>) {
    (0, Some(on))
}

fn bits(x: u64, n: u32) -> Vec<bool> {
    (0..n).map(|k| x >> k & 1 == 1).collect()
}

fn from_bits(b: impl Iterator<Item = bool>) -> u64 {
    b.enumerate().fold(0, |m, (k, v)| m | u64::from(v) << k)
}

fn first(x: u64, n: u32, v: bool) -> u32 {
    bits(x, n).iter().position(|b| *b == v).map_or(!0, |p| p as u32)
}

fn leading(x: u64, n: u32) -> u32 {
    bits(x, n).iter().rev().position(|b| *b).map_or(!0, |p| p as u32)
}

fn field(x: i128, off: u64, n: u64, signed: bool) -> i128 {
    if n == 0 {
        return 0;
    }
    let y = x >> off;
    let low = y & ((1i128 << n.min(100)) - 1);
    if signed && low >> (n.min(100) - 1) & 1 == 1 { low - (1i128 << n.min(100)) } else { low }
}

fn cases() -> Vec<Case> {
    let mut v = one_source();
    v.extend(arithmetic());
    v.extend(logic());
    v.extend(rest());
    v
}

fn one_source() -> Vec<Case> {
    vec![
        Case("s_mov_b32 s20, s16", |a, _, _| w(lo(a))),
        Case("s_mov_b64 s[20:21], s[16:17]", |a, _, _| (a, None)),
        Case("s_cmov_b32 s20, s16", |a, _, c| w(if c { lo(a) } else { 0 })),
        Case("s_cmov_b64 s[20:21], s[16:17]", |a, _, c| (if c { a } else { 0 }, None)),
        Case("s_not_b32 s20, s16", |a, _, _| nz(!lo(a))),
        Case("s_not_b64 s[20:21], s[16:17]", |a, _, _| nz64(!a)),
        Case("s_brev_b32 s20, s16", |a, _, _| (from_bits(bits(a, 32).into_iter().rev()), None)),
        Case("s_brev_b64 s[20:21], s[16:17]", |a, _, _| {
            (from_bits(bits(a, 64).into_iter().rev()), None)
        }),
        Case("s_bcnt0_i32_b32 s20, s16", |a, _, _| nz(32 - lo(a).count_ones())),
        Case("s_bcnt1_i32_b32 s20, s16", |a, _, _| {
            nz(bits(a, 32).iter().filter(|b| **b).count() as u32)
        }),
        Case("s_bcnt0_i32_b64 s20, s[16:17]", |a, _, _| nz(64 - a.count_ones())),
        Case("s_bcnt1_i32_b64 s20, s[16:17]", |a, _, _| {
            nz(bits(a, 64).iter().filter(|b| **b).count() as u32)
        }),
        Case("s_ff0_i32_b32 s20, s16", |a, _, _| w(first(a, 32, false))),
        Case("s_ff1_i32_b32 s20, s16", |a, _, _| w(first(a, 32, true))),
        Case("s_ff1_i32_b64 s20, s[16:17]", |a, _, _| w(first(a, 64, true))),
        Case("s_flbit_i32_b32 s20, s16", |a, _, _| w(leading(a, 32))),
        Case("s_flbit_i32_b64 s20, s[16:17]", |a, _, _| w(leading(a, 64))),
        Case("s_flbit_i32 s20, s16", |a, _, _| {
            let b = bits(a, 32);
            w(b.iter().rev().position(|x| *x != b[31]).map_or(!0, |p| p as u32))
        }),
        Case("s_sext_i32_i8 s20, s16", |a, _, _| w(a as i8 as u32)),
        Case("s_sext_i32_i16 s20, s16", |a, _, _| w(a as i16 as u32)),
        Case("s_abs_i32 s20, s16", |a, _, _| nz(i(a).unsigned_abs() as u32)),
        Case("s_bitset0_b32 s20, s16", |_, _, _| w(0)),
        Case("s_mov_b32 s20, s18\ns_bitset0_b32 s20, s16", |a, b, _| {
            w(lo(b) & !(1 << (lo(a) % 32)))
        }),
        Case("s_mov_b32 s20, s18\ns_bitset1_b32 s20, s16", |a, b, _| w(lo(b) | 1 << (lo(a) % 32))),
    ]
}

fn arithmetic() -> Vec<Case> {
    fn sat(x: i64) -> (u64, Option<bool>) {
        (u64::from(x as u32), Some(i32::try_from(x).is_err()))
    }
    fn u(x: u64) -> u64 {
        x & 0xffff_ffff
    }
    vec![
        Case("s_add_u32 s20, s16, s18", |a, b, _| {
            (u(u(a) + u(b)), Some(u(a) + u(b) > 0xffff_ffff))
        }),
        Case("s_sub_u32 s20, s16, s18", |a, b, _| (u(u(a).wrapping_sub(u(b))), Some(u(b) > u(a)))),
        Case("s_addc_u32 s20, s16, s18", |a, b, c| {
            let x = u(a) + u(b) + u64::from(c);
            (u(x), Some(x > 0xffff_ffff))
        }),
        Case("s_subb_u32 s20, s16, s18", |a, b, c| {
            (u(u(a).wrapping_sub(u(b)).wrapping_sub(c.into())), Some(u(b) + u64::from(c) > u(a)))
        }),
        Case("s_add_i32 s20, s16, s18", |a, b, _| sat(i(a) + i(b))),
        Case("s_sub_i32 s20, s16, s18", |a, b, _| sat(i(a) - i(b))),
        Case("s_absdiff_i32 s20, s16, s18", |a, b, _| nz((i(a) - i(b)).unsigned_abs() as u32)),
        Case("s_mul_i32 s20, s16, s18", |a, b, _| w((i(a) * i(b)) as u32)),
        Case("s_mul_hi_u32 s20, s16, s18", |a, b, _| w(((u(a) * u(b)) >> 32) as u32)),
        Case("s_mul_hi_i32 s20, s16, s18", |a, b, _| w(((i(a) * i(b)) >> 32) as u32)),
        Case("s_min_i32 s20, s16, s18", |a, b, _| {
            (u64::from(i(a).min(i(b)) as u32), Some(i(a) < i(b)))
        }),
        Case("s_max_i32 s20, s16, s18", |a, b, _| {
            (u64::from(i(a).max(i(b)) as u32), Some(i(a) > i(b)))
        }),
        Case("s_min_u32 s20, s16, s18", |a, b, _| (u(a).min(u(b)), Some(u(a) < u(b)))),
        Case("s_max_u32 s20, s16, s18", |a, b, _| (u(a).max(u(b)), Some(u(a) > u(b)))),
        Case("s_lshl1_add_u32 s20, s16, s18", |a, b, _| {
            (u(2 * u(a) + u(b)), Some(2 * u(a) + u(b) > 0xffff_ffff))
        }),
        Case("s_lshl2_add_u32 s20, s16, s18", |a, b, _| {
            (u(4 * u(a) + u(b)), Some(4 * u(a) + u(b) > 0xffff_ffff))
        }),
        Case("s_lshl3_add_u32 s20, s16, s18", |a, b, _| {
            (u(8 * u(a) + u(b)), Some(8 * u(a) + u(b) > 0xffff_ffff))
        }),
        Case("s_lshl4_add_u32 s20, s16, s18", |a, b, _| {
            (u(16 * u(a) + u(b)), Some(16 * u(a) + u(b) > 0xffff_ffff))
        }),
        Case("s_movk_i32 s20, 0x8001", |_, _, _| w(0xffff_8001)),
        Case("s_cmovk_i32 s20, 0x7fff", |_, _, c| w(if c { 0x7fff } else { 0 })),
        Case("s_mov_b32 s20, s16\ns_addk_i32 s20, 0xffff", |a, _, _| sat(i(a) - 1)),
        Case("s_mov_b32 s20, s16\ns_mulk_i32 s20, 0xfffd", |a, _, _| w((i(a) * -3) as u32)),
        Case("s_add_u32 s20, s16, 0x12345678", |a, _, _| {
            (u(u(a) + 0x1234_5678), Some(u(a) + 0x1234_5678 > 0xffff_ffff))
        }),
    ]
}

fn logic() -> Vec<Case> {
    vec![
        Case("s_and_b32 s20, s16, s18", |a, b, _| nz(lo(a & b))),
        Case("s_or_b32 s20, s16, s18", |a, b, _| nz(lo(a | b))),
        Case("s_xor_b32 s20, s16, s18", |a, b, _| nz(lo(a ^ b))),
        Case("s_andn2_b32 s20, s16, s18", |a, b, _| nz(lo(a & !b))),
        Case("s_orn2_b32 s20, s16, s18", |a, b, _| nz(lo(a | !b))),
        Case("s_nand_b32 s20, s16, s18", |a, b, _| nz(!lo(a & b))),
        Case("s_nor_b32 s20, s16, s18", |a, b, _| nz(!lo(a | b))),
        Case("s_xnor_b32 s20, s16, s18", |a, b, _| nz(!lo(a ^ b))),
        Case("s_and_b64 s[20:21], s[16:17], s[18:19]", |a, b, _| nz64(a & b)),
        Case("s_or_b64 s[20:21], s[16:17], s[18:19]", |a, b, _| nz64(a | b)),
        Case("s_xor_b64 s[20:21], s[16:17], s[18:19]", |a, b, _| nz64(a ^ b)),
        Case("s_andn2_b64 s[20:21], s[16:17], s[18:19]", |a, b, _| nz64(a & !b)),
        Case("s_orn2_b64 s[20:21], s[16:17], s[18:19]", |a, b, _| nz64(a | !b)),
        Case("s_nand_b64 s[20:21], s[16:17], s[18:19]", |a, b, _| nz64(!(a & b))),
        Case("s_nor_b64 s[20:21], s[16:17], s[18:19]", |a, b, _| nz64(!(a | b))),
        Case("s_xnor_b64 s[20:21], s[16:17], s[18:19]", |a, b, _| nz64(!(a ^ b))),
        Case("s_lshl_b32 s20, s16, s18", |a, b, _| nz((a << (b % 32)) as u32)),
        Case("s_lshr_b32 s20, s16, s18", |a, b, _| nz((u64::from(lo(a)) >> (b % 32)) as u32)),
        Case("s_ashr_i32 s20, s16, s18", |a, b, _| nz((i(a) >> (b % 32)) as u32)),
        Case("s_lshl_b64 s[20:21], s[16:17], s18", |a, b, _| nz64(a << (b % 64))),
        Case("s_lshr_b64 s[20:21], s[16:17], s18", |a, b, _| nz64(a >> (b % 64))),
        Case("s_ashr_i64 s[20:21], s[16:17], s18", |a, b, _| nz64((a as i64 >> (b % 64)) as u64)),
        Case("s_pack_ll_b32_b16 s20, s16, s18", |a, b, _| w(lo(a) & 0xffff | lo(b) << 16)),
        Case("s_pack_lh_b32_b16 s20, s16, s18", |a, b, _| w(lo(a) & 0xffff | lo(b) >> 16 << 16)),
        Case("s_pack_hh_b32_b16 s20, s16, s18", |a, b, _| w(lo(a) >> 16 | lo(b) >> 16 << 16)),
        Case("s_and_b32 s18, s18, 0x1f001f\ns_bfe_u32 s20, s16, s18", |a, b, _| {
            nz(field(lo(a).into(), b & 31, b >> 16 & 31, false) as u32)
        }),
        Case("s_and_b32 s18, s18, 0x1f001f\ns_bfe_i32 s20, s16, s18", |a, b, _| {
            nz(field(i(a).into(), b & 31, b >> 16 & 31, true) as u32)
        }),
        Case("s_and_b32 s18, s18, 0x3f003f\ns_bfe_u64 s[20:21], s[16:17], s18", |a, b, _| {
            nz64(field(a.into(), b & 63, b >> 16 & 63, false) as u64)
        }),
        Case("s_and_b32 s18, s18, 0x3f003f\ns_bfe_i64 s[20:21], s[16:17], s18", |a, b, _| {
            nz64(field((a as i64).into(), b & 63, b >> 16 & 63, true) as u64)
        }),
        Case("s_bfm_b32 s20, s16, s18", |a, b, _| w((((1u64 << (a % 32)) - 1) << (b % 32)) as u32)),
        Case("s_bfm_b64 s[20:21], s16, s18", |a, b, _| {
            ((((1u128 << (a % 64)) - 1) << (b % 64)) as u64, None)
        }),
        Case("s_cselect_b32 s20, s16, s18", |a, b, c| w(lo(if c { a } else { b }))),
        Case("s_cselect_b64 s[20:21], s[16:17], s[18:19]", |a, b, c| (if c { a } else { b }, None)),
        Case("s_cselect_b64 s[20:21], -1, 0", |_, _, c| (if c { !0 } else { 0 }, None)),
    ]
}

/// Instructions on EXEC (all lanes on before), compares, branches, calls, registers.
fn rest() -> Vec<Case> {
    macro_rules! exec {
        ($($name:literal $f:expr;)*) => {
            vec![$(
                Case(concat!($name, " s[20:21], s[16:17]\ns_mov_b64 s[20:21], exec\n\
                      s_cselect_b32 s22, 1, 0\ns_mov_b64 exec, -1\ns_cmp_lg_u32 s22, 0"),
                    |a, _, _| nz64($f(a, !0u64))),
            )*]
        };
    }
    let mut v = exec! {
        "s_and_saveexec_b64" |s: u64, e: u64| s & e;
        "s_or_saveexec_b64" |s: u64, e: u64| s | e;
        "s_xor_saveexec_b64" |s: u64, e: u64| s ^ e;
        "s_andn2_saveexec_b64" |s: u64, e: u64| s & !e;
        "s_andn1_saveexec_b64" |s: u64, e: u64| !s & e;
        "s_orn2_saveexec_b64" |s: u64, e: u64| s | !e;
        "s_orn1_saveexec_b64" |s: u64, e: u64| !s | e;
        "s_nand_saveexec_b64" |s: u64, e: u64| !(s & e);
        "s_andn2_wrexec_b64" |s: u64, e: u64| s & !e;
        "s_andn1_wrexec_b64" |s: u64, e: u64| !s & e;
    };
    v.extend([
        Case("s_cmp_eq_i32 s16, s18", |a, b, _| set(lo(a) == lo(b))),
        Case("s_cmp_lg_i32 s16, s18", |a, b, _| set(lo(a) != lo(b))),
        Case("s_cmp_gt_i32 s16, s18", |a, b, _| set(i(a) > i(b))),
        Case("s_cmp_ge_i32 s16, s18", |a, b, _| set(i(a) >= i(b))),
        Case("s_cmp_lt_i32 s16, s18", |a, b, _| set(i(a) < i(b))),
        Case("s_cmp_le_i32 s16, s18", |a, b, _| set(i(a) <= i(b))),
        Case("s_cmp_gt_u32 s16, s18", |a, b, _| set(lo(a) > lo(b))),
        Case("s_cmp_ge_u32 s16, s18", |a, b, _| set(lo(a) >= lo(b))),
        Case("s_cmp_lt_u32 s16, s18", |a, b, _| set(lo(a) < lo(b))),
        Case("s_cmp_le_u32 s16, s18", |a, b, _| set(lo(a) <= lo(b))),
        Case("s_cmp_eq_u64 s[16:17], s[18:19]", |a, b, _| set(a == b)),
        Case("s_cmp_lg_u64 s[16:17], s[18:19]", |a, b, _| set(a != b)),
        Case("s_cmpk_gt_i32 s16, 0xfffe", |a, _, _| set(i(a) > -2)),
        Case("s_cmpk_lt_u32 s16, 0xfffe", |a, _, _| set(lo(a) < 0xfffe)),
        Case("s_bitcmp0_b32 s16, s18", |a, b, _| set(a >> (b % 32) & 1 == 0)),
        Case("s_bitcmp1_b32 s16, s18", |a, b, _| set(a >> (b % 32) & 1 == 1)),
        Case("s_bitcmp0_b64 s[16:17], s18", |a, b, _| set(a >> (b % 64) & 1 == 0)),
        Case("s_bitcmp1_b64 s[16:17], s18", |a, b, _| set(a >> (b % 64) & 1 == 1)),
        Case("s_cbranch_scc1 1f\ns_mov_b32 s20, 5\n1:", |_, _, c| w(if c { 0 } else { 5 })),
        Case("s_cbranch_scc0 1f\ns_mov_b32 s20, 5\n1:", |_, _, c| w(if c { 5 } else { 0 })),
        Case("s_mov_b64 vcc, s[16:17]\ns_cbranch_vccz 1f\ns_mov_b32 s20, 5\n1:", |a, _, _| {
            w(if a == 0 { 0 } else { 5 })
        }),
        Case("s_mov_b64 vcc, s[16:17]\ns_cbranch_vccnz 1f\ns_mov_b32 s20, 5\n1:", |a, _, _| {
            w(if a != 0 { 0 } else { 5 })
        }),
        Case(
            "s_mov_b64 exec, s[16:17]\ns_cbranch_execz 1f\ns_mov_b32 s20, 5\n1:\n\
              s_mov_b64 exec, -1",
            |a, _, _| w(if a == 0 { 0 } else { 5 }),
        ),
        Case(
            "s_mov_b64 exec, s[16:17]\ns_cbranch_execnz 1f\ns_mov_b32 s20, 5\n1:\n\
              s_mov_b64 exec, -1",
            |a, _, _| w(if a != 0 { 0 } else { 5 }),
        ),
        Case("s_branch 1f\ns_mov_b32 s20, 5\n1:", |_, _, _| w(0)),
        // A call and a return: skips the first move, runs the second.
        Case(
            "s_getpc_b64 s[24:25]\ns_add_u32 s24, s24, 20\ns_addc_u32 s25, s25, 0\n\
              s_swappc_b64 s[26:27], s[24:25]\ns_mov_b32 s20, 7\ns_branch 2f\n\
              s_setpc_b64 s[26:27]\n2:\ns_cmp_eq_u32 s20, 7",
            |_, _, _| (7, Some(true)),
        ),
        Case("s_getreg_b32 s20, hwreg(HW_REG_MODE, 4, 4)", |_, _, _| w(15)),
        Case(
            "s_setreg_b32 hwreg(HW_REG_MODE, 0, 2), s16\n\
              s_getreg_b32 s20, hwreg(HW_REG_MODE, 0, 2)",
            |a, _, _| w(lo(a) & 3),
        ),
        Case(
            "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 2, 2), 2\n\
              s_getreg_b32 s20, hwreg(HW_REG_MODE, 0, 4)",
            |_, _, _| w(8),
        ),
    ]);
    v
}

/// The assembly of all cases, for the coverage test.
pub(crate) fn sources() -> Vec<String> {
    cases().iter().map(|c| c.0.to_owned()).collect()
}

#[test]
fn scalars() {
    let cases = cases();
    // One workgroup per operand pair; SCC comes from the low bit of b's high word.
    let bodies: Vec<String> = cases
        .iter()
        .map(|c| {
            format!(
                "s_load_dwordx8 s[4:11], s[0:1], 0x0\ns_lshl_b32 s3, s2, 4\ns_waitcnt lgkmcnt(0)\n\
                 s_load_dwordx4 s[16:19], s[4:5], s3\ns_mov_b64 s[20:21], 0\n\
                 s_waitcnt lgkmcnt(0)\ns_bitcmp1_b32 s19, 0\n{}\ns_cselect_b32 s22, 1, 0\n\
                 v_mov_b32 v4, s20\nv_mov_b32 v5, s21\nv_mov_b32 v6, s22\nv_mov_b32 v7, 0\n\
                 v_mov_b32 v1, s3\nglobal_store_dwordx4 v1, v[4:7], s[10:11]",
                c.0
            )
        })
        .collect();
    let m = Machine::new(&assemble(&bodies, VECTOR), strict());
    let mut r = Random(77);
    let mut draw =
        || if r.u32().is_multiple_of(2) { EDGES[(r.u32() % 28) as usize] } else { r.u32() };
    let input: Vec<Quad> = (0..48).map(|_| [draw(), draw(), draw(), draw()]).collect();
    let d = m.buffer(&input);
    for (n, c) in cases.iter().enumerate() {
        let out = m.raw(16 * input.len() as u64);
        let args = [d.base, d.base, d.base, out.base];
        if let Err(f) = m.launch(&format!("k{n}"), input.len() as u32, 64, &args) {
            panic!("{}: {f}", c.0);
        }
        for (q, got) in input.iter().zip(read::<Quad>(&out)) {
            let a = u64::from(q[0]) | u64::from(q[1]) << 32;
            let b = u64::from(q[2]) | u64::from(q[3]) << 32;
            let scc = q[3] & 1 == 1;
            let (want, after) = c.1(a, b, scc);
            // A case that is about a result of SCC alone leaves s20 at zero, except the masks.
            let scc_want = u32::from(after.unwrap_or(scc));
            assert_eq!(
                [got[0], got[1], got[2]],
                [want as u32, (want >> 32) as u32, scc_want],
                "{} a {a:#x} b {b:#x} scc {scc}",
                c.0
            );
        }
    }
}
