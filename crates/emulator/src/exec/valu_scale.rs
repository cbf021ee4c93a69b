//! `v_cvt_scalef32_*`: conversions of the MX formats with a scale.
//!
//! The scale operand is an f32 of which only the exponent counts: 2^(E − 127). Decoding multiplies
//! by it, encoding divides by it. One generic routine covers the family; its shape is parsed from
//! the name: `[sr_]{pk,pk32,2xpk16}_<to>_<from>` or `[sr_]<to>_<from>`.

use super::map::{Ty, vdst};
use super::valu_cvt::{lanes, named, noise};
use crate::env::Env;
use crate::formats::{Format, pack, pow2, unpack};
use crate::inst::{Exec, ExecFn, Inst, Operand};
use crate::wave::Wave;

/// What a name of the family says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    to: Format,
    from: Format,
    /// Elements per lane.
    pub(crate) count: usize,
    /// Stochastic rounding.
    pub(crate) sr: bool,
    /// Two sources of 16 floats each.
    two: bool,
}

/// Parses a mnemonic after `v_cvt_scalef32_`.
pub(crate) fn parse(name: &str) -> Option<Shape> {
    let name = name.strip_prefix("v_cvt_scalef32_")?;
    let (sr, name) = name.strip_prefix("sr_").map_or((false, name), |n| (true, n));
    let (count, name) = [("pk32_", 32), ("2xpk16_", 32), ("pk_", 2)]
        .iter()
        .find_map(|(p, n)| name.strip_prefix(p).map(|rest| (*n, rest)))
        .unwrap_or((1, name));
    let two = count == 32 && name.ends_with("f32") && !name.starts_with("f32") && !sr;
    let (to, from) = name.split_once('_')?;
    Some(Shape { to: named(to)?, from: named(from)?, count, sr, two })
}

/// Code for the family.
pub(crate) const CODE: Exec = [run as ExecFn; 3];

unsafe fn run(w: &mut Wave, i: &Inst, env: &mut Env) {
    let Some(shape) = parse(env.name(i)) else { return };
    match shape.count {
        32 => wide(w, i, shape),
        _ => narrow(w, i, shape),
    }
}

fn factor(scale: u32) -> f64 {
    match scale >> 23 & 0xff {
        0xff => f64::NAN,
        e => pow2(e as i32 - 127),
    }
}

fn small(f: Format) -> bool {
    f.bits() <= 8
}

/// One or two elements: the small side is one byte (FP4 pair), half (FP8 pair) or byte (one FP8).
fn narrow(w: &mut Wave, i: &Inst, s: Shape) {
    let raw = Inst { modified: i.mods.abs | i.mods.neg != 0, ..*i };
    let sel = u32::from(i.mods.op_sel);
    let exec = w.exec();
    let small_bits = if small(s.to) { s.to.bits() } else { s.from.bits() };
    let part = small_bits * s.count as u32;
    if small(s.to) {
        // Sources: one or two f32, or one packed pair; then noise if stochastic; then the scale.
        let pair = s.count == 2 && s.from.bits() == 32 && !s.sr;
        let a = lanes(w, &raw, 0, if s.from.bits() == 32 { Ty::F32 } else { Ty::Int });
        let a_hi = high(w, i, 0);
        let b = if pair { lanes(w, &raw, 1, Ty::F32) } else { a_hi };
        let scale = lanes(w, &Inst { modified: false, ..*i }, usize::from(i.nsrc) - 1, Ty::Int);
        let rnd =
            if s.sr { lanes(w, &Inst { modified: false, ..*i }, 1, Ty::Int) } else { [0; 64] };
        // A byte is picked by op_sel bits 2 and 3, a half by bit 3.
        let shift = if part == 16 { 16 * (sel >> 3 & 1) } else { 8 * (sel >> 2 & 3) };
        let d = vdst(i.dst);
        for l in (0..64).filter(|l| exec >> l & 1 == 1) {
            let value = |k: usize| match (s.from.bits(), k) {
                (32, 0) => f64::from(f32::from_bits(a[l])),
                (32, _) => f64::from(f32::from_bits(b[l])),
                (_, k) => f64::from(s.from.decode(a[l] >> (16 * k))),
            };
            let mut out = 0;
            for k in 0..s.count {
                let x = value(k) / factor(scale[l]);
                let code = match s.sr {
                    true => s.to.encode_stochastic(x, noise(rnd[l]), true),
                    false => s.to.encode(x, saturate(w, s.to)),
                };
                out |= code << (k as u32 * s.to.bits());
            }
            let mask = (!0u32 >> (32 - part)) << shift;
            let old = w.v[d].0[l];
            w.v[d].0[l] = (old & !mask) | out << shift;
        }
    } else {
        let a = lanes(w, &Inst { modified: false, ..*i }, 0, Ty::Int);
        let scale = lanes(w, &Inst { modified: false, ..*i }, 1, Ty::Int);
        // A source byte is op_sel[0] + 2·op_sel[1]; a source half is op_sel[0].
        let shift = if part == 16 { 16 * (sel & 1) } else { 8 * (sel & 3) };
        let d = vdst(i.dst);
        for l in (0..64).filter(|l| exec >> l & 1 == 1) {
            let value = |k: usize| {
                let code = a[l] >> (shift + k as u32 * s.from.bits());
                f64::from(s.from.decode(code)) * factor(scale[l])
            };
            for k in 0..s.count {
                let code = encode(s.to, value(k));
                match (s.to.bits(), s.count) {
                    (32, _) => w.v[d + k].0[l] = code,
                    (_, 1) => {
                        let hi = 16 * (sel >> 3 & 1);
                        w.v[d].0[l] = (w.v[d].0[l] & !(0xffff << hi)) | code << hi;
                    }
                    (_, _) => {
                        let keep = w.v[d].0[l] & !(0xffffu32 << (16 * k));
                        w.v[d].0[l] = keep | code << (16 * k);
                    }
                }
            }
        }
    }
}

/// Formats without infinity saturate; FP8 and BF8 follow MODE.FP16_OVFL.
fn saturate(w: &Wave, f: Format) -> bool {
    f.bits() < 8 || w.mode >> 23 & 1 == 1
}

fn encode(f: Format, x: f64) -> u32 {
    if f.bits() == 32 { (x as f32).to_bits() } else { f.encode(x, false) }
}

fn high(w: &Wave, i: &Inst, k: usize) -> [u32; 64] {
    match i.src[k] {
        Operand::V { r, n } if n > 1 => w.v[usize::from(r) + 1].0,
        _ => [0; 64],
    }
}

/// 32 elements per lane in consecutive registers.
fn wide(w: &mut Wave, i: &Inst, s: Shape) {
    let regs = |k: usize| match i.src[k] {
        Operand::V { r, n } => usize::from(r)..usize::from(r) + usize::from(n),
        _ => 0..0,
    };
    let last = usize::from(i.nsrc) - 1;
    let scale = lanes(w, &Inst { modified: false, ..*i }, last, Ty::Int);
    let rnd = lanes(w, &Inst { modified: false, ..*i }, 1, Ty::Int);
    let exec = w.exec();
    for l in (0..64).filter(|l| exec >> l & 1 == 1) {
        let mut words: Vec<u32> = regs(0).map(|r| w.v[r].0[l]).collect();
        if s.two {
            words.extend(regs(1).map(|r| w.v[r].0[l]));
        }
        let mut out = vec![0u32; s.to.bits() as usize];
        for k in 0..32 {
            let code = match s.from.bits() {
                32 => words.get(k).copied().unwrap_or(0),
                16 => words.get(k / 2).copied().unwrap_or(0) >> (16 * (k % 2)),
                bits => unpack(&words, bits, k),
            };
            let x = f64::from(s.from.decode(code));
            let f = factor(scale[l]);
            let code = match (small(s.to), s.sr) {
                (true, true) => s.to.encode_stochastic(x / f, noise(rnd[l]), true),
                (true, false) => s.to.encode(x / f, saturate(w, s.to)),
                (false, _) => encode(s.to, x * f),
            };
            match s.to.bits() {
                32 => out[k] = code,
                bits => pack(&mut out, bits, k, code),
            }
        }
        for (r, x) in out.iter().enumerate() {
            w.v[vdst(i.dst) + r].0[l] = *x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let s = parse("v_cvt_scalef32_2xpk16_fp6_f32").unwrap();
        assert!(s.two && s.count == 32 && !s.sr && s.to.bits() == 6);
        let s = parse("v_cvt_scalef32_sr_pk_fp4_bf16").unwrap();
        assert!(s.sr && s.count == 2 && s.from.man == 7);
        assert!(parse("v_cvt_scalef32_pk32_f32_fp6").is_some_and(|s| !s.two));
        assert!(parse("v_cvt_scalef32_bogus_f32").is_none());
    }
}
