//! `docs/settings.md`: every flag, variable, annotation and label, written from the definitions that read them.
//!
//! The tests hold the page to the code, and the code to the page: a variable or annotation that product code names and the
//! page does not have is a failure.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command, CommandFactory};
use weft_daemon::log;
use weft_daemon::settings::Variable;
use weft_injector::annotations::{MARKS, PREFIX, Tune};

use crate::args::Cli;
use crate::up;

/// What stands in a column of values, and what it means.
const VALUES: &[(&str, &str)] = &[
    (
        "DURATION",
        "whole numbers with their unit: `250ms`, `30s`, `10m`, `1h30m`, `7d`",
    ),
    ("N", "a whole number"),
    ("PORT", "a port, 1 to 65535"),
    ("CIDR", "a network, such as `10.0.0.0/8` or `fd00::/8`"),
    ("ADDR", "an IP address"),
    ("ADDR:PORT", "an IP address and a port, such as `[::]:15012`"),
    ("HOST:PORT", "a name or an IP address, and a port"),
    (
        "QUANTITY",
        "an amount as Kubernetes writes it, such as `100m` of CPU or `64Mi` of memory",
    ),
    ("SHARE", "a number from 0 to 1"),
    ("URL", "such as `http://127.0.0.1:4317`"),
    ("DIR, FILE, PATH", "a directory, a file, or either"),
    ("NAME, UID", "as Kubernetes has them; of a user, a number"),
    ("LIST", "`key=value,key=value`, percent-encoded"),
];
/// What product code calls so and is no setting: chains of iptables, constants of Rust, the mesh's own processes among
/// themselves, and how tests write these pages.
const NO_SETTINGS: &[&str] = &[
    "WEFT_OUTPUT",
    "WEFT_INBOUND",
    "WEFT_GROUP",
    "WEFT_SERVICES",
    "WEFT_WIRE",
    "WEFT_CUTS",
    "WEFT_STAGE_",
    "WEFT_STAGE_0",
    "WEFT_STAGE_1",
    "WEFT_DETACHED",
    "WEFT_DEMO_PID",
    "WEFT_DEMO_DIR",
    "WEFT_WRITE_DOCS",
    "WEFT_WRITE_CRDS",
    "WEFT_",
    // The size of a batch, which is OpenTelemetry's default and no setting.
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    // The prefix of those that go on to proxies.
    "OTEL_",
    // Groups of APIs, and other sides' keys.
    "weft.dev/v1alpha1",
    "weft.dev/mesh",
    // Labels of Weft's own objects, and a label that `kubectl` takes off.
    "app.kubernetes.io/component",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/part-of",
    "weft.dev/inject-",
    "config.weft.dev/",
    "weft.dev/",
    // The image, and labels that are written and not read.
    "weft.dev/weft",
    "weft.dev/shop",
    "weft.dev/import",
    "weft.dev/import-digest",
    "weft.dev/OutsideMesh",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/part-of",
];
/// Keys of others that Weft reads: key, on what, what it is for.
const FOREIGN: &[(&str, &str, &str)] = &[
    (
        "topology.kubernetes.io/region",
        "label of a Node",
        "the region of the pods on it, for ServiceSubsets and locality",
    ),
    ("topology.kubernetes.io/zone", "label of a Node", "their zone"),
    (
        "app.kubernetes.io/version",
        "label of a Pod",
        "its version, in `weft status` and metrics; else the label `version`",
    ),
    (
        "app.kubernetes.io/name",
        "label of a Pod",
        "the workload's name where no controller owns the pod; else the label `app`",
    ),
];

const HEAD: &str = "# Settings

Everything that can be set, where, and what holds if it is not. Routes and policies are objects: [routes.md](routes.md).

<!-- Written from the code: WEFT_WRITE_DOCS=1 cargo test -p weft settings -->

A flag counts before its variable, and a variable that is set before the default. A value in a list is separated by commas.

";

/// The page.
fn reference() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| value | is |\n|---|---|\n");
    for (name, meaning) in VALUES {
        let names: Vec<String> = name.split(", ").map(|name| format!("`{name}`")).collect();
        let _ = writeln!(page, "| {} | {meaning} |", names.join(", "));
    }
    annotations(&mut page);
    page.push_str("\n## Variables\n\nThose that have no flag. An empty one counts as one that is not set.\n\n");
    page.push_str("| variable | value | default | read by | meaning |\n|---|---|---|---|---|\n");
    for of in variables() {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            of.name, of.value, of.default, of.by, of.meaning
        );
    }
    let _ = writeln!(
        page,
        "\n`weft up` hands `WEFT_LOG`, `WEFT_LOG_FORMAT` and `WEFT_ACCESS_LOG` on to the mesh's proxies (the first two to its \
         control plane as well), and all of OpenTelemetry's (`OTEL_…`) but endpoints and the service's name. A pod's annotation \
         counts before them."
    );
    for (title, words, command) in roles() {
        let _ = writeln!(page, "\n## {title}\n\n{words}\n");
        flags(&mut page, &command);
    }
    page.push_str("\n## The verbs of `weft`\n\n`weft VERB --help` has examples.\n");
    verbs(&mut page, &Cli::command(), "weft");
    page
}

fn annotations(page: &mut String) {
    let _ = writeln!(
        page,
        "\n## Annotations and labels\n\nOn a Namespace, an annotation is for all of its pods; on a Pod, or in a workload's \
         `spec.template.metadata`, for those, and counts before the Namespace's. One that begins with `{PREFIX}` and is not \
         in this list is refused.\n\n| annotation | value | default | a change acts | meaning |\n|---|---|---|---|---|"
    );
    for tune in Tune::ALL {
        let (value, default, acts) = (tune.value(), tune.default(), tune.acts());
        let (name, meaning) = (tune.name(), tune.meaning());
        let _ = writeln!(page, "| `{PREFIX}{name}` | {value} | {default} | {acts} | {meaning} |");
    }
    page.push_str("\n| key | on | value | meaning |\n|---|---|---|---|\n");
    for mark in MARKS {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            mark.key, mark.on, mark.value, mark.meaning
        );
    }
    page.push_str("\nOf others, Weft reads these:\n\n| key | on | for |\n|---|---|---|\n");
    for (key, on, meaning) in FOREIGN {
        let _ = writeln!(page, "| `{key}` | {on} | {meaning} |");
    }
}

fn variables() -> Vec<Variable> {
    let mut all = vec![log::FILTER, log::FORMAT, log::NO_COLOR, weft_local::state::STATE_DIR];
    all.extend(up::COLLECTOR);
    all
}

fn roles() -> [(&'static str, &'static str, Command); 4] {
    [
        (
            "The proxy: `weft-proxy`, `weft proxy`, `weft gateway`",
            "Injection sets who the pod is, where the control plane is, and where files lie. The rest has defaults for every pod. \
             A gateway's `WEFT_DRAIN` should not be below 30 s: proxies send new requests on a connection through it for 15 s, and \
             it ends those that are quiet after half of its time.",
            weft_proxy::config::Settings::command(),
        ),
        (
            "The control plane: `weft-control`, `weft control`",
            "`weft up` sets what is needed.",
            weft_control::Settings::command(),
        ),
        (
            "The redirect: `weft init`",
            "Injection runs it in each pod, with what the annotations say.",
            weft_injector::init::command(),
        ),
        (
            "The webhook: `weft injector`",
            "What is about the sidecar is for every pod of the cluster, unless an annotation says otherwise.",
            weft_injector::webhook::command(),
        ),
    ]
}

fn verbs(page: &mut String, command: &Command, name: &str) {
    const ROLES: [&str; 5] = ["control", "gateway", "init", "injector", "help"];
    for verb in command
        .get_subcommands()
        .filter(|verb| !ROLES.contains(&verb.get_name()) && !verb.is_hide_set())
    {
        let name = format!("{name} {}", verb.get_name());
        if listed(verb).next().is_some() {
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(page, "\n### `{name}`\n\n{}.\n", about.trim_end_matches('.'));
            flags(page, verb);
        }
        verbs(page, verb, &name);
    }
}

fn listed(command: &Command) -> impl Iterator<Item = &Arg> {
    let asked = |arg: &&Arg| {
        !matches!(
            arg.get_action(),
            ArgAction::Help | ArgAction::HelpLong | ArgAction::HelpShort | ArgAction::Version
        )
    };
    command.get_arguments().filter(asked).filter(|arg| !arg.is_hide_set())
}

fn flags(page: &mut String, command: &Command) {
    let has_variables = listed(command).any(|arg| arg.get_env().is_some());
    page.push_str(if has_variables {
        "| flag | variable | value | default | meaning |\n|---|---|---|---|---|\n"
    } else {
        "| flag | value | default | meaning |\n|---|---|---|---|\n"
    });
    for arg in listed(command) {
        let (meaning, default) = meaning(arg);
        let variable = match (has_variables, arg.get_env()) {
            (false, _) => String::new(),
            (true, None) => " |".to_owned(),
            (true, Some(name)) => format!(" `{}` |", name.to_string_lossy()),
        };
        let _ = writeln!(
            page,
            "| {} |{variable} {} | {default} | {meaning} |",
            flag(arg),
            value(arg)
        );
    }
}

fn flag(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| format!("`-{short}`"));
    let long = arg.get_long().map(|long| format!("`--{long}`"));
    let both: Vec<String> = short.into_iter().chain(long).collect();
    if both.is_empty() {
        format!("`{}`", value_name(arg))
    } else {
        both.join(", ")
    }
}

fn value_name(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn is_switch(arg: &Arg) -> bool {
    matches!(
        arg.get_action(),
        ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Count
    )
}

fn value(arg: &Arg) -> String {
    if is_switch(arg) {
        return String::new();
    }
    let words: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    let value = if words.is_empty() {
        format!("`{}`", value_name(arg))
    } else {
        words.join(", ")
    };
    let many = arg.get_value_delimiter().is_some();
    if many { format!("{value}, several") } else { value }
}

/// What an argument means, and its default, which may stand behind its meaning.
fn meaning(arg: &Arg) -> (String, String) {
    let help = arg
        .get_long_help()
        .or(arg.get_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    let help = help.replace('\n', " ").replace('|', "\\|");
    let (help, written) = match help.trim().rsplit_once(" [default: ") {
        Some((help, default)) => (help.to_owned(), default.trim_end_matches(']').to_owned()),
        None => (help.trim().to_owned(), String::new()),
    };
    let given: Vec<String> = arg
        .get_default_values()
        .iter()
        .map(|v| v.to_string_lossy().into_owned())
        .collect();
    let given = given.join(",");
    let default = match () {
        () if is_switch(arg) => "off".to_owned(),
        () if !given.is_empty() => format!("`{given}`"),
        () if !written.is_empty() => written,
        () if arg.is_required_set() => "required".to_owned(),
        () => "none".to_owned(),
    };
    let end = if help.ends_with(['.', '`', ':']) { "" } else { "." };
    (format!("{help}{end}"), default)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All product sources: what is in `src` and is no test.
fn sources() -> Vec<(PathBuf, String)> {
    const CRATES: [&str; 10] = [
        "model", "proto", "certs", "daemon", "proxy", "control", "injector", "local", "cli", "shop",
    ];
    let mut left: Vec<PathBuf> = CRATES.iter().map(|name| root().join(name).join("src")).collect();
    let mut files = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let product = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default()
                .to_owned();
            // Wherever the repository lies.
            let place = path.strip_prefix(root()).expect("below the root");
            let is_test = place.to_string_lossy().contains("tests") || path.ends_with("cli/src/settings.rs");
            files.extend((!is_test).then_some((path, product)));
        }
    }
    assert!(
        files.len() > 200,
        "the sources are not where they were: {}",
        files.len()
    );
    files
}

/// All names in a text that begin so and go on with characters that fit.
fn names<'a>(text: &'a str, begin: &str, fits: fn(char) -> bool) -> BTreeSet<&'a str> {
    let at = text.match_indices(begin).map(|(at, _)| at);
    // A word that only ends so is another one.
    let whole = at.filter(|&at| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.'));
    whole
        .map(|at| {
            let rest = &text[at + begin.len()..];
            let end = rest.find(|c: char| !fits(c)).unwrap_or(rest.len());
            // `kubectl annotate … KEY-` takes one away.
            text[at..at + begin.len() + end].trim_end_matches('-')
        })
        .collect()
}

fn of_variable(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'
}

fn of_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

#[test]
fn the_page_is_that_of_the_code() {
    let path = root().join("docs/settings.md");
    if std::env::var_os("WEFT_WRITE_DOCS").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == reference(),
        "docs/settings.md is old: WEFT_WRITE_DOCS=1 cargo test -p weft settings"
    );
}

#[test]
fn what_product_code_names_is_on_the_page() {
    let page = reference();
    let mut missing = BTreeSet::new();
    for (path, text) in sources() {
        let variables = ["WEFT_", "OTEL_"]
            .into_iter()
            .flat_map(|begin| names(&text, begin, of_variable));
        let keys = ["weft.dev/", PREFIX]
            .into_iter()
            .flat_map(|begin| names(&text, begin, of_key));
        let others = ["topology.kubernetes.io/", "app.kubernetes.io/"]
            .into_iter()
            .flat_map(|begin| names(&text, begin, of_key));
        for name in variables
            .chain(keys)
            .chain(others)
            .filter(|name| !NO_SETTINGS.contains(name))
        {
            if !page.contains(&format!("`{name}`")) {
                missing.insert(format!("{name} in {}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "not in docs/settings.md: {missing:#?}");
}

#[test]
fn a_name_ends_where_it_ends() {
    let text = r#"env = "WEFT_LOG", MY_WEFT_LOG "config.weft.dev/inbound": x weft.dev/inject."#;
    assert_eq!(Vec::from_iter(names(text, "WEFT_", of_variable)), ["WEFT_LOG"]);
    assert_eq!(Vec::from_iter(names(text, "weft.dev/", of_key)), ["weft.dev/inject"]);
    assert_eq!(Vec::from_iter(names(text, PREFIX, of_key)), ["config.weft.dev/inbound"]);
}

#[test]
fn each_flag_says_what_it_means_and_what_its_value_is() {
    const WORDS: [&str; 9] = [
        "SWITCH", "SAMPLER", "ARG", "JSON", "WHAT", "WHEN", "UID", "IMAGE", "FILTER",
    ];
    for (_, _, command) in roles() {
        for arg in listed(&command).filter(|arg| !is_switch(arg)) {
            let (name, value) = (arg.get_id(), value_name(arg));
            let known = VALUES
                .iter()
                .any(|(known, _)| known.split(", ").any(|known| known == value));
            assert!(known || WORDS.contains(&value.as_str()), "{name}: {value}");
            assert!(meaning(arg).0.len() > 8, "{name} says nothing");
        }
    }
}

#[test]
fn annotations_are_those_that_the_control_plane_reads() {
    let inbound = weft_control::objects::cluster::INBOUND_ANNOTATION;
    assert_eq!(inbound, format!("{PREFIX}{}", Tune::Inbound.name()));
}
