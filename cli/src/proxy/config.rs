//! What a proxy knows, for people: the essence of `/config`.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::status::text::{list, word, words};
use crate::table::{Table, lasting};

/// The essence of `/config`. `width`: of the terminal that it is for, if it is for one.
pub(super) fn text(config: &Value, width: Option<usize>) -> String {
    let mut out = String::new();
    let inbound = &config["inbound"];
    let workload = &inbound["workload"];
    let place = &workload["place"];
    let version = match word(&workload["version"]) {
        none if none.is_empty() => none,
        version => format!(" version {version}"),
    };
    // A String takes all that is written to it, here and below.
    let _ = writeln!(
        out,
        "workload   {}/{}{version} in {}/{}",
        word(&workload["namespace"]),
        word(&workload["name"]),
        word(&place["region"]),
        word(&place["zone"])
    );
    let _ = writeln!(out, "identity   {}", identity(&config["identity"]));
    let connected = if config["connected"] == true {
        "connected"
    } else {
        "not connected"
    };
    let _ = writeln!(
        out,
        "control    {connected}, heard of {} s ago, epoch {}",
        word(&config["config_age_seconds"]),
        word(&config["epoch"])
    );
    let roots = list(&config["bundles"]).iter().map(|bundle| {
        let number = list(&bundle["roots"]).len();
        format!(
            "{} ({number} root{})",
            word(&bundle["trust_domain"]),
            if number == 1 { "" } else { "s" }
        )
    });
    let _ = writeln!(out, "trusts     {}", roots.collect::<Vec<_>>().join(", "));
    let _ = writeln!(out, "inbound    {}", word(&inbound["mode"]));
    let parts = [
        ("INBOUND PORTS", ports(inbound)),
        ("TARGETS", targets(config)),
        ("SERVICES", services(config)),
        ("ENDPOINTS", endpoints(config)),
        ("REFUSED", notes(config)),
    ];
    // What others wrote must not drive a terminal.
    let safe = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    let mut out: String = out.chars().map(safe).collect();
    for (title, table) in parts.into_iter().filter(|(_, table)| !table.is_empty()) {
        let _ = write!(out, "\n{title}\n{}", table.text(width));
    }
    out
}

fn identity(identity: &Value) -> String {
    let Some(ends) = identity["not_after_unix"].as_f64() else {
        return "none: it has no certificate".to_owned();
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let left = match ends - now {
        left if left > 0.0 => format!("ends in {}", lasting(left)),
        past => format!("ended {} ago", lasting(-past)),
    };
    format!("{}, its certificate {left}", word(&identity["identity"]))
}

fn ports(inbound: &Value) -> Table {
    let mut table = Table::new(&["PORT", "PROTOCOL", "SERVICES"]);
    for port in list(&inbound["ports"]) {
        table.row([word(&port["port"]), word(&port["protocol"]), words(&port["services"])]);
    }
    table
}

/// What the app has dialled, and what is there.
fn targets(config: &Value) -> Table {
    let mut table = Table::new(&["TARGET", "IS", "HEARD"]);
    for target in list(&config["targets"]) {
        let is = match target["lookup"].as_str() {
            Some("service") => format!("Service {}", word(&target["service"])),
            Some("direct") => {
                let endpoint = &target["endpoint"];
                format!("pod {}/{}", word(&endpoint["namespace"]), word(&endpoint["pod"]))
            }
            Some("outside") => "outside of the mesh".to_owned(),
            Some("no-such-port") => format!("refused: {}", word(&target["reason"])),
            other => other.unwrap_or_default().to_owned(),
        };
        table.row([
            word(&target["target"]),
            is,
            format!("{} s ago", word(&target["heard_seconds_ago"])),
        ]);
    }
    table
}

fn services(config: &Value) -> Table {
    let mut table = Table::new(&["SERVICE", "PROTOCOL", "RULES", "BALANCER", "VERSION"]);
    for service in list(&config["services"]) {
        let rules = match (&service["rules"], &service["streams"]) {
            (Value::Null, Value::Null) => "none".to_owned(),
            (Value::Null, streams) => counted(streams),
            (rules, _) => counted(rules),
        };
        table.row([
            word(&service["service"]),
            word(&service["protocol"]),
            rules,
            word(&service["balancer"]),
            short(&service["version"]["hash"]),
        ]);
    }
    table
}

/// How many rules, however they are kept.
fn counted(rules: &Value) -> String {
    let inner = &rules["rules"];
    let rules = if inner.is_array() { inner } else { rules };
    rules
        .as_array()
        .map_or_else(|| "some".to_owned(), |rules| rules.len().to_string())
}

fn endpoints(config: &Value) -> Table {
    let mut table =
        Table::new(&["OF", "POD", "ADDRESS", "IDENTITY", "PLACE", "DRAINING"]).spare(&["IDENTITY", "PLACE"]);
    for set in list(&config["endpoints"]) {
        for endpoint in list(&set["endpoints"]) {
            let place = &endpoint["place"];
            let identity = word(&endpoint["identity"]);
            table.row([
                word(&set["set"]),
                format!("{}/{}", word(&endpoint["namespace"]), word(&endpoint["pod"])),
                match endpoint["behind_gateways"] == true {
                    true => format!("{} behind gateways", word(&endpoint["address"])),
                    false => word(&endpoint["address"]),
                },
                if identity.is_empty() {
                    "none: plaintext".to_owned()
                } else {
                    identity
                },
                format!("{}/{}", word(&place["region"]), word(&place["zone"])),
                if endpoint["draining"] == true { "yes" } else { "" }.to_owned(),
            ]);
        }
    }
    table
}

fn notes(config: &Value) -> Table {
    let mut table = Table::new(&["RESOURCE", "FIELD", "REASON"]);
    for note in list(&config["notes"]) {
        table.row(["resource", "field", "reason"].map(|part| word(&note[part])));
    }
    table
}

fn short(version: &Value) -> String {
    word(version).chars().take(super::DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_essence_is_there_and_nothing_drives_a_terminal() {
        let config = json!({
            "connected": false, "config_age_seconds": 7, "epoch": 2,
            "identity": {"identity": "spiffe://td/ns/shop/sa/web", "not_after_unix": 1},
            "bundles": [{"trust_domain": "td", "roots": ["a"]}],
            "inbound": {"mode": "strict", "ports": [{"port": 80, "protocol": "http", "services": ["shop/web:80"]}],
                "workload": {"namespace": "shop", "name": "web\u{1b}[2J", "place": {"region": "west", "zone": "a"}}},
            "targets": [
                {"target": "10.0.0.1:80", "lookup": "service", "service": "shop/db:80", "heard_seconds_ago": 3},
                {"target": "name:x:1", "lookup": "no-such-port", "reason": "no port 1"}],
            "services": [{"service": "shop/db:80", "protocol": "http", "rules": {"rules": [1, 2]}, "streams": null,
                "balancer": "PeakEwma", "version": {"hash": "0123456789"}}],
            "endpoints": [{"set": "shop/db:80", "endpoints": [{"namespace": "shop", "pod": "db-0", "address": "10.1.0.1:80",
                "identity": null, "place": {}, "draining": true},
                {"namespace": "shop", "pod": "db-9", "address": "10.1.0.1:80", "identity": "spiffe://other/ns/shop/sa/db",
                "place": {}, "draining": false, "behind_gateways": true, "gateways": ["192.0.2.1:15443"]}]}],
            "notes": [],
        });
        let text = text(&config, None);
        for part in [
            "not connected, heard of 7 s ago, epoch 2",
            "its certificate ended",
            "td (1 root)",
            "strict",
            "Service shop/db:80",
            "refused: no port 1",
            "01234567",
            "none: plaintext",
            "shop/db-0",
            "10.1.0.1:80 behind gateways",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains("REFUSED"), "{text}");
        assert!(identity(&Value::Null).contains("no certificate"));
    }
}
