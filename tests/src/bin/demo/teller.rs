//! Says what happens, step by step, and remembers what was shown.

use anyhow::Result;
use moorgate_tests::program::{Outcome, run};
use std::process::Command;
use std::time::Instant;

/// Lines of output that are printed of one command.
const MOST_LINES: usize = 24;

/// The voice of the demo.
pub(crate) struct Teller {
    start: Instant,
    steps: u32,
    shown: Vec<String>,
    /// What is printed shorter: long temporary paths.
    short: Vec<(String, String)>,
}

impl Teller {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), steps: 0, shown: Vec::new(), short: Vec::new() }
    }

    /// Prints `long` as `short` from now on.
    pub(crate) fn abbreviate(&mut self, long: &str, short: &str) {
        self.short.push((long.to_owned(), short.to_owned()));
    }

    /// A new step.
    pub(crate) fn step(&mut self, title: &str) {
        self.steps += 1;
        println!("\n{}. {title}", self.steps);
    }

    /// A plain line.
    pub(crate) fn say(&self, text: &str) {
        println!("   {}", self.shorten(text));
    }

    /// Something that was proven; it comes again in the summary.
    pub(crate) fn shown(&mut self, text: &str) {
        println!("   ok: {text}");
        self.shown.push(text.to_owned());
    }

    /// Runs a command, printing it and what it says; it must end with one of these codes.
    pub(crate) fn run(&self, command: &mut Command, codes: &[i32]) -> Result<Outcome> {
        let words: Vec<String> = std::iter::once("moorgate".to_owned())
            .chain(command.get_args().map(|word| quote(&word.to_string_lossy())))
            .collect();
        self.say(&format!("$ {}", words.join(" ")));
        let outcome = run(command)?.ended_with(codes)?;
        let said: Vec<&str> = outcome.stdout.lines().chain(outcome.stderr.lines()).collect();
        for line in said.iter().take(MOST_LINES) {
            self.say(&format!("  {line}"));
        }
        if said.len() > MOST_LINES {
            self.say(&format!("  ({} more lines)", said.len() - MOST_LINES));
        }
        Ok(outcome)
    }

    /// All that was shown.
    pub(crate) fn summary(&self) {
        println!("\nShown in {:.0} s:", self.start.elapsed().as_secs_f64());
        for fact in &self.shown {
            println!("  - {fact}");
        }
    }

    fn shorten(&self, text: &str) -> String {
        self.short.iter().fold(text.to_owned(), |text, (long, short)| text.replace(long, short))
    }
}

/// A word as a shell would need it.
fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@,{}+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) { word.to_owned() } else { format!("'{word}'") }
}
