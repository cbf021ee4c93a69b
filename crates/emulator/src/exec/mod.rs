//! Execution of decoded instructions.

pub(crate) mod atomic;
pub(crate) mod ds;
pub(crate) mod map;
pub(crate) mod mfma;
mod mfma_unpack;
pub(crate) mod modifiers;
pub(crate) mod salu;
pub(crate) mod smem;
pub(crate) mod smfmac;
mod span;
pub(crate) mod valu_cmp;
mod valu_cvt;
mod valu_float;
mod valu_int;
mod valu_lane;
mod valu_pk;
pub(crate) mod valu_scale;
pub(crate) mod vmem;

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::env::Env;
use crate::inst::{Exec, Extra, Inst, MemKind, Space};
use crate::wave::{Deferred, LdsFill, Wave};
pub(crate) use vmem::arrive;

/// Flat addresses of LDS start here.
pub(crate) const LDS_APERTURE: u64 = 1 << 48;
/// Flat addresses of private memory start here.
pub(crate) const SCRATCH_APERTURE: u64 = 2 << 48;

/// The tables by class of table, in lookup order.
pub(crate) fn tables() -> [&'static [(&'static str, Exec)]; 6] {
    [valu_int::OPS, valu_float::OPS, valu_cvt::OPS, valu_pk::OPS, valu_lane::OPS, salu::OPS]
}

/// Code for a mnemonic of the tables.
pub(crate) fn lookup(name: &str) -> Option<Exec> {
    static MAP: OnceLock<HashMap<&'static str, Exec>> = OnceLock::new();
    let map = MAP.get_or_init(|| tables().into_iter().flatten().copied().collect());
    map.get(name).copied()
}

/// Whether the mnemonic is one that tracks validity itself.
pub(crate) fn is_lane_op(name: &str) -> bool {
    valu_lane::OPS.iter().any(|(n, _)| *n == name)
}

/// Sets whether one lane of a vector register is defined.
pub(crate) fn set_valid(w: &mut Wave, r: usize, lane: usize, on: bool) {
    w.vvalid[r] = w.vvalid[r] & !(1 << lane) | u64::from(on) << lane;
}

/// Performs a deferred access.
pub(crate) fn perform(env: &mut Env, w: &mut Wave, i: &Inst, d: &Deferred, lds: Option<&LdsFill>) {
    if let (Extra::Fence(scope), Some(s)) = (i.extra, &mut env.segments) {
        // A cache write-back.
        s.release(scope);
    }
    let Some(m) = i.mem().copied() else { return };
    if m.space == Space::Lds {
        ds::perform(env, w, i, &m, d);
        return;
    }
    vmem::perform_at(env, w, i, &m, d, lds);
    if m.kind == MemKind::LoadLds
        && let Some(f) = lds
    {
        let inst = env.kernel.code.index_of(i.pc.into()).unwrap_or(0);
        vmem::arrive(env, w, inst, f);
    }
}
