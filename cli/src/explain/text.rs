//! An explanation for people.

use std::fmt::Write as _;

use weft_control::explain::{Explanation, Forward, Said, Seen, Verdict};

pub(super) fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    let Explanation {
        from,
        target,
        aliases,
        service,
        protocol,
        held,
        unheard,
        rules,
        verdict,
    } = explanation;
    let place = [from.region.as_str(), from.zone.as_str()].join("/");
    let place = match place.trim_matches('/') {
        "" => String::new(),
        place => format!(" in {place}"),
    };
    let pod = if from.pod.is_empty() { "any pod" } else { &from.pod };
    // A String takes all that is written to it, here and below.
    let _ = writeln!(out, "from     {}/{pod}{place}", from.namespace);
    if !from.meshed {
        let _ = writeln!(
            out,
            "         it has no sidecar: nothing of what follows acts on its calls"
        );
    }
    let what = target.strip_prefix("name:").unwrap_or(target);
    let of = service.as_ref().map(|service| format!(" = Service {service}"));
    let protocol = protocol.map(|protocol| format!(" ({protocol})"));
    let _ = writeln!(
        out,
        "to       {what}{}{}",
        of.unwrap_or_default(),
        protocol.unwrap_or_default()
    );
    for alias in aliases {
        let _ = writeln!(out, "         {alias}");
    }
    if let Some(held) = held {
        let _ = writeln!(out, "held     {held}: proxies keep what they have");
    }
    if !unheard.is_empty() {
        let _ = writeln!(
            out,
            "note     what {} exports is not known here: no endpoint there is looked at",
            unheard.join(", ")
        );
    }
    for seen in rules {
        rule(&mut out, seen);
    }
    outcome(&mut out, verdict, rules.is_empty());
    clean_lines(&out)
}

/// What becomes of it.
fn outcome(out: &mut String, verdict: &Verdict, no_rules: bool) {
    match verdict {
        Verdict::Outside => out.push_str("outcome  nothing of the mesh: it is passed on as it is\n"),
        Verdict::Unknown => out.push_str(
            "outcome  refused after a wait (unknown-address): it lies in the mesh's networks, and no Service or pod has it\n",
        ),
        Verdict::NoSuchService { service, has } => {
            let has = match &has[..] {
                [] => "; the namespace has none".to_owned(),
                has => format!("; the namespace has {}", has.join(", ")),
            };
            _ = writeln!(out, "outcome  the name does not resolve: there is no Service {service}{has}");
        }
        Verdict::NoSuchPort { reason } => _ = writeln!(out, "outcome  refused: {reason}"),
        Verdict::NotHttp => out.push_str("outcome  refused: the port takes HTTP only, and this is none (not-http)\n"),
        Verdict::Pod { pod } => _ = writeln!(out, "outcome  to the pod {pod} itself; routes act on Services"),
        Verdict::OneOf { pods, number } => one_of(out, pods, *number),
        Verdict::NoMatch { status: 0 } => {
            out.push_str("outcome  closed: routes of streams are attached, and none matches\n");
        }
        Verdict::NoMatch { .. } => {
            out.push_str("outcome  refused: routes are attached, and none matches (404; gRPC: UNIMPLEMENTED)\n")
        }
        Verdict::Redirect { status, location } => {
            _ = writeln!(out, "outcome  redirected: {status}, Location: {location}")
        }
        Verdict::Forward(forward) => forwarded(out, forward, no_rules),
    }
}

fn one_of(out: &mut String, pods: &[String], number: usize) {
    if pods.is_empty() {
        return out.push_str("outcome  the name does not resolve: the Service is headless, and no such pod is ready\n");
    }
    let more = match number.saturating_sub(pods.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let pods = pods.join(", ");
    let _ = writeln!(
        out,
        "outcome  to the pod whose address the client takes: the Service is headless, and its name has {pods}{more}"
    );
    out.push_str("         routes and places act on Services with an address; mutual TLS is spoken all the same\n");
}

/// What manifests say must not drive a terminal.
fn clean_lines(text: &str) -> String {
    let safe = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    text.chars().map(safe).collect()
}

fn rule(out: &mut String, seen: &Seen) {
    let mark = if seen.matches { "rule     " } else { "not      " };
    let name = match seen.name.as_str() {
        "" => String::new(),
        name => format!(" {name:?}"),
    };
    let _ = writeln!(out, "{mark}{}{name}: {}", at(&seen.said), seen.wants);
    if !seen.matches {
        let _ = writeln!(out, "         {}", seen.why);
    }
}

/// `HTTPRoute shop/reviews spec.rules[0] (routes.yaml:7)`.
fn at(said: &Said) -> String {
    let place = match (&said.file, said.line) {
        (Some(file), Some(line)) => format!(" ({}:{line})", file.display()),
        _ => String::new(),
    };
    format!("{} {}{place}", said.object, said.field)
}

fn forwarded(out: &mut String, forward: &Forward, no_rules: bool) {
    if no_rules {
        out.push_str("rule     none: no route acts here, everything goes to the Service\n");
    }
    for filter in &forward.filters {
        let _ = writeln!(out, "filter   {filter}");
    }
    for term in &forward.terms {
        let by = term.said.as_ref().map(|said| format!(", by {}", at(said)));
        let _ = writeln!(out, "terms    {}{}", term.what, by.unwrap_or_default());
    }
    if forward.backends.iter().all(|backend| backend.weight == 0) {
        let how = if forward.stream { "closed" } else { "refused with 500" };
        let _ = writeln!(out, "outcome  {how}: the rule has no backend with a weight");
    }
    for backend in &forward.backends {
        let subset = match backend.subset.as_str() {
            "" => String::new(),
            subset => format!(" subset {subset}"),
        };
        let share = format!("{:.1}% (weight {})", backend.percent, backend.weight);
        let _ = writeln!(out, "backend  {}{subset}: {share}", backend.service);
        for filter in &backend.filters {
            let _ = writeln!(out, "           filter {filter}");
        }
        if let Some(why) = &backend.unresolved {
            let how = if forward.stream { "closed" } else { "answered with 500" };
            let _ = writeln!(out, "           its share is {how}: {why}");
        }
        let Some(behind) = &backend.behind else { continue };
        let by = behind.said.as_ref().map(|said| format!(", by {}", at(said)));
        let _ = writeln!(out, "           places: {}{}", behind.locality, by.unwrap_or_default());
        let _ = writeln!(out, "           {}; retries {}", behind.balancer, behind.retry_budget);
        if behind.tiers.is_empty() {
            let how = if forward.stream { "closed" } else { "answered with 503" };
            let _ = writeln!(out, "           no endpoint: its share is {how}");
        }
        for tier in &behind.tiers {
            let more = match tier.endpoints.saturating_sub(tier.pods.len()) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let (places, pods) = (tier.places.join(", "), tier.pods.join(", "));
            let _ = writeln!(
                out,
                "           tier {} {:.1}%: {places}: {pods}{more}",
                tier.tier, tier.percent
            );
        }
    }
}
