//! Two ways of doing the same, measured in turns: a noisy moment falls on both, and medians bear it.

use std::io;

use serde::Serialize;

use crate::options::Mode;
use crate::sample::Sample;

/// The samples of two subjects under the same load, in the order they were taken.
#[derive(Debug, Serialize)]
pub(crate) struct Pair {
    pub(crate) mode: &'static str,
    pub(crate) connections: usize,
    /// Bare hyper, or another build of callbridge, or callbridge with a healthy broker, or with a good sender alone or with slow ones elsewhere.
    pub(crate) base: Vec<Sample>,
    /// callbridge, or callbridge with a frozen broker, or with slow senders elsewhere or on the same server.
    pub(crate) subject: Vec<Sample>,
}

impl Pair {
    /// Measures both, `rounds` times.
    pub(crate) fn measure(
        mode: Mode,
        connections: usize,
        rounds: usize,
        base: impl Fn() -> io::Result<Sample>,
        subject: impl Fn() -> io::Result<Sample>,
    ) -> io::Result<Self> {
        let mut pair = Self { mode: mode.name(), connections, base: Vec::new(), subject: Vec::new() };
        for _ in 0..rounds {
            pair.base.push(base()?);
            pair.subject.push(subject()?);
        }
        Ok(pair)
    }

    /// The subject's `figure` over the base's: the least, the median and the greatest of the rounds.
    pub(crate) fn ratio(&self, figure: impl Fn(&Sample) -> f64) -> [f64; 3] {
        let rounds = self.subject.iter().zip(&self.base);
        let ratios = sorted(rounds.map(|(subject, base)| figure(subject) / figure(base)));
        [ratios.first(), ratios.get(ratios.len() / 2), ratios.last()].map(|ratio| ratio.copied().unwrap_or(f64::NAN))
    }
}

/// The median of `figure` over `samples`.
pub(crate) fn median(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    median_of(samples.iter().map(figure))
}

/// The median of `figures`.
pub(crate) fn median_of(figures: impl Iterator<Item = f64>) -> f64 {
    let figures = sorted(figures);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures
}
