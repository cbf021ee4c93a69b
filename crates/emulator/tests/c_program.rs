//! The C symbols, through a program that gcc compiles and that opens the libraries by name.

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;

use emulator::simd::Simd;

/// Lays out the libraries as `moonrock-emu-report --install` does, from this test's own build.
fn install() -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its path");
    let built = exe.with_file_name("libemulator.so");
    let dir = harness::tempdir();
    std::fs::copy(&built, dir.join("libamdhip64.so")).expect("the library was built");
    std::os::unix::fs::symlink("libamdhip64.so", dir.join("librccl.so")).expect("a fresh name");
    dir
}

fn build(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/program.c");
    let program = dir.join("program");
    let out = Command::new("gcc")
        .args(["-Wall", "-Werror", "-O1", "-o"])
        .arg(&program)
        .arg(&source)
        .args(["-ldl", "-lpthread"])
        .output()
        .expect("gcc runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    program
}

#[test]
fn c_program() {
    let dir = install();
    let program = build(&dir);
    let module = dir.join("basic.co");
    std::fs::write(&module, harness::compile("basic.hip")).unwrap();
    for env in [
        vec![],
        vec![("EMU_CHECK", "off")],
        vec![("EMU_SEED", "5"), ("EMU_QUANTUM", "random")],
        vec![("EMU_LATE", "0"), ("EMU_COUNTERS", "counters.jsonl")],
    ] {
        let mut c = Command::new(&program);
        c.arg(&dir).arg(&module).current_dir(&dir).env("EMU_HANG_SECONDS", "60");
        let out = c.envs(env.iter().copied()).output().unwrap();
        let (text, err) =
            (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{env:?}\n{text}{err}");
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "vector add",
                "pipeline",
                "graph",
                "values",
                "built graph",
                "all-reduce",
                "attributes",
                "wrong use",
                "done"
            ]
        );
        let dot = std::fs::read_to_string(dir.join("graph.dot")).unwrap();
        assert!(dot.contains("0: vadd") && dot.contains("n4 -> n0;"), "{dot}");
        // Every refused call has said why.
        assert!(err.contains("hipFree") && err.contains("gfx950"), "{err}");
    }
    let report = Command::new(env!("CARGO_BIN_EXE_moonrock-emu-report"))
        .arg(dir.join("counters.jsonl"))
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&report.stdout).into_owned();
    let row = table.lines().find(|l| l.starts_with("vadd")).expect("vadd was counted");
    let cells: Vec<&str> = row.split_whitespace().collect();
    // Each launch of 1000 elements moves 12 bytes for each.
    let (launches, moved): (u64, u64) = (cells[1].parse().unwrap(), cells[3].parse().unwrap());
    assert_eq!(moved, launches * 12_000);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Errors that stay: each in a process of its own, with the line that explains it.
#[test]
fn scenarios() {
    let dir = install();
    let program = build(&dir);
    let module = dir.join("basic.co");
    std::fs::write(&module, harness::compile("basic.hip")).unwrap();
    for (name, says) in [
        ("missing_event", "no event or synchronisation between"),
        ("out_of_bounds", "outside the nearest allocation"),
        ("absent_rank", "waited 2 s (EMU_HANG_SECONDS) for rank(s) 1"),
        ("disagreeing_ranks", "ranks disagree"),
        ("captured_collective", ""),
        // Reader and writer run in either order.
        ("forgotten_reader", "by vadd of another stream, with no event"),
        ("all_readers", ""),
        ("unordered_collective", "of another stream"),
        ("ordered_collective", ""),
        ("unordered_pinned", "of another stream"),
        ("ordered_pinned", ""),
        ("absent_value", "waited 2 s (EMU_HANG_SECONDS) for the word"),
    ] {
        let mut c = Command::new(&program);
        c.arg(&dir).arg(&module).arg(name);
        // The others wait as long as a busy machine needs.
        if name.starts_with("absent") {
            c.env("EMU_HANG_SECONDS", "2");
        }
        let out = c.output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{name}: {err}");
        assert!(err.contains(says), "{name}: {err}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A kernel with an instruction this machine does not have is refused, by name; a file cut anywhere
/// is an error.
#[test]
fn refusals() {
    let source = "
        .amdgcn_target \"amdgcn-amd-amdhsa--gfx950\"
        .text
        .globl k
        .p2align 8
        .type k,@function
        k: v_mqsad_u32_u8 v[0:3], v[4:5], v6, v[8:11]
        s_endpgm
        .Lend:
        .size k, .Lend-k
        .rodata
        .p2align 6
        .amdhsa_kernel k
        .amdhsa_next_free_vgpr 16
        .amdhsa_next_free_sgpr 8
        .amdhsa_accum_offset 16
        .end_amdhsa_kernel";
    let image = harness::compile_source(source, "unknown.s");
    let memory = std::sync::Arc::new(emulator::memory::Memory::new(1 << 30, true));
    let load = |image: &[u8], simd| match emulator::loader::load(&memory, 0, image, simd) {
        Ok(_) => String::new(),
        Err(e) => e.to_string(),
    };
    let e = load(&image, Simd::best());
    assert!(e.contains("v_mqsad_u32_u8") && e.contains("unknown opcode"), "{e}");
    for cut in [10, 63, 200, image.len() / 2, image.len() - 40] {
        assert!(!load(&image[..cut], Simd::best()).is_empty(), "cut at {cut}");
    }
    for (simd, missing) in Simd::ALL.map(|s| (s, s.missing())) {
        let refused = format!("EMU_SIMD={simd}: this processor lacks {}", missing.join(", "));
        assert_eq!(load(&image, simd) == refused, !missing.is_empty(), "{simd}");
    }
}
