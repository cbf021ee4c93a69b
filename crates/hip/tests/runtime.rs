//! Devices, memory and streams as the backend uses them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;

use hip::{Device, Platform, Runtime};

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

#[test]
fn too_much_memory_is_refused_with_figures() {
    let gpu = device::gpu();
    let error = gpu.device.allocate(1 << 50).err().unwrap().to_string();
    assert!(error.contains("1125899906842624") && error.contains("free"), "{error}");
}
