//! The distributions of the latencies as an SVG picture.

use std::fmt::Write;

use super::figures::{Figures, Latency};

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 260.0;
/// Space around a panel's axes, for its title and numbers.
const MARGIN: f64 = 45.0;
/// Points of a curve; more would not be seen.
const POINTS: usize = 400;

/// Four panels: the share of requests (or pieces) that came within each time.
pub(super) fn svg(figures: &Figures) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{w}\" height=\"{h}\" fill=\"white\"/>\n",
        w = 2.0 * WIDTH,
        h = 2.0 * HEIGHT,
    );
    for (number, (name, latency)) in figures.latencies().into_iter().enumerate() {
        let (x, y) = ((number % 2) as f64 * WIDTH, (number / 2) as f64 * HEIGHT);
        out += &format!("<g transform=\"translate({x} {y})\">\n{}</g>\n", panel(name, latency));
    }
    out + "</svg>\n"
}

fn panel(name: &str, latency: &Latency) -> String {
    let (right, bottom) = (WIDTH - MARGIN / 2.0, HEIGHT - MARGIN);
    // Up to the slowest value, or any width if all are zero.
    let widest = if latency.max > 0.0 { latency.max } else { 1.0 };
    let x = |value: f64| MARGIN + value / widest * (right - MARGIN);
    let y = |share: f64| bottom - share * (bottom - MARGIN);
    let mut out = String::new();
    let mut line = |text: String| out += &(text + "\n");
    line(format!(
        "<text x=\"{MARGIN}\" y=\"{}\" font-size=\"13\">{name}, ms: p50 {:.1}, p90 {:.1}, p99 {:.1}\
         </text>",
        MARGIN - 15.0,
        latency.p50,
        latency.p90,
        latency.p99,
    ));
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let (left, height) = (x(share * widest), y(share));
        line(format!(
            "<path d=\"M{MARGIN} {height:.1}H{right}M{left:.1} {MARGIN}V{bottom}\" \
             stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0}%</text>\n\
             <text x=\"{left:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.4}</text>",
            MARGIN - 5.0,
            height + 4.0,
            share * 100.0,
            bottom + 16.0,
            (share * widest * 100.0).round() / 100.0,
        ));
    }
    let count = latency.sorted.len();
    let mut path = String::new();
    for point in 0..count.min(POINTS) {
        let rank = if count <= POINTS { point } else { point * (count - 1) / (POINTS - 1) };
        let command = if point == 0 { 'M' } else { 'L' };
        let share = (rank + 1) as f64 / count as f64;
        // Writing to a string cannot fail.
        let _ = write!(path, "{command}{:.1} {:.1}", x(latency.sorted[rank]), y(share));
    }
    line(format!("<path d=\"{path}\" fill=\"none\" stroke=\"#1f6feb\" stroke-width=\"2\"/>"));
    out
}
