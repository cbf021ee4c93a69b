//! Every instruction against an independent scalar model, over edge values and random ones.

#[path = "../harness/mod.rs"]
mod harness;

mod convert;
mod float;
mod integer;
mod lane;
mod matrix;
mod memory;
mod scalar;
mod sparse;

use std::io::Write;

use emulator::config::Config;
use emulator::simd::Simd;
use harness::{Machine, Random, compile_source, read, strict};

/// One lane's operand or result.
pub(crate) type Quad = [u32; 4];
/// A wave's.
pub(crate) type Wave = [Quad; 64];

/// How the expected result is computed.
pub(crate) enum Model {
    /// Lane by lane from a, b, c.
    Lane(fn(Quad, Quad, Quad) -> Quad),
    /// From the whole wave.
    Wave(fn(&Wave, &Wave, &Wave) -> Wave),
}

/// How a result is compared.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Compare {
    Bits,
    /// NaNs are equal.
    F32,
    F64,
    /// NaNs are equal, else within this many units of the last place.
    Ulp(u32),
    /// As f16 in the low half.
    F16,
}

/// A test: assembly with a in v[4:7], b in v[8:11], c in v[12:15], result in v[16:19] (zero at
/// first), and the model.
pub(crate) struct Case {
    pub(crate) asm: String,
    pub(crate) model: Model,
    pub(crate) compare: Compare,
}

pub(crate) fn lane(asm: &str, model: fn(Quad, Quad, Quad) -> Quad) -> Case {
    Case { asm: asm.into(), model: Model::Lane(model), compare: Compare::Bits }
}

pub(crate) fn float(asm: &str, model: fn(Quad, Quad, Quad) -> Quad) -> Case {
    Case { compare: Compare::F32, ..lane(asm, model) }
}

pub(crate) fn wave(asm: &str, model: fn(&Wave, &Wave, &Wave) -> Wave) -> Case {
    Case { asm: asm.into(), model: Model::Wave(model), compare: Compare::Bits }
}

/// A result of one dword.
pub(crate) fn one(x: u32) -> Quad {
    [x, 0, 0, 0]
}

pub(crate) fn two(x: u64) -> Quad {
    [x as u32, (x >> 32) as u32, 0, 0]
}

pub(crate) fn wide(x: Quad) -> u64 {
    u64::from(x[0]) | u64::from(x[1]) << 32
}

/// Kernels around the given bodies, with metadata.
pub(crate) fn assemble(bodies: &[String], registers: &str) -> Vec<u8> {
    let mut text = String::from(".amdgcn_target \"amdgcn-amd-amdhsa--gfx950\"\n");
    let mut meta = String::new();
    for (n, body) in bodies.iter().enumerate() {
        text += &format!(
            ".text\n.globl k{n}\n.p2align 8\n.type k{n},@function\nk{n}:\n{body}\n\
             s_endpgm\n.Lend{n}:\n.size k{n}, .Lend{n}-k{n}\n.rodata\n.p2align 6\n\
             .amdhsa_kernel k{n}\n.amdhsa_user_sgpr_kernarg_segment_ptr 1\n\
             .amdhsa_system_sgpr_workgroup_id_x 1\n.amdhsa_kernarg_size 32\n\
             .amdhsa_group_segment_fixed_size 65536\n.amdhsa_private_segment_fixed_size 64\n\
             {registers}\n.end_amdhsa_kernel\n"
        );
        meta += &format!(
            "  - .name: k{n}\n    .symbol: k{n}.kd\n    .kernarg_segment_size: 32\n    \
             .group_segment_fixed_size: 65536\n    .private_segment_fixed_size: 64\n    \
             .kernarg_segment_align: 8\n    .wavefront_size: 64\n    .sgpr_count: 96\n    \
             .vgpr_count: 256\n    .max_flat_workgroup_size: 256\n    .args:\n"
        );
        for k in 0..4 {
            meta += &format!(
                "      - .offset: {}\n        .size: 8\n        .value_kind: global_buffer\n",
                8 * k
            );
        }
    }
    text += &format!(
        ".amdgpu_metadata\namdhsa.version: [1, 2]\namdhsa.kernels:\n{meta}.end_amdgpu_metadata\n"
    );
    compile_source(&text, "cases.s")
}

/// Register declarations of the vector tests.
pub(crate) const VECTOR: &str = ".amdhsa_next_free_vgpr 512\n.amdhsa_next_free_sgpr 96\n\
                                 .amdhsa_accum_offset 256\n.amdhsa_float_denorm_mode_32 3";

fn body(asm: &str) -> String {
    format!(
        "s_load_dwordx8 s[4:11], s[0:1], 0x0\nv_lshlrev_b32 v0, 4, v0\ns_waitcnt lgkmcnt(0)\n\
         global_load_dwordx4 v[4:7], v0, s[4:5]\nglobal_load_dwordx4 v[8:11], v0, s[6:7]\n\
         global_load_dwordx4 v[12:15], v0, s[8:9]\nv_mov_b32 v16, 0\nv_mov_b32 v17, 0\n\
         v_mov_b32 v18, 0\nv_mov_b32 v19, 0\ns_waitcnt vmcnt(0)\n{asm}\n\
         s_waitcnt vmcnt(0) lgkmcnt(0)\ns_nop 7\n\
         global_store_dwordx4 v0, v[16:19], s[10:11]"
    )
}

/// Numbers at which arithmetic goes wrong: integers, singles, pairs of halves.
const EDGES: [u32; 28] = [
    0,
    1,
    2,
    31,
    32,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    !0,
    !1,
    0x3f80_0000,
    0xbf80_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x0000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x7f7f_ffff,
    0x4b00_0001,
    0x3c00_7c00,
    0xfbff_0001,
    0x4f00_0000,
    0x3eff_ffff,
];

/// Operands: edge values, plain numbers, random bits.
pub(crate) fn operands(r: &mut Random) -> Wave {
    std::array::from_fn(|_| {
        std::array::from_fn(|_| match r.u32() % 4 {
            0 | 1 => EDGES[(r.u32() % 28) as usize],
            2 => (r.f32() * 300.0).to_bits(),
            _ => r.u32(),
        })
    })
}

fn equal(c: Compare, got: Quad, want: Quad) -> bool {
    let f = f32::from_bits;
    match c {
        Compare::Bits => got == want,
        Compare::F32 => {
            got.iter().zip(&want).all(|(a, b)| a == b || f(*a).is_nan() && f(*b).is_nan())
        }
        Compare::F64 => {
            let (a, b) = (f64::from_bits(wide(got)), f64::from_bits(wide(want)));
            wide(got) == wide(want) || a.is_nan() && b.is_nan()
        }
        Compare::Ulp(n) => {
            let (a, b) = (f(got[0]), f(want[0]));
            let near = a == b || got[0].abs_diff(want[0]) <= n;
            near || a.is_nan() && b.is_nan()
        }
        Compare::F16 => {
            let nan = |x: u32| x & 0x7fff > 0x7c00;
            got == want || nan(got[0]) && nan(want[0])
        }
    }
}

/// The result with every NaN replaced by one: which operand's payload survives is the processor's
/// and the compiler's choice, so variants differ in it.
fn one_nan(c: Compare, x: Quad) -> Quad {
    let single = |x| if f32::from_bits(x).is_nan() { f32::NAN.to_bits() } else { x };
    match c {
        Compare::Bits => x,
        Compare::F32 | Compare::Ulp(_) => x.map(single),
        Compare::F64 if f64::from_bits(wide(x)).is_nan() => two(f64::NAN.to_bits()),
        Compare::F64 => x,
        Compare::F16 if x[0] & 0x7fff > 0x7c00 => one(0x7e00),
        Compare::F16 => x,
    }
}

/// Runs a test in every variant of the loops over lanes that this processor has. The test returns
/// all result words: they are the same in every variant.
pub(crate) fn in_every_variant(image: &[u8], test: impl Fn(&Machine) -> Vec<u32>) {
    let mut first: Option<Vec<u32>> = None;
    for simd in Simd::ALL.into_iter().filter(|s| s.missing().is_empty()) {
        let words = test(&Machine::new(image, Config { simd, ..strict() }));
        let first = first.get_or_insert_with(|| words.clone());
        let differs = first.iter().zip(&words).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the first word that {simd} computes otherwise");
        assert!(!words.is_empty() && first.len() == words.len());
    }
}

/// Says, past the capture of test output, which variants the tests of this file cover.
#[test]
fn variants() {
    for simd in Simd::ALL {
        let missing = simd.missing();
        let says = match &missing[..] {
            [] => "tested".to_owned(),
            lacks => format!("SKIPPED: this processor lacks {}", lacks.join(", ")),
        };
        writeln!(std::io::stderr(), "instructions, {simd} variant: {says}").unwrap();
    }
}

/// Runs the cases with several draws of operands.
pub(crate) fn check(cases: &[Case]) {
    let bodies: Vec<String> = cases.iter().map(|c| body(&c.asm)).collect();
    in_every_variant(&assemble(&bodies, VECTOR), |m| run(m, cases));
}

fn run(m: &Machine, cases: &[Case]) -> Vec<u32> {
    let mut words = Vec::new();
    let mut r = Random(0x1234_5678_9abc_def1);
    for _ in 0..6 {
        let (a, b, c) = (operands(&mut r), operands(&mut r), operands(&mut r));
        let (da, db, dc) = (m.buffer(&a), m.buffer(&b), m.buffer(&c));
        for (n, case) in cases.iter().enumerate() {
            let out = m.raw(1024);
            let name = format!("k{n}");
            if let Err(f) = m.launch(&name, 1, 64, &[da.base, db.base, dc.base, out.base]) {
                panic!("{}: {f}", case.asm);
            }
            let got = read::<Quad>(&out);
            words.extend(got.iter().flat_map(|q| one_nan(case.compare, *q)));
            let want: Wave = match case.model {
                Model::Lane(f) => std::array::from_fn(|l| f(a[l], b[l], c[l])),
                Model::Wave(f) => f(&a, &b, &c),
            };
            for l in 0..64 {
                assert!(
                    equal(case.compare, got[l], want[l]),
                    "{}: lane {l}: a {:x?} b {:x?} c {:x?}: got {:x?}, want {:x?}",
                    case.asm,
                    a[l],
                    b[l],
                    c[l],
                    got[l],
                    want[l]
                );
            }
        }
    }
    words
}

/// Every opcode of the execution tables occurs in some test.
#[test]
fn every_opcode_has_a_test() {
    let mut tested = std::collections::HashSet::new();
    let cases = [integer::cases(), float::cases(), convert::cases(), lane::cases()];
    let mut lines: Vec<String> = cases.into_iter().flatten().map(|c| c.asm).collect();
    lines.extend(scalar::sources());
    for line in &lines {
        for l in line.lines() {
            let word = l.split_whitespace().next().unwrap_or("");
            let stem = ["_e32", "_e64", "_dpp", "_sdwa"].iter().find_map(|s| word.strip_suffix(s));
            tested.insert(stem.unwrap_or(word).to_owned());
        }
    }
    // Executed around every test, or without an effect to test.
    let implied = [
        "v_nop",
        "s_nop",
        "s_endpgm",
        "s_waitcnt",
        "s_barrier",
        "s_sethalt",
        "s_icache_inv",
        "s_dcache_inv",
        "s_dcache_wb",
        "s_incperflevel",
        "s_decperflevel",
        "s_ttracedata",
        "s_sendmsg",
        "s_code_end",
        "s_trap",
        "s_sleep",
        "s_setprio",
        "s_memtime",
        "s_memrealtime",
        // The division sequences as clang emits them, in tests/kernels.rs.
        "v_div_scale_f32",
        "v_div_fmas_f32",
        "v_div_fixup_f32",
        "v_div_scale_f64",
        "v_div_fmas_f64",
        "v_div_fixup_f64",
    ];
    let missing: Vec<_> = emulator::opcodes()
        .into_iter()
        .filter(|o| !tested.contains(*o) && !implied.contains(o))
        .collect();
    assert!(missing.is_empty(), "no test for {missing:?}");
}
