//! Graphs and their executable form.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::stream::Work;
use crate::sched::Rng;

/// One node: work, and the nodes it comes after.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) work: Work,
    pub(crate) after: Vec<usize>,
}

/// A graph; nodes are in an order that respects their dependencies.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
}

impl Graph {
    /// Adds a node.
    pub(crate) fn push(&mut self, n: Node) -> usize {
        self.nodes.push(n);
        self.nodes.len() - 1
    }
}

/// All nodes that `of` depend on, with themselves.
pub(crate) fn ancestors(nodes: &[Node], of: &[usize]) -> HashSet<usize> {
    let mut seen = HashSet::new();
    let mut stack = of.to_vec();
    while let Some(n) = stack.pop() {
        if seen.insert(n)
            && let Some(node) = nodes.get(n)
        {
            stack.extend(&node.after);
        }
    }
    seen
}

/// An instantiated graph.
pub(crate) struct Executable {
    pub(crate) nodes: Mutex<Arc<[Node]>>,
}

/// Whether two nodes may stand for each other in an update.
pub(crate) fn alike(a: &Node, b: &Node) -> bool {
    let kind = |w: &Work| match w {
        Work::Kernel(_) => 0,
        Work::Transfer(_) => 1,
        Work::Host(_) => 2,
        Work::Collective(_) => 3,
    };
    kind(&a.work) == kind(&b.work) && a.after == b.after
}

/// An order of execution: as captured with seed 0, else any order the dependencies allow.
pub(crate) fn schedule(nodes: &[Node], seed: u64) -> Vec<usize> {
    if seed == 0 {
        return (0..nodes.len()).collect();
    }
    let mut rng = Rng(seed);
    let mut waits: Vec<usize> = nodes.iter().map(|n| n.after.len()).collect();
    let mut ready: Vec<usize> = (0..nodes.len()).filter(|k| waits[*k] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while !ready.is_empty() {
        let k = ready.swap_remove((rng.draw() % ready.len() as u64) as usize);
        order.push(k);
        for (j, n) in nodes.iter().enumerate() {
            if n.after.contains(&k) {
                waits[j] -= 1;
                if waits[j] == 0 {
                    ready.push(j);
                }
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_respects_dependencies() {
        unsafe extern "C" fn nothing(_: *mut std::ffi::c_void) {}
        let data = std::ptr::null_mut();
        let work = Work::Host(super::super::stream::Callback { function: nothing, data });
        let node = |after: &[usize]| Node { work: work.clone(), after: after.to_vec() };
        let nodes = [node(&[]), node(&[0]), node(&[0]), node(&[1, 2]), node(&[])];
        for seed in 0..20 {
            let order = schedule(&nodes, seed);
            assert_eq!(order.len(), nodes.len());
            for (k, n) in nodes.iter().enumerate() {
                let at = |x: usize| order.iter().position(|o| *o == x);
                assert!(n.after.iter().all(|a| at(*a) < at(k)));
            }
        }
    }
}
