//! What benchmarks share.

use std::str::FromStr;

/// A variable that configures a benchmark.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "it configures the benchmark, not the broker"
)]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A number that configures a benchmark.
///
/// # Panics
/// When the variable holds something else.
#[must_use]
pub fn number<T: FromStr>(name: &str, default: T) -> T {
    let parse = |text: String| text.parse().unwrap_or_else(|_| panic!("{name} is a number"));
    variable(name).map_or(default, parse)
}

/// The one in the middle.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn median<T: Ord + Copy>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}
