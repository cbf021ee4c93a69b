//! Tests of the race detector.

use super::*;

fn cells(n: usize) -> Vec<Shadow> {
    (0..n).map(|_| Shadow::default()).collect()
}

fn op(
    races: &Arc<Races>,
    name: &str,
    at: (u64, u64),
    order: Order,
    atomics: bool,
) -> Arc<Operation> {
    Arc::new(races.begin(name, 0, at, order, vec![], (8, atomics)))
}

fn touch(s: &Segments, cell: &[Shadow], mask: u32, kind: Access) -> Option<Rival> {
    s.touch(&cell[..1], (mask, mask), kind, None).map(|r| r.1)
}

#[test]
fn groups_race_unless_released_and_acquired() {
    let races = Arc::new(Races::default());
    let k = op(&races, "k", (1, 1), Order::new(), true);
    let (mut a, mut b) = (Segments::new(&k, 0, 1), Segments::new(&k, 1, 1));
    let cell = cells(1);
    assert_eq!(touch(&a, &cell, 0b0011, Access::Write), None);
    assert_eq!(touch(&b, &cell, 0b1100, Access::Read), None);
    assert!(touch(&b, &cell, 0b0001, Access::Read).is_some_and(|r| !r.other_launch && r.wrote));
    a.release(Scope::Device);
    a.publish(64, Scope::Device, false);
    b.collect(64, Scope::Device);
    assert!(touch(&b, &cell, 1, Access::Read).is_some(), "no acquire yet");
    b.acquire(Scope::Device);
    assert_eq!(touch(&b, &cell, 1, Access::Read), None);
    // A later launch of the same stream is ordered, one of another stream is not.
    let same = op(&races, "k2", (1, 2), Order::from([(1, 1)]), false);
    assert_eq!(touch(&Segments::new(&same, 0, 1), &cell, 1, Access::Read), None);
    let other = op(&races, "k3", (2, 1), Order::new(), false);
    let r = touch(&Segments::new(&other, 0, 1), &cell, 1, Access::Read);
    assert!(r.is_some_and(|r| r.other_launch && r.name == "k"));
}

/// The last reader is ordered before the writer, an earlier one is not.
#[test]
fn every_reader_counts() {
    for atomics in [false, true] {
        let races = Arc::new(Races::default());
        let cell = cells(1);
        // Two streams read, a third waits for the second only and writes.
        let (a, b) = (
            op(&races, "a", (1, 1), Order::new(), atomics),
            op(&races, "b", (2, 1), Order::new(), atomics),
        );
        for k in [&a, &b] {
            for g in 0..8 {
                assert_eq!(touch(&Segments::new(k, g, 1), &cell, 15, Access::Read), None);
            }
        }
        let c = op(&races, "c", (3, 1), Order::from([(2, 1)]), atomics);
        let r = touch(&Segments::new(&c, 0, 1), &cell, 15, Access::Write);
        assert!(r.is_some_and(|r| r.name == "a" && !r.wrote), "atomics {atomics}");
        let d = op(&races, "d", (3, 2), Order::from([(1, 1), (2, 1), (3, 1)]), atomics);
        assert_eq!(touch(&Segments::new(&d, 0, 1), &cell, 15, Access::Write), None);
        let e = op(&races, "e", (3, 3), Order::from([(3, 2)]), atomics);
        assert_eq!(touch(&Segments::new(&e, 0, 1), &cell, 15, Access::Read), None);
    }
    // Within a launch: group 2 knows of group 1, not of group 0.
    let races = Arc::new(Races::default());
    let cell = cells(1);
    let k = op(&races, "k", (1, 1), Order::new(), true);
    let mut g: Vec<Segments> = (0..3).map(|n| Segments::new(&k, n, 1)).collect();
    for s in &g[..2] {
        assert_eq!(touch(s, &cell, 15, Access::Read), None);
    }
    g[1].release(Scope::Device);
    g[1].publish(64, Scope::Device, false);
    g[2].collect(64, Scope::Device);
    g[2].acquire(Scope::Device);
    let r = touch(&g[2], &cell, 15, Access::Write);
    assert!(r.is_some_and(|r| r.group == 0 && !r.wrote));
}

#[test]
fn plain_accesses_race_with_atomics() {
    let races = Arc::new(Races::default());
    let cell = cells(1);
    let k = op(&races, "k", (1, 1), Order::new(), true);
    let s = |n| Segments::new(&k, n, 1);
    for n in 0..3 {
        assert_eq!(touch(&s(n), &cell, 15, Access::Atomic), None);
    }
    assert_eq!(touch(&s(3), &cell, 15, Access::AtomicRead), None);
    let r = touch(&s(3), &cell, 15, Access::Read);
    assert!(r.is_some_and(|r| r.wrote && r.atomic));
    assert!(touch(&s(3), &cell, 15, Access::Write).is_some());
    let next = op(&races, "next", (1, 2), Order::from([(1, 1)]), true);
    assert_eq!(touch(&Segments::new(&next, 0, 1), &cell, 15, Access::Read), None);
    assert!(touch(&Segments::new(&next, 1, 1), &cell, 15, Access::Atomic).is_some());
}

/// Neighbours in one dword: two workgroups write a half each.
#[test]
fn halves_of_a_dword_are_told_apart() {
    let races = Arc::new(Races::default());
    let cell = cells(1);
    let k = op(&races, "k", (1, 1), Order::new(), false);
    let (a, b) = (Segments::new(&k, 0, 1), Segments::new(&k, 1, 1));
    for _ in 0..2 {
        for (s, mask) in [(&a, 3), (&b, 12)] {
            assert_eq!(touch(s, &cell, mask, Access::Write), None);
            assert_eq!(touch(s, &cell, mask, Access::Read), None);
        }
    }
    assert!(touch(&b, &cell, 1, Access::Read).is_some_and(|r| r.group == 0));
    let other = op(&races, "o", (2, 1), Order::new(), false);
    let o = Segments::new(&other, 0, 1);
    assert!(touch(&o, &cell, 3, Access::Read).is_some_and(|r| r.group == 0));
    assert!(touch(&o, &cell, 12, Access::Read).is_some_and(|r| r.group == 1));
}

#[test]
fn waves_of_a_workgroup_race_without_a_barrier() {
    let races = Arc::new(Races::default());
    let cell = cells(4);
    let k = op(&races, "k", (1, 1), Order::new(), false);
    let s = Segments::new(&k, 0, 4);
    let mut clock = GroupClock::default();
    let at = |c: &GroupClock, wave, kind| {
        s.touch(&cell, (15, 15), kind, Some((c, wave, kind))).map(|r| r.1.wave)
    };
    assert_eq!(at(&clock, 0, Access::Write), None);
    assert_eq!(at(&clock, 1, Access::Read), Some(Some(0)));
    clock.barrier();
    assert_eq!(at(&clock, 1, Access::Read), None);
    assert_eq!(at(&clock, 2, Access::Read), None);
    assert_eq!(at(&clock, 0, Access::Write), Some(Some(1)));
    clock.barrier();
    assert_eq!(at(&clock, 0, Access::Write), None);
    // A later workgroup's waves have nothing to do with these.
    let next = op(&races, "k", (1, 2), Order::from([(1, 1)]), false);
    let t = Segments::new(&next, 0, 4);
    let fresh = GroupClock::default();
    assert_eq!(t.touch(&cell, (15, 15), Access::Read, Some((&fresh, 3, Access::Read))), None);
}

/// Time starts again after many barriers: what a workgroup read before is still its own.
#[test]
fn a_renewed_workgroup_does_not_race_with_itself() {
    let races = Arc::new(Races::default());
    let cell = cells(1);
    let k = op(&races, "k", (1, 1), Order::new(), false);
    let (mut s, mut clock) = (Segments::new(&k, 3, 4), GroupClock::default());
    let at = |s: &Segments, c: &GroupClock, wave, kind| {
        s.touch(&cell, (15, 15), kind, Some((c, wave, kind)))
    };
    assert_eq!(at(&s, &clock, 0, Access::Read), None);
    let mut renewed = 0;
    for _ in 0..5000 {
        if clock.barrier() {
            s.renew();
            renewed += 1;
        }
        assert_eq!(at(&s, &clock, 1, Access::Read), None);
    }
    assert!(renewed > 1);
    clock.barrier();
    assert_eq!(at(&s, &clock, 2, Access::Write), None);
    assert!(at(&s, &clock, 1, Access::Read).is_some(), "without a barrier");
}

/// Another device's stream that nobody waits for keeps the floor low; producers are known anyway.
#[test]
fn producers_above_the_floor_are_ordered() {
    let races = Arc::new(Races::default());
    let cell = cells(1);
    let loose = op(&races, "elsewhere", (9, 1), Order::new(), false);
    for seq in 1..10 {
        let k = op(&races, "k", (1, seq), Order::from([(1, seq - 1)]), false);
        for group in 0..3 {
            let s = Segments::new(&k, group, 1);
            assert_eq!(touch(&s, &cell, 15, Access::Read), None);
        }
        let next = op(&races, "w", (1, seq), Order::from([(1, seq)]), false);
        let s = Segments::new(&next, 0, 1);
        assert_eq!(touch(&s, &cell, 15, Access::Write), None);
        assert!(s.settled(k.first) && !s.settled(loose.first));
    }
}

/// Launches on two devices meet through words: what came before the one that publishes is known,
/// and later operations of a stream know what an earlier one has learnt. Fences that reach only
/// their device do not do.
#[test]
fn devices_meet_by_fences_that_reach_all() {
    for (out, back) in [(Scope::Device, Scope::System), (Scope::System, Scope::Device)] {
        let races = Arc::new(Races::default());
        let cell = cells(1);
        let begin = |name, device, at: (u64, u64)| {
            let order = Order::from([(at.0, at.1 - 1)]);
            Arc::new(races.begin(name, device, at, order, vec![], (1, true)))
        };
        let first = Segments::new(&begin("writes", 0, (1, 1)), 0, 1);
        assert_eq!(touch(&first, &cell, 15, Access::Write), None);
        let mut a = Segments::new(&begin("a", 0, (1, 2)), 0, 1);
        let mut b = Segments::new(&begin("b", 1, (2, 1)), 0, 1);
        a.release(out);
        a.publish(64, Scope::System, false);
        b.collect(64, Scope::System);
        b.acquire(Scope::System);
        let seen = touch(&b, &cell, 15, Access::Read);
        assert_eq!(seen.is_none(), out == Scope::System);
        if seen.is_some() {
            continue;
        }
        b.release(Scope::System);
        b.publish(128, Scope::System, false);
        a.collect(128, Scope::System);
        a.acquire(back);
        drop(a);
        let next = Segments::new(&begin("next", 0, (1, 3)), 0, 1);
        let seen = touch(&next, &cell, 15, Access::Write);
        assert!(seen.is_some_and(|r| r.other_launch && r.name == "b"), "the acquire was narrow");
        let mut again = Segments::new(&begin("again", 0, (1, 4)), 0, 1);
        again.collect(128, Scope::System);
        again.acquire(Scope::System);
        drop(again);
        let next = Segments::new(&begin("next", 0, (1, 5)), 0, 1);
        assert_eq!(touch(&next, &cell, 15, Access::Write), None);
        let stranger = Segments::new(&begin("stranger", 0, (3, 1)), 0, 1);
        assert!(touch(&stranger, &cell, 15, Access::Write).is_some());
    }
}
