//! Speed of the interpreter on one thread, with checks off and on: wave-instructions a second, time
//! of a matrix instruction, whole kernels, launches, loading. Times are of the processor, so that
//! they mean the same on a busy machine.

#[path = "../tests/harness/mod.rs"]
mod harness;

use emulator::config::Config;
use harness::{Machine, compile, compile_source, strict};

/// A kernel that runs `body` `count` times in a loop, 32 copies each.
fn kernel(name: &str, body: &str) -> String {
    let copies = format!("{body}\n").repeat(32);
    format!(
        ".text\n.globl {name}\n.p2align 8\n.type {name},@function\n{name}:\n\
         s_load_dword s4, s[0:1], 0x0\n{}s_waitcnt lgkmcnt(0)\n.L{name}:\n{copies}\
         s_sub_u32 s4, s4, 1\ns_cmp_lg_u32 s4, 0\ns_cbranch_scc1 .L{name}\ns_endpgm\n.Lend{name}:\n\
         .size {name}, .Lend{name}-{name}\n.rodata\n.p2align 6\n.amdhsa_kernel {name}\n\
         .amdhsa_user_sgpr_kernarg_segment_ptr 1\n.amdhsa_kernarg_size 8\n\
         .amdhsa_next_free_vgpr 128\n.amdhsa_next_free_sgpr 32\n.amdhsa_accum_offset 128\n\
         .amdhsa_float_denorm_mode_32 3\n.end_amdhsa_kernel\n",
        (1..64).map(|r| format!("v_mov_b32 v{r}, 1.0\n")).collect::<String>()
    )
}

const CASES: [(&str, &str); 8] = [
    ("v_fma_f32", "v_fma_f32 v10, v1, v2, v3"),
    ("v_add_u32", "v_add_u32 v10, v1, v2"),
    ("v_mul_f32_scalar", "v_mul_f32 v10, s4, v2"),
    ("v_pk_fma_f32", "v_pk_fma_f32 v[10:11], v[2:3], v[4:5], v[6:7]"),
    ("v_exp_f32", "v_exp_f32 v10, v1"),
    ("mfma_16x16x32_bf16", "v_mfma_f32_16x16x32_bf16 v[20:23], v[4:7], v[8:11], v[20:23]"),
    (
        "mfma_16x16x128_fp4",
        "v_mfma_scale_f32_16x16x128_f8f6f4 v[20:23], v[4:7], v[8:11], v[20:23], v12, v13 \
         op_sel_hi:[0,0,0] cbsz:4 blgp:4",
    ),
    (
        "mfma_16x16x128_fp8",
        "v_mfma_scale_f32_16x16x128_f8f6f4 v[20:23], v[32:39], v[40:47], v[20:23], v12, v13 \
         op_sel_hi:[0,0,0]",
    ),
];

/// Processor seconds of this process and of the children it has waited for.
fn seconds() -> f64 {
    let of = |who| {
        // SAFETY: all zeros is a value of this plain structure, and `getrusage` only writes to it.
        let u = unsafe {
            let mut u: libc::rusage = std::mem::zeroed();
            libc::getrusage(who, &mut u);
            u
        };
        let t = |t: libc::timeval| t.tv_sec as f64 + 1e-6 * t.tv_usec as f64;
        t(u.ru_utime) + t(u.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}

fn config(checks: bool) -> Config {
    Config { strict: checks, late: checks, threads: 1, simd: Config::from_env().simd, ..strict() }
}

fn main() {
    println!("{} variant (EMU_SIMD)", config(true).simd);
    let only = std::env::args().nth(1).unwrap_or_default();
    if only != "kernels" {
        instructions();
    }
    kernels();
}

fn instructions() {
    let mut text = String::from(".amdgcn_target \"amdgcn-amd-amdhsa--gfx950\"\n");
    let mut meta = String::new();
    for (name, body) in CASES {
        text += &kernel(name, body);
        meta += &format!(
            "  - .name: {name}\n    .symbol: {name}.kd\n    .kernarg_segment_size: 8\n    \
             .group_segment_fixed_size: 0\n    .private_segment_fixed_size: 0\n    \
             .kernarg_segment_align: 8\n    .wavefront_size: 64\n    .sgpr_count: 32\n    \
             .vgpr_count: 128\n    .max_flat_workgroup_size: 256\n    .args:\n      - .offset: 0\n\
             \u{20}       .size: 4\n        .value_kind: by_value\n"
        );
    }
    text += &format!(
        ".amdgpu_metadata\namdhsa.version: [1, 2]\namdhsa.kernels:\n{meta}.end_amdgpu_metadata\n"
    );
    let image = compile_source(&text, "bench.s");
    println!("{:<22} {:>14} {:>14} {:>14} {:>14}", "", "off: M/s", "off: ns", "on: M/s", "on: ns");
    for (name, _) in CASES {
        let mut row = format!("{name:<22}");
        for checks in [false, true] {
            let m = Machine::new(&image, config(checks));
            let loops = if name.starts_with("mfma") { 2_000u64 } else { 20_000 };
            let start = seconds();
            m.launch(name, 1, 64, &[loops]).expect("bench kernel runs");
            let each = (seconds() - start) / (32 * loops) as f64;
            row += &format!(" {:>14.1} {:>14.1}", 1e-6 / each, 1e9 * each);
        }
        println!("{row}");
    }
}

/// Whole kernels: launches as the tests of a server make them.
fn kernels() {
    let image = compile("speed.hip");
    let start = seconds();
    Machine::new(&image, config(true));
    println!("\nload of a small module: {:.1} ms", 1e3 * (seconds() - start));
    for checks in [false, true] {
        let m = Machine::new(&image, config(checks));
        let time = |name: &str, unit: f64, what: &str, run: &dyn Fn()| {
            run();
            let (start, mut n) = (seconds(), 0);
            while (seconds() - start) < 0.5 {
                run();
                n += 1;
            }
            let each = (seconds() - start) / f64::from(n);
            let on = if checks { "on" } else { "off" };
            println!(
                "{name:<8} checks {on:<3} {:>9.1} µs   {:>8.2} {what}",
                1e6 * each,
                unit / each
            );
        };
        let (rows, k) = (64u64, 512u64);
        let (a, b) = (m.buffer(&vec![0x3f80u16; 64 * 512]), m.buffer(&vec![0x3f80u16; 64 * 512]));
        let c = m.raw(4 * 64 * 64);
        time("tiles", 1e-6 * (rows * rows * k) as f64, "M multiply-adds/s", &|| {
            m.launch("tiles", 4, 256, &[a.base, b.base, c.base, k, rows]).expect("runs");
        });
        let x = m.buffer(&vec![1f32; 16 * 4096]);
        let y = m.raw(4 * 16 * 4096);
        time("norm", 1e-6 * 12.0 * 16.0 * 4096.0, "MB/s moved", &|| {
            m.launch("norm", 16, 256, &[x.base, y.base, 4096]).expect("runs");
        });
        time("tiny", 1e-3, "k launches/s", &|| {
            m.launch("tiny", 1, 64, &[c.base]).expect("runs");
        });
    }
}
