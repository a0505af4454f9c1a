//! Waves on the command line: which relays take a release, one step after the other.

use super::access::duration;
use super::{Exit, Failure};
use anyhow::{Context as _, anyhow};
use clap::Args;
use moorgate_snapshot::channel::Step;
use moorgate_snapshot::wave::{LABELS, STEPS, label};
use std::collections::BTreeMap;
use std::str::FromStr;

/// Seconds that a step bakes if it does not say.
const BAKE_SECONDS: u64 = 300;
/// The longest bake time, in seconds: 30 days.
const LONGEST_BAKE: u64 = 30 * 86_400;
/// What `--wave default` means.
const DEFAULT: &str = "percent=1,max-errors=5\npercent=10,max-errors=5\npercent=50,max-errors=5\n";
/// The largest file of steps, in bytes.
const FILE_BYTES: usize = 64 << 10;

/// In which steps a release goes out.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct WaveArgs {
    /// One step of a wave, such as zone=eu-1,percent=10,bake=5m,max-errors=2 (repeatable, in order)
    #[arg(long = "step", value_name = "STEP")]
    steps: Vec<WaveStep>,
    /// A wave by name or file: `default` (1 %, 10 %, 50 %, five minutes each), or a file with a step a line
    #[arg(long, value_name = "default|FILE", conflicts_with = "steps")]
    wave: Option<String>,
}

/// One step: `key=value` parts with commas between them. `percent`, `bake` and `max-errors` (percent of 5xx) are its own,
/// all others are labels that a relay must have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WaveStep(Step);

impl FromStr for WaveStep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut step = Step {
            labels: BTreeMap::new(),
            percent: 100,
            bake_seconds: BAKE_SECONDS,
            max_error_percent: None,
        };
        let percent = |value: &str, least: u8| {
            let number = value.parse::<u8>().ok().filter(|number| (least..=100).contains(number));
            number.ok_or_else(|| format!("{value:?} is no percentage from {least} to 100"))
        };
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                Some(("percent", value)) => step.percent = percent(value, 1)?,
                Some(("max-errors", value)) => step.max_error_percent = Some(percent(value, 0)?),
                Some(("bake", value)) => {
                    let seconds = u64::try_from(duration(value)?.whole_seconds()).unwrap_or(u64::MAX);
                    if seconds > LONGEST_BAKE {
                        return Err("a step bakes for 30 days at most".to_owned());
                    }
                    step.bake_seconds = seconds;
                }
                _ => {
                    let (key, value) = label(part).map_err(|error| error.to_string())?;
                    if step.labels.insert(key, value).is_some() {
                        return Err(format!("{part:?}: a relay has one value of each label"));
                    }
                }
            }
        }
        if step.labels.len() > LABELS {
            return Err(format!("more than {LABELS} labels"));
        }
        Ok(Self(step))
    }
}

impl WaveArgs {
    /// The steps; none if the release goes to all at once.
    pub(super) fn steps(&self) -> Result<Vec<Step>, Failure> {
        let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
        let steps = match self.wave.as_deref() {
            None => self.steps.iter().map(|step| step.0.clone()).collect(),
            Some("default") => read(DEFAULT).map_err(usage)?,
            Some(path) => {
                let file = std::fs::read(path).with_context(|| path.to_owned())?;
                let text = String::from_utf8(file).ok().filter(|text| text.len() <= FILE_BYTES);
                let text = text.ok_or_else(|| usage(anyhow!("{path}: no short text")))?;
                read(&text).with_context(|| path.to_owned()).map_err(usage)?
            }
        };
        if steps.len() > STEPS {
            return Err(usage(anyhow!("a wave has at most {STEPS} steps")));
        }
        Ok(steps)
    }
}

/// A step a line; empty lines and lines that start with `#` say nothing.
fn read(text: &str) -> anyhow::Result<Vec<Step>> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
    let steps: Vec<Step> = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(n, line)| Ok(line.parse::<WaveStep>().map_err(|error| anyhow!("line {n}: {error}"))?.0))
        .collect::<anyhow::Result<_>>()?;
    if steps.is_empty() { Err(anyhow!("no steps")) } else { Ok(steps) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(text: &str) -> Result<Step, String> {
        text.parse::<WaveStep>().map(|step| step.0)
    }

    #[test]
    fn steps_are_written_as_pairs() {
        let whole = step("zone=eu-1, tier=edge,percent=10,bake=5m,max-errors=2").unwrap();
        assert_eq!(whole.labels.len(), 2);
        assert_eq!((whole.percent, whole.bake_seconds, whole.max_error_percent), (10, 300, Some(2)));
        let plain = step("relay=a").unwrap();
        assert_eq!((plain.percent, plain.bake_seconds, plain.max_error_percent), (100, 300, None));
        for text in [
            "",
            "zone",
            "percent=0",
            "percent=101",
            "percent=x",
            "bake=5",
            "bake=400d",
            "a=b,a=c",
            "max-errors=-1",
        ] {
            assert!(step(text).is_err(), "{text}");
        }
    }

    #[test]
    fn files_hold_a_step_a_line() {
        assert_eq!(read(DEFAULT).unwrap().len(), 3);
        let steps = read("# first one relay\nrelay=a\n\nzone=eu-1,percent=10\n").unwrap();
        assert_eq!(steps.len(), 2);
        assert!(read("# nothing\n").is_err());
        assert!(read("relay=a\nnonsense\n").unwrap_err().to_string().contains("line 2"));
    }
}
