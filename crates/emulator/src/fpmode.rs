//! MODE's rounding and denormal bits, by the host's own control register.

use std::cell::Cell;

/// Whether `mode` asks for nothing but rounding to nearest and kept denormals.
pub(crate) fn is_default(mode: u32, wide: bool) -> bool {
    field(mode, wide) == (0, 3)
}

/// Rounding (0 nearest, 1 up, 2 down, 3 to zero) and denormals (bit 0 kept in sources, bit 1 in
/// results) for singles, or (`wide`) for doubles and halves.
fn field(mode: u32, wide: bool) -> (u32, u32) {
    if wide { (mode >> 2 & 3, mode >> 6 & 3) } else { (mode & 3, mode >> 4 & 3) }
}

thread_local! {
    /// Rounding and flushing of halves, which the host has no register for; zero is the default.
    static HALF: Cell<u32> = const { Cell::new(0) };
}

/// Rounding, and whether sources and results are flushed, for halves; `None` is the default.
pub(crate) fn half() -> Option<(u32, bool, bool)> {
    let h = HALF.get();
    (h != 0).then_some((h & 3, h & 4 != 0, h & 8 != 0))
}

/// Runs `f` with the rounding and denormal handling that `mode` asks for.
pub(crate) fn with(mode: u32, wide: bool, f: impl FnOnce()) {
    let (round, denormals) = field(mode, wide);
    if wide {
        HALF.set(round | (!denormals & 3) << 2);
    }
    host(round, denormals, f);
    HALF.set(0);
}

#[cfg(target_arch = "x86_64")]
fn host(round: u32, denormals: u32, f: impl FnOnce()) {
    const DAZ: u32 = 1 << 6;
    const FTZ: u32 = 1 << 15;
    // The host numbers rounding 0 nearest, 1 down, 2 up, 3 to zero.
    let round = [0, 2, 1, 3][round as usize & 3] << 13;
    let flush = [DAZ | FTZ, FTZ, DAZ, 0][denormals as usize & 3];
    let old = read();
    write((old & !(0x6000 | DAZ | FTZ)) | round | flush);
    f();
    write(old);
}

#[cfg(target_arch = "x86_64")]
fn read() -> u32 {
    let mut x = 0u32;
    // SAFETY: `stmxcsr` stores four bytes to `x`.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut x, options(nostack)) };
    x
}

#[cfg(target_arch = "x86_64")]
fn write(x: u32) {
    // SAFETY: `ldmxcsr` loads a value with the exception masks unchanged; `with` restores it.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &x, options(nostack, readonly)) };
}

/// Without such a register singles and doubles keep the default.
#[cfg(not(target_arch = "x86_64"))]
fn host(_: u32, _: u32, f: impl FnOnce()) {
    f();
}
