//! Compiled kernels against plain Rust, in every schedule.

mod harness;

use emulator::config::Config;
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

fn bf16(x: f32) -> u16 {
    (x.to_bits() >> 16) as u16
}

/// Tiles through LDS and matrix instructions, at every optimisation level.
#[test]
fn matrix_product() {
    let k = 96usize;
    let mut r = Random(11);
    // Small integers: every product and sum is exact.
    let mut draw = || (0..32 * k).map(|_| (r.u32() % 17) as f32 - 8.0).collect::<Vec<_>>();
    let (a, b) = (draw(), draw());
    let bits = |v: &[f32]| v.iter().map(|x| bf16(*x)).collect::<Vec<_>>();
    let want: Vec<f32> =
        (0..1024).map(|n| (0..k).map(|i| a[n / 32 * k + i] * b[n % 32 * k + i]).sum()).collect();
    for level in ["-O3", "-O1", "-O0"] {
        let image = harness::compile_at("gemm.hip", level);
        let configs = if level == "-O3" { schedules() } else { vec![strict()] };
        for config in configs {
            let what = format!("{level} {config:?}");
            let m = Machine::new(&image, config);
            let (da, db, dc) = (m.buffer(&bits(&a)), m.buffer(&bits(&b)), m.raw(4096));
            if let Err(f) = m.launch("gemm", 1, 256, &[da.base, db.base, dc.base, k as u64]) {
                panic!("{what}: {f}");
            }
            assert_eq!(read::<f32>(&dc), want, "{what}");
        }
    }
}

#[test]
fn calls_private_memory_and_globals() {
    let input: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let want: Vec<f64> = (0..64usize)
        .map(|t| {
            let s: f32 = (0..11)
                .map(|i| ((t + (t * 7 + i) % 16) % 64) as f32 * (i % 8 + 1) as f32)
                .fold(0.0, |s, x| s + x);
            f64::from(s * s * s) + f64::from(input[t]).sqrt()
        })
        .collect();
    for level in ["-O3", "-O0"] {
        let image = harness::compile_at("gemm.hip", level);
        let m = Machine::new(&image, strict());
        let (din, out) = (m.buffer(&input), m.raw(512));
        if let Err(f) = m.launch("mixed", 1, 64, &[din.base, out.base, 11]) {
            panic!("{level}: {f}");
        }
        for (got, want) in read::<f64>(&out).into_iter().zip(&want) {
            // The square root is refined to an ulp of the double, far below the sum's.
            assert!((got - want).abs() <= want.abs() * 4.0 * f64::EPSILON, "{got} {want}");
        }
        let (sums, vote) = (m.raw(256), m.raw(8));
        m.launch("wave_sum", 1, 64, &[din.base, sums.base, vote.base]).unwrap();
        assert_eq!(read::<f32>(&sums), [2016.0; 64]);
        assert_eq!(read::<u64>(&vote), [!1]);
    }
}

/// Float atomics depend on order: one seed gives one result, bit for bit; seeds differ.
#[test]
fn one_seed_one_result() {
    let image = compile("gemm.hip");
    let mut r = Random(21);
    let x: Vec<f32> = (0..4096).map(|_| r.f32() * 1e6).collect();
    let run = |seed, strict| {
        let m = Machine::new(&image, Config { seed, strict, late: strict, ..harness::strict() });
        let (dx, sum) = (m.buffer(&x), m.buffer(&[0f32]));
        m.launch("atomic_sum", 64, 64, &[dx.base, sum.base]).unwrap();
        read::<u32>(&sum)[0]
    };
    let results: Vec<u32> = (0..6).map(|seed| run(seed, true)).collect();
    for (seed, first) in results.iter().enumerate() {
        assert_eq!(run(seed as u64, true), *first);
        assert_eq!(run(seed as u64, false), *first, "checks change nothing");
    }
    assert!(results.iter().any(|x| *x != results[0]), "the order never showed");
}
