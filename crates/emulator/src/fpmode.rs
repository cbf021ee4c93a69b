//! MODE's rounding and denormal bits, by the host's own control register.

/// Runs `f` with the rounding and single-precision denormal handling that `mode` asks for.
///
/// Bits 1:0 round singles (0 nearest, 1 up, 2 down, 3 to zero), bits 5:4 keep their denormals
/// (bit 4 in sources, bit 5 in results). The double and half fields are taken to be the same: the
/// host has one control for both.
#[cfg(target_arch = "x86_64")]
pub(crate) fn with(mode: u32, f: impl FnOnce()) {
    const DAZ: u32 = 1 << 6;
    const FTZ: u32 = 1 << 15;
    // The host numbers rounding 0 nearest, 1 down, 2 up, 3 to zero.
    let round = [0, 2, 1, 3][(mode & 3) as usize] << 13;
    let flush = if mode & 0x30 == 0x30 { 0 } else { DAZ | FTZ };
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

/// Without such a register the default mode is used.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn with(_: u32, f: impl FnOnce()) {
    f();
}
