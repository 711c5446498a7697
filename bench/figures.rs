//! Figures and the table they are shown in.

use std::fmt::Write;

/// Measured values in ascending order.
pub struct Sample(Vec<f64>);

impl Sample {
    /// Sorts them.
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value that this many per cent of them do not exceed (nearest rank); 0 when there is none.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.percentile(100)
    }

    /// The mean; 0 when there is none.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }
}

/// A titled Markdown table of figures, some with a target.
pub struct Table(String);

impl Table {
    /// Begins one.
    pub fn new(title: &str) -> Self {
        Self(format!("## {title}\n\n| | measured | target |\n|---|---:|---:|\n"))
    }

    /// A figure without a target.
    pub fn row(&mut self, what: &str, measured: impl std::fmt::Display) {
        let _ = writeln!(self.0, "| {what} | {measured} | |");
    }

    /// A figure that should not exceed `most`.
    pub fn at_most(&mut self, what: &str, measured: f64, most: f64, unit: &str) {
        let verdict = if measured <= most { "met" } else { "**missed**" };
        let _ = writeln!(self.0, "| {what} | {measured:.1}{unit} | ≤ {most}{unit}: {verdict} |");
    }

    /// A figure that should reach `least`; `more` is said of the target.
    pub fn at_least(&mut self, what: &str, measured: f64, least: f64, more: &str) {
        let verdict = if measured >= least { "met" } else { "**missed**" };
        let _ = writeln!(self.0, "| {what} | {measured:.2} | ≥ {least}{more}: {verdict} |");
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }
}
