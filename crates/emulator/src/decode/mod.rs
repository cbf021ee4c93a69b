//! From a code object to instructions, through LLVM's disassembler.
//!
//! `llvm-objdump` of LLVM 22 or newer prints mnemonics, operands and modifiers; branch targets, DPP
//! controls, waits and DS offsets are taken from the encoding beside them.

pub(crate) mod memory;
mod scalar;
mod text;
mod vector;

use std::collections::HashMap;
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use crate::code::Code;
use crate::elf::{Object, Symbol};
use crate::inst::{
    Class, Exec, ExecFn, Extra, Flow, Halves, Inst, MemKind, Mods, Operand, Simple, Space,
};
use crate::simd::Simd;

/// Why code cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No disassembler.
    #[error("no llvm-objdump 22 found (tried {0}); install llvm-22 or set EMU_OBJDUMP to its path")]
    NoDisassembler(String),
    /// The disassembler failed.
    #[error("{0} failed: {1}")]
    Disassembler(String, String),
    /// An instruction we do not know.
    #[error("unsupported instruction `{text}` at {pc:#x} in {function}: {why}")]
    Unsupported {
        /// Disassembly.
        text: String,
        /// Offset.
        pc: u32,
        /// Function.
        function: String,
        /// Reason.
        why: String,
    },
    /// Files.
    #[error("temporary file: {0}")]
    Io(#[from] std::io::Error),
}

/// One disassembled line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Mnemonic and operands.
    pub(crate) text: String,
    /// Offset.
    pub(crate) pc: u32,
    /// Encoding.
    pub(crate) words: Vec<u32>,
    /// Source position.
    pub(crate) source: Option<Arc<str>>,
}

/// The mnemonic without `_e32`, `_e64`, `_dpp`, `_sdwa`.
pub(crate) fn stem(mnemonic: &str) -> &str {
    ["_e32", "_e64", "_dpp", "_sdwa"]
        .iter()
        .find_map(|s| mnemonic.strip_suffix(s))
        .unwrap_or(mnemonic)
}

fn candidates() -> Vec<String> {
    match std::env::var("EMU_OBJDUMP") {
        Ok(p) => vec![p],
        Err(_) => [
            "llvm-objdump-22",
            "/usr/lib/llvm-22/bin/llvm-objdump",
            "/opt/rocm/llvm/bin/llvm-objdump",
            "llvm-objdump",
        ]
        .map(String::from)
        .to_vec(),
    }
}

/// Disassembles an ELF file.
pub(crate) fn disassemble(elf: &[u8]) -> Result<Vec<Line>, DecodeError> {
    let mut file = TempFile::new()?;
    file.file.write_all(elf)?;
    file.file.flush()?;
    for tool in candidates() {
        let out = Command::new(&tool)
            .args(["-d", "-l", "--mcpu=gfx950"])
            .arg(&file.path)
            .env("LC_ALL", "C")
            .output();
        let Ok(out) = out else { continue };
        if !out.status.success() {
            let err = String::from_utf8_lossy(&out.stderr).into_owned();
            return Err(DecodeError::Disassembler(tool, err));
        }
        return Ok(lines(&String::from_utf8_lossy(&out.stdout)));
    }
    Err(DecodeError::NoDisassembler(candidates().join(", ")))
}

struct TempFile {
    path: std::path::PathBuf,
    file: std::fs::File,
}

impl TempFile {
    fn new() -> std::io::Result<Self> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gfx950-emulator-{}-{n}.o", std::process::id());
        let path = std::env::temp_dir().join(name);
        let file = std::fs::File::create(&path)?;
        Ok(TempFile { path, file })
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Nothing depends on the file's removal.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn lines(out: &str) -> Vec<Line> {
    let mut source = None;
    let mut all = Vec::new();
    for l in out.lines() {
        if let Some(c) = l.strip_prefix("; ") {
            let numbered = c.rsplit_once(':').is_some_and(|(_, n)| n.parse::<u32>().is_ok());
            source = if numbered { Some(Arc::from(c)) } else { source };
            continue;
        }
        if !l.starts_with(char::is_whitespace) {
            if l.ends_with(">:") {
                source = None;
            }
            continue;
        }
        let Some((text, rest)) = l.rsplit_once("// ") else { continue };
        let Some((pc, words)) = rest.split_once(':') else { continue };
        let Ok(pc) = u32::from_str_radix(pc.trim(), 16) else { continue };
        let words = words
            .split_whitespace()
            .map_while(|w| u32::from_str_radix(w, 16).ok())
            .collect::<Vec<_>>();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        all.push(Line { text, pc, words, source: source.clone() });
    }
    all
}

/// Everything the per-class decoders share about one instruction.
pub(crate) struct Parts<'a> {
    pub(crate) name: &'a str,
    pub(crate) full: &'a str,
    pub(crate) ops: Vec<&'a str>,
    pub(crate) mods: Vec<(&'a str, &'a str)>,
    pub(crate) words: &'a [u32],
    pub(crate) simd: Simd,
}

impl Parts<'_> {
    /// The variant of `e` that the code is decoded for.
    pub(crate) fn choose(&self, e: Exec) -> ExecFn {
        e[self.simd as usize]
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.mods.iter().any(|(k, _)| *k == name)
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.mods.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.value(name).and_then(text::integer)
    }

    pub(crate) fn word(&self, k: usize) -> u32 {
        self.words.get(k).copied().unwrap_or(0)
    }
}

unsafe fn unset(_: &mut crate::wave::Wave, _: &Inst, _: &mut crate::env::Env) {}

/// An instruction with nothing decoded yet.
pub(crate) fn blank(line: &Line) -> Inst {
    Inst {
        exec: unset,
        class: Class::Salu,
        flow: Flow::Nothing,
        dst: Operand::None,
        dst2: Operand::None,
        src: [Operand::None; 5],
        nsrc: 0,
        mods: Mods::default(),
        sdwa: None,
        dpp: None,
        extra: Extra::None,
        reads_vcc: false,
        reads_dst: false,
        pc: line.pc,
        size: (4 * line.words.len()) as u8,
        modified: false,
        halves: Halves::Joint,
        wide_float: false,
        simple: None,
        polls: false,
    }
}

/// Decodes one line.
pub(crate) fn decode_line(line: &Line, simd: Simd, code: &mut Code) -> Result<Inst, String> {
    let parts = text::split(&line.text, &line.words, simd);
    let mut inst = blank(line);
    let name = parts.name;
    if name.starts_with("v_") {
        vector::decode(&parts, &mut inst, code)?;
    } else if name.starts_with("s_") && !memory::is_scalar(name) {
        scalar::decode(&parts, &mut inst)?;
    } else {
        memory::decode(&parts, &mut inst)?;
    }
    bounds(&inst)?;
    inst.simple = Simple::of(&inst);
    Ok(inst)
}

/// Registers must exist; the executor relies on it.
fn bounds(i: &Inst) -> Result<(), String> {
    for o in i.src.iter().chain([&i.dst, &i.dst2]) {
        let ok = match *o {
            Operand::V { r, n } => {
                let limit = if r < 256 { 256 } else { 512 };
                usize::from(r) + usize::from(n) <= limit
            }
            Operand::S { r, n } => usize::from(r) + usize::from(n) <= 128,
            _ => true,
        };
        if !ok {
            return Err("register out of range".into());
        }
    }
    Ok(())
}

/// Decodes a code object's functions, for the variant `simd` of the loops over lanes, which this
/// processor must run. A file that was decoded before, for another device, is not
/// disassembled again.
pub(crate) fn decode(elf: &[u8], object: &Object, simd: Simd) -> Result<Code, DecodeError> {
    static DONE: Mutex<Vec<(Vec<u8>, Simd, Code)>> = Mutex::new(Vec::new());
    const KEPT: usize = 256;
    // Locked meanwhile: several devices load the same files at the same time.
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((.., code)) = done.iter().find(|d| d.0 == elf && d.1 == simd) {
        return Ok(code.clone());
    }
    let code = decode_new(elf, object, simd)?;
    if done.len() == KEPT {
        done.clear();
    }
    done.push((elf.to_vec(), simd, code.clone()));
    Ok(code)
}

fn decode_new(elf: &[u8], object: &Object, simd: Simd) -> Result<Code, DecodeError> {
    let lines = disassemble(elf)?;
    let mut functions: Vec<&Symbol> = object.symbols.iter().filter(|s| s.kind == 2).collect();
    functions.sort_by_key(|s| s.value);
    let mut code = Code::default();
    for line in &lines {
        let pc = u64::from(line.pc);
        let n = functions.partition_point(|s| s.value <= pc);
        let inside = n.checked_sub(1).and_then(|n| functions.get(n));
        let Some(f) = inside.filter(|f| pc < f.value.saturating_add(f.size)) else { continue };
        let inst = decode_line(line, simd, &mut code).map_err(|why| DecodeError::Unsupported {
            text: line.text.clone(),
            pc: line.pc,
            function: f.name.clone(),
            why,
        })?;
        code.index.insert(line.pc, code.insts.len() as u32);
        code.insts.push(inst);
        code.texts.push(line.text.as_str().into());
        code.lines.push(line.source.clone());
    }
    link(&mut code, &lines)?;
    Ok(code)
}

/// Turns branch offsets into instruction indices.
fn link(code: &mut Code, lines: &[Line]) -> Result<(), DecodeError> {
    let by_pc: HashMap<u32, &Line> = lines.iter().map(|l| (l.pc, l)).collect();
    for k in 0..code.insts.len() {
        let i = code.insts[k];
        if i.class != Class::Branch {
            continue;
        }
        let to = i64::from(i.pc) + 4 + 4 * i64::from(i.simm() as i16);
        let index = u64::try_from(to).ok().and_then(|t| code.index_of(t));
        match index {
            Some(t) => {
                code.insts[k].extra = Extra::Target(t);
                mark_poll(&mut code.insts, t as usize, k);
            }
            None => {
                let text = by_pc.get(&i.pc).map_or(String::new(), |l| l.text.clone());
                return Err(DecodeError::Unsupported {
                    text,
                    pc: i.pc,
                    function: String::new(),
                    why: "branch out of the function".into(),
                });
            }
        }
    }
    Ok(())
}

/// Marks the LDS read of a polling loop: the only memory access between `first` and the backward
/// branch at `last`, from an address that the loop does not compute.
fn mark_poll(insts: &mut [Inst], first: usize, last: usize) {
    const LONGEST: usize = 64;
    if first >= last || last - first > LONGEST {
        return;
    }
    let body = &insts[first..last];
    let memory = |i: &Inst| matches!(i.class, Class::Ds | Class::Smem | Class::Vmem);
    // Cache controls are no accesses.
    let mut accesses = (first..last).filter(|k| memory(&insts[*k]) && insts[*k].mem().is_some());
    let (Some(at), None) = (accesses.next(), accesses.next()) else { return };
    let read = insts[at].mem().is_some_and(|m| {
        m.space == Space::Lds && matches!(m.kind, MemKind::Load { .. }) && m.tr == 0
    });
    let registers = |o: Operand| match o {
        Operand::V { r, n } => r..r + u16::from(n),
        _ => 0..0,
    };
    let address = registers(insts[at].src[0]);
    let computes = |i: &Inst| {
        let to = registers(i.dst);
        let constant = !i.src.iter().any(|o| matches!(o, Operand::V { .. }));
        to.start < address.end && address.start < to.end && !constant
    };
    let meets = |i: &Inst| i.class == Class::Barrier;
    if !read || body.iter().any(|i| computes(i) || meets(i)) {
        return;
    }
    // The compiler also peels the first read off such a loop.
    let same = |i: &Inst| match (i.mem(), insts[at].mem()) {
        (Some(m), Some(n)) => {
            let shape = |m: &crate::inst::Mem| (m.kind, m.offset, m.bytes, m.two);
            m.space == Space::Lds && shape(m) == shape(n) && i.src[0] == insts[at].src[0]
        }
        _ => false,
    };
    let polls: Vec<usize> =
        (first.saturating_sub(LONGEST)..last).filter(|k| same(&insts[*k])).collect();
    polls.into_iter().for_each(|k| insts[k].polls = true);
}
