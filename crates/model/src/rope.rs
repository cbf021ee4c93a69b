//! Rotary embedding with YaRN (Peng et al. 2023, as DeepSeek-V3 applies it: at every position and
//! length, with the attention temperature in the softmax scale only).

use checkpoint::Config;

/// Radians per position of each pair of rotary dimensions.
pub fn inverse_frequencies(config: &Config) -> Vec<f64> {
    let dim = config.qk_rope_head_dim as f64;
    let base = config.rope_theta;
    let plain = |i: usize| base.powf(-2.0 * i as f64 / dim);
    let pairs = 0..config.qk_rope_head_dim / 2;
    let Some(yarn) = &config.yarn else { return pairs.map(plain).collect() };

    // The dimension whose wavelength makes `rotations` turns within the original context.
    let original = yarn.original_max_position_embeddings as f64;
    let dimension = |rotations: f64| {
        dim * (original / (rotations * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
    };
    let low = dimension(yarn.beta_fast).floor().max(0.0);
    let high = dimension(yarn.beta_slow).ceil().min(dim - 1.0);
    // Equal bounds would divide by zero; every implementation widens them by this much.
    let width = if high > low { high - low } else { 0.001 };
    pairs
        .map(|i| {
            let ramp = ((i as f64 - low) / width).clamp(0.0, 1.0);
            plain(i) * (1.0 - ramp) + plain(i) / yarn.factor * ramp
        })
        .collect()
}

/// `cos, sin` of every position and pair, `[positions, rope / 2, 2]`.
pub fn table(config: &Config, positions: usize) -> Vec<f32> {
    let frequencies = inverse_frequencies(config);
    let mut table = Vec::with_capacity(positions * frequencies.len() * 2);
    for position in 0..positions {
        for frequency in &frequencies {
            let angle = position as f64 * frequency;
            table.extend([angle.cos() as f32, angle.sin() as f32]);
        }
    }
    table
}

/// The factor on attention scores: `qk_head_dim^-0.5`, times the square of YaRN's temperature
/// `0.1 * mscale_all_dim * ln(factor) + 1`.
pub fn softmax_scale(config: &Config) -> f32 {
    let plain = (config.qk_head_dim() as f64).powf(-0.5);
    let temperature = match &config.yarn {
        Some(yarn) if yarn.factor > 1.0 => 0.1 * yarn.mscale_all_dim * yarn.factor.ln() + 1.0,
        _ => 1.0,
    };
    (plain * temperature * temperature) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kimi() -> Config {
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/kimi-k2.6");
        Config::read(std::path::Path::new(data)).unwrap()
    }

    /// The frequencies published for Kimi-K2.6, to the nine digits they are given with.
    #[test]
    fn kimi_k2_6_frequencies() {
        let published = [
            1.0,
            0.713111085,
            0.508527419,
            0.362636540,
            0.258600136,
            0.184410624,
            0.131505260,
            0.0937778586,
            0.0668740305,
            0.0437766560,
            0.0284279591,
            0.0182829556,
            0.0116191599,
            7.27411927e-3,
            4.46584875e-3,
            2.67020339e-3,
            1.53729673e-3,
            8.34655045e-4,
            4.08645987e-4,
            1.58374991e-4,
            1.80702339e-5,
            1.28860841e-5,
            9.18920940e-6,
            6.55292708e-6,
            4.67296494e-6,
            3.33234310e-6,
            2.37633080e-6,
            1.69458784e-6,
            1.20842937e-6,
            8.61744380e-7,
            6.14519469e-7,
            4.38220646e-7,
        ];
        let computed = inverse_frequencies(&kimi());
        assert_eq!(computed.len(), published.len());
        for (computed, published) in computed.into_iter().zip(published) {
            assert!((computed / published - 1.0f64).abs() < 5e-9, "{computed} {published}");
        }
    }

    #[test]
    fn kimi_k2_6_softmax_scale() {
        assert_eq!(softmax_scale(&kimi()), 0.144_679_625_802_689_23_f64 as f32);
    }

    #[test]
    fn table_holds_cosines_and_sines() {
        let config = kimi();
        let table = table(&config, 3);
        assert_eq!(table.len(), 3 * 64);
        assert_eq!((table[0], table[1]), (1.0, 0.0));
        assert_eq!((table[128], table[129]), (2f32.cos(), 2f32.sin()));
    }
}
