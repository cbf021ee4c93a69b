//! Matrix instructions against a double-precision product, with the published lane layouts.

use super::float::half;
use super::{Random, assemble, in_every_variant};
use crate::harness::{Machine, read};

/// An element format, by its width and value.
#[derive(Clone, Copy)]
pub(super) struct Elem {
    pub(super) bits: usize,
    pub(super) value: fn(u32) -> f64,
}

fn small(code: u32, exp: u32, man: u32, nan: bool, ieee: bool) -> f64 {
    let bias = (1 << (exp - 1)) - 1;
    let (m, e) = (code & ((1 << man) - 1), code >> man & ((1 << exp) - 1));
    let top = e == (1 << exp) - 1;
    let v = if ieee && top {
        if m == 0 { f64::INFINITY } else { f64::NAN }
    } else if nan && top && m == (1 << man) - 1 {
        f64::NAN
    } else if e == 0 {
        f64::from(m) * 2f64.powi(1 - bias - man as i32)
    } else {
        f64::from(m + (1 << man)) * 2f64.powi(e as i32 - bias - man as i32)
    };
    if code >> (exp + man) & 1 == 1 { -v } else { v }
}

pub(super) const FP8: Elem = Elem { bits: 8, value: |c| small(c & 255, 4, 3, true, false) };
pub(super) const BF8: Elem = Elem { bits: 8, value: |c| small(c & 255, 5, 2, false, true) };
const FP6: Elem = Elem { bits: 6, value: |c| small(c & 63, 2, 3, false, false) };
const BF6: Elem = Elem { bits: 6, value: |c| small(c & 63, 3, 2, false, false) };
const FP4: Elem = Elem { bits: 4, value: |c| small(c & 15, 2, 1, false, false) };
pub(super) const BF16: Elem = Elem { bits: 16, value: |c| f32::from_bits(c << 16).into() };
pub(super) const F16: Elem = Elem { bits: 16, value: |c| half(c & 0xffff).into() };
const F32: Elem = Elem { bits: 32, value: |c| f32::from_bits(c).into() };
pub(super) const I8: Elem = Elem { bits: 8, value: |c| f64::from(c as u8 as i8) };
const CODES: [Elem; 5] = [FP8, BF8, FP6, BF6, FP4];

/// `cbsz`, `blgp`, and the byte selections of the scales.
type Mixed = (usize, usize, Option<(usize, usize)>);

struct Case {
    name: String,
    m: usize,
    k: usize,
    a: Elem,
    b: Elem,
    /// Format codes, and the scales' byte selections.
    mixed: Option<Mixed>,
    integer: bool,
}

/// Lane data: 16 dwords for each lane; the first eight are the operand, [8] its scales.
pub(super) type Data = Vec<[u32; 16]>;

pub(super) fn code(d: &Data, lane: usize, at: usize, bits: usize) -> u32 {
    let bit = at * bits;
    let (w, s) = (bit / 32, bit % 32);
    let pair = u64::from(d[lane][w]) | u64::from(*d[lane].get(w + 1).unwrap_or(&0)) << 32;
    (pair >> s) as u32 & (u64::MAX >> (64 - bits)) as u32
}

impl Case {
    /// Lane and element of row (or column) i at k.
    fn place(&self, i: usize, k: usize, e: Elem) -> (usize, usize) {
        let (m, groups) = (self.m, 64 / self.m);
        if self.mixed.is_some() && e.bits == 8 {
            // Chunks of 16: lane group, then the upper half of the registers.
            let chunk = k / 16;
            return (m * (chunk % groups) + i, 16 * (chunk / groups) + k % 16);
        }
        let per = self.k / groups;
        (m * (k / per) + i, k % per)
    }

    fn at(&self, d: &Data, i: usize, k: usize, e: Elem) -> f64 {
        let (lane, at) = self.place(i, k, e);
        (e.value)(code(d, lane, at, e.bits))
    }

    fn scale(&self, d: &Data, i: usize, k: usize, side: usize) -> f64 {
        let Some((_, _, Some(sel))) = self.mixed else { return 1.0 };
        let byte = if side == 0 { sel.0 } else { sel.1 };
        let e = d[self.m * (k / 32) + i][8] >> (8 * byte) & 255;
        2f64.powi(e as i32 - 127)
    }

    /// Lane and register of C[i][j].
    fn result(&self, i: usize, j: usize) -> (usize, usize) {
        if self.m == 16 {
            (16 * (i / 4) + j, i % 4)
        } else {
            (32 * (i / 4 % 2) + j, 4 * (i / 8) + i % 4)
        }
    }

    fn text(&self) -> String {
        let regs = |e: Elem| self.k * self.m / 64 * e.bits / 32;
        let c = self.m * self.m / 64 - 1;
        let range = |first: usize, n: usize| match n {
            1 => format!("v{first}"),
            n => format!("v[{first}:{}]", first + n - 1),
        };
        let mut s = format!(
            "{} v[32:{}], {}, {}, v[32:{}]",
            self.name,
            32 + c,
            range(4, regs(self.a)),
            range(16, regs(self.b)),
            32 + c
        );
        if let Some((ca, cb, sel)) = self.mixed {
            if let Some((x, y)) = sel {
                s += &format!(
                    ", v12, v24 op_sel:[{},{},0] op_sel_hi:[{},{},0]",
                    x & 1,
                    y & 1,
                    x >> 1,
                    y >> 1
                );
            }
            s += &format!(" cbsz:{ca} blgp:{cb}");
        }
        s
    }

    fn body(&self) -> String {
        load_and_store(&self.text())
    }
}

/// A kernel around one instruction: A in v[4:15], B in v[16:27], C and D in v[32:47].
pub(super) fn load_and_store(text: &str) -> String {
    let mut s = String::from(
        "s_load_dwordx8 s[4:11], s[0:1], 0x0\nv_lshlrev_b32 v0, 6, v0\ns_waitcnt lgkmcnt(0)\n",
    );
    for k in 0..3 {
        let off = 16 * k;
        s += &format!(
            "global_load_dwordx4 v[{}:{}], v0, s[4:5] offset:{off}\n",
            4 + 4 * k,
            7 + 4 * k
        );
        s += &format!(
            "global_load_dwordx4 v[{}:{}], v0, s[6:7] offset:{off}\n",
            16 + 4 * k,
            19 + 4 * k
        );
    }
    for k in 0..4 {
        s += &format!(
            "global_load_dwordx4 v[{}:{}], v0, s[8:9] offset:{}\n",
            32 + 4 * k,
            35 + 4 * k,
            16 * k
        );
    }
    s += &format!("s_waitcnt vmcnt(0)\n{}\ns_nop 15\ns_nop 15\n", text);
    for k in 0..4 {
        s += &format!(
            "global_store_dwordx4 v0, v[{}:{}], s[10:11] offset:{}\n",
            32 + 4 * k,
            35 + 4 * k,
            16 * k
        );
    }
    s
}

fn cases() -> Vec<Case> {
    let plain = |name: &str, m, k, a, b| Case {
        name: name.into(),
        m,
        k,
        a,
        b,
        mixed: None,
        integer: name.contains("i32"),
    };
    let mut v = vec![
        plain("v_mfma_f32_16x16x32_bf16", 16, 32, BF16, BF16),
        plain("v_mfma_f32_32x32x16_bf16", 32, 16, BF16, BF16),
        plain("v_mfma_f32_16x16x32_f16", 16, 32, F16, F16),
        plain("v_mfma_f32_32x32x16_f16", 32, 16, F16, F16),
        plain("v_mfma_f32_16x16x16_bf16", 16, 16, BF16, BF16),
        plain("v_mfma_f32_32x32x8_bf16", 32, 8, BF16, BF16),
        plain("v_mfma_f32_16x16x16_f16", 16, 16, F16, F16),
        plain("v_mfma_f32_32x32x8_f16", 32, 8, F16, F16),
        plain("v_mfma_f32_16x16x4_f32", 16, 4, F32, F32),
        plain("v_mfma_f32_32x32x2_f32", 32, 2, F32, F32),
        plain("v_mfma_f32_16x16x32_fp8_fp8", 16, 32, FP8, FP8),
        plain("v_mfma_f32_16x16x32_fp8_bf8", 16, 32, FP8, BF8),
        plain("v_mfma_f32_32x32x16_bf8_fp8", 32, 16, BF8, FP8),
        plain("v_mfma_f32_32x32x16_bf8_bf8", 32, 16, BF8, BF8),
        plain("v_mfma_i32_16x16x32_i8", 16, 32, I8, I8),
        plain("v_mfma_i32_32x32x16_i8", 32, 16, I8, I8),
        plain("v_mfma_i32_16x16x64_i8", 16, 64, I8, I8),
        plain("v_mfma_i32_32x32x32_i8", 32, 32, I8, I8),
    ];
    for (shape, m, k) in [("16x16x128", 16, 128), ("32x32x64", 32, 64)] {
        for (ca, a) in CODES.into_iter().enumerate() {
            for (cb, b) in CODES.into_iter().enumerate() {
                let sel = (ca + cb) % 4;
                let with = |name: String, sel| Case {
                    name,
                    m,
                    k,
                    a,
                    b,
                    mixed: Some((ca, cb, sel)),
                    integer: false,
                };
                let sel = Some((sel, (sel + 1 + ca) % 4));
                v.push(with(format!("v_mfma_scale_f32_{shape}_f8f6f4"), sel));
                if ca == cb {
                    v.push(with(format!("v_mfma_f32_{shape}_f8f6f4"), None));
                }
            }
        }
    }
    v
}

/// Random operands; floats are kept finite, scales near one.
pub(super) fn draw(r: &mut Random, e: Elem) -> Data {
    let word = |r: &mut Random| match e.bits {
        32 => r.f32().to_bits(),
        16 => {
            // Exponents around one in either 16-bit format.
            let h = |r: &mut Random| {
                r.u32() & 0x81ff | if r.u32().is_multiple_of(2) { 0x3c00 } else { 0x3800 }
            };
            h(r) | h(r) << 16
        }
        8 => r.u32() & 0xbfbf_bfbf,
        _ => r.u32(),
    };
    (0..64)
        .map(|_| {
            std::array::from_fn(|k| match k {
                8 => (0..4).fold(0, |m, b| m | (120 + r.u32() % 15) << (8 * b)),
                _ => word(r),
            })
        })
        .collect()
}

#[test]
fn matrix_products() {
    let cases = cases();
    let bodies: Vec<String> = cases.iter().map(Case::body).collect();
    in_every_variant(&assemble(&bodies, super::VECTOR), |m| products(m, &cases));
}

fn products(m: &Machine, cases: &[Case]) -> Vec<u32> {
    let mut words = Vec::new();
    let mut r = Random(4242);
    for (n, case) in cases.iter().enumerate() {
        let (a, b) = (draw(&mut r, case.a), draw(&mut r, case.b));
        let c: Data = (0..64)
            .map(|_| {
                std::array::from_fn(|_| match case.integer {
                    true => r.u32() % 1000,
                    false => r.f32().to_bits(),
                })
            })
            .collect();
        let (da, db, dc) = (m.buffer(&a), m.buffer(&b), m.buffer(&c));
        let out = m.raw(4096);
        if let Err(f) = m.launch(&format!("k{n}"), 1, 64, &[da.base, db.base, dc.base, out.base]) {
            panic!("{}: {f}", case.text());
        }
        let got = read::<[u32; 16]>(&out);
        words.extend(got.as_flattened());
        for i in 0..case.m {
            for j in 0..case.m {
                let (lane, reg) = case.result(i, j);
                let bits = got[lane][reg];
                let start = c[lane][reg];
                let mut sum =
                    if case.integer { start as i32 as f64 } else { f32::from_bits(start).into() };
                let mut size = sum.abs();
                for k in 0..case.k {
                    let s = case.scale(&a, i, k, 0) * case.scale(&b, j, k, 1);
                    let p = case.at(&a, i, k, case.a) * case.at(&b, j, k, case.b) * s;
                    sum += p;
                    size += p.abs();
                }
                let value =
                    if case.integer { f64::from(bits as i32) } else { f32::from_bits(bits).into() };
                // Each of at most k + 2 roundings to single precision errs by 2^-24 of a partial
                // sum, which never exceeds the sum of magnitudes.
                let bound =
                    if case.integer { 0.0 } else { size * (case.k + 2) as f64 * 2f64.powi(-24) };
                assert!(
                    (value - sum).abs() <= bound,
                    "{} [{i}][{j}]: {value}, want {sum} ± {bound:e}",
                    case.text()
                );
            }
        }
    }
    words
}

/// A shape with four blocks, and double precision, on values whose layout shows.
#[test]
fn blocks_and_doubles() {
    let bodies = [
        // 16x16x4 in four blocks: block b, row i, k elements of lane 16·b + i.
        "v_mfma_f32_16x16x4_4b_f16 v[32:47], v[4:5], v[16:17], v[32:47]",
        "v_mfma_f64_16x16x4_f64 v[32:39], v[4:5], v[16:17], v[32:39]",
    ]
    .map(|op| {
        let case = cases().remove(0);
        let text = case.text();
        case.body().replace(&text, op)
    });
    in_every_variant(&assemble(&bodies, super::VECTOR), blocks_and_doubles_on);
}

fn blocks_and_doubles_on(m: &Machine) -> Vec<u32> {
    let a: Data = (0..64u32)
        .map(|l| {
            let mut x = [0; 16];
            // f16 1.0, 2.0, 4.0, 8.0 by lane mod 4.
            x[0] = 0x3c00 + ((l % 4) << 10);
            x
        })
        .collect();
    let zero: Data = vec![[0; 16]; 64];
    let (da, dz, out) = (m.buffer(&a), m.buffer(&zero), m.raw(4096));
    m.launch("k0", 1, 64, &[da.base, da.base, dz.base, out.base]).expect("runs");
    let got = read::<[u32; 16]>(&out);
    let mut words = got.as_flattened().to_vec();
    for b in 0..4 {
        for i in 0..16 {
            for j in 0..16 {
                let want = 2f32.powi((i % 4 + j % 4) as i32);
                let at = got[16 * (i / 4) + j][4 * b + i % 4];
                assert_eq!(f32::from_bits(at), want, "block {b} [{i}][{j}]");
            }
        }
    }
    let d: Data = (0..64)
        .map(|l| {
            let mut x = [0; 16];
            let v = f64::from(l as u32 + 1).to_bits();
            (x[0], x[1]) = (v as u32, (v >> 32) as u32);
            x
        })
        .collect();
    let dd = m.buffer(&d);
    m.launch("k1", 1, 64, &[dd.base, dd.base, dz.base, out.base]).expect("runs");
    let got = read::<[u32; 16]>(&out);
    words.extend(got.as_flattened());
    for i in 0..16usize {
        for j in 0..16usize {
            let want: f64 = (0..4).map(|k| ((16 * k + i + 1) * (16 * k + j + 1)) as f64).sum();
            let (lane, reg) = (16 * (i % 4) + j, 2 * (i / 4));
            let x = u64::from(got[lane][reg]) | u64::from(got[lane][reg + 1]) << 32;
            assert_eq!(f64::from_bits(x), want, "[{i}][{j}]");
        }
    }
    words
}
