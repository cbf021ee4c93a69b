//! Reading of gfx950 code objects: ELF segments, symbols, relocations, descriptors, metadata.

use serde_json::Value;

use crate::code::{Arg, Descriptor};
use crate::msgpack;

/// Why a file is not a code object we can run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ElfError {
    /// Not ELF, or not 64-bit little-endian.
    #[error("not a 64-bit little-endian ELF file")]
    NotElf,
    /// Ends inside a structure.
    #[error("truncated: {0} lies beyond the end of the file")]
    Truncated(&'static str),
    /// ELF for something else.
    #[error("ELF machine {0} is not an AMD GPU (224)")]
    Machine(u16),
    /// Another GPU.
    #[error("code object is for GPU {0:#x}, not gfx950 (0x4f)")]
    Target(u32),
    /// A relocation this loader does not know.
    #[error("unsupported relocation type {0}")]
    Relocation(u32),
    /// A bundle without code for gfx950.
    #[error("offload bundle has no entry for gfx950")]
    NoBundle,
    /// Metadata that cannot be read.
    #[error("AMDGPU metadata: {0}")]
    Metadata(&'static str),
    /// The sum of segment sizes is absurd.
    #[error("segments need {0} bytes")]
    TooLarge(u64),
}

/// A symbol with a value in the loaded image.
#[derive(Clone, Debug)]
pub struct Symbol {
    /// Name.
    pub name: String,
    /// Offset in the image.
    pub value: u64,
    /// Size.
    pub size: u64,
    /// ELF type: 1 object, 2 function.
    pub kind: u8,
}

/// What the metadata says of one kernel.
#[derive(Clone, Debug)]
pub struct KernelInfo {
    /// Name.
    pub name: String,
    /// Symbol of the descriptor.
    pub symbol: String,
    /// Arguments.
    pub args: Vec<Arg>,
    /// Largest workgroup.
    pub max_threads: u32,
    /// Scalar registers.
    pub sgprs: u32,
}

/// A parsed code object.
#[derive(Debug)]
pub struct Object {
    /// The loaded image before relocation.
    pub image: Vec<u8>,
    /// (offset in the image, addend): add the image's address.
    pub relocations: Vec<(u64, u64)>,
    /// Symbols.
    pub symbols: Vec<Symbol>,
    /// Kernels.
    pub kernels: Vec<KernelInfo>,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&self, at: u64, n: u64, what: &'static str) -> Result<&'a [u8], ElfError> {
        let end = at.checked_add(n).ok_or(ElfError::Truncated(what))?;
        let range = usize::try_from(at).ok().zip(usize::try_from(end).ok());
        range.and_then(|(a, b)| self.0.get(a..b)).ok_or(ElfError::Truncated(what))
    }

    fn num(&self, at: u64, n: u64, what: &'static str) -> Result<u64, ElfError> {
        Ok(self.bytes(at, n, what)?.iter().rev().fold(0, |x, b| x << 8 | u64::from(*b)))
    }

    fn string(&self, at: u64, what: &'static str) -> Result<String, ElfError> {
        let at = usize::try_from(at).map_err(|_| ElfError::Truncated(what))?;
        let tail = self.0.get(at..).ok_or(ElfError::Truncated(what))?;
        let n = tail.iter().position(|b| *b == 0).ok_or(ElfError::Truncated(what))?;
        Ok(String::from_utf8_lossy(&tail[..n]).into_owned())
    }
}

/// The gfx950 code object inside a clang offload bundle, or the file itself.
pub fn unbundle(file: &[u8]) -> Result<&[u8], ElfError> {
    const MAGIC: &[u8] = b"__CLANG_OFFLOAD_BUNDLE__";
    if !file.starts_with(MAGIC) {
        return Ok(file);
    }
    let r = Reader(file);
    let mut at = MAGIC.len() as u64 + 8;
    for _ in 0..r.num(MAGIC.len() as u64, 8, "bundle")?.min(1024) {
        let field = |o: u64| r.num(at.saturating_add(o), 8, "bundle");
        let (off, size, n) = (field(0)?, field(8)?, field(16)?);
        let name = r.bytes(at.saturating_add(24), n, "bundle")?;
        let name = String::from_utf8_lossy(name).into_owned();
        if name.contains("gfx950") {
            return r.bytes(off, size, "bundle entry");
        }
        at = at.saturating_add(24).saturating_add(n);
    }
    Err(ElfError::NoBundle)
}

/// Size of the file an ELF image occupies, from its section header table, for images passed by
/// pointer alone.
///
/// # Safety
/// `p` must point to a complete ELF file or bundle.
pub unsafe fn size_of_image(p: *const u8) -> Result<usize, ElfError> {
    // SAFETY: the caller promises a complete header; 64 bytes is the ELF header.
    let head = unsafe { std::slice::from_raw_parts(p, 64) };
    if head.starts_with(b"__CLANG_OFFLOAD_BUNDLE__") {
        // SAFETY: a bundle's table of entries precedes its contents.
        let table = unsafe { std::slice::from_raw_parts(p, 4096) };
        let r = Reader(table);
        let (mut at, mut end) = (32, 4096);
        for _ in 0..r.num(24, 8, "bundle")?.min(64) {
            end = end.max(r.num(at, 8, "bundle")?.saturating_add(r.num(at + 8, 8, "bundle")?));
            at = at.saturating_add(24).saturating_add(r.num(at + 16, 8, "bundle")?);
        }
        return usize::try_from(end).map_err(|_| ElfError::TooLarge(end));
    }
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Err(ElfError::NotElf);
    }
    let r = Reader(head);
    let (off, n) = (r.num(40, 8, "header")?, r.num(58, 2, "header")? * r.num(60, 2, "header")?);
    let end = off.saturating_add(n);
    if end > 1 << 32 {
        return Err(ElfError::TooLarge(end));
    }
    Ok((end as usize).max(64))
}

/// Parses a code object.
pub fn parse(file: &[u8]) -> Result<Object, ElfError> {
    let file = unbundle(file)?;
    let r = Reader(file);
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return Err(ElfError::NotElf);
    }
    let machine = r.num(18, 2, "ELF header")? as u16;
    if machine != 224 {
        return Err(ElfError::Machine(machine));
    }
    let target = r.num(48, 4, "ELF header")? as u32 & 0xff;
    if target != 0x4f {
        return Err(ElfError::Target(target));
    }
    let (image, notes) = segments(&r)?;
    let (symbols, relocations) = sections(&r)?;
    let mut kernels = Vec::new();
    for (at, size) in notes {
        kernels.extend(note(&r, at, size)?);
    }
    Ok(Object { image, relocations, symbols, kernels })
}

type Range = (u64, u64);

fn segments(r: &Reader<'_>) -> Result<(Vec<u8>, Vec<Range>), ElfError> {
    let (off, size) = (r.num(32, 8, "ELF header")?, r.num(54, 2, "ELF header")?);
    let (mut image, mut notes) = (Vec::new(), Vec::new());
    for k in 0..r.num(56, 2, "ELF header")? {
        let h = off.saturating_add(k * size);
        let f = |o: u64, n| r.num(h.saturating_add(o), n, "program header");
        let (kind, at, addr, len, mem) = (f(0, 4)?, f(8, 8)?, f(16, 8)?, f(32, 8)?, f(40, 8)?);
        match kind {
            1 => {
                let end = addr.saturating_add(mem);
                if end > 1 << 27 || len > mem {
                    return Err(ElfError::TooLarge(end));
                }
                let end = end as usize;
                image.resize(image.len().max(end), 0);
                let data = r.bytes(at, len, "segment")?;
                image[addr as usize..addr as usize + data.len()].copy_from_slice(data);
            }
            4 => notes.push((at, len)),
            _ => {}
        }
    }
    Ok((image, notes))
}

fn sections(r: &Reader<'_>) -> Result<(Vec<Symbol>, Vec<Range>), ElfError> {
    let (off, size) = (r.num(40, 8, "ELF header")?, r.num(58, 2, "ELF header")?);
    let count = r.num(60, 2, "ELF header")?;
    let field = |k: u64, o: u64, n| {
        r.num(off.saturating_add(k * size).saturating_add(o), n, "section header")
    };
    let (mut symbols, mut relocations) = (Vec::new(), Vec::new());
    let mut dynamic = Vec::new();
    for k in 0..count {
        let (kind, at, len) = (field(k, 4, 4)?, field(k, 24, 8)?, field(k, 32, 8)?);
        if kind != 2 && kind != 11 {
            continue;
        }
        let names = field(field(k, 40, 4)?, 24, 8)?;
        let table = symbol_table(r, at, len, names)?;
        if kind == 11 {
            dynamic = table;
        } else {
            symbols = table;
        }
    }
    if symbols.is_empty() {
        symbols = dynamic.clone();
    }
    for k in 0..count {
        if field(k, 4, 4)? == 4 {
            let (at, len) = (field(k, 24, 8)?, field(k, 32, 8)?);
            rela(r, at, len, &dynamic, &mut relocations)?;
        }
    }
    Ok((symbols, relocations))
}

fn symbol_table(r: &Reader<'_>, at: u64, len: u64, names: u64) -> Result<Vec<Symbol>, ElfError> {
    let mut out = Vec::new();
    for s in 0..len / 24 {
        let f = |o: u64, n| r.num(at.saturating_add(24 * s + o), n, "symbol table");
        out.push(Symbol {
            name: r.string(names.saturating_add(f(0, 4)?), "string table")?,
            value: f(8, 8)?,
            size: f(16, 8)?,
            kind: f(4, 1)? as u8 & 15,
        });
    }
    Ok(out)
}

fn rela(
    r: &Reader<'_>,
    at: u64,
    len: u64,
    symbols: &[Symbol],
    out: &mut Vec<Range>,
) -> Result<(), ElfError> {
    for e in 0..len / 24 {
        let f = |o: u64, n| r.num(at.saturating_add(24 * e + o), n, "relocations");
        let (place, info, addend) = (f(0, 8)?, f(8, 8)?, f(16, 8)?);
        let symbol = symbols.get((info >> 32) as usize).map_or(0, |s| s.value);
        match info as u32 {
            0 => {}
            3 => out.push((place, symbol.wrapping_add(addend))),
            13 => out.push((place, addend)),
            other => return Err(ElfError::Relocation(other)),
        }
    }
    Ok(())
}

fn note(r: &Reader<'_>, at: u64, size: u64) -> Result<Vec<KernelInfo>, ElfError> {
    let end = at.saturating_add(size);
    let mut at = at;
    while at.saturating_add(12) <= end {
        let (name, desc) = (r.num(at, 4, "note")?, r.num(at + 4, 4, "note")?);
        let kind = r.num(at + 8, 4, "note")?;
        let body = at + 12 + name.next_multiple_of(4);
        if kind == 32 {
            let meta = msgpack::parse(r.bytes(body, desc, "note")?).map_err(ElfError::Metadata)?;
            return Ok(kernels(&meta));
        }
        at = body.saturating_add(desc.next_multiple_of(4));
    }
    Ok(Vec::new())
}

fn kernels(meta: &Value) -> Vec<KernelInfo> {
    let list = meta["amdhsa.kernels"].as_array().cloned().unwrap_or_default();
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let num = |v: &Value| v.as_u64().unwrap_or(0);
    list.iter()
        .map(|k| KernelInfo {
            name: text(&k[".name"]),
            symbol: text(&k[".symbol"]),
            max_threads: num(&k[".max_flat_workgroup_size"]) as u32,
            sgprs: num(&k[".sgpr_count"]) as u32,
            args: k[".args"]
                .as_array()
                .cloned()
                .unwrap_or_default()
                .iter()
                .map(|a| Arg {
                    offset: num(&a[".offset"]) as usize,
                    size: num(&a[".size"]) as usize,
                    kind: text(&a[".value_kind"]),
                })
                .collect(),
        })
        .collect()
}

/// The kernel descriptor at `at` in the image.
pub fn descriptor(image: &[u8], at: u64) -> Result<Descriptor, ElfError> {
    let r = Reader(image);
    let f = |o: u64, n| r.num(at.saturating_add(o), n, "kernel descriptor");
    Ok(Descriptor {
        lds: f(0, 4)? as u32,
        scratch: f(4, 4)? as u32,
        kernarg: f(8, 4)? as u32,
        entry: f(16, 8)? as i64,
        rsrc: [f(48, 4)? as u32, f(52, 4)? as u32, f(44, 4)? as u32],
        properties: f(56, 2)? as u16,
        preload: f(58, 2)? as u16,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_and_truncated_files_are_errors() {
        assert_eq!(parse(b"hello").unwrap_err(), ElfError::NotElf);
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        assert_eq!(parse(&elf).unwrap_err(), ElfError::Truncated("ELF header"));
        elf.resize(64, 0);
        elf[18] = 62;
        assert_eq!(parse(&elf).unwrap_err(), ElfError::Machine(62));
        elf[18] = 224;
        elf[48] = 0x4c;
        assert_eq!(parse(&elf).unwrap_err(), ElfError::Target(0x4c));
        let mut bundle = b"__CLANG_OFFLOAD_BUNDLE__".to_vec();
        bundle.extend([0; 8]);
        assert_eq!(parse(&bundle).unwrap_err(), ElfError::NoBundle);
    }
}
