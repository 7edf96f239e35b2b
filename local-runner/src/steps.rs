//! What a person at the terminal sees of something that takes a while: one line for each step, with its time.
//!
//! On a terminal a step that is under way has a spinner; elsewhere only what has happened is printed. That standard
//! output is closed is no reason to stop.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use console::{StyledObject, style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where the times stand.
const WIDTH: usize = 68;
const TICK: Duration = Duration::from_millis(100);

/// Prints steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    terminal: bool,
}

/// A step that is under way. Dropped, it has failed.
#[derive(Debug)]
pub(crate) struct Step {
    steps: Steps,
    text: String,
    since: Instant,
    bar: ProgressBar,
    ended: bool,
}

impl Steps {
    /// On standard output.
    pub(crate) fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
        }
    }

    /// A line of its own, between steps.
    pub(crate) fn line(self, text: &str) {
        let mut output = std::io::stdout().lock();
        let _ = writeln!(output, "{text}");
        let _ = output.flush();
    }

    /// Begins a step.
    pub(crate) fn begin(self, text: impl Into<String>) -> Step {
        let text = text.into();
        let bar = ProgressBar::hidden();
        if self.terminal {
            bar.set_style(
                ProgressStyle::with_template("{spinner:.cyan} {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.set_message(text.clone());
            bar.set_draw_target(ProgressDrawTarget::stdout());
            bar.enable_steady_tick(TICK);
        }
        Step {
            steps: self,
            text,
            since: Instant::now(),
            bar,
            ended: false,
        }
    }
}

impl Step {
    /// A line that belongs to the step, with the time since its begin.
    pub(crate) fn note(&self, text: &str) {
        let line = format!("    {}", timed(text, WIDTH - 2, self.since.elapsed()));
        self.bar.suspend(|| self.steps.line(&line));
    }

    /// How long it has taken by now.
    pub(crate) fn so_far(&self) -> Duration {
        self.since.elapsed()
    }

    /// The step has succeeded: its last line, and how long it took.
    pub(crate) fn done(mut self, text: &str) -> Duration {
        let took = self.since.elapsed();
        self.end(&style("✓").green(), &timed(text, WIDTH, took));
        took
    }

    fn end(&mut self, sign: &StyledObject<&'static str>, text: &str) {
        self.ended = true;
        self.bar.finish_and_clear();
        self.steps.line(&format!("{sign} {text}"));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            let text = self.text.clone();
            self.end(&style("✗").red(), &text);
        }
    }
}

/// How people write a time of this length.
pub(crate) fn time(time: Duration) -> String {
    if time < Duration::from_millis(995) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

/// A text with a time in a column at the right.
fn timed(text: &str, width: usize, took: Duration) -> String {
    format!("{text:<width$} {:>7}", time(took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let shown = |millis| time(Duration::from_millis(millis));
        assert_eq!(
            [shown(0), shown(994), shown(995), shown(12_345)],
            ["0 ms", "994 ms", "1.0 s", "12.3 s"]
        );
        assert_eq!(timed("ab", 4, Duration::ZERO), "ab      0 ms");
    }
}
