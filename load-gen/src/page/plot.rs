//! One small plot, as SVG that takes its colours from the page.

use std::fmt::Write;

/// Size in the plot's own units; the page scales it.
const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 118.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 6.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 18.0;

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Of the style sheet: a colour, and perhaps `dashed` or `faint`.
    pub(super) class: String,
    /// One value for each step; without one the line is interrupted.
    pub(super) values: Vec<Option<f64>>,
}

/// What all plots of a row have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// Seconds to the right edge, and between two values.
    pub(super) length_s: f64,
    pub(super) step_s: f64,
    /// The greatest value; what is above is cut.
    pub(super) top: f64,
    /// The least, for logarithmic scales.
    pub(super) log_from: Option<f64>,
    /// Writes a value at the axis.
    pub(super) unit: fn(f64) -> String,
}

/// 1, 2 or 5 times a power of ten, not below `x`.
pub(super) fn nice(x: f64) -> f64 {
    if x <= 0.0 || !x.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(x.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.iter().map(|s| s * power).find(|n| *n >= x * 0.999_999).unwrap_or(10.0 * power)
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.length_s).clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.log_from {
            None => value / self.top,
            Some(from) => (value.max(from) / from).ln() / (self.top / from).ln(),
        };
        TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - share.clamp(0.0, 1.0))
    }

    /// Values at which there are lines across.
    fn marks(&self) -> Vec<f64> {
        match self.log_from {
            None => vec![0.0, self.top / 2.0, self.top],
            Some(from) => {
                let decades = (self.top / from).log10().round() as i32;
                let every = (decades + 3) / 4;
                (0..=decades).step_by(every.max(1) as usize).map(|d| from * 10f64.powi(d)).collect()
            }
        }
    }
}

/// Draws; `title` is for those who cannot see it.
pub(super) fn svg(title: &str, scale: &Scale, shade: Option<(f64, f64)>, lines: &[Line]) -> String {
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
    let bottom = HEIGHT - BOTTOM;
    if let Some((from, to)) = shade {
        let (x, width) = (scale.x(from), scale.x(to) - scale.x(from));
        let height = bottom - TOP;
        let _ = write!(
            out,
            "<rect class=\"shade\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"/>"
        );
    }
    for mark in scale.marks() {
        let (y, text) = (scale.y(mark), (scale.unit)(mark));
        let right = WIDTH - RIGHT;
        let _ = write!(out, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>");
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT - 5.0,
            y + 3.5
        );
    }
    let every = nice(scale.length_s / 6.0);
    for n in 0..=(scale.length_s / every) as usize {
        let at = n as f64 * every;
        let x = scale.x(at);
        let unit = if n == 0 { " s" } else { "" };
        let _ = write!(
            out,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at}{unit}</text>",
            HEIGHT - 5.0
        );
    }
    for line in lines {
        let _ = write!(out, "<path class=\"{}\" d=\"{}\"/>", line.class, path(scale, &line.values));
    }
    out.push_str("</svg>");
    out
}

fn path(scale: &Scale, values: &[Option<f64>]) -> String {
    let mut out = String::new();
    let mut is_down = false;
    for (n, value) in values.iter().enumerate() {
        let seconds = n as f64 * scale.step_s;
        let Some(value) = value.filter(|_| seconds <= scale.length_s) else {
            is_down = false;
            continue;
        };
        let command = if is_down { 'L' } else { 'M' };
        let (x, y) = (scale.x(seconds), scale.y(value));
        let _ = write!(out, "{command}{x:.1} {y:.1}");
        if !is_down {
            // A single value between gaps is a dot.
            let _ = write!(out, "h.1");
        }
        is_down = true;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (x, expect) in
            [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (7.0, 10.0), (0.03, 0.05), (1234.0, 2000.0)]
        {
            assert!((nice(x) - expect).abs() < expect * 1e-9, "{x}: {}", nice(x));
        }
    }

    #[test]
    fn gaps_interrupt_a_line() {
        let scale = Scale { length_s: 1.0, step_s: 0.25, top: 10.0, log_from: None, unit: |v| v.to_string() };
        let path = path(&scale, &[Some(0.0), Some(10.0), None, Some(5.0)]);
        assert_eq!(path.matches('M').count(), 2, "{path}");
        let log = Scale { log_from: Some(0.1), top: 1000.0, ..scale };
        assert_eq!(log.marks().len(), 5);
        assert!(log.y(0.0) >= log.y(0.1) && log.y(1000.0) < log.y(10.0));
    }
}
