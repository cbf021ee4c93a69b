//! The emulator in the place of the real libraries.

use std::path::PathBuf;
use std::sync::LazyLock;

/// A directory with the emulator that was built beside this test, under the names of the libraries
/// it stands for.
pub(crate) static EMULATOR: LazyLock<PathBuf> = LazyLock::new(|| {
    let built = std::env::current_exe().unwrap().with_file_name("libemulator.so");
    assert!(built.exists(), "{} is not built", built.display());
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    std::fs::create_dir_all(&directory).unwrap();
    for name in ["libamdhip64.so.7", "librccl.so.1", "librocm-core.so.1"] {
        // At once in place of what is there: another test's, or of before the folder was moved.
        let new = directory.join(format!("{name}-{}", std::process::id()));
        std::os::unix::fs::symlink(&built, &new).unwrap();
        std::fs::rename(&new, directory.join(name)).unwrap();
    }
    directory
});
