//! Every case at the demo's shapes on the emulator: right as it is, and found to be wrong after a
//! word of any of its outputs is changed, or was never written.

use std::os::unix::fs::symlink;

use super::*;

fn emulator() -> (tempfile::TempDir, Gpu) {
    let built = std::env::current_exe().unwrap().with_file_name("libemulator.so");
    let directory = tempfile::tempdir().unwrap();
    for name in ["libamdhip64.so.7", "librccl.so.1", "librocm-core.so.1"] {
        symlink(&built, directory.path().join(name)).unwrap();
    }
    let gpu = Gpu::open(Platform::Hip, Some(directory.path())).unwrap();
    (directory, gpu)
}

/// Changes the first word of each output that was written, in turn: exponents of any format.
fn each_corruption_is_found(gpu: &Gpu, work: &dyn Work, name: &str) {
    for memory in work.outputs() {
        let bytes = gpu.download(memory).unwrap().0;
        let kept = bytes.chunks_exact(4).map(|word| <[u8; 4]>::try_from(word).unwrap());
        let (at, kept) = kept.enumerate().find(|(_, word)| *word != [0xff; 4]).expect(name);
        for bad in [kept.map(|byte| byte ^ 0x44), [0xff; 4]] {
            gpu.stream.upload(&bad, memory, 4 * at).unwrap();
            let message = work.check(gpu).expect_err(name).to_string();
            let said = message.contains("expected") || message.contains("not written");
            assert!(message.contains('[') && said, "{name}: {message}");
        }
        gpu.stream.upload(&kept, memory, 4 * at).unwrap();
    }
    work.check(gpu).unwrap();
}

#[test]
fn every_kernel_is_right_and_every_check_finds_a_wrong_word() {
    let (_directory, gpu) = emulator();
    let seed = fresh_seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut cases = case::all(BenchModel::Demo.shapes(), &[5], &[300]);
    assert!(cases.len() > 30);
    // Few enough rows for the experts' pairs not to be sorted.
    experts::cases(&mut cases, BenchModel::Demo.shapes(), &[3]);
    prompt::cases(&mut cases, BenchModel::Demo.shapes(), &[256], &[300]);
    for case in cases {
        let name = format!("{}, {}", case.kernel, case.shape);
        let work = case.build(&gpu, &mut random).unwrap();
        poison(&gpu, work.as_ref()).unwrap();
        work.launch(&gpu, 0).unwrap();
        work.check(&gpu).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        each_corruption_is_found(&gpu, work.as_ref(), &name);
    }
}

/// The way that times are taken on hardware; what comes out says nothing here.
#[test]
fn launches_are_timed_as_a_graph() {
    let (_directory, gpu) = emulator();
    let cases = case::all(BenchModel::Demo.shapes(), &[2], &[70]);
    let case = cases.into_iter().find(|case| case.kernel == "select").unwrap();
    let work = case.build(&gpu, &mut Random::new(1)).unwrap();
    assert!(time(&gpu, work.as_ref()).unwrap() > 0.0);
}

#[test]
fn all_that_is_wrong_is_named() {
    let row = |wrong: Option<&str>| {
        let mut row = Row::new("embed".into(), "1 of 8".into(), case::Cost::of_bytes(1));
        row.wrong = wrong.map(Into::into);
        row
    };
    report_wrong(&[row(None)]).unwrap();
    let error = report_wrong(&[row(None), row(Some("out[3] is 1, expected 2"))]).unwrap_err();
    assert_eq!(error.to_string(), "1 of 2 are wrong:\nembed, 1 of 8: out[3] is 1, expected 2");
}
