use std::sync::Arc;

use super::*;

fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
    let mut params = SamplingParams { seed: 7, ..SamplingParams::default() };
    change(&mut params);
    params
}

fn draw(logits: &[f32], params: &SamplingParams, index: u64, counts: Option<TokenCounts>) -> u32 {
    let (params, counts) = (Arc::new(params.clone()), counts.map(Arc::new));
    draw_token(logits, &Draw { params, index, counts, mask: None })
}

fn only(tokens: u32) -> LateMask {
    let mask = LateMask::default();
    mask.set(Some(Arc::new(TokenMask::new(vec![tokens]))));
    mask
}

/// How often each id comes up in `n` draws.
fn histogram(logits: &[f32], params: &SamplingParams, n: u64) -> Vec<f64> {
    let mut counts = vec![0.0; logits.len()];
    for index in 0..n {
        counts[draw(logits, params, index, None) as usize] += 1.0 / n as f64;
    }
    counts
}

const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, -1.0, 2.0];

#[test]
fn temperature_zero_takes_the_first_of_the_largest() {
    let greedy = params(|p| p.temperature = 0.0);
    assert_eq!(draw(&LOGITS, &greedy, 0, None), 1);
    assert_eq!(draw(&[-3.0, -3.0], &greedy, 5, None), 0);
}

/// Frequencies of 100,000 draws: the standard deviation of each is below sqrt(0.25 / 1e5) = 0.0016,
/// so 0.008 is five of them.
#[test]
fn draws_follow_the_distribution() {
    for temperature in [0.5, 1.0, 2.0] {
        let found = histogram(&LOGITS, &params(|p| p.temperature = temperature), 100_000);
        let weights = LOGITS.map(|l| (l as f64 / temperature as f64).exp());
        let sum: f64 = weights.iter().sum();
        for (found, weight) in found.iter().zip(weights) {
            assert!((found - weight / sum).abs() < 0.008, "{found} {}", weight / sum);
        }
    }
}

#[test]
fn filters_keep_what_they_say() {
    let kept = |change: fn(&mut SamplingParams)| -> Vec<u32> {
        distribution(&LOGITS, &params(change)).into_iter().map(|(id, _)| id).collect()
    };
    assert_eq!(kept(|_| ()), [1, 4, 2, 0, 3]);
    assert_eq!(kept(|p| p.top_k = 1), [1]);
    assert_eq!(kept(|p| p.top_k = 3), [1, 4, 2]);
    assert_eq!(kept(|p| p.top_k = 50), [1, 4, 2, 0, 3]);
    // Probabilities: 0.392, 0.392, 0.144, 0.053, 0.020 of 1, 4, 2, 0, 3.
    assert_eq!(kept(|p| p.top_p = 0.38), [1]);
    assert_eq!(kept(|p| p.top_p = 0.4), [1, 4]);
    assert_eq!(kept(|p| p.top_p = 0.95), [1, 4, 2, 0]);
    // exp(-1) = 0.368, exp(-2) = 0.135 of the largest.
    assert_eq!(kept(|p| p.min_p = 0.3), [1, 4, 2]);
    assert_eq!(kept(|p| p.min_p = 1.0), [1, 4]);
    // top_p counts within what top_k left: 1 and 4 are half each there.
    assert_eq!(kept(|p| (p.top_k, p.top_p) = (2, 0.5)), [1]);
}

#[test]
fn penalties_and_bias_move_the_logits() {
    let counts = TokenCounts { prompt: Arc::new([0, 1].into()), output: [(1, 2), (3, 1)].into() };
    let adjusted = |change: fn(&mut SamplingParams)| {
        let mut logits = LOGITS;
        adjust(&mut logits, &params(change), Some(&counts));
        logits
    };
    assert_eq!(adjusted(|p| p.presence_penalty = 0.5), [0.0, 1.5, 1.0, -1.5, 2.0]);
    assert_eq!(adjusted(|p| p.frequency_penalty = 0.5), [0.0, 1.0, 1.0, -1.5, 2.0]);
    assert_eq!(adjusted(|p| p.repetition_penalty = 2.0), [0.0, 1.0, 1.0, -2.0, 2.0]);
    assert_eq!(adjusted(|p| p.logit_bias = vec![(2, 100.0)]), [0.0, 2.0, 101.0, -1.0, 2.0]);
    let banned = params(|p| {
        p.temperature = 0.0;
        p.logit_bias = vec![(1, -100.0)];
    });
    assert_eq!(draw(&LOGITS, &banned, 0, None), 4);
}

#[test]
fn only_what_the_mask_allows_is_drawn() {
    let drawn = |mask: u32, change: fn(&mut SamplingParams), index: u64| {
        let mask = Some(only(mask));
        let params = Arc::new(params(change));
        draw_token(&LOGITS, &Draw { params, index, counts: None, mask })
    };
    assert_eq!(drawn(0b11001, |p| p.temperature = 0.0, 0), 4);
    let biased = |p: &mut SamplingParams| {
        (p.temperature, p.logit_bias) = (0.0, vec![(1, 100.0), (3, 90.0)]);
    };
    assert_eq!(drawn(0b01101, biased, 0), 3, "a bias allows nothing");
    // The filters count within what is allowed: 2 is the most likely of 0, 2 and 3.
    assert_eq!(drawn(0b01101, |p| p.top_k = 1, 5), 2);
    assert_eq!(drawn(0b01101, |p| p.top_p = 0.1, 5), 2);
    assert_eq!(drawn(0b01101, |p| p.min_p = 0.9, 5), 2);
    let free: Vec<u32> = (0..200).map(|index| drawn(0b01001, |_| (), index)).collect();
    assert!(free.iter().all(|id| [0, 3].contains(id)) && free.contains(&0) && free.contains(&3));
    let all = LateMask::default();
    all.set(None);
    let greedy = Arc::new(params(|p| p.temperature = 0.0));
    assert_eq!(
        draw_token(&LOGITS, &Draw { params: greedy, index: 0, counts: None, mask: Some(all) }),
        1
    );
    // Rows of more tokens than the mask has bits for.
    let mask = TokenMask::new(vec![0, 2]);
    assert_eq!([32, 33, 64].map(|id| mask.allows(id)), [false, true, false]);
}

#[test]
fn one_seed_gives_one_sequence_and_others_differ() {
    let sequence = |seed: u64| -> Vec<u32> {
        let params = params(|p| p.seed = seed);
        (0..40).map(|index| draw(&LOGITS, &params, index, None)).collect()
    };
    assert_eq!(sequence(1), sequence(1));
    assert!(sequence(1) != sequence(2));
}

#[test]
fn logprobs_are_of_the_raw_logits() {
    let greedy = Arc::new(params(|p| {
        p.temperature = 0.0;
        p.logit_bias = vec![(3, 50.0)];
    }));
    let want = |want| OutputRow { row: 0, want, logprobs: Some(2) };
    let mask = Some(only(0b01001));
    let draw = Draw { params: greedy, index: 0, counts: None, mask };
    let drawn = one(&LOGITS, &want(Want::Sample(draw)));
    let scored = one(&LOGITS, &want(Want::Score(3)));
    assert_eq!(drawn, scored);
    let sum: f64 = LOGITS.iter().map(|l| (*l as f64).exp()).sum();
    let exact = |l: f64| (l - sum.ln()) as f32;
    assert_eq!(drawn.token, 3);
    assert!((drawn.logprob.unwrap() - exact(-1.0)).abs() < 1e-6);
    assert_eq!(drawn.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 4]);
    assert!((drawn.top[0].1 - exact(2.0)).abs() < 1e-6);
    let silent = OutputRow { row: 0, want: Want::Score(2), logprobs: None };
    assert_eq!(one(&LOGITS, &silent).logprob, None);
}
