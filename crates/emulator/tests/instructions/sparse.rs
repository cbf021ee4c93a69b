//! Sparse matrix instructions, broadcasts of the older dense ones, and the list of opcodes that
//! AMD's own kernels use.

use super::matrix::{BF8, BF16, Data, Elem, F16, FP8, I8, code, draw, load_and_store};
use super::{Random, assemble, in_every_variant};
use crate::harness::{Machine, read, strict};

struct Sparse {
    name: &'static str,
    m: usize,
    k: usize,
    a: Elem,
    b: Elem,
    abid: u32,
}

impl Sparse {
    fn text(&self) -> String {
        let c = 32 + self.m * self.m / 64 - 1;
        format!("v_smfmac_{} v[32:{c}], v[4:7], v[16:23], v12 abid:{}", self.name, self.abid)
    }

    /// A with its zeros, row by row, in the order of the published measurements: c counts the kept
    /// values of a row, element e of lane group g.
    fn row(&self, a: &Data, i: usize) -> Vec<f64> {
        let (groups, mut out) = (64 / self.m, vec![0.0; self.k]);
        for g in 0..groups {
            let lane = self.m * g + i;
            for e in 0..self.k / 2 / groups {
                let c = match (self.a.bits, self.m) {
                    (16, _) => 8 * g + e,
                    (_, 16) => e % 4 + 16 * (e / 4 % 2) + 4 * (e / 8) + 32 * (g / 2) + 8 * (g % 2),
                    _ => e % 4 + 8 * (e / 4 % 2) + 4 * (e / 8) + 16 * g,
                };
                let half = if self.a.bits == 16 { 16 * self.abid } else { 0 };
                let at = (a[lane][8] >> half >> (2 * e) & 3) as usize;
                out[c / 2 * 4 + at] += (self.a.value)(code(a, lane, e, self.a.bits));
            }
        }
        out
    }

    fn column(&self, b: &Data, j: usize) -> Vec<f64> {
        let (groups, mut out) = (64 / self.m, vec![0.0; self.k]);
        for g in 0..groups {
            for e in 0..self.k / groups {
                let k = 8 * groups * (e / 8) + 8 * g + e % 8;
                out[k] = (self.b.value)(code(b, self.m * g + j, e, self.b.bits));
            }
        }
        out
    }
}

#[test]
fn sparse_products() {
    let case = |name, m, k, a, b, abid| Sparse { name, m, k, a, b, abid };
    let cases = [
        case("f32_16x16x64_f16", 16, 64, F16, F16, 0),
        case("f32_16x16x64_bf16", 16, 64, BF16, BF16, 1),
        case("f32_32x32x32_f16", 32, 32, F16, F16, 1),
        case("f32_32x32x32_bf16", 32, 32, BF16, BF16, 0),
        case("f32_16x16x128_fp8_fp8", 16, 128, FP8, FP8, 0),
        case("f32_16x16x128_bf8_fp8", 16, 128, BF8, FP8, 0),
        case("f32_32x32x64_fp8_bf8", 32, 64, FP8, BF8, 0),
        case("f32_32x32x64_bf8_bf8", 32, 64, BF8, BF8, 0),
        case("i32_16x16x128_i8", 16, 128, I8, I8, 0),
        case("i32_32x32x64_i8", 32, 64, I8, I8, 0),
    ];
    let bodies: Vec<String> = cases.iter().map(|c| load_and_store(&c.text())).collect();
    let m = Machine::new(&assemble(&bodies, super::VECTOR), strict());
    let mut r = Random(77);
    for (n, c) in cases.iter().enumerate() {
        let (mut a, b) = (draw(&mut r, c.a), draw(&mut r, c.b));
        // Two different places of each four.
        for lane in &mut a {
            lane[8] = (0..8).fold(0, |x, q| {
                let first = r.u32() % 3;
                x | (first | (first + 1 + r.u32() % (3 - first)) << 2) << (4 * q)
            });
        }
        let start: Data = (0..64).map(|l| std::array::from_fn(|k| (l + k) as u32)).collect();
        let integer = c.name.starts_with("i32");
        let (da, db, dc, out) = (m.buffer(&a), m.buffer(&b), m.buffer(&start), m.raw(4096));
        m.launch(&format!("k{n}"), 1, 64, &[da.base, db.base, dc.base, out.base]).expect("runs");
        let got = read::<[u32; 16]>(&out);
        for i in 0..c.m {
            let row = c.row(&a, i);
            for j in 0..c.m {
                let (lane, reg) = match c.m {
                    16 => (16 * (i / 4) + j, i % 4),
                    _ => (32 * (i / 4 % 2) + j, 4 * (i / 8) + i % 4),
                };
                let value =
                    |x: u32| if integer { f64::from(x as i32) } else { f32::from_bits(x).into() };
                let mut want = value(start[lane][reg]);
                let mut size = want.abs();
                for (x, y) in row.iter().zip(c.column(&b, j)) {
                    want += x * y;
                    size += (x * y).abs();
                }
                // K/2 + 1 roundings of partial sums that never exceed the sum of magnitudes.
                let bound =
                    if integer { 0.0 } else { size * (c.k / 2 + 1) as f64 * 2f64.powi(-24) };
                let x = value(got[lane][reg]);
                assert!((x - want).abs() <= bound, "{} [{i}][{j}]: {x}, want {want}", c.text());
            }
        }
    }
}

/// `cbsz`, `abid`: blocks share one block's A. `blgp`: B's lanes move.
#[test]
fn broadcasts() {
    let op = "v_mfma_f32_4x4x1_16b_f32 v[32:35], v4, v16, v[32:35]";
    let plain = |cbsz: usize, abid: usize, blgp: usize| (cbsz, abid, blgp);
    let cases = [
        plain(0, 0, 0),
        plain(2, 3, 0),
        plain(4, 9, 0),
        plain(0, 0, 1),
        plain(0, 0, 2),
        plain(0, 0, 3),
        plain(0, 0, 4),
        plain(0, 0, 6),
        plain(1, 1, 7),
    ];
    let bodies: Vec<String> = cases
        .iter()
        .map(|(c, a, b)| load_and_store(&format!("{op} cbsz:{c} abid:{a} blgp:{b}")))
        .collect();
    in_every_variant(&assemble(&bodies, super::VECTOR), |m| broadcast(m, &cases));
}

/// cbsz, abid, blgp.
type Modifiers = (usize, usize, usize);

fn broadcast(m: &Machine, cases: &[Modifiers]) -> Vec<u32> {
    let mut words = Vec::new();
    let values = |f: fn(usize) -> f32| -> Data {
        (0..64).map(|l| std::array::from_fn(|k| if k == 0 { f(l).to_bits() } else { 0 })).collect()
    };
    let (a, b) = (values(|l| (l + 1) as f32), values(|l| (3 * l + 2) as f32));
    let (da, db, dz) = (m.buffer(&a), m.buffer(&b), m.buffer(&vec![[0u32; 16]; 64]));
    let out = m.raw(4096);
    for (n, &(cbsz, abid, blgp)) in cases.iter().enumerate() {
        m.launch(&format!("k{n}"), 1, 64, &[da.base, db.base, dz.base, out.base]).expect("runs");
        let got = read::<[u32; 16]>(&out);
        words.extend(got.as_flattened());
        for lane in 0..64usize {
            let block = lane / 4;
            let from = (block & !((1 << cbsz) - 1)) + abid;
            let l = match blgp {
                0 => lane,
                1 => lane & 31,
                2 => lane | 32,
                3 => (lane + 16) & 63,
                n => 16 * (n - 4) + (lane & 15),
            };
            for i in 0..4 {
                let want = (4 * from + i + 1) as f32 * (3 * l + 2) as f32;
                assert_eq!(f32::from_bits(got[lane][i]), want, "{cbsz} {abid} {blgp}: {lane} {i}");
            }
        }
    }
    words
}

/// Every opcode that representative kernels, ours and AMD's, were found to use is accepted.
#[test]
fn listed_opcodes_load() {
    let lines: Vec<&str> = include_str!("../kernels/listed.s").lines().collect();
    assert!(lines.len() > 280);
    let body = format!(".Lx:\n{}\n", lines.join("\n"));
    Machine::new(&assemble(&[body], super::VECTOR), strict());
}
