//! Devices, memory and streams as the backend uses them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use checkpoint::{Activations, Checkpoint, Config};
use hip::{AllReduce, Device, Gpu, Options, Platform, Runtime};
use model::{CacheFormat, Limits};

#[test]
fn memory_goes_there_and_back() {
    let gpu = device::gpu();
    let words: Vec<u32> = (0..1000).map(|i| i * 77).collect();
    let memory = gpu.upload(&words);
    assert_eq!(gpu.download::<u32>(&memory), words);
    gpu.stream.fill(&memory, 5).unwrap();
    assert_eq!(gpu.download::<u32>(&memory), vec![5; 1000]);
    let (free, total) = gpu.device.memory().unwrap();
    assert!(0 < free && free < total);
}

#[test]
fn what_is_missing_is_named() {
    let error = Runtime::open(Platform::Hip, Some("/nonexistent".as_ref())).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("libamdhip64.so.7") && text.contains("/nonexistent"), "{text}");
    let runtime = device::runtime();
    let count = runtime.devices().unwrap();
    let error = Device::open(&runtime, count).err().unwrap().to_string();
    assert!(error.contains(&format!("only {count}")), "{error}");
}

/// The emulator's runtime beside a `librocm-core` of a C function's body, or without one.
fn beside_rocm_core(body: Option<&str>) -> String {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let runtime = device::EMULATOR.join("libamdhip64.so.7");
    std::os::unix::fs::symlink(runtime, at("libamdhip64.so.7")).unwrap();
    if let Some(body) = body {
        let text =
            format!("int getROCmVersion(unsigned *a, unsigned *b, unsigned *c) {{ {body} }}");
        std::fs::write(at("core.c"), text).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).args([at("librocm-core.so.1"), at("core.c")]);
        assert!(compiler.status().unwrap().success());
    }
    let opened = Runtime::open(Platform::Hip, Some(directory.path()));
    opened.err().map_or_else(String::new, |error| error.to_string())
}

/// What the emulator says is 7.2.2.
#[test]
fn rocm_before_7_2_2_is_refused() {
    if device::platform() == Platform::Cuda {
        return;
    }
    let says = |numbers: [u32; 3]| {
        let [a, b, c] = numbers;
        beside_rocm_core(Some(&format!("*a = {a}; *b = {b}; *c = {c}; return 0;")))
    };
    let text = says([7, 2, 1]);
    assert!(text.contains("7.2.1") && text.contains("7.2.2 or newer"), "{text}");
    for old in [[7, 1, 9], [6, 4, 4]] {
        assert!(says(old).contains("7.2.2 or newer"), "{old:?}");
    }
    for new in [[7, 2, 2], [7, 3, 0], [8, 0, 0]] {
        assert_eq!(says(new), "", "{new:?}");
    }
    assert!(beside_rocm_core(Some("return 2;")).contains("code 2"));
    assert!(beside_rocm_core(Some("return 0; } int other(void) {")).contains("7.2.2 or newer"));
    assert!(beside_rocm_core(None).contains("librocm-core.so.1"));
}

/// Attention would be wrong without a word.
#[test]
fn heads_of_other_widths_are_refused() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let data = std::env::var_os("MOONROCK_TEST_DATA").map_or(here, PathBuf::from);
    let checkpoint = Checkpoint::open(&data.join("tests/data/tiny-k2/mxfp4")).unwrap();
    let limits =
        Limits { max_model_len: 64, max_num_batched_tokens: 64, block_size: 16, num_blocks: 8 };
    let options = Options {
        activations: Activations::Bf16,
        cache: CacheFormat::Native,
        max_num_seqs: 4,
        graphs: false,
        all_reduce: AllReduce::OneShot,
        watchdog: Duration::from_secs(60),
    };
    let device = Device::open(&device::runtime(), 0).unwrap();
    let known = checkpoint.config();
    let new = |config: &Config| Gpu::new(&device, None, config, &limits, options).err();
    assert!(new(known).is_none());
    for (name, config) in [
        ("qk_nope_head_dim", Config { qk_nope_head_dim: 64, ..known.clone() }),
        ("qk_rope_head_dim", Config { qk_rope_head_dim: 32, ..known.clone() }),
        ("v_head_dim", Config { v_head_dim: 192, ..known.clone() }),
        ("kv_lora_rank", Config { kv_lora_rank: 256, ..known.clone() }),
    ] {
        let error = new(&config).unwrap().to_string();
        assert!(error.contains(name) && error.contains("made for"), "{error}");
    }
}

#[test]
fn too_much_memory_is_refused_with_figures() {
    let gpu = device::gpu();
    let error = gpu.device.allocate(1 << 50).err().unwrap().to_string();
    assert!(error.contains("1125899906842624") && error.contains("free"), "{error}");
}

/// HIP spoils what others record when a graph is launched, also on another device.
#[test]
fn graphs_wait_for_those_who_record() {
    let (there, is_there) = channel();
    let (begin, begun) = channel();
    let other = std::thread::spawn(move || {
        let gpu = device::gpu();
        let memory = gpu.upload(&[0u32; 16]);
        gpu.stream.begin_capture().unwrap();
        gpu.stream.fill(&memory, 7).unwrap();
        let graph = gpu.stream.end_capture().unwrap();
        there.send(()).unwrap();
        begun.recv().unwrap();
        there.send(()).unwrap();
        // SAFETY: its memory is still there.
        unsafe { gpu.stream.run(&graph).unwrap() };
        assert_eq!(gpu.download::<u32>(&memory), [7; 16]);
    });
    is_there.recv().unwrap();
    let runtime = device::runtime();
    let gpu = device::gpu_of(&runtime, runtime.devices().unwrap() - 1);
    let memory = gpu.upload(&[0u32; 16]);
    gpu.stream.begin_capture().unwrap();
    begin.send(()).unwrap();
    is_there.recv().unwrap();
    std::thread::sleep(Duration::from_millis(200)); // the other is at its launch
    gpu.stream.fill(&memory, 5).unwrap();
    let graph = gpu.stream.end_capture().unwrap();
    other.join().unwrap();
    // SAFETY: its memory is still there.
    unsafe { gpu.stream.run(&graph).unwrap() };
    assert_eq!(gpu.download::<u32>(&memory), [5; 16]);
}
