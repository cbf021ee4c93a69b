//! What workgroups learn of other launches through atomics and fences.
//!
//! A release lets a workgroup publish, by the words that it then writes, what it knows: the clock
//! of each workgroup that it has synchronised with. Who reads such a word and then acquires knows
//! that too, and all that comes before those workgroups' launches. Later operations of its stream
//! inherit it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::Order;

/// How far an access or a fence reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The device.
    Device,
    /// All devices and the host.
    System,
}

/// Clocks by launch and workgroup.
pub(super) type Clocks = HashMap<(u32, u32), u32>;

pub(super) fn join_clocks(to: &mut Clocks, from: &Clocks) {
    for (k, v) in from {
        let x = to.entry(*k).or_insert(0);
        *x = (*x).max(*v);
    }
}

/// What was published through an address, and the launch that last dropped settled clocks from it.
#[derive(Default)]
pub(super) struct Channel {
    pub(super) clocks: Clocks,
    swept: u32,
}

/// The words that workgroups synchronise through: what they say to their own device, and
/// ([`EVERYBODY`]) to all.
#[derive(Default)]
pub(super) struct Channels(Mutex<HashMap<(u32, u64), Channel>>);

/// In place of a device.
pub(super) const EVERYBODY: u32 = u32::MAX;

impl Channels {
    /// Gives `f` the channel at `address`, without clocks of launches before `floor`, for `launch`.
    pub(super) fn with(
        &self,
        (device, address): (u32, u64),
        (launch, floor): (u32, u32),
        f: impl FnOnce(&mut Channel),
    ) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.entry((device, address)).or_default();
        if at.swept != launch {
            at.clocks.retain(|(launch, _), _| *launch >= floor);
            at.swept = launch;
        }
        f(at);
    }
}

/// What comes before an operation.
#[derive(Default)]
pub(super) struct Past {
    pub(super) order: Order,
    /// Operations with the same place in the stream (nodes of one graph).
    pub(super) after: HashSet<u32>,
}

impl Past {
    /// Whether all of a launch, which is the `seq`th operation of `stream`, is in it.
    pub(super) fn has(&self, launch: u32, (stream, seq): (u64, u64)) -> bool {
        self.order.get(&stream).is_some_and(|last| *last >= seq) || self.after.contains(&launch)
    }
}

/// What operations inherit from those before them.
#[derive(Default)]
pub(super) struct Inherited {
    pub(super) clocks: Clocks,
    /// The pasts of the launches in `clocks`.
    pub(super) pasts: Vec<Arc<Past>>,
}

/// A launch of another stream whose clocks an operation has learnt.
struct Learnt {
    seq: u64,
    launch: u32,
    clocks: HashMap<u32, u32>,
}

/// What all operations have learnt, and the pasts of launches that others may have learnt of.
#[derive(Default)]
pub(super) struct Knowledge {
    pasts: RwLock<HashMap<u32, Arc<Past>>>,
    learnt: Mutex<HashMap<u64, Vec<Learnt>>>,
}

impl Knowledge {
    /// Who knows of `launch` knows of its past.
    pub(super) fn tell(&self, launch: u32, past: &Arc<Past>) {
        let known = self.pasts.read().unwrap_or_else(PoisonError::into_inner).contains_key(&launch);
        if !known {
            let mut pasts = self.pasts.write().unwrap_or_else(PoisonError::into_inner);
            pasts.insert(launch, Arc::clone(past));
        }
    }

    /// The past of a launch that has told it.
    pub(super) fn past(&self, launch: u32) -> Option<Arc<Past>> {
        self.pasts.read().unwrap_or_else(PoisonError::into_inner).get(&launch).cloned()
    }

    /// Operation `seq` of `stream` has learnt of other launches. `before(a, b)`: whether all of
    /// launch `b` comes before `a`, so that nothing of it need be kept once `a` is known.
    pub(super) fn learn(
        &self,
        (stream, seq): (u64, u64),
        clocks: &Clocks,
        before: impl Fn(u32, u32) -> bool,
    ) {
        let mut all = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(stream).or_default();
        let launches: HashSet<u32> = clocks.keys().map(|(launch, _)| *launch).collect();
        let covered = |launch| launches.iter().any(|by| *by != launch && before(*by, launch));
        let last: HashSet<u32> = launches.iter().copied().filter(|l| !covered(*l)).collect();
        for (&(launch, group), &clock) in clocks.iter().filter(|((l, _), _)| last.contains(l)) {
            let place = own.iter().position(|l| (l.seq, l.launch) == (seq, launch));
            let place = place.unwrap_or_else(|| {
                own.retain(|l| l.launch == launch || !before(launch, l.launch));
                own.push(Learnt { seq, launch, clocks: HashMap::new() });
                own.len() - 1
            });
            let x = own[place].clocks.entry(group).or_insert(0);
            *x = (*x).max(clock);
        }
    }

    /// What an operation of `stream` knows beyond its `past`; `settled`: whether a launch is in
    /// that.
    pub(super) fn inherit(
        &self,
        stream: u64,
        past: &Past,
        settled: impl Fn(u32) -> bool,
    ) -> Inherited {
        let mut inherited = Inherited::default();
        let all = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        for (from, learnt) in all.iter() {
            let until = if *from == stream { Some(&u64::MAX) } else { past.order.get(from) };
            let Some(until) = until else { continue };
            for l in learnt.iter().filter(|l| l.seq <= *until && !settled(l.launch)) {
                inherited.pasts.extend(self.past(l.launch));
                for (&group, &clock) in &l.clocks {
                    let x = inherited.clocks.entry((l.launch, group)).or_insert(0);
                    *x = (*x).max(clock);
                }
            }
        }
        inherited
    }
}
