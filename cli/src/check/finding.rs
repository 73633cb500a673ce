//! What was found, and how it is told.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use serde_json::{Value, json};

use crate::table::clean;

/// Of one kind that many are told of, and the rest is counted.
const MANY: usize = 20;

/// Something that was looked at and is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Whether it is wrong, and not only worth knowing.
    pub(crate) wrong: bool,
    /// The object: `Namespace shop`.
    pub(crate) at: String,
    /// What is so.
    pub(crate) what: String,
    /// What to do.
    pub(crate) fix: String,
}

/// Everything that was looked at, in order.
#[derive(Debug, Default)]
pub(crate) struct Report {
    checks: Vec<(String, Vec<Finding>)>,
}

impl Report {
    /// Tells of one thing that was looked at: as it should be where nothing was found.
    pub(crate) fn tell(&mut self, what: impl Into<String>, findings: Vec<Finding>) {
        self.checks.push((what.into(), findings));
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_well(&self) -> bool {
        !self.findings().any(|(_, finding)| finding.wrong)
    }

    fn findings(&self) -> impl Iterator<Item = (&str, &Finding)> {
        self.checks
            .iter()
            .flat_map(|(check, findings)| findings.iter().map(move |finding| (check.as_str(), finding)))
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let told = |(check, finding): (&str, &Finding)| {
            json!({
                "check": check, "level": if finding.wrong { "wrong" } else { "note" },
                "where": finding.at, "what": finding.what, "fix": finding.fix,
            })
        };
        let checks = self
            .checks
            .iter()
            .map(|(check, findings)| json!({"check": check, "well": !findings.iter().any(|finding| finding.wrong)}));
        json!({
            "well": self.is_well(),
            "checks": checks.collect::<Vec<_>>(),
            "findings": self.findings().map(told).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub(crate) fn text(&self, coloured: bool) -> String {
        let sign = |sign: &str, colour: u8| match coloured {
            true => format!("\x1b[{colour}m{sign}\x1b[0m"),
            false => sign.to_owned(),
        };
        let mut out = String::new();
        // A String takes all that is written to it, here and below.
        for (check, findings) in &self.checks {
            let mark = match findings.iter().any(|finding| finding.wrong) {
                true => sign("✗", 31),
                false if findings.is_empty() => sign("✓", 32),
                false => sign("!", 33),
            };
            let _ = writeln!(out, "{mark} {}", clean(check));
            let told = &findings[..findings.len().min(MANY)];
            for (i, finding) in told.iter().enumerate() {
                let _ = writeln!(out, "    {}: {}", clean(&finding.at), clean(&finding.what));
                // What mends several, one after the other, stands behind the last of them.
                let is_next = told.get(i + 1).is_some_and(|next| next.fix == finding.fix);
                if !finding.fix.is_empty() && !is_next {
                    let _ = writeln!(out, "      fix: {}", clean(&finding.fix));
                }
            }
            if findings.len() > MANY {
                let _ = writeln!(out, "    and {} more; -o json has all of them", findings.len() - MANY);
            }
        }
        let count = |wrong: bool| self.findings().filter(|(_, finding)| finding.wrong == wrong).count();
        let many = |count: usize, one: &str| {
            if count == 1 {
                format!("1 {one}")
            } else {
                format!("{count} {one}s")
            }
        };
        let _ = match (count(true), count(false)) {
            (0, 0) => writeln!(out, "\nAll is well."),
            (0, notes) => writeln!(out, "\nNothing is wrong; {}.", many(notes, "note")),
            (wrong, notes) => writeln!(out, "\n{} wrong, {}.", many(wrong, "thing"), many(notes, "note")),
        };
        out
    }
}

/// Something that is wrong.
pub(crate) fn wrong(at: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding {
        wrong: true,
        at: at.into(),
        what: what.into(),
        fix: fix.into(),
    }
}

/// Something that is worth knowing.
pub(crate) fn note(at: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding {
        wrong: false,
        ..wrong(at, what, fix)
    }
}

/// Whether standard output shows colours, and they are wanted (no-color.org).
pub(crate) fn coloured() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !unwanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_what_where_and_how_to_mend_it() {
        let mut report = Report::default();
        report.tell("the API server answers", vec![]);
        report.tell(
            "clocks agree",
            vec![note("API server", "its clock is\n40 s ahead", "run NTP")],
        );
        assert!(report.is_well());
        report.tell("webhook", vec![wrong("Service a/b", "has no endpoints", "look at it")]);
        assert!(!report.is_well());
        let want = "✓ the API server answers\n! clocks agree\n    API server: its clock is 40 s ahead\n      fix: run NTP\n\
                    ✗ webhook\n    Service a/b: has no endpoints\n      fix: look at it\n\n1 thing wrong, 1 note.\n";
        assert_eq!(report.text(false), want);
        assert!(report.text(true).contains("\x1b[31m✗\x1b[0m webhook"));
        let json = report.json();
        assert_eq!(json["findings"][1]["where"], "Service a/b");
        assert_eq!(
            (&json["well"], &json["checks"][2]["well"]),
            (&json!(false), &json!(false))
        );
    }

    #[test]
    fn what_mends_several_is_told_once() {
        let mut report = Report::default();
        let findings = vec![
            wrong("CRD a", "is missing", "apply"),
            wrong("CRD b", "is missing", "apply"),
            note("c", "is old", "renew"),
        ];
        report.tell("CRDs", findings);
        let text = report.text(false);
        assert!(
            text.contains(
                "CRD a: is missing\n    CRD b: is missing\n      fix: apply\n    c: is old\n      fix: renew\n"
            ),
            "{text}"
        );
        assert_eq!(report.json()["findings"][0]["fix"], "apply");
    }

    #[test]
    fn many_of_a_kind_are_counted() {
        let mut report = Report::default();
        report.tell("pods", (0..30).map(|i| wrong(format!("Pod {i}"), "bare", "")).collect());
        assert!(report.text(false).contains("and 10 more"));
        assert_eq!(report.json()["findings"].as_array().unwrap().len(), 30);
    }
}
