//! One line that names file and tensor.

use checkpoint::{Quantization, QuantizeOptions};
use safetensors::tensor::Dtype;
use tempfile::TempDir;

use crate::{Tensors, bf16_matrix, directory, options, quantize};

const NAME: &str = "language_model.model.layers.1.mlp.experts.0.up_proj";

fn weight() -> Tensors {
    Tensors::from([(format!("{NAME}.weight"), bf16_matrix(4, 64))])
}

/// What quantizing says after a change of the tensors and the options.
fn error_after(
    mut tensors: Tensors,
    change: impl FnOnce(&mut Tensors),
    adjust: impl FnOnce(&mut QuantizeOptions),
) -> String {
    change(&mut tensors);
    let (input, output) = (directory(&tensors), TempDir::new().unwrap());
    let mut options = options(input.path(), output.path());
    adjust(&mut options);
    let error = quantize(options).err().unwrap().to_string();
    assert!(!error.contains('\n'), "one line: {error}");
    let left = std::fs::read_dir(output.path()).unwrap().map(|e| e.unwrap().file_name());
    for name in left {
        let name = name.into_string().unwrap();
        assert_eq!(name, ".moonrock-quantize.json", "left behind");
    }
    error
}

fn check(tensors: Tensors, change: impl FnOnce(&mut Tensors), parts: &[&str]) {
    let error = error_after(tensors, change, |_| ());
    for part in parts {
        assert!(error.contains(part), "{error}: no {part:?}");
    }
}

#[test]
fn values_that_are_not_finite_are_named() {
    let set = |index: usize, bits: u16| {
        move |t: &mut Tensors| {
            let bytes = &mut t.get_mut(&format!("{NAME}.weight")).unwrap().2;
            bytes[2 * index..2 * index + 2].copy_from_slice(&bits.to_le_bytes());
        }
    };
    let file = ["model.safetensors", NAME, "NaN"];
    check(weight(), set(64 + 33, 0x7fc0), &[&file[..], &["row 1, from column 32"]].concat());
    check(weight(), set(255, 0xff80), &[&file[..], &["row 3, from column 32"]].concat());
    let norm = "model.norm.weight";
    let vector = |bits: u32| (Dtype::F32, vec![2], [0u32, bits].map(u32::to_le_bytes).concat());
    let nan = Tensors::from([(norm.to_owned(), vector(f32::NAN.to_bits()))]);
    check(nan, |_| (), &[norm, "column 1"]);
    let most = Tensors::from([(norm.to_owned(), vector(f32::MAX.to_bits()))]);
    let (input, output) = (directory(&most), TempDir::new().unwrap());
    quantize(options(input.path(), output.path())).unwrap();
}

#[test]
fn inputs_that_do_not_divide_are_skipped_or_refused() {
    let narrow = Tensors::from([(format!("{NAME}.weight"), bf16_matrix(4, 48))]);
    let error = error_after(narrow.clone(), |_| (), |options| options.strict = true);
    assert!(error.contains(NAME) && error.contains("48") && error.contains("--strict"), "{error}");
    let (input, output) = (directory(&narrow), TempDir::new().unwrap());
    let plan = quantize(options(input.path(), output.path())).unwrap();
    assert_eq!(plan.skipped(), [format!("{NAME}.weight")]);
    let found = crate::read_all(output.path());
    assert!(found == narrow, "left as it was");
    let config = std::fs::read_to_string(output.path().join("config.json")).unwrap();
    assert!(config.contains(NAME), "readers are told: {config}");
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let name = |part: &str| format!("{NAME}.{part}");
    let int4 = || {
        Tensors::from([
            (name("weight_packed"), (Dtype::I32, vec![4, 8], vec![0x88; 4 * 32])),
            (name("weight_scale"), (Dtype::BF16, vec![4, 2], vec![0; 16])),
        ])
    };
    check(int4(), |t| drop(t.remove(&name("weight_scale"))), &[NAME, "weight_scale is missing"]);
    let wrong = |t: &mut Tensors| {
        t.insert(name("weight_scale"), (Dtype::BF16, vec![2, 4], vec![0; 16]));
    };
    check(int4(), wrong, &[NAME, "[2, 4]", "[4, 2]"]);
    let shape = |t: &mut Tensors| {
        let bytes = [4i64, 60].map(i64::to_le_bytes).concat();
        t.insert(name("weight_shape"), (Dtype::I64, vec![2], bytes));
    };
    check(int4(), shape, &["weight_shape", "[4, 60]", "[4, 64]"]);
    let zeros = |t: &mut Tensors| {
        t.insert(name("weight_zero_point"), (Dtype::I32, vec![4, 1], vec![0; 16]));
    };
    check(int4(), zeros, &["weight_zero_point", "symmetric"]);
    let infinite = |t: &mut Tensors| {
        t.insert(name("weight_scale"), (Dtype::BF16, vec![4, 2], [0x80, 0x7f].repeat(8)));
    };
    check(int4(), infinite, &["weight_packed", "NaN or infinity in row 0"]);

    let fp8 = Tensors::from([(name("weight"), (Dtype::F8_E4M3, vec![4, 64], vec![0; 256]))]);
    check(fp8, |_| (), &[NAME, "weight_scale_inv is missing"]);
    let half = Tensors::from([(name("weight"), (Dtype::F16, vec![4, 64], vec![0; 512]))]);
    check(half, |_| (), &[NAME, "F16", "expected BF16"]);
    let done = Tensors::from([(name("weight"), (Dtype::U8, vec![4, 32], vec![0; 128]))]);
    check(done, |_| (), &[NAME, "U8", "expected BF16"]);
}

#[test]
fn limits_and_directories_that_cannot_be_are_refused() {
    let little = error_after(weight(), |_| (), |options| options.max_memory = 1 << 20);
    assert!(little.contains("--max-memory 1048576") && little.contains("at least"), "{little}");

    let input = directory(&weight());
    let same = input.path().join("../").join(input.path().file_name().unwrap());
    let error = Quantization::plan(options(input.path(), &same)).err().unwrap().to_string();
    assert!(error.contains("output directory is the input"), "{error}");

    let missing = error_after(weight(), |_| (), |options| options.model.push("nowhere"));
    assert!(missing.contains("nowhere/config.json") && missing.contains("No such file"));
}

/// A sparse file that claims 8 TiB: its output, 2.1 TiB, fits no machine that runs tests.
#[test]
fn a_file_system_without_room_is_known_beforehand() {
    let (rows, cols) = (1usize << 20, 1usize << 22);
    let header = format!(
        "{{\"{NAME}.weight\":{{\"dtype\":\"BF16\",\"shape\":[{rows},{cols}],\
         \"data_offsets\":[0,{}]}}}}",
        rows * cols * 2
    );
    let input = directory(&Tensors::new());
    let path = input.path().join("model.safetensors");
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((bytes.len() + rows * cols * 2) as u64).unwrap();
    let output = input.path().join("new");
    let error = quantize(options(input.path(), &output)).err().unwrap().to_string();
    assert!(error.contains("no space") && error.contains("bytes are needed"), "{error}");
    assert!(!output.exists());
}
