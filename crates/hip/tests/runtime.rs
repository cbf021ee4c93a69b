//! Devices, memory and streams as the backend uses them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;

use std::sync::mpsc::channel;
use std::time::Duration;

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
