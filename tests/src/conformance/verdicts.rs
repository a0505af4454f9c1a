//! Which tests passed, by the events of `go test -json`.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use std::collections::BTreeMap;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should.
    Passed,
    /// Not as it should.
    Failed,
    /// It did not try.
    Skipped,
}

/// An event.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    action: String,
    #[serde(default)]
    test: String,
    #[serde(default)]
    output: String,
    #[serde(default)]
    elapsed: f64,
}

/// One profile's numbers, as the report has them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Profile {
    name: String,
    core: [u64; 3],
    extended: [u64; 3],
}

/// All tests of gateways.
#[derive(Debug)]
pub struct Verdicts {
    whole: usize,
    expected: usize,
    ended: BTreeMap<String, Verdict>,
    /// The last lines that said why, by test.
    reasons: BTreeMap<String, Vec<String>>,
    profiles: Vec<Profile>,
}

/// What all tests of the suite are part of.
const WHOLE: &str = "TestConformance/";

impl Verdicts {
    /// None yet, of so many; `expected` of them are to pass, and the rest to be skipped.
    pub fn new(whole: usize, expected: usize) -> Self {
        Self { whole, expected, ended: BTreeMap::new(), reasons: BTreeMap::new(), profiles: Vec::new() }
    }

    /// Takes a line of events: what the program printed, and a line if it was the end of a test of the suite.
    pub fn take(&mut self, line: &str) -> Result<(String, Option<String>)> {
        // What is no event was printed by something else than the tests.
        let Ok(event) = serde_json::from_str::<Event>(line) else { return Ok((format!("{line}\n"), None)) };
        let Some(path) = event.test.strip_prefix(WHOLE) else { return Ok((event.output, None)) };
        let name = path.split('/').next().unwrap_or_default();
        // Tests of meshes are of another kind, and none of the 147.
        if name.starts_with("Mesh") {
            return Ok((event.output, None));
        }
        let said = event.output.trim();
        if said.contains("Error:") || said.contains("Error Trace") || said.contains("Messages:") {
            let reasons = self.reasons.entry(name.to_owned()).or_default();
            if reasons.len() < 40 {
                reasons.push(said.to_owned());
            }
        }
        let verdict = match event.action.as_str() {
            "pass" => Verdict::Passed,
            "fail" => Verdict::Failed,
            "skip" => Verdict::Skipped,
            _ => return Ok((event.output, None)),
        };
        if name != path {
            return Ok((event.output, None));
        }
        self.ended.insert(name.to_owned(), verdict);
        let word = format!("{verdict:?}").to_lowercase();
        let ended =
            (verdict != Verdict::Skipped).then(|| format!("{word:<7} {name} ({:.1} s)", event.elapsed));
        Ok((event.output, ended))
    }

    /// The numbers by profile, from the report that the suite wrote.
    pub fn read_report(&mut self, report: &str) -> Result<()> {
        let report: serde_json::Value = yaml_serde::from_str(report).context("the suite's report")?;
        for profile in report["profiles"].as_array().into_iter().flatten() {
            let numbers = |part: &str| {
                let statistics = &profile[part]["statistics"];
                ["Passed", "Failed", "Skipped"].map(|name| statistics[name].as_u64().unwrap_or_default())
            };
            let name = profile["name"].as_str().unwrap_or_default().to_owned();
            self.profiles.push(Profile { name, core: numbers("core"), extended: numbers("extended") });
        }
        Ok(())
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.ended.values().filter(|ended| **ended == verdict).count()
    }

    /// The tests that failed, each with what it said.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &[String])> {
        let failed = self.ended.iter().filter(|(_, verdict)| **verdict == Verdict::Failed);
        failed.map(|(name, _)| (name.as_str(), self.reasons.get(name).map_or(&[][..], Vec::as_slice)))
    }

    /// A line a profile, and the sum.
    pub fn lines(&self) -> Vec<String> {
        let part = |[passed, failed, skipped]: [u64; 3]| {
            format!("{passed} passed, {failed} failed, {skipped} skipped of {}", passed + failed + skipped)
        };
        let profile = |profile: &Profile| {
            format!("{:<13} core: {}; extended: {}", profile.name, part(profile.core), part(profile.extended))
        };
        let mut lines: Vec<String> = self.profiles.iter().map(profile).collect();
        let (passed, skipped) = (self.count(Verdict::Passed), self.count(Verdict::Skipped));
        // A test that did not come to its end has failed.
        let failed = self.whole.saturating_sub(passed + skipped).max(self.count(Verdict::Failed));
        lines.push(format!("{passed} passed, {failed} failed, {skipped} skipped of {}", self.whole));
        lines
    }

    /// Whether all that were asked for passed: every test that is expected to, or this one.
    pub fn are_good(&self, only: Option<&str>) -> bool {
        match only {
            Some(test) => self.ended.get(test) == Some(&Verdict::Passed),
            None => {
                self.ended.len() == self.whole
                    && self.count(Verdict::Passed) == self.expected
                    && self.count(Verdict::Failed) == 0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, test: &str) -> String {
        format!(r#"{{"Action":"{action}","Package":"conformance","Test":"{test}","Elapsed":1.5}}"#)
    }

    #[test]
    fn only_the_end_of_a_test_of_the_suite_counts() -> Result<()> {
        let mut verdicts = Verdicts::new(3, 3);
        let whole = |name: &str| format!("{WHOLE}{name}");
        for (action, test, line) in [
            ("run", whole("A"), None),
            ("fail", whole("A/part"), None),
            ("pass", whole("A"), Some("passed  A (1.5 s)")),
            ("fail", whole("B"), Some("failed  B (1.5 s)")),
            ("skip", whole("MeshC"), None),
            ("pass", "TestConformance".to_owned(), None),
        ] {
            let (_, ended) = verdicts.take(&event(action, &test))?;
            assert_eq!(ended.as_deref(), line, "{action} {test}");
        }
        // The third never came to its end.
        assert_eq!(verdicts.lines(), ["1 passed, 2 failed, 0 skipped of 3"]);
        assert!(!verdicts.are_good(None) && verdicts.are_good(Some("A")) && !verdicts.are_good(Some("B")));
        verdicts.take(&event("pass", &whole("B")))?;
        assert!(!verdicts.are_good(None));
        verdicts.take(&event("skip", &whole("D")))?;
        assert!(!verdicts.are_good(None) && verdicts.lines() == ["2 passed, 0 failed, 1 skipped of 3"]);
        verdicts.take(&event("pass", &whole("D")))?;
        assert!(verdicts.are_good(None) && verdicts.lines() == ["3 passed, 0 failed, 0 skipped of 3"]);
        Ok(())
    }

    #[test]
    fn a_part_of_the_suite_is_good_when_that_part_passed_and_the_rest_was_skipped() -> Result<()> {
        let run = |ends: &[&str]| -> Result<bool> {
            let mut verdicts = Verdicts::new(3, 2);
            for (end, name) in ends.iter().zip(["A", "B", "C"]) {
                verdicts.take(&event(end, &format!("{WHOLE}{name}")))?;
            }
            Ok(verdicts.are_good(None))
        };
        assert!(run(&["pass", "pass", "skip"])?);
        for bad in [
            &["pass", "skip", "skip"][..],
            &["pass", "pass", "fail"],
            &["pass", "pass", "pass"],
            &["pass", "pass"],
        ] {
            assert!(!run(bad)?, "{bad:?}");
        }
        Ok(())
    }

    #[test]
    fn profiles_come_from_the_report() -> Result<()> {
        let mut verdicts = Verdicts::new(0, 0);
        verdicts.read_report(
            "profiles:\n- name: GATEWAY-UDP\n  core: {result: success, statistics: {Passed: 21, Failed: 0, Skipped: 0}}\n  \
             extended: {statistics: {Passed: 10, Failed: 1, Skipped: 0}}\n",
        )?;
        assert_eq!(
            verdicts.lines()[0],
            "GATEWAY-UDP   core: 21 passed, 0 failed, 0 skipped of 21; extended: 10 passed, 1 failed, 0 skipped of 11"
        );
        Ok(())
    }
}
