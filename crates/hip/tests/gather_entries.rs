//! Cache entries one after another, to the bit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod random;

use hip::kernels::attention::{LATENT, ROPE};
use hip::kernels::attention_prompt::Chunk;
use hip::kernels::gather_entries::{Buffers, Places, gather_entries, list};
use hip::kernels::rope_and_cache::entry_bytes;
use model::CacheFormat;
use mx::bf16::{from_f32, to_f32};
use random::Random;

/// An entry of a cache, and what bf16 values it is: a latent and a rope.
fn entry(random: &mut Random, format: CacheFormat) -> (Vec<u8>, [Vec<u16>; 2]) {
    let (mut bytes, rope) = (Vec::new(), random.bf16s(ROPE, 4.0));
    let latent: Vec<u16> = if format == CacheFormat::Fp8 {
        // All codes but NaN, and scales from one end to the other of what bf16 holds.
        let codes = (0..LATENT).map(|_| random.below(255) as u8);
        bytes.extend(codes.map(|code| if code == 0x7f { 0xfe } else { code }));
        bytes.extend((0..LATENT / 32).map(|_| 11 + random.below(230) as u8));
        let exact = |i| mx::e4m3::decode(bytes[i]) * mx::e8m0::decode(bytes[LATENT + i / 32]);
        let code = |exact| {
            assert_eq!(to_f32(from_f32(exact)), exact, "BF16 holds what FP8 and a scale make");
            from_f32(exact)
        };
        (0..LATENT).map(exact).map(code).collect()
    } else {
        let latent = random.bf16s(LATENT, 4.0);
        bytes.extend(latent.iter().flat_map(|code| code.to_ne_bytes()));
        latent
    };
    bytes.extend(rope.iter().flat_map(|code| code.to_ne_bytes()));
    (bytes, [latent, rope])
}

/// The first entries of sequences, so many of each, whose blocks are shuffled.
fn run(format: CacheFormat, lens: &[usize], block_size: usize) {
    let gpu = device::gpu();
    let total: usize = lens.iter().sum();
    let mut random = Random::new((total + block_size) as u64);
    let blocks = lens.iter().map(|len| len.div_ceil(block_size) + 1).sum::<usize>() + 1;
    let tables: Vec<u32> = random.permutation(blocks).into_iter().map(|b| b as u32).collect();
    let size = entry_bytes(format, LATENT, ROPE);
    let mut cache = vec![0xff; 128 + blocks * block_size * size];
    let (mut chunks, mut expected, mut table) = (Vec::new(), [Vec::new(), Vec::new()], 1);
    for &len in lens {
        chunks.push(Chunk { row: 5, rows: len - len / 3, first: len / 3, table });
        for j in 0..len {
            let slot = tables[table + j / block_size] as usize * block_size + j % block_size;
            let (bytes, values) = entry(&mut random, format);
            cache[128 + slot * size..][..size].copy_from_slice(&bytes);
            expected.iter_mut().zip(values).for_each(|(all, own)| all.extend(own));
        }
        table += len.div_ceil(block_size) + 1;
    }
    let (cache, list) = (gpu.upload(&cache), gpu.upload(&list(&chunks)));
    let tables = gpu.upload(&tables);
    let places = Places { list: list.ptr(), tables: tables.ptr() };
    let [latents, ropes] = [LATENT, ROPE].map(|width| gpu.poisoned((total + 1) * width / 2));
    let buffers =
        Buffers { cache: &cache, format, cache_offset: 128, latents: &latents, ropes: &ropes };
    gather_entries(&gpu.stream, &gpu.kernels, &chunks, places, buffers, block_size).unwrap();
    for (found, expected, width) in [(&latents, &expected[0], LATENT), (&ropes, &expected[1], ROPE)]
    {
        let found: Vec<u16> = gpu.download(found);
        let (found, rest) = found.split_at(total * width);
        assert!(found == expected, "{format:?}, {lens:?} entries of {width}");
        assert!(rest.iter().all(|&code| code == u16::MAX), "beyond the last entry");
    }
}

#[test]
fn entries_are_what_the_cache_has() {
    for format in [CacheFormat::Bf16, CacheFormat::Fp8] {
        for (len, block_size) in [(0, 16), (1, 16), (31, 7), (32, 1), (33, 16), (100, 64)] {
            run(format, &[len], block_size);
        }
        run(format, &[33, 1, 0, 64, 31, 32, 5], 16);
        run(format, &[0, 0, 100, 0], 7);
    }
}

/// More sequences than a wave has lanes, some of them without entries.
#[test]
fn many_sequences() {
    let lens: Vec<usize> = (0..150).map(|i| [1, 2, 0, 40, 3][i % 5]).collect();
    run(CacheFormat::Bf16, &lens, 16);
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("entries_are_what_the_cache_has");
}
