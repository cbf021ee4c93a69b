//! `sort` against a stable sort.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod device;
mod numbers;

use device::Gpu;
use hip::kernels::Rows;
use hip::kernels::sort::{Sorted, sort};
use numbers::Random;

/// Sorts and compares everything that is written. After the rows come `spare` ones of no expert:
/// there may be so many more.
fn check(gpu: &Gpu, chosen: &[u32], top_k: usize, experts: usize, tiles: usize, spare: usize) {
    let rows = chosen.len() / top_k;
    let bound = rows + spare;
    let out = Sorted::new(&gpu.device, bound * top_k, experts).unwrap();
    for memory in [&out.pairs, &out.groups] {
        gpu.stream.fill(memory, u32::MAX).unwrap();
    }
    let count = gpu.upload(&[rows as u32]);
    let rows = Rows { count: count.ptr(), bound };
    let mut with_spare = chosen.to_vec();
    with_spare.resize(bound * top_k, 0xdead_beef);
    let chosen_memory = gpu.upload(&with_spare);
    sort(&gpu.stream, &gpu.kernels, rows, &chosen_memory, top_k, experts, tiles, &out).unwrap();

    let mut pairs = vec![u32::MAX; out.pairs.bytes() / 4];
    let mut groups = Vec::new();
    let mut slot = 0;
    for expert in 0..experts as u32 {
        let own = (0..chosen.len() as u32).filter(|&pair| chosen[pair as usize] == expert);
        let own: Vec<u32> = own.collect();
        pairs[slot..slot + own.len()].copy_from_slice(&own);
        for (i, part) in own.chunks(16 * tiles).enumerate() {
            groups.push([expert, (slot + i * 16 * tiles) as u32, part.len() as u32, 0]);
        }
        slot += own.len().next_multiple_of(16);
    }
    assert_eq!(gpu.download::<u32>(&out.group_count), [groups.len() as u32]);
    let mut expected = groups.concat();
    expected.resize(out.groups.bytes() / 4, u32::MAX);
    assert_eq!(gpu.download::<u32>(&out.groups), expected);
    assert_eq!(gpu.download::<u32>(&out.pairs), pairs);
}

/// `top_k` different experts for each row.
fn random(seed: u64, rows: usize, top_k: usize, experts: usize) -> Vec<u32> {
    let mut random = Random(seed);
    let row = |_| {
        let mut all: Vec<u32> = (0..experts as u32).collect();
        for i in 0..top_k {
            let other = i + random.below(experts - i);
            all.swap(i, other);
        }
        all.truncate(top_k);
        all.sort_unstable();
        all
    };
    (0..rows).flat_map(row).collect()
}

/// At most 512 pairs: one workgroup.
#[test]
fn sorts_few_pairs() {
    let gpu = device::gpu();
    check(&gpu, &[], 8, 384, 1, 0);
    check(&gpu, &[], 8, 384, 1, 4);
    check(&gpu, &[383], 1, 384, 1, 0);
    check(&gpu, &random(1, 1, 8, 384), 8, 384, 1, 3);
    for pairs in [31, 32, 33, 63, 64, 65, 127, 128, 129, 511] {
        check(&gpu, &random(pairs as u64, pairs, 1, 384), 1, 384, 1, pairs % 2);
    }
    check(&gpu, &random(2, 64, 8, 384), 8, 384, 1, 0);
    check(&gpu, &random(3, 60, 8, 384), 8, 384, 1, 4);
    check(&gpu, &random(4, 33, 2, 512), 2, 512, 2, 0);
    check(&gpu, &random(5, 100, 4, 10), 4, 10, 6, 17);
    // All to one expert; to each expert one pair.
    check(&gpu, &[6; 150], 1, 8, 4, 0);
    check(&gpu, &[511; 512], 1, 512, 1, 0);
    check(&gpu, &[0; 512], 1, 1, 4, 0);
    check(&gpu, &(0..512).rev().collect::<Vec<u32>>(), 1, 512, 1, 0);
}

/// More, or more that there may be.
#[test]
fn sorts_many_pairs() {
    let gpu = device::gpu();
    check(&gpu, &[], 8, 384, 1, 65);
    check(&gpu, &[383], 1, 384, 1, 512);
    for pairs in [512, 513, 639, 641] {
        check(&gpu, &random(pairs as u64, pairs, 1, 384), 1, 384, 1, 513 - pairs.min(513));
    }
    check(&gpu, &random(6, 70, 8, 384), 8, 384, 1, 0);
    check(&gpu, &random(7, 300, 4, 10), 4, 10, 4, 17);
    check(&gpu, &random(8, 333, 3, 7), 3, 7, 6, 0);
    check(&gpu, &random(9, 257, 8, 512), 8, 512, 1, 3);
    // All to one expert; to each expert as many.
    check(&gpu, &[511; 1000], 1, 512, 1, 0);
    check(&gpu, &[0; 530], 1, 1, 4, 0);
    check(&gpu, &(0..512).rev().cycle().take(1536).collect::<Vec<u32>>(), 1, 512, 1, 0);
}

#[test]
fn sorts_the_largest_batch() {
    check(&device::gpu(), &random(5, 8192, 8, 384), 8, 384, 4, 0);
    // As many pairs as there may be, all of one expert.
    for expert in [0, 1] {
        check(&device::gpu(), &vec![expert; (1 << 19) - 1], 1, 2, 4, 0);
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("sorts_few_pairs");
    device::in_every_schedule("sorts_many_pairs");
}
