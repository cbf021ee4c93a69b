use checkpoint::Encoded;

use super::*;

const SHAPE: HeadShape = HeadShape { heads: 3, nope: 8, rope: 4, v: 6, latent: 16 };
const ENTRY: usize = 20;

fn value(i: usize) -> f32 {
    ((i * 2654435761) % 1013) as f32 / 506.0 - 1.0
}

fn kv_b() -> Matrix {
    let rows = SHAPE.heads * (SHAPE.nope + SHAPE.v);
    let values = (0..rows * SHAPE.latent).map(|i| value(i * 5)).collect();
    Matrix { rows, cols: SHAPE.latent, data: Encoded::F32(values) }
}

/// The published, expanded formula in f64: keys and values of every head from the latent.
fn expanded(q: &[f32], entries: &[Vec<f32>], head: usize, scale: f64) -> Vec<f64> {
    let kv_b = kv_b();
    let mut row = vec![0.0; SHAPE.latent];
    let mut expand = |r: usize, c: &[f32]| -> f64 {
        kv_b.row(head * (SHAPE.nope + SHAPE.v) + r, &mut row);
        row.iter().zip(c).map(|(w, c)| *w as f64 * *c as f64).sum()
    };
    let scores: Vec<f64> = entries
        .iter()
        .map(|entry| {
            let nope: f64 = (0..SHAPE.nope).map(|i| q[i] as f64 * expand(i, entry)).sum();
            let rope: f64 = (0..SHAPE.rope)
                .map(|i| q[SHAPE.nope + i] as f64 * entry[SHAPE.latent + i] as f64)
                .sum();
            scale * (nope + rope)
        })
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    (0..SHAPE.v)
        .map(|i| {
            let weighted = scores
                .iter()
                .zip(entries)
                .map(|(s, entry)| (s - max).exp() / sum * expand(SHAPE.nope + i, entry));
            weighted.sum()
        })
        .collect()
}

/// Two sequences in scattered blocks, one of them mid-prompt, against the expanded formula.
///
/// Bound: scores of magnitude below 0.3 * 8 * 16 with chains of at most 7 roundings are right to
/// 40 * 7 * 2^-24 = 2e-5, which moves a weight by as much relative to itself; values are at most 16
/// in magnitude and add up with weights of sum 1: 4e-4.
#[test]
fn absorbed_equals_expanded_over_paged_blocks() {
    let shape = CacheShape { layers: 2, blocks: 8, block_size: 4, latent_dim: ENTRY };
    let mut cache = Cache::new(shape, CacheFormat::Native);
    let (norm, table) = (vec![1.0f32; SHAPE.latent], kernel_table());
    let (head, scale) = (SHAPE.nope + SHAPE.rope, 0.3);
    let kv: Vec<f32> = (0..14 * ENTRY).map(|i| value(i * 11 + 3)).collect();
    let mut q: Vec<f32> = (0..14 * SHAPE.heads * head).map(|i| value(i * 3 + 7)).collect();
    let spans = [
        Span { row: 0, rows: 5, position: 4, blocks: vec![6, 1, 3], generated: false },
        Span { row: 5, rows: 9, position: 0, blocks: vec![0, 7, 2], generated: false },
    ];
    // The first sequence's positions 0..4 were written by an earlier batch.
    let earlier = [Span { row: 0, rows: 4, position: 0, blocks: vec![6, 1, 3], generated: false }];
    let first: Vec<f32> = (0..4 * ENTRY).map(|i| value(i * 13 + 1)).collect();
    let mut unused = vec![0.0; 4 * SHAPE.heads * head];
    let write = |cache: &mut Cache, spans: &[Span], q: &mut [f32], kv: &[f32]| {
        rope_and_cache(
            cache,
            spans,
            1,
            SHAPE,
            q,
            (kv, SHAPE.latent + SHAPE.rope),
            &norm,
            1e-6,
            &table,
        );
    };
    write(&mut cache, &earlier, &mut unused, &first);
    write(&mut cache, &spans, &mut q, &kv);
    let projection = LatentProjection::new(&kv_b(), SHAPE);
    let mut out = vec![f32::NAN; 14 * SHAPE.heads * SHAPE.v];
    attention(&cache, &spans, 1, &q, &projection, scale, &mut out);
    for span in &spans {
        let entry = |position: usize| {
            let start = cache.offset(1, &span.blocks, position);
            cache.values[start..start + ENTRY].to_vec()
        };
        for i in 0..span.rows {
            let entries: Vec<_> = (0..=span.position + i).map(entry).collect();
            for h in 0..SHAPE.heads {
                let at = (span.row + i) * SHAPE.heads + h;
                let q = &q[at * head..(at + 1) * head];
                let exact = expanded(q, &entries, h, scale as f64);
                for (found, exact) in out[at * SHAPE.v..].iter().zip(exact) {
                    assert!((*found as f64 - exact).abs() < 4e-4, "{found} {exact}");
                }
            }
        }
    }
    assert!(cache.values[..shape.blocks * shape.block_size * ENTRY].iter().all(|v| *v == 0.0));
}

fn kernel_table() -> Vec<f32> {
    let angle = |position: usize, pair: usize| position as f32 * [1.0, 0.1][pair];
    let pairs = (0..16).flat_map(|p| [angle(p, 0), angle(p, 1)]);
    pairs.flat_map(|a| [a.cos(), a.sin()]).collect()
}

#[test]
fn neighbouring_values_are_rotated() {
    let mut values = [1.0, 0.0, 0.0, 2.0];
    rotate(&mut values, &[0.0, 1.0, 0.6, 0.8]);
    assert_eq!(values, [0.0, 1.0, -1.6, 1.2]);
}

#[test]
fn entries_keep_what_their_format_holds() {
    let entry: Vec<f32> = (0..96).map(|i| value(i) * 1.001).collect();
    let stored = |format| {
        let mut entry = entry.clone();
        store_as(format, &mut entry, 64);
        entry
    };
    assert_eq!(stored(CacheFormat::Native), entry);
    let rounded: Vec<f32> = entry.iter().map(|&value| mx::bf16::round(value)).collect();
    assert_eq!(stored(CacheFormat::Bf16), rounded);
    let fp8 = stored(CacheFormat::Fp8);
    assert_eq!(fp8[64..], rounded[64..]);
    // E4M3 has 3 bits of mantissa; what is small beside the largest of its 32 loses more.
    for (block, kept) in rounded[..64].chunks(32).zip(fp8.chunks(32)) {
        let largest = block.iter().fold(0f32, |most, value| most.max(value.abs()));
        for (value, kept) in block.iter().zip(kept) {
            assert!((value - kept).abs() <= value.abs() / 16.0 + largest / 256.0 / 512.0);
        }
    }
    assert_ne!(fp8, rounded);
}
