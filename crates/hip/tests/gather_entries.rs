//! Cache entries one after another, to the bit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod random;

use hip::kernels::attention::{LATENT, ROPE};
use hip::kernels::gather_entries::{Buffers, gather_entries};
use hip::kernels::rope_and_cache::entry_bytes;
use model::CacheFormat;
use mx::bf16::{from_f32, to_f32};
use random::Random;

/// The first `len` entries of a sequence with shuffled blocks.
fn run(format: CacheFormat, len: usize, block_size: usize) {
    let gpu = device::gpu();
    let mut random = Random::new((len + block_size) as u64);
    let (blocks, size) = (len.div_ceil(block_size) + 2, entry_bytes(format, LATENT, ROPE));
    let table: Vec<u32> = random.permutation(blocks).into_iter().map(|b| b as u32).collect();
    let (mut latents, mut ropes) = (Vec::new(), Vec::new());
    let mut cache = vec![0xff; 128 + blocks * block_size * size];
    for entry in 0..len {
        let slot = table[entry / block_size] as usize * block_size + entry % block_size;
        let rope = random.bf16s(ROPE, 4.0);
        let mut bytes = Vec::new();
        if format == CacheFormat::Fp8 {
            // All codes but NaN, and scales from one end to the other of what bf16 holds.
            let codes: Vec<u8> = (0..LATENT).map(|_| random.below(255) as u8).collect();
            let codes = codes.into_iter().map(|code| if code == 0x7f { 0xfe } else { code });
            bytes.extend(codes);
            bytes.extend((0..LATENT / 32).map(|_| 11 + random.below(230) as u8));
            latents.extend((0..LATENT).map(|i| {
                let scale = mx::e8m0::decode(bytes[LATENT + i / 32]);
                let exact = mx::e4m3::decode(bytes[i]) * scale;
                assert_eq!(to_f32(from_f32(exact)), exact, "BF16 holds what FP8 and a scale make");
                from_f32(exact)
            }));
        } else {
            let latent = random.bf16s(LATENT, 4.0);
            bytes.extend(latent.iter().flat_map(|code| code.to_ne_bytes()));
            latents.extend(latent);
        }
        bytes.extend(rope.iter().flat_map(|code| code.to_ne_bytes()));
        ropes.extend(rope);
        cache[128 + slot * size..][..size].copy_from_slice(&bytes);
    }
    let cache = gpu.upload(&cache);
    let blocks = gpu.upload(&table);
    let to = [LATENT, ROPE].map(|width| gpu.poisoned((len + 1) * width / 2));
    let [latent, rope] = &to;
    let buffers =
        Buffers { cache: &cache, format, cache_offset: 128, latents: latent, ropes: rope };
    gather_entries(&gpu.stream, &gpu.kernels, blocks.ptr(), len, buffers, block_size).unwrap();
    for (found, expected, width) in [(latent, latents, LATENT), (rope, ropes, ROPE)] {
        let found: Vec<u16> = gpu.download(found);
        let (found, rest) = found.split_at(len * width);
        assert!(found == expected, "{format:?}, {len} entries of {width}");
        assert!(rest.iter().all(|&code| code == u16::MAX), "beyond the last entry");
    }
}

#[test]
fn entries_are_what_the_cache_has() {
    for format in [CacheFormat::Bf16, CacheFormat::Fp8] {
        for (len, block_size) in [(0, 16), (1, 16), (31, 7), (32, 1), (33, 16), (100, 64)] {
            run(format, len, block_size);
        }
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("entries_are_what_the_cache_has");
}
