//! The router: which experts a token goes to, and with what weight.

use model::RouterShape;

/// The experts of some rows: `top_k` of each, ascending by index, with their weights.
pub struct Routing {
    pub(crate) shape: RouterShape,
    pub(crate) chosen: Vec<(usize, f32)>,
}

impl Routing {
    pub(crate) fn new(rows: usize, shape: RouterShape) -> Routing {
        Routing { shape, chosen: Vec::with_capacity(rows * shape.top_k) }
    }

    /// Routes rows of `width` values, of which the first `bias.len()` are logits.
    pub(crate) fn route(&mut self, rows: &[f32], width: usize, bias: &[f32]) {
        self.chosen.clear();
        for row in rows.chunks_exact(width).map(|row| &row[..bias.len()]) {
            let first = self.chosen.len();
            let scores: Vec<f32> = row.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect();
            let mut order: Vec<usize> = (0..bias.len()).collect();
            let biased = |i: usize| scores[i] + bias[i];
            order.sort_by(|&a, &b| biased(b).total_cmp(&biased(a)).then(a.cmp(&b)));
            self.chosen.extend(order[..self.shape.top_k].iter().map(|&i| (i, scores[i])));
            let chosen = &mut self.chosen[first..];
            let sum: f32 = chosen.iter().map(|(_, weight)| weight).sum();
            let divisor = if self.shape.normalize { sum + 1e-20 } else { 1.0 };
            for (_, weight) in chosen.iter_mut() {
                *weight = *weight / divisor * self.shape.scale;
            }
            chosen.sort_by_key(|(expert, _)| *expert);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bias_chooses_and_scores_weigh() {
        let shape = RouterShape { top_k: 2, normalize: true, scale: 2.0 };
        let mut routing = Routing::new(1, shape);
        // Scores 0.5, 0.5, 0.880797, 0.5: the bias lifts expert 3; 0 beats 1 by its index.
        let bias = [0.0, 0.0, -1.0, 0.1];
        routing.route(&[0.0, 0.0, 2.0, 0.0], 4, &bias);
        assert_eq!(routing.chosen, [(0, 1.0), (3, 1.0)]);
        // What stands behind the logits, however large, is not looked at.
        routing.route(&[0.0, 0.0, 2.0, 0.0, 9.0, 9.0, 0.0, 0.0, 2.0, 0.0, 9.0, 9.0], 6, &bias);
        assert_eq!(routing.chosen, [(0, 1.0), (3, 1.0), (0, 1.0), (3, 1.0)]);
        let shape = RouterShape { normalize: false, ..shape };
        let mut routing = Routing::new(1, shape);
        routing.route(&[0.0, 0.0, 2.0, 0.0], 4, &[0.0; 4]);
        assert_eq!(routing.chosen, [(0, 1.0), (2, 2.0 / (1.0 + (-2f32).exp()))]);
    }
}
