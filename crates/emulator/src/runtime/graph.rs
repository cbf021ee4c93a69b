//! Graphs and their executable form.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::error::{self, Error, HipResult};
use super::stream::Work;
use super::{Object, lock, runtime};
use crate::sched::{Launch, Rng};

/// One node: work, and the nodes it comes after.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) work: Work,
    pub(crate) after: Vec<usize>,
}

/// The array of argument pointers that `hipGraphKernelNodeGetParams` shows, and what it points to.
pub(crate) struct Shown {
    /// A copy: the program may write to it.
    _bytes: Vec<u8>,
    pointers: Vec<usize>,
}

/// A graph.
#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    /// Handles given out, by node.
    handles: HashMap<usize, u64>,
    shown: HashMap<usize, Shown>,
}

impl Graph {
    /// Adds a node.
    pub(crate) fn push(&mut self, mut n: Node) -> usize {
        n.after.sort_unstable();
        n.after.dedup();
        self.nodes.push(n);
        self.nodes.len() - 1
    }

    /// Makes node `to` come after node `from`.
    pub(crate) fn depend(&mut self, from: usize, to: usize) -> HipResult<()> {
        let n = self.nodes.get_mut(to).filter(|n| from != to && !n.after.contains(&from));
        let what = "a dependency of a node on itself, or one that exists already";
        n.ok_or_else(|| Error::new(error::INVALID_VALUE, what))?.after.push(from);
        Ok(())
    }

    /// Pointers to the arguments of kernel node `k`, alive as long as the graph (or until asked
    /// again).
    pub(crate) fn arguments(&mut self, k: usize, l: &Launch) -> *const *const u8 {
        let explicit = l.kernel.args.iter().filter(|a| !a.kind.starts_with("hidden_"));
        let mut bytes = l.kernarg.clone();
        let start = bytes.as_mut_ptr();
        let pointers = explicit.map(|a| start.wrapping_add(a.offset) as usize).collect();
        let shown = Shown { _bytes: bytes, pointers };
        self.shown.insert(k, shown);
        self.shown.get(&k).map_or(std::ptr::null(), |s| s.pointers.as_ptr().cast())
    }
}

/// The handle of node `k`, the same one each time.
pub(crate) fn handle(g: &Arc<Mutex<Graph>>, k: usize) -> u64 {
    let known = lock(g).handles.get(&k).copied();
    known.unwrap_or_else(|| {
        let h = runtime().insert(Object::Node(Arc::clone(g), k));
        lock(g).handles.insert(k, h);
        h
    })
}

/// Ends a graph's handle and those of its nodes.
pub(crate) fn destroy(h: u64) -> HipResult<()> {
    let g = runtime().graph(h)?;
    runtime().remove(h)?;
    let handles = std::mem::take(&mut lock(&g).handles);
    handles.into_values().try_for_each(|h| runtime().remove(h).map(|_| ()))
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

/// A set of nodes as bits.
#[derive(Clone)]
pub(crate) struct NodeSet(Vec<u64>);

impl NodeSet {
    /// Its members, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |(w, x): (usize, &u64)| {
            let x = *x;
            (0..64).filter(move |b| x >> b & 1 == 1).map(move |b| 64 * w + b)
        };
        self.0.iter().enumerate().filter(|w| *w.1 != 0).flat_map(bits)
    }
}

/// For each node, all nodes that it comes after.
pub(crate) fn ancestors_of_all(nodes: &[Node]) -> Vec<NodeSet> {
    let mut sets = vec![NodeSet(vec![0; nodes.len().div_ceil(64)]); nodes.len()];
    for k in schedule(nodes, 0) {
        let mut mine = std::mem::take(&mut sets[k].0);
        for a in &nodes[k].after {
            mine.iter_mut().zip(&sets[*a].0).for_each(|(x, y)| *x |= y);
            mine[a / 64] |= 1 << (a % 64);
        }
        sets[k].0 = mine;
    }
    sets
}

/// An instantiated graph.
pub(crate) struct Executable {
    pub(crate) nodes: Mutex<Arc<[Node]>>,
}

impl Executable {
    /// Refuses graphs with cycles.
    pub(crate) fn new(nodes: Vec<Node>) -> HipResult<Executable> {
        if schedule(&nodes, 0).len() < nodes.len() {
            return Err(Error::new(error::INVALID_VALUE, "the graph's dependencies form a cycle"));
        }
        Ok(Executable { nodes: Mutex::new(nodes.into()) })
    }
}

/// Whether two nodes may stand for each other in an update.
pub(crate) fn alike(a: &Node, b: &Node) -> bool {
    kind(&a.work) == kind(&b.work) && a.after == b.after
}

/// `hipGraphNodeType`.
pub(crate) fn kind(w: &Work) -> i32 {
    match w {
        Work::Kernel(..) => 0,
        Work::Transfer(super::copy::Transfer::Copy { .. }) => 1,
        Work::Transfer(_) => 2,
        Work::Host(_) => 3,
        // RCCL's own launches.
        Work::Collective(_) => 0,
        Work::Empty => 5,
    }
}

/// An order of execution: with seed 0 the first that the dependencies allow, which is the order of
/// capture; else any. Nodes of a cycle are left out.
pub(crate) fn schedule(nodes: &[Node], seed: u64) -> Vec<usize> {
    let mut rng = Rng(seed);
    let mut waits: Vec<usize> = nodes.iter().map(|n| n.after.len()).collect();
    let mut next = vec![vec![]; nodes.len()];
    for (k, n) in nodes.iter().enumerate() {
        n.after.iter().for_each(|a| next[*a].push(k));
    }
    // By index with seed 0, else by a random rank.
    let mut rank = |k: usize| Reverse((if seed == 0 { 0 } else { rng.draw() }, k));
    let mut ready: BinaryHeap<_> =
        (0..nodes.len()).filter(|k| waits[*k] == 0).map(&mut rank).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse((_, k))) = ready.pop() {
        order.push(k);
        for j in &next[k] {
            waits[*j] -= 1;
            if waits[*j] == 0 {
                ready.push(rank(*j));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(after: &[usize]) -> Node {
        Node { work: Work::Empty, after: after.to_vec() }
    }

    #[test]
    fn every_schedule_respects_dependencies() {
        let nodes =
            [node(&[]), node(&[0]), node(&[0]), node(&[1, 2]), node(&[]), node(&[6]), node(&[])];
        let mut orders = HashSet::new();
        for seed in 0..20 {
            let order = schedule(&nodes, seed);
            assert_eq!(order.len(), nodes.len());
            for (k, n) in nodes.iter().enumerate() {
                let at = |x: usize| order.iter().position(|o| *o == x);
                assert!(n.after.iter().all(|a| at(*a) < at(k)));
            }
            orders.insert(order);
        }
        assert!(orders.len() > 5, "only {} orders in 20 seeds", orders.len());
        let sets = ancestors_of_all(&nodes);
        assert_eq!(sets[3].iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(sets[5].iter().collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn cycles_are_refused() {
        assert!(Executable::new(vec![node(&[1]), node(&[0])]).is_err());
        let mut g = Graph::default();
        let (a, b) = (g.push(node(&[])), g.push(node(&[0, 0])));
        assert_eq!(g.nodes[b].after, [a]);
        assert!(g.depend(a, b).is_err() && g.depend(b, b).is_err() && g.depend(b, 7).is_err());
    }
}
