//! From a code-object file to kernels in device memory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::code::{Code, Kernel};
use crate::decode::{self, DecodeError};
use crate::elf::{self, ElfError, Object};
use crate::inst::{Extra, MemKind, Space};
use crate::memory::{Alloc, Memory};
use crate::simd::Simd;

/// Why a module does not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file.
    #[error("code object: {0}")]
    Elf(#[from] ElfError),
    /// A variant of the loops over lanes that this processor does not run.
    #[error("EMU_SIMD={0}: this processor lacks {1}")]
    Simd(Simd, String),
    /// The instructions.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Device memory.
    #[error("out of device memory for the code object")]
    Memory,
    /// A kernel without descriptor or entry.
    #[error("kernel {0}: {1}")]
    Kernel(String, &'static str),
}

/// A loaded module.
pub struct Module {
    /// Kernels by name.
    pub kernels: HashMap<String, Arc<Kernel>>,
    /// Device address and size of global variables.
    pub globals: HashMap<String, (u64, u64)>,
    /// The segments.
    pub memory: Arc<Alloc>,
}

/// Loads a code object (or an offload bundle with one) onto `device`, to be run by the variant
/// `simd` of the loops over lanes.
pub fn load(
    memory: &Arc<Memory>,
    device: usize,
    file: &[u8],
    simd: Simd,
) -> Result<Module, LoadError> {
    let missing = simd.missing();
    if !missing.is_empty() {
        return Err(LoadError::Simd(simd, missing.join(", ")));
    }
    let file = elf::unbundle(file)?;
    let object = elf::parse(file)?;
    let mut code = decode::decode(file, &object, simd)?;
    let size = object.image.len() as u64;
    let segment = memory.internal(device, size).map_err(|_| LoadError::Memory)?;
    code.base = segment.base;
    let mut image = object.image.clone();
    for (at, addend) in &object.relocations {
        let at = *at as usize;
        let place = image.get_mut(at..at.saturating_add(8));
        let place = place.ok_or(ElfError::Truncated("relocation target"))?;
        place.copy_from_slice(&segment.base.wrapping_add(*addend).to_le_bytes());
    }
    // SAFETY: the segment was made with the image's size.
    unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), segment.at(segment.base), image.len()) };
    memory.publish(&segment);
    let code = Arc::new(code);
    let mut kernels = HashMap::new();
    for info in &object.kernels {
        let k = kernel(&object, info, &code, &segment)?;
        kernels.insert(info.name.clone(), Arc::new(k));
    }
    let globals = object
        .symbols
        .iter()
        .filter(|s| s.kind == 1 && !s.name.ends_with(".kd"))
        .map(|s| (s.name.clone(), (segment.base.wrapping_add(s.value), s.size)))
        .collect();
    Ok(Module { kernels, globals, memory: segment })
}

fn kernel(
    object: &Object,
    info: &elf::KernelInfo,
    code: &Arc<Code>,
    segment: &Arc<Alloc>,
) -> Result<Kernel, LoadError> {
    let fail = |what| LoadError::Kernel(info.name.clone(), what);
    let kd = object.symbols.iter().find(|s| s.name == info.symbol);
    let kd = kd.ok_or_else(|| fail("no descriptor symbol"))?.value;
    let desc = elf::descriptor(&object.image, kd)?;
    let mut entry = kd.wrapping_add(desc.entry as u64);
    if desc.preload & 127 != 0 {
        // Hardware that preloads arguments skips the 256 bytes that would load them.
        entry = entry.wrapping_add(256);
    }
    let entry = code.index_of(entry).ok_or_else(|| fail("entry is not code"))?;
    let name = object.symbols.iter().find(|s| s.kind == 2 && s.name == info.name);
    let atomics = name.is_some_and(|f| {
        let inside = |pc: u32| (f.value..f.value.saturating_add(f.size)).contains(&pc.into());
        // A kernel that calls functions may run any of the file's.
        let calls = code.iter().any(|(i, t)| inside(i.pc) && t.starts_with("s_swappc"));
        code.insts.iter().any(|i| (calls || inside(i.pc)) && is_global_atomic(i))
    });
    Ok(Kernel {
        name: info.name.clone(),
        code: Arc::clone(code),
        entry,
        desc,
        args: info.args.clone(),
        max_threads: info.max_threads,
        sgprs: info.sgprs,
        memory: Arc::clone(segment),
        atomics,
    })
}

/// Accesses by which workgroups may communicate.
fn is_global_atomic(i: &crate::inst::Inst) -> bool {
    match i.extra {
        Extra::Mem(m) => m.space != Space::Lds && (matches!(m.kind, MemKind::Atomic(_)) || m.sc1),
        _ => false,
    }
}
