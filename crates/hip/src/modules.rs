//! The embedded kernels, loaded on a device.

use std::collections::HashMap;
use std::ffi::{CString, c_int};

use crate::Error;
use crate::device::Device;
use crate::sys::{CUDA_DYNAMIC_SHARED, CUDA_LDS_CARVEOUT, Handle, Platform, Special};

/// Files of `kernels/` and what they became, or why there are none.
type Objects = Result<&'static [(&'static str, &'static [u8])], &'static str>;

mod objects {
    use super::Objects;
    include!(concat!(env!("OUT_DIR"), "/objects.rs"));
}

/// The code objects of this build by file of `kernels/`: gfx950 ELF, or PTX for sm_90.
///
/// # Errors
/// A build without kernels for the platform; says why.
pub fn code_objects(platform: Platform) -> Result<&'static [(&'static str, &'static [u8])], Error> {
    let (objects, target) = match platform {
        Platform::Hip => (objects::GFX950, "gfx950"),
        Platform::Cuda => (objects::SM_90, "sm_90"),
    };
    objects
        .map_err(|reason| Error::Unfit(format!("this build has no kernels for {target}: {reason}")))
}

/// A kernel of a loaded module.
#[derive(Clone, Copy)]
pub struct Kernel {
    pub(crate) handle: Handle,
    pub(crate) name: &'static str,
    /// Bytes of LDS that a launch asks for, beside those that the kernel declares.
    pub(crate) lds: u32,
}

/// Every kernel of this build, on one device.
pub struct Kernels {
    device: Device,
    /// Each with the code object that it was made of: HIP makes no copy of it.
    modules: Vec<(Handle, Vec<u8>)>,
    functions: HashMap<&'static str, (Handle, u32)>,
}

/// The kernels of each file in `kernels/`, by file.
const FILES: &[(&str, &[&str])] = &[
    (
        "all_reduce",
        &[
            "all_reduce_norm_pull_2",
            "all_reduce_norm_pull_4",
            "all_reduce_norm_pull_8",
            "all_reduce_norm_push_2",
            "all_reduce_norm_push_4",
            "all_reduce_norm_push_8",
        ],
    ),
    ("attention", &["attention_split", "attention_split_fp8", "attention_merge"]),
    ("attention_prompt", &["attention_prompt"]),
    ("embed", &["embed"]),
    (
        "experts_down",
        &[
            "experts_down_mxfp4_4",
            "experts_down_mxfp4_16",
            "experts_down_mxfp4_64",
            "experts_down_mxfp8_4",
            "experts_down_mxfp8_16",
            "experts_down_mxfp8_64",
            "experts_down_bf16_4",
            "experts_down_bf16_16",
            "experts_down_bf16_64",
            "experts_combine",
        ],
    ),
    (
        "experts_gate_up",
        &[
            "experts_gate_up_mxfp4_4",
            "experts_gate_up_mxfp4_16",
            "experts_gate_up_mxfp4_64",
            "experts_gate_up_mxfp8_4",
            "experts_gate_up_mxfp8_16",
            "experts_gate_up_mxfp8_64",
            "experts_gate_up_bf16_4",
            "experts_gate_up_bf16_16",
            "experts_gate_up_bf16_64",
        ],
    ),
    ("gather_entries", &["gather_entries", "gather_entries_fp8"]),
    (
        "matmul",
        &[
            "matmul_16_1",
            "matmul_16_1_bf16",
            "matmul_16_2",
            "matmul_16_2_bf16",
            "matmul_32_1",
            "matmul_32_1_bf16",
            "matmul_32_2",
            "matmul_32_2_bf16",
            "matmul_64_1",
            "matmul_64_1_bf16",
            "matmul_64_2",
            "matmul_64_2_bf16",
            "matmul_rows",
            "matmul_rows_bf16",
        ],
    ),
    (
        "matmul_mxfp4",
        &[
            "matmul_mxfp4_mxfp4_16",
            "matmul_mxfp4_mxfp4_64",
            "matmul_mxfp4_mxfp8_16",
            "matmul_mxfp4_mxfp8_64",
            "matmul_mxfp4_bf16_16",
            "matmul_mxfp4_bf16_64",
        ],
    ),
    ("quantize", &["quantize_mxfp4", "quantize_mxfp8"]),
    ("ranks", &["sum_ranks", "gather_columns"]),
    ("rms_norm", &["rms_norm", "add_rms_norm"]),
    ("rope_and_cache", &["rope_and_cache", "rope_and_cache_fp8"]),
    ("route", &["route"]),
    ("sample", &["sample", "count_carried"]),
    ("select", &["select"]),
    ("sort", &["sort_few", "sort_many"]),
    ("swiglu", &["swiglu"]),
];

/// Those for CUDA alone.
const CUDA_FILES: &[(&str, &[&str])] = &[
    ("attention", &["attention_merge_few"]),
    (
        "experts_down",
        &[
            "experts_down_mxfp4_1",
            "experts_down_mxfp8_1",
            "experts_down_bf16_1",
            "experts_down_bf16_32",
        ],
    ),
    (
        "experts_gate_up",
        &[
            "experts_gate_up_mxfp4_1",
            "experts_gate_up_mxfp8_1",
            "experts_gate_up_bf16_1",
            "experts_gate_up_bf16_32",
        ],
    ),
    ("matmul", &["matmul_rows_64", "matmul_rows_64_bf16"]),
];

/// The kernels that `file` has for a platform.
fn names(file: &str, platform: Platform) -> Vec<&'static str> {
    let of = |files: &[(&str, &'static [&'static str])]| {
        files.iter().find(|(name, _)| *name == file).map_or(&[][..], |(_, names)| names)
    };
    let more = if platform == Platform::Cuda { of(CUDA_FILES) } else { &[] };
    [of(FILES), more].concat()
}

/// Kernels for CUDA whose launches ask for LDS, most because a kernel can declare less, in bytes.
const LARGE: &[(&str, u32)] = &[
    ("attention_prompt", 214_016),
    ("attention_split", 232_448),
    ("attention_split_fp8", 232_448),
    ("experts_down_bf16_1", ONE_ROW_DOWN),
    ("experts_down_bf16_4", FEW_ROWS),
    ("experts_down_bf16_16", FEW_ROWS_DOWN),
    ("experts_down_bf16_32", SOME_ROWS),
    ("experts_down_bf16_64", MANY_ROWS),
    ("experts_down_mxfp4_1", ONE_ROW_DOWN),
    ("experts_down_mxfp4_4", FEW_ROWS),
    ("experts_down_mxfp4_16", FEW_ROWS_DOWN),
    ("experts_down_mxfp4_64", MANY_ROWS),
    ("experts_down_mxfp8_1", ONE_ROW_DOWN),
    ("experts_down_mxfp8_4", FEW_ROWS),
    ("experts_down_mxfp8_16", FEW_ROWS_DOWN),
    ("experts_down_mxfp8_64", MANY_ROWS),
    ("experts_gate_up_bf16_1", ONE_ROW),
    ("experts_gate_up_bf16_4", FEW_ROWS),
    ("experts_gate_up_bf16_16", FEW_ROWS),
    ("experts_gate_up_bf16_32", SOME_ROWS),
    ("experts_gate_up_bf16_64", MANY_ROWS),
    ("experts_gate_up_mxfp4_1", ONE_ROW),
    ("experts_gate_up_mxfp4_4", FEW_ROWS),
    ("experts_gate_up_mxfp4_16", FEW_ROWS),
    ("experts_gate_up_mxfp4_64", MANY_ROWS),
    ("experts_gate_up_mxfp8_1", ONE_ROW),
    ("experts_gate_up_mxfp8_4", FEW_ROWS),
    ("experts_gate_up_mxfp8_16", FEW_ROWS),
    ("experts_gate_up_mxfp8_64", MANY_ROWS),
    ("matmul_mxfp4_bf16_16", FEW_ROWS),
    ("matmul_mxfp4_bf16_64", MANY_ROWS),
    ("matmul_mxfp4_mxfp4_16", FEW_ROWS),
    ("matmul_mxfp4_mxfp4_64", MANY_ROWS),
    ("matmul_mxfp4_mxfp8_16", FEW_ROWS),
    ("matmul_mxfp4_mxfp8_64", MANY_ROWS),
    ("matmul_rows", ROWS),
    ("matmul_rows_64", ROWS_64),
    ("matmul_rows_64_bf16", ROWS_64),
    ("matmul_rows_bf16", ROWS),
];
/// `WAVE_MEMORY` of `kernels/arch/few_rows_sm90.h` for 8 waves, and for 4.
const FEW_ROWS: u32 = 8 * 8192;
const FEW_ROWS_DOWN: u32 = 4 * 8192;
/// The same of one row, for 8 waves: so little that both have room beside each other.
const ONE_ROW: u32 = 8 * 4 * 4096;
const ONE_ROW_DOWN: u32 = 8 * 4 * 2048;
/// `SomeBlock` of `kernels/arch/some_rows_sm90.h`.
const SOME_ROWS: u32 = 217_344;
/// `SharedBlock` of `kernels/arch/rows64_sm90.h`.
const MANY_ROWS: u32 = 197_120;
/// `Stages` and `Arrivals` of `kernels/arch/matmul_rows_sm90.h`.
const ROWS: u32 = 208_896 + 152;
const ROWS_64: u32 = 114_688 + 152;

impl Kernels {
    /// Loads all code objects.
    ///
    /// # Errors
    /// A build without kernels (says why), or an object that the device refuses.
    pub fn load(device: &Device) -> Result<Kernels, Error> {
        let table = code_objects(device.runtime.platform)?;
        let mut kernels =
            Kernels { device: device.clone(), modules: Vec::new(), functions: HashMap::new() };
        for &(file, _) in FILES {
            let object = table.iter().find(|(name, _)| *name == file);
            let (_, image) = object
                .ok_or_else(|| Error::Unfit(format!("kernels/{file}.hip is not in this build")))?;
            kernels.load_module(file, image, &names(file, device.runtime.platform))?;
        }
        Ok(kernels)
    }

    fn load_module(
        &mut self,
        file: &str,
        image: &[u8],
        names: &[&'static str],
    ) -> Result<(), Error> {
        let driver = &self.device.runtime.driver;
        let mut module = std::ptr::null_mut();
        // PTX is text that ends with a zero.
        let image = [image, &[0]].concat();
        // SAFETY: a whole code object, which stays where it is as long as the module.
        let code = unsafe { (driver.module_load)(&mut module, image.as_ptr().cast()) };
        self.device.check(&format!("loading the kernels of {file}"), code)?;
        self.modules.push((module, image));
        for name in names {
            let mut function = std::ptr::null_mut();
            let text = CString::new(*name).map_err(|e| Error::Unfit(e.to_string()))?;
            // SAFETY: the module is alive, the name ends with a zero.
            let code = unsafe { (driver.module_function)(&mut function, module, text.as_ptr()) };
            self.device.check(&format!("finding the kernel {name}"), code)?;
            let lds = self.grant_lds(name, function)?;
            self.functions.insert(name, (function, lds));
        }
        Ok(())
    }

    /// Allows a kernel the LDS that it wants beyond what it declares; returns how much. Of experts'
    /// of few rows and of matmul_rows_64 several workgroups are to fit a processor, or those of the
    /// launch after beside them.
    fn grant_lds(&self, name: &str, function: Handle) -> Result<u32, Error> {
        let large = LARGE.iter().find(|(large, _)| *large == name);
        let (Special::Cuda { set_attribute, .. }, Some(&(_, bytes))) =
            (&self.device.runtime.special, large)
        else {
            return Ok(0);
        };
        // SAFETY: the function is of a loaded module.
        let code = unsafe { set_attribute(function, CUDA_DYNAMIC_SHARED, bytes as c_int) };
        self.device.check(&format!("allowing {name} {bytes} bytes of LDS"), code)?;
        let shares = ["_1", "_4"].iter().any(|end| name.ends_with(end));
        if name.starts_with("experts_") && shares || name.starts_with("matmul_rows_64") {
            // SAFETY: as above.
            let code = unsafe { set_attribute(function, CUDA_LDS_CARVEOUT, 100) };
            self.device.check(&format!("having all LDS for {name}"), code)?;
        }
        Ok(bytes)
    }

    /// The kernel of that name.
    ///
    /// # Panics
    /// If `kernels/` has none: a mistake in a launcher.
    pub fn get(&self, name: &'static str) -> Kernel {
        match self.functions.get(name) {
            Some(&(handle, lds)) => Kernel { handle, name, lds },
            None => panic!("there is no kernel {name}"),
        }
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        for &(module, _) in &self.modules {
            // SAFETY: unloaded once; the stream that used it has been synchronised by its drop or
            // its results were awaited.
            unsafe { (self.device.runtime.driver.module_unload)(module) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel for CUDA that touched memory before it waits would race with the one before it.
    #[test]
    fn cuda_kernels_wait_before_they_touch_memory() {
        for (file, ptx) in code_objects(Platform::Cuda).unwrap() {
            let ptx = std::str::from_utf8(ptx).unwrap();
            let entries: Vec<&str> = ptx.split(".entry ").skip(1).collect();
            assert_eq!(entries.len(), names(file, Platform::Cuda).len(), "{file}");
            for entry in entries {
                let name = entry.split('(').next().unwrap();
                let place = |what| entry.find(what).unwrap_or_else(|| panic!("{name}: no {what}"));
                let wait = place("griddepcontrol.wait;");
                place("griddepcontrol.launch_dependents;");
                // Forms for few rows load weights first. What says which ones was read before.
                let few = name.starts_with("matmul_") && !name.contains("rows");
                // Those for many copy the first block's, by a map of four dimensions.
                let many = name.starts_with("matmul_rows");
                let alone = name.starts_with("experts_down") && name.ends_with(['1', '4']);
                let body = entry[..wait].split_once('{').unwrap().1;
                for line in body.lines().map(str::trim) {
                    let weights = few && line.starts_with("ld.global.L1::no_allocate")
                        || many && line.starts_with("cp.async.bulk.tensor.4d")
                        || many && line.starts_with("bra.uni");
                    let memory = ["ld", "st", "atom", "red", "cp", "call", "ret", "bra"];
                    let touches = memory.iter().any(|op| {
                        line.strip_prefix(op).is_some_and(|rest| rest.starts_with(['.', ';', ' ']))
                    });
                    let early = ["ld.relaxed.gpu", "ld.global.b32", "cp.async", "bra.uni"];
                    let settled = alone && early.iter().any(|op| line.starts_with(op));
                    let allowed = line.starts_with("ld.param") || weights || settled;
                    assert!(!touches || allowed, "{name} does not wait before {line}");
                }
            }
        }
    }
}
