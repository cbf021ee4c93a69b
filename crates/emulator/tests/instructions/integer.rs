//! Integer vector instructions.

use super::{Case, Quad, check, lane, one, two, wide};

fn i(x: u32) -> i64 {
    i64::from(x as i32)
}

fn u(x: u32) -> u64 {
    x.into()
}

fn s24(x: u32) -> i64 {
    i((x & 0xff_ffff) << 8) >> 8
}

fn u24(x: u32) -> u64 {
    u(x & 0xff_ffff)
}

fn bit(x: u32, k: u32) -> bool {
    x >> k & 1 == 1
}

/// Bits chosen one by one.
fn by_bit(f: impl Fn(u32) -> bool) -> u32 {
    (0..32).fold(0, |m, k| m | u32::from(f(k)) << k)
}

fn sorted(mut v: [i64; 3]) -> [i64; 3] {
    v.sort_unstable();
    v
}

fn bytes(x: u32) -> [u8; 4] {
    x.to_le_bytes()
}

fn select_bytes(a: u32, b: u32, sel: u32) -> u32 {
    let pool = [bytes(b), bytes(a)].concat();
    let sign = |k: usize| if pool[k] & 0x80 != 0 { 0xff } else { 0 };
    u32::from_le_bytes(bytes(sel).map(|s| match s {
        0..=7 => pool[usize::from(s)],
        8..=11 => sign(usize::from(2 * (s - 8) + 1)),
        12 => 0,
        _ => 0xff,
    }))
}

fn dot4(a: u32, b: u32) -> u32 {
    let p =
        bytes(a).into_iter().zip(bytes(b)).map(|(x, y)| i64::from(x as i8) * i64::from(y as i8));
    p.sum::<i64>() as u32
}

fn sext_field(a: u32, off: u32, n: u32) -> u32 {
    // Bits past the top repeat the sign.
    let top = if bit(a, 31) { !0u64 << 32 } else { 0 };
    let x = (top | u(a)) >> off;
    if n == 0 {
        return 0;
    }
    let sign = x >> (n - 1) & 1 == 1;
    let low = x & ((1 << n) - 1);
    (if sign { low | !0 << n } else { low }) as u32
}

pub(crate) fn cases() -> Vec<Case> {
    let mut v = arithmetic();
    v.extend(logic());
    v.extend(halves());
    v.extend(wide_ones());
    v.extend(carries());
    v.extend(compares());
    v
}

fn arithmetic() -> Vec<Case> {
    vec![
        lane("v_add_u32 v16, v4, v8", |a, b, _| one((u(a[0]) + u(b[0])) as u32)),
        lane("v_sub_u32 v16, v4, v8", |a, b, _| one((i(a[0]) - i(b[0])) as u32)),
        lane("v_subrev_u32 v16, v4, v8", |a, b, _| one((i(b[0]) - i(a[0])) as u32)),
        lane("v_add_u32_e64 v16, v4, v8 clamp", |a, b, _| {
            one((u(a[0]) + u(b[0])).min(0xffff_ffff) as u32)
        }),
        lane("v_sub_u32_e64 v16, v4, v8 clamp", |a, b, _| {
            one((u(a[0]) as i64 - u(b[0]) as i64).max(0) as u32)
        }),
        lane("v_add_i32 v16, v4, v8", |a, b, _| one((i(a[0]) + i(b[0])) as u32)),
        lane("v_add_i32 v16, v4, v8 clamp", |a, b, _| {
            one((i(a[0]) + i(b[0])).clamp(i32::MIN.into(), i32::MAX.into()) as u32)
        }),
        lane("v_sub_i32 v16, v4, v8", |a, b, _| one((i(a[0]) - i(b[0])) as u32)),
        lane("v_mul_lo_u32 v16, v4, v8", |a, b, _| one((u(a[0]) * u(b[0])) as u32)),
        lane("v_mul_hi_u32 v16, v4, v8", |a, b, _| one(((u(a[0]) * u(b[0])) >> 32) as u32)),
        lane("v_mul_hi_i32 v16, v4, v8", |a, b, _| one(((i(a[0]) * i(b[0])) >> 32) as u32)),
        lane("v_mul_u32_u24 v16, v4, v8", |a, b, _| one((u24(a[0]) * u24(b[0])) as u32)),
        lane("v_mul_i32_i24 v16, v4, v8", |a, b, _| one((s24(a[0]) * s24(b[0])) as u32)),
        lane("v_mul_hi_u32_u24 v16, v4, v8", |a, b, _| one(((u24(a[0]) * u24(b[0])) >> 32) as u32)),
        lane("v_mul_hi_i32_i24 v16, v4, v8", |a, b, _| one(((s24(a[0]) * s24(b[0])) >> 32) as u32)),
        lane("v_mad_u32_u24 v16, v4, v8, v12", |a, b, c| {
            one((u24(a[0]) * u24(b[0]) + u(c[0])) as u32)
        }),
        lane("v_mad_i32_i24 v16, v4, v8, v12", |a, b, c| {
            one((s24(a[0]) * s24(b[0]) + i(c[0])) as u32)
        }),
        lane("v_mad_u32_u16 v16, v4, v8, v12", |a, b, c| {
            one((u(a[0] & 0xffff) * u(b[0] & 0xffff) + u(c[0])) as u32)
        }),
        lane("v_mad_i32_i16 v16, v4, v8, v12", |a, b, c| {
            one((i64::from(a[0] as i16) * i64::from(b[0] as i16) + i(c[0])) as u32)
        }),
        lane("v_min_i32 v16, v4, v8", |a, b, _| one(i(a[0]).min(i(b[0])) as u32)),
        lane("v_max_i32 v16, v4, v8", |a, b, _| one(i(a[0]).max(i(b[0])) as u32)),
        lane("v_min_u32 v16, v4, v8", |a, b, _| one(if a[0] < b[0] { a[0] } else { b[0] })),
        lane("v_max_u32 v16, v4, v8", |a, b, _| one(if a[0] > b[0] { a[0] } else { b[0] })),
        lane("v_min3_i32 v16, v4, v8, v12", |a, b, c| {
            one(sorted([i(a[0]), i(b[0]), i(c[0])])[0] as u32)
        }),
        lane("v_med3_i32 v16, v4, v8, v12", |a, b, c| {
            one(sorted([i(a[0]), i(b[0]), i(c[0])])[1] as u32)
        }),
        lane("v_max3_i32 v16, v4, v8, v12", |a, b, c| {
            one(sorted([i(a[0]), i(b[0]), i(c[0])])[2] as u32)
        }),
        lane("v_min3_u32 v16, v4, v8, v12", |a, b, c| {
            one(sorted([a[0].into(), b[0].into(), c[0].into()])[0] as u32)
        }),
        lane("v_med3_u32 v16, v4, v8, v12", |a, b, c| {
            one(sorted([a[0].into(), b[0].into(), c[0].into()])[1] as u32)
        }),
        lane("v_max3_u32 v16, v4, v8, v12", |a, b, c| {
            one(sorted([a[0].into(), b[0].into(), c[0].into()])[2] as u32)
        }),
        lane("v_sad_u32 v16, v4, v8, v12", |a, b, c| {
            one(((u(a[0]) as i64 - u(b[0]) as i64).unsigned_abs() + u(c[0])) as u32)
        }),
        lane("v_sad_u8 v16, v4, v8, v12", |a, b, c| {
            let d = bytes(a[0]).into_iter().zip(bytes(b[0])).map(|(x, y)| u64::from(x.abs_diff(y)));
            one((d.sum::<u64>() + u(c[0])) as u32)
        }),
        lane("v_dot4_i32_i8 v16, v4, v8, v12", |a, b, c| one(dot4(a[0], b[0]).wrapping_add(c[0]))),
        lane("v_mov_b32 v16, v12\nv_dot4c_i32_i8 v16, v4, v8", |a, b, c| {
            one(dot4(a[0], b[0]).wrapping_add(c[0]))
        }),
    ]
}

fn logic() -> Vec<Case> {
    vec![
        lane("v_mov_b32 v16, v4", |a, _, _| one(a[0])),
        lane(
            "v_accvgpr_write_b32 a3, v4\nv_accvgpr_mov_b32 a4, a3\nv_accvgpr_read_b32 v16, a4",
            |a, _, _| one(a[0]),
        ),
        lane("v_not_b32 v16, v4", |a, _, _| one(by_bit(|k| !bit(a[0], k)))),
        lane("v_bfrev_b32 v16, v4", |a, _, _| one(by_bit(|k| bit(a[0], 31 - k)))),
        lane("v_ffbh_u32 v16, v4", |a, _, _| {
            one((0..32).find(|k| bit(a[0], 31 - k)).unwrap_or(!0))
        }),
        lane("v_ffbl_b32 v16, v4", |a, _, _| one((0..32).find(|k| bit(a[0], *k)).unwrap_or(!0))),
        lane("v_ffbh_i32 v16, v4", |a, _, _| {
            one((1..32).find(|k| bit(a[0], 31 - k) != bit(a[0], 31)).unwrap_or(!0))
        }),
        lane("v_bcnt_u32_b32 v16, v4, v8", |a, b, _| {
            one(((0..32).filter(|k| bit(a[0], *k)).count() as u32).wrapping_add(b[0]))
        }),
        lane("v_lshlrev_b32 v16, v4, v8", |a, b, _| one((u(b[0]) << (a[0] % 32)) as u32)),
        lane("v_lshrrev_b32 v16, v4, v8", |a, b, _| one((u(b[0]) >> (a[0] % 32)) as u32)),
        lane("v_ashrrev_i32 v16, v4, v8", |a, b, _| one((i(b[0]) >> (a[0] % 32)) as u32)),
        lane("v_and_b32 v16, v4, v8", |a, b, _| one(by_bit(|k| bit(a[0], k) && bit(b[0], k)))),
        lane("v_or_b32 v16, v4, v8", |a, b, _| one(by_bit(|k| bit(a[0], k) || bit(b[0], k)))),
        lane("v_xor_b32 v16, v4, v8", |a, b, _| one(by_bit(|k| bit(a[0], k) != bit(b[0], k)))),
        lane("v_xnor_b32 v16, v4, v8", |a, b, _| one(by_bit(|k| bit(a[0], k) == bit(b[0], k)))),
        lane("v_bfe_u32 v16, v4, v8, v12", |a, b, c| {
            one((u(a[0]) >> (b[0] % 32) & ((1 << (c[0] % 32)) - 1)) as u32)
        }),
        lane("v_bfe_i32 v16, v4, v8, v12", |a, b, c| one(sext_field(a[0], b[0] % 32, c[0] % 32))),
        lane("v_bfi_b32 v16, v4, v8, v12", |a, b, c| {
            one(by_bit(|k| if bit(a[0], k) { bit(b[0], k) } else { bit(c[0], k) }))
        }),
        lane("v_bfm_b32 v16, v4, v8", |a, b, _| {
            let (n, o) = (a[0] % 32, b[0] % 32);
            one(by_bit(|k| k >= o && k < o + n))
        }),
        lane("v_alignbit_b32 v16, v4, v8, v12", |a, b, c| {
            one(((u(a[0]) << 32 | u(b[0])) >> (c[0] % 32)) as u32)
        }),
        lane("v_alignbyte_b32 v16, v4, v8, v12", |a, b, c| {
            let all = [bytes(b[0]), bytes(a[0])].concat();
            let k = (c[0] % 4) as usize;
            one(u32::from_le_bytes([all[k], all[k + 1], all[k + 2], all[k + 3]]))
        }),
        lane("v_perm_b32 v16, v4, v8, v12", |a, b, c| one(select_bytes(a[0], b[0], c[0]))),
        lane("v_and_b32 v12, 0x0f0f0f0f, v12\nv_perm_b32 v16, v4, v8, v12", |a, b, c| {
            one(select_bytes(a[0], b[0], c[0] & 0x0f0f_0f0f))
        }),
        lane("v_lshl_or_b32 v16, v4, v8, v12", |a, b, c| {
            one((u(a[0]) << (b[0] % 32)) as u32 | c[0])
        }),
        lane("v_lshl_add_u32 v16, v4, v8, v12", |a, b, c| {
            one(((u(a[0]) << (b[0] % 32)) + u(c[0])) as u32)
        }),
        lane("v_add_lshl_u32 v16, v4, v8, v12", |a, b, c| {
            one(((u(a[0]) + u(b[0])) << (c[0] % 32)) as u32)
        }),
        lane("v_and_or_b32 v16, v4, v8, v12", |a, b, c| {
            one(by_bit(|k| bit(a[0], k) && bit(b[0], k) || bit(c[0], k)))
        }),
        lane("v_or3_b32 v16, v4, v8, v12", |a, b, c| {
            one(by_bit(|k| bit(a[0], k) || bit(b[0], k) || bit(c[0], k)))
        }),
        lane("v_add3_u32 v16, v4, v8, v12", |a, b, c| one((u(a[0]) + u(b[0]) + u(c[0])) as u32)),
        lane("v_xad_u32 v16, v4, v8, v12", |a, b, c| {
            one((u(by_bit(|k| bit(a[0], k) != bit(b[0], k))) + u(c[0])) as u32)
        }),
        lane("v_bitop3_b32 v16, v4, v8, v12 bitop3:0xca", |a, b, c| {
            // 0xca: a picks b over c.
            one(by_bit(|k| if bit(a[0], k) { bit(b[0], k) } else { bit(c[0], k) }))
        }),
        lane("v_bitop3_b32 v16, v4, v8, v12 bitop3:0x96", |a, b, c| one(a[0] ^ b[0] ^ c[0])),
        lane("v_bitop3_b32 v16, v4, v8, v12 bitop3:0x40", |a, b, c| one(a[0] & b[0] & !c[0])),
        lane("v_bitop3_b16 v16, v4, v8, v12 bitop3:0xfe", |a, b, c| {
            one((a[0] | b[0] | c[0]) & 0xffff)
        }),
        lane("v_cmp_lt_u32 vcc, v12, v13\nv_cndmask_b32 v16, v4, v8, vcc", |a, b, c| {
            one(if c[0] < c[1] { b[0] } else { a[0] })
        }),
        lane(
            "v_cmp_lt_u32 s[20:21], v12, v13\nv_cndmask_b32_e64 v16, -v4, v8, s[20:21]",
            |a, b, c| one(if c[0] < c[1] { b[0] } else { a[0] ^ 0x8000_0000 }),
        ),
        lane("v_mov_b32 v16, v4\nv_mov_b32 v17, v8\nv_swap_b32 v16, v17", |a, b, _| {
            [b[0], a[0], 0, 0]
        }),
        lane(
            "v_prng_b32 v16, v4",
            |a, _, _| one((a[0] << 1) ^ if bit(a[0], 31) { 197 } else { 0 }),
        ),
        lane("v_ashr_pk_i8_i32 v16, v4, v8, v12", |a, b, c| {
            let f = |x: u32| (i(x) >> (c[0] % 32)).clamp(-128, 127) as u8;
            one(u32::from_le_bytes([f(a[0]), f(b[0]), 0, 0]))
        }),
        lane("v_ashr_pk_u8_i32 v16, v4, v8, v12", |a, b, c| {
            let f = |x: u32| (i(x) >> (c[0] % 32)).clamp(0, 255) as u8;
            one(u32::from_le_bytes([f(a[0]), f(b[0]), 0, 0]))
        }),
    ]
}

fn lo(x: u32) -> i64 {
    i64::from(x as u16)
}

fn slo(x: u32) -> i64 {
    i64::from(x as i16)
}

fn h(x: i64) -> Quad {
    one(x as u32 & 0xffff)
}

/// Both halves of packed operands through one function.
fn pk(a: u32, b: u32, f: fn(u16, u16) -> u16) -> Quad {
    one(u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16)
}

fn halves() -> Vec<Case> {
    vec![
        lane("v_add_u16 v16, v4, v8", |a, b, _| h(lo(a[0]) + lo(b[0]))),
        lane("v_sub_u16 v16, v4, v8", |a, b, _| h(lo(a[0]) - lo(b[0]))),
        lane("v_subrev_u16 v16, v4, v8", |a, b, _| h(lo(b[0]) - lo(a[0]))),
        lane("v_mul_lo_u16 v16, v4, v8", |a, b, _| h(lo(a[0]) * lo(b[0]))),
        lane("v_lshlrev_b16 v16, v4, v8", |a, b, _| h(lo(b[0]) << (a[0] % 16))),
        lane("v_lshrrev_b16 v16, v4, v8", |a, b, _| h(lo(b[0]) >> (a[0] % 16))),
        lane("v_ashrrev_i16 v16, v4, v8", |a, b, _| h(slo(b[0]) >> (a[0] % 16))),
        lane("v_min_i16 v16, v4, v8", |a, b, _| h(slo(a[0]).min(slo(b[0])))),
        lane("v_max_i16 v16, v4, v8", |a, b, _| h(slo(a[0]).max(slo(b[0])))),
        lane("v_min_u16 v16, v4, v8", |a, b, _| h(lo(a[0]).min(lo(b[0])))),
        lane("v_max_u16 v16, v4, v8", |a, b, _| h(lo(a[0]).max(lo(b[0])))),
        lane("v_mad_u16 v16, v4, v8, v12", |a, b, c| h(lo(a[0]) * lo(b[0]) + lo(c[0]))),
        lane("v_mad_i16 v16, v4, v8, v12", |a, b, c| h(slo(a[0]) * slo(b[0]) + slo(c[0]))),
        lane("v_pk_add_u16 v16, v4, v8", |a, b, _| pk(a[0], b[0], u16::wrapping_add)),
        lane("v_pk_add_i16 v16, v4, v8", |a, b, _| pk(a[0], b[0], u16::wrapping_add)),
        lane("v_pk_sub_u16 v16, v4, v8", |a, b, _| pk(a[0], b[0], u16::wrapping_sub)),
        lane("v_pk_sub_i16 v16, v4, v8", |a, b, _| pk(a[0], b[0], u16::wrapping_sub)),
        lane("v_pk_mul_lo_u16 v16, v4, v8", |a, b, _| pk(a[0], b[0], u16::wrapping_mul)),
        lane("v_pk_min_u16 v16, v4, v8", |a, b, _| pk(a[0], b[0], u16::min)),
        lane("v_pk_max_u16 v16, v4, v8", |a, b, _| pk(a[0], b[0], u16::max)),
        lane("v_pk_min_i16 v16, v4, v8", |a, b, _| {
            pk(a[0], b[0], |x, y| (x as i16).min(y as i16) as u16)
        }),
        lane("v_pk_max_i16 v16, v4, v8", |a, b, _| {
            pk(a[0], b[0], |x, y| (x as i16).max(y as i16) as u16)
        }),
        lane("v_pk_lshlrev_b16 v16, v4, v8", |a, b, _| pk(a[0], b[0], |x, y| y << (x % 16))),
        lane("v_pk_lshrrev_b16 v16, v4, v8", |a, b, _| pk(a[0], b[0], |x, y| y >> (x % 16))),
        lane("v_pk_ashrrev_i16 v16, v4, v8", |a, b, _| {
            pk(a[0], b[0], |x, y| (y as i16 >> (x % 16)) as u16)
        }),
        lane("v_pk_mad_u16 v16, v4, v8, v12", |a, b, c| {
            let p = pk(a[0], b[0], u16::wrapping_mul);
            pk(p[0], c[0], u16::wrapping_add)
        }),
        lane("v_pk_mad_i16 v16, v4, v8, v12", |a, b, c| {
            let p = pk(a[0], b[0], u16::wrapping_mul);
            pk(p[0], c[0], u16::wrapping_add)
        }),
        lane("v_pk_add_u16 v16, v4, v8 op_sel:[1,0] op_sel_hi:[0,1]", |a, b, _| {
            pk(a[0].rotate_left(16), b[0], u16::wrapping_add)
        }),
    ]
}

fn wide_ones() -> Vec<Case> {
    vec![
        lane("v_mov_b64 v[16:17], v[4:5]", |a, _, _| two(wide(a))),
        lane("v_lshlrev_b64 v[16:17], v4, v[8:9]", |a, b, _| two(wide(b) << (a[0] % 64))),
        lane("v_lshrrev_b64 v[16:17], v4, v[8:9]", |a, b, _| two(wide(b) >> (a[0] % 64))),
        lane("v_ashrrev_i64 v[16:17], v4, v[8:9]", |a, b, _| {
            two((wide(b) as i64 >> (a[0] % 64)) as u64)
        }),
        lane("v_and_b32 v8, 3, v8\nv_lshl_add_u64 v[16:17], v[4:5], v8, v[12:13]", |a, b, c| {
            two((u128::from(wide(a)) * (1 << (b[0] & 3)) + u128::from(wide(c))) as u64)
        }),
        lane("v_mad_u64_u32 v[16:17], s[20:21], v4, v8, v[12:13]", |a, b, c| {
            two((u128::from(a[0]) * u128::from(b[0]) + u128::from(wide(c))) as u64)
        }),
        lane("v_mad_i64_i32 v[16:17], s[20:21], v4, v8, v[12:13]", |a, b, c| {
            two((i128::from(i(a[0])) * i128::from(i(b[0])) + i128::from(wide(c) as i64)) as u64)
        }),
        lane("v_pk_mov_b32 v[16:17], v[4:5], v[8:9] op_sel:[1,0]", |a, b, _| [a[1], b[0], 0, 0]),
        lane("v_pk_mov_b32 v[16:17], v[4:5], v[8:9] op_sel:[0,1]", |a, b, _| [a[0], b[1], 0, 0]),
    ]
}

/// The carry-in of these is a[1] < b[1]; the carry out becomes the second result.
fn carries() -> Vec<Case> {
    let out = "\nv_cndmask_b32 v17, 0, 1, vcc";
    let make = |op: &str, cin: bool, model| {
        let vcc = if cin { "v_cmp_lt_u32 vcc, v5, v9\n" } else { "" };
        let tail = if cin { ", vcc" } else { "" };
        lane(&format!("{vcc}{op} v16, vcc, v4, v8{tail}{out}"), model)
    };
    vec![
        make("v_add_co_u32", false, |a, b, _| {
            let s = u(a[0]) + u(b[0]);
            two(s)
        }),
        make("v_sub_co_u32", false, |a, b, _| {
            [a[0].wrapping_sub(b[0]), (a[0] < b[0]).into(), 0, 0]
        }),
        make("v_subrev_co_u32", false, |a, b, _| {
            [b[0].wrapping_sub(a[0]), (b[0] < a[0]).into(), 0, 0]
        }),
        make("v_addc_co_u32", true, |a, b, _| two(u(a[0]) + u(b[0]) + u64::from(a[1] < b[1]))),
        make("v_subb_co_u32", true, |a, b, _| {
            let d = i64::from(a[0]) - i64::from(b[0]) - i64::from(a[1] < b[1]);
            [d as u32, (d < 0).into(), 0, 0]
        }),
        make("v_subbrev_co_u32", true, |a, b, _| {
            let d = i64::from(b[0]) - i64::from(a[0]) - i64::from(a[1] < b[1]);
            [d as u32, (d < 0).into(), 0, 0]
        }),
    ]
}

fn compares() -> Vec<Case> {
    macro_rules! compare {
        ($($ty:literal $f:expr;)*) => {
            vec![$(
                compare!(@ $ty, "lt", |a, b| $f(a) < $f(b)),
                compare!(@ $ty, "eq", |a, b| $f(a) == $f(b)),
                compare!(@ $ty, "le", |a, b| $f(a) <= $f(b)),
                compare!(@ $ty, "gt", |a, b| $f(a) > $f(b)),
                compare!(@ $ty, "ne", |a, b| $f(a) != $f(b)),
                compare!(@ $ty, "ge", |a, b| $f(a) >= $f(b)),
            )*]
        };
        (@ $ty:literal, $c:literal, $f:expr) => {{
            let (x, y) = if $ty.ends_with("64") { ("v[4:5]", "v[8:9]") } else { ("v4", "v8") };
            lane(
                &format!("v_cmp_{}_{} vcc, {x}, {y}\nv_cndmask_b32 v16, 0, 1, vcc", $c, $ty),
                |a: Quad, b: Quad, _| {
                    let f: fn(Quad, Quad) -> bool = $f;
                    one(f(a, b).into())
                },
            )
        }};
    }
    compare! {
        "i16" |x: Quad| x[0] as i16;
        "u16" |x: Quad| x[0] as u16;
        "i32" |x: Quad| x[0] as i32;
        "u32" |x: Quad| x[0];
        "i64" |x: Quad| wide(x) as i64;
        "u64" |x: Quad| wide(x);
    }
}

#[test]
fn integers() {
    check(&cases());
}
