//! Compiled kernels against plain Rust, in every schedule.

mod harness;

use harness::{Machine, Random, compile, read, schedules, strict};

#[test]
fn vector_add() {
    let image = compile("basic.hip");
    let n = 1000usize;
    let a: Vec<f32> = (0..n).map(|i| i as f32 * 0.5).collect();
    let b: Vec<f32> = (0..n).map(|i| 1000.0 - i as f32).collect();
    for config in schedules() {
        let m = Machine::new(&image, config);
        let (da, db, dc) = (m.buffer(&a), m.buffer(&b), m.raw(4 * n as u64));
        m.launch("vadd", 4, 256, &[da.base, db.base, dc.base, n as u64]).unwrap();
        let want: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x + y).collect();
        assert_eq!(read::<f32>(&dc), want);
    }
}

/// clang's division sequence must round correctly for every kind of operand.
#[test]
fn division_is_exact() {
    let mut a = vec![];
    let mut b = vec![];
    let special = [
        0.0f32,
        -0.0,
        1.0,
        -1.0,
        3.0,
        f32::MAX,
        f32::MIN_POSITIVE,
        f32::INFINITY,
        f32::NAN,
        1e-45,
        1e-40,
        -1e-39,
        2f32.powi(126),
        2f32.powi(127),
        1.5 * 2f32.powi(126),
        7e37,
        1e-37,
    ];
    for x in special {
        for y in special {
            a.push(x);
            b.push(y);
        }
    }
    let mut r = Random(9);
    while a.len() < 4096 {
        a.push(f32::from_bits(r.u32()));
        b.push(f32::from_bits(r.u32()));
    }
    let m = Machine::new(&compile("basic.hip"), strict());
    let (da, db, dc) = (m.buffer(&a), m.buffer(&b), m.raw(4 * 4096));
    m.launch("divide", 16, 256, &[da.base, db.base, dc.base]).unwrap();
    for (i, c) in read::<f32>(&dc).into_iter().enumerate() {
        let want = a[i] / b[i];
        let same = c.to_bits() == want.to_bits() || c.is_nan() && want.is_nan();
        assert!(same, "{} / {} = {c}, want {want}", a[i], b[i]);
    }
}

#[test]
fn division_of_doubles_is_exact() {
    let mut r = Random(3);
    let mut draw = || f64::from_bits(u64::from(r.u32()) << 32 | u64::from(r.u32()));
    let mut a: Vec<f64> = (0..2048).map(|_| draw()).collect();
    let mut b: Vec<f64> = (0..2048).map(|_| draw()).collect();
    for (k, x) in [0.0, 1.0, -3.0, 5e-324, 1e-310, f64::MAX, f64::INFINITY].iter().enumerate() {
        for (l, y) in [1.0, 0.0, 3.0, 1e-320, 1.7e308, f64::NAN, 1e300].iter().enumerate() {
            (a[7 * k + l], b[7 * k + l]) = (*x, *y);
        }
    }
    let m = Machine::new(&compile("basic.hip"), strict());
    let (da, db, dc) = (m.buffer(&a), m.buffer(&b), m.raw(8 * 2048));
    m.launch("divide64", 8, 256, &[da.base, db.base, dc.base]).unwrap();
    for (i, c) in read::<f64>(&dc).into_iter().enumerate() {
        let want = a[i] / b[i];
        let same = c.to_bits() == want.to_bits() || c.is_nan() && want.is_nan();
        assert!(same, "{:e} / {:e} = {c:e}, want {want:e}", a[i], b[i]);
    }
}

#[test]
fn reduction_through_lds() {
    let image = compile("basic.hip");
    let x: Vec<f32> = (0..1024).map(|i| (i % 17) as f32).collect();
    for config in schedules() {
        let m = Machine::new(&image, config);
        let (dx, out) = (m.buffer(&x), m.raw(16));
        m.launch("block_sum", 4, 256, &[dx.base, out.base]).unwrap();
        let want: Vec<f32> = x.chunks(256).map(|c| c.iter().sum()).collect();
        assert_eq!(read::<f32>(&out), want);
    }
}

/// The last workgroup reads what the others wrote: ordered by an acquire-release atomic.
#[test]
fn last_block_reads_all() {
    let image = compile("basic.hip");
    let x: Vec<f32> = (0..8).map(|i| i as f32).collect();
    for config in schedules() {
        let m = Machine::new(&image, config);
        let (dx, part, count, out) = (m.buffer(&x), m.raw(32), m.buffer(&[0u32]), m.raw(32));
        m.launch("last_block", 8, 64, &[dx.base, part.base, count.base, out.base]).unwrap();
        assert_eq!(read::<f32>(&out), x.iter().map(|v| 2.0 * v).collect::<Vec<_>>());
    }
}

#[test]
fn divergent_loops_and_integer_division() {
    let image = compile("basic.hip");
    let x: Vec<u32> = (1..65).collect();
    let steps: Vec<u32> = x
        .iter()
        .map(|v| {
            let (mut v, mut n) = (u64::from(*v), 0);
            while v != 1 {
                v = if v & 1 == 1 { 3 * v + 1 } else { v / 2 };
                n += 1;
            }
            n
        })
        .collect();
    let mut r = Random(5);
    let a: Vec<u32> = (0..256).map(|_| r.u32()).collect();
    let b: Vec<u32> = (0..256).map(|i| (r.u32() >> (i % 31)).max(1)).collect();
    for config in schedules() {
        let m = Machine::new(&image, config);
        let (dx, out) = (m.buffer(&x), m.raw(256));
        m.launch("collatz", 1, 64, &[dx.base, out.base]).unwrap();
        assert_eq!(read::<u32>(&out), steps);
        let (da, db) = (m.buffer(&a), m.buffer(&b));
        let (q, rem, w) = (m.raw(1024), m.raw(1024), m.raw(2048));
        m.launch("mods", 2, 128, &[da.base, db.base, q.base, rem.base, w.base]).unwrap();
        for i in 0..256 {
            assert_eq!(read::<u32>(&q)[i], a[i] / b[i]);
            assert_eq!(read::<u32>(&rem)[i], a[i] % b[i]);
            let want = i64::from(a[i]) * 1_000_003 / i64::from((b[i] | 1) as i32);
            assert_eq!(read::<i64>(&w)[i], want);
        }
    }
}
