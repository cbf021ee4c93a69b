//! Classes of tensors, from their names, and the sums over them.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::plan::{Row, TensorPlan};
use crate::Class;

/// Class of what this server does not read.
pub(super) const VISION: &str = "vision";

/// Where a module's tensors belong, from its name.
pub(super) fn class(module: &str) -> &'static str {
    let kinds: [(&[&str], &'static str); 9] = [
        (&["vision_tower.", "mm_projector.", "visual."], VISION),
        (&[".experts."], Class::Experts.name()),
        (&["shared_expert"], Class::SharedExperts.name()),
        (&["norm"], Class::Norm.name()),
        (&["self_attn", "attention"], Class::Attention.name()),
        (&["embed"], Class::Embedding.name()),
        (&["lm_head"], Class::Head.name()),
        (&["_proj"], Class::DenseMlp.name()),
        (&[".gate", "router"], Class::Router.name()),
    ];
    let found = kinds.iter().find(|(parts, _)| parts.iter().any(|part| module.contains(part)));
    found.map_or("other", |(_, name)| name)
}

/// Sums by class and change, ordered as in [`Class`].
pub(super) fn table<'a>(tensors: impl Iterator<Item = &'a TensorPlan>) -> Vec<Row> {
    const ORDER: [Class; 8] = [
        Class::Embedding,
        Class::Attention,
        Class::Norm,
        Class::DenseMlp,
        Class::Router,
        Class::SharedExperts,
        Class::Experts,
        Class::Head,
    ];
    let mut rows: BTreeMap<_, Row> = BTreeMap::new();
    for plan in tensors {
        let (class, from, to) = (plan.class, plan.from(), plan.to());
        let place = ORDER.iter().position(|c| c.name() == class).unwrap_or(ORDER.len());
        let empty = Row { class, from, to, tensors: 0, before: 0, after: 0 };
        let row = rows.entry((place, class, from, to)).or_insert(empty);
        row.tensors += 1;
        row.before += plan.source.bytes();
        let bytes = |(_, dtype, shape): (String, Dtype, Vec<usize>)| {
            shape.iter().product::<usize>() * dtype.bitsize() / 8
        };
        row.after += plan.written().into_iter().map(bytes).sum::<usize>();
    }
    rows.into_values().collect()
}
