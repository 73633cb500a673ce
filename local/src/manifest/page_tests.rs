//! Tests of docs/manifests.md: what it says is honoured is, and what is honoured is said there.

use std::collections::BTreeSet;

use super::schema::{Field, Rule};
use super::tables;

const PAGE: &str = include_str!("../../../docs/manifests.md");

/// The fields that the page lists for a row of its table.
fn listed(row: &str) -> BTreeSet<&'static str> {
    let line = PAGE.lines().find(|line| line.starts_with(&format!("| {row} |")));
    let line = line.unwrap_or_else(|| panic!("the page has no row {row:?}"));
    let cell = line.rsplit_once(" | ").expect("two columns").1;
    let words = cell.split('`').skip(1).step_by(2);
    words.collect()
}

/// The fields below one.
fn below(fields: &'static [Field], name: &str) -> &'static [Field] {
    match fields.iter().find(|field| field.name == name).map(|field| field.rule) {
        Some(Rule::Object(fields) | Rule::List(fields)) => fields,
        other => panic!("{name}: {other:?}"),
    }
}

#[track_caller]
fn check(row: &str, fields: &'static [Field]) {
    let listed = listed(row);
    for field in fields {
        let (must, may) = match field.rule {
            Rule::Honoured | Rule::Object(_) | Rule::List(_) => (true, true),
            // A field that may say one thing only, which is the default, says nothing.
            Rule::OneOf(words, _) => (words.len() > 1, true),
            _ => (false, false),
        };
        let said = listed.contains(field.name);
        assert!(
            said || !must,
            "{row}: {} is honoured, and the page does not say so",
            field.name
        );
        assert!(
            !said || may,
            "{row}: {} is not honoured, and the page says that it is",
            field.name
        );
    }
    for name in listed {
        assert!(
            fields.iter().any(|field| field.name == name),
            "{row}: there is no {name}"
        );
    }
}

#[test]
fn the_page_lists_what_is_honoured_and_nothing_else() {
    let spec = |kind| below(kind, "spec");
    check("Service", spec(tables::SERVICE));
    check("Deployment", spec(tables::DEPLOYMENT));
    check("StatefulSet", spec(tables::STATEFUL_SET));
    check("DaemonSet", spec(tables::DAEMON_SET));
    check("Job", spec(tables::JOB));
    let pod = spec(tables::POD);
    check("Pod, and `template.spec`", pod);
    let container = below(pod, "containers");
    check("a container", container);
    check("`env[].valueFrom`", below(below(container, "env"), "valueFrom"));
    let hook = below(below(container, "lifecycle"), "preStop");
    check("a hook", hook);
    let volume: BTreeSet<&str> = listed("a volume");
    for field in below(pod, "volumes").iter().filter(|field| field.name != "name") {
        let honoured = matches!(field.rule, Rule::Object(_));
        assert_eq!(volume.contains(field.name), honoured, "{}", field.name);
    }
    let probe = listed("a probe");
    for field in below(container, "readinessProbe") {
        let action = matches!(field.rule, Rule::Object(_));
        assert_eq!(probe.contains(field.name), action, "{}", field.name);
    }
}
