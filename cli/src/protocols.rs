//! What the ports of Services speak: what is declared of them, and what the proxies found out (detection's verdict).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::mesh::Mesh;
use crate::scrape;

/// The port of a proxy's admin server on the pod's loopback.
const PORT: u16 = 15021;

/// A protocol, and how it was found, in the words of `/config`.
type Verdict = (String, String);
/// Which side of a connection found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    /// The caller's proxy: it knows what was dialled.
    Caller,
    /// The called pod's proxy: it knows its own port, and not which Service led there.
    Called,
}
/// By destination, over all proxies.
type Seen = BTreeMap<SocketAddr, BTreeSet<(Side, Verdict)>>;
/// A port of a Service by the Service's place in the status, and its own in the Service.
type PortKey = (usize, usize);

/// Asks the proxies in `status`, and adds `detected` to each port of its services. Returns the pods whose proxies did not
/// answer.
pub(crate) async fn add(mesh: &Mesh, status: &mut Value) -> Vec<String> {
    let asked = scrape::each(mesh, &scrape::pods(status), async |pod, _| ask(mesh, pod).await).await;
    let (mut answers, mut unheard) = (Vec::new(), Vec::new());
    for (pod, answer) in asked {
        match answer {
            Some(answer) => answers.push(answer),
            None => unheard.push(pod),
        }
    }
    unheard.sort();
    join(status, &seen(&answers));
    unheard
}

/// `None`: it does not answer. It may have ended just now.
async fn ask(mesh: &Mesh, pod: &str) -> Option<Value> {
    let (namespace, name) = pod.split_once('/')?;
    let answer = mesh.get(namespace, name, PORT, "/config?view=detected").await.ok()?;
    serde_json::from_str(&answer).ok()
}

fn seen(answers: &[Value]) -> Seen {
    let mut seen = Seen::new();
    for one in answers.iter().flat_map(|answer| list(&answer["detected"])) {
        let word = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        let (protocol, found) = (word("protocol"), word("found"));
        let side = match one["direction"].as_str() {
            Some("outbound") => Side::Caller,
            _ => Side::Called,
        };
        // What the peer's proxy said, that proxy knows from one of the other sources.
        if let (Ok(destination), true) = (word("destination").parse(), found != "peer") {
            seen.entry(destination).or_default().insert((side, (protocol, found)));
        }
    }
    seen
}

/// Looks up each port of a Service at the Service's addresses, and at its pods'. What was found at a port of a pod that
/// several Services lead to may be another Service's: of those it counts only for one that has no address of its own, and
/// only as its callers saw it.
fn join(status: &mut Value, seen: &Seen) {
    let pods: BTreeMap<(String, String), Vec<IpAddr>> = list(&status["pods"])
        .iter()
        .filter_map(|pod| {
            let key = (pod["namespace"].as_str()?.to_owned(), pod["name"].as_str()?.to_owned());
            Some((key, addresses(&pod["addresses"])))
        })
        .collect();
    let mut places: BTreeMap<PortKey, Places> = BTreeMap::new();
    let mut leading: BTreeMap<SocketAddr, Vec<PortKey>> = BTreeMap::new();
    for (at, service) in list(&status["services"]).iter().enumerate() {
        for (nth, port) in list(&service["ports"]).iter().enumerate() {
            let found = Places::of(service, port, &pods);
            for back in &found.backs {
                leading.entry(*back).or_default().push((at, nth));
            }
            places.insert((at, nth), found);
        }
    }
    let detected: Vec<(PortKey, Value)> = places
        .iter()
        .map(|(key, of)| (*key, of.verdicts(seen, |back| whose(*key, &leading[back], &places))))
        .collect();
    for ((at, nth), verdicts) in detected {
        status["services"][at]["ports"][nth]["detected"] = verdicts;
    }
}

/// Where connections to a port of a Service go.
struct Places {
    /// The Service's own addresses, with its port. None: it is headless.
    fronts: Vec<SocketAddr>,
    /// Its pods' addresses, with their ports.
    backs: BTreeSet<SocketAddr>,
}

/// Whose a verdict at a port of a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// No other Service leads there.
    Own,
    /// Others do, but they have addresses of their own, which their callers dial.
    Dialled,
    Unknown,
}

fn whose(key: PortKey, leading: &[PortKey], places: &BTreeMap<PortKey, Places>) -> Whose {
    let is_headless = |key: &PortKey| places[key].fronts.is_empty();
    match leading {
        // Several ports of one Service may lead to one of its pods'.
        [first, rest @ ..] if rest.iter().all(|other| other.0 == first.0) => Whose::Own,
        several if is_headless(&key) && several.iter().filter(|one| is_headless(one)).count() == 1 => Whose::Dialled,
        _ => Whose::Unknown,
    }
}

impl Places {
    fn of(service: &Value, port: &Value, pods: &BTreeMap<(String, String), Vec<IpAddr>>) -> Self {
        let namespace = service["namespace"].as_str().unwrap_or_default();
        let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
        let front = number(&port["port"]);
        let fronts = addresses(&service["addresses"]).into_iter();
        let names = list(&service["pods"]["names"]).iter().filter_map(Value::as_str);
        let behind = names
            .filter_map(|name| pods.get(&(namespace.to_owned(), name.to_owned())))
            .flatten();
        let numbers: Vec<u16> = list(&port["podPorts"]).iter().filter_map(number).collect();
        let is_tcp = port["protocol"] == "TCP";
        Self {
            fronts: fronts.filter_map(|ip| Some(SocketAddr::new(ip, front?))).collect(),
            backs: behind
                .filter(|_| is_tcp)
                .flat_map(|ip| numbers.iter().map(|number| SocketAddr::new(*ip, *number)))
                .collect(),
        }
    }

    fn verdicts(&self, seen: &Seen, whose: impl Fn(&SocketAddr) -> Whose) -> Value {
        let at = |place: &SocketAddr| seen.get(place).into_iter().flatten();
        let fronts = self.fronts.iter().flat_map(at);
        let backs = self.backs.iter().flat_map(|place| {
            let whose = whose(place);
            at(place).filter(move |(side, _)| match whose {
                Whose::Own => true,
                Whose::Dialled => *side == Side::Caller,
                Whose::Unknown => false,
            })
        });
        let verdicts: BTreeSet<&Verdict> = fronts.chain(backs).map(|(_, verdict)| verdict).collect();
        verdicts
            .into_iter()
            .map(|(protocol, found)| json!({"protocol": protocol, "found": found}))
            .collect()
    }
}

/// What a port of a Service speaks, and why that is known, for people: `HTTP/1.1 (first bytes)`.
pub(crate) fn of(port: &Value) -> String {
    if port["protocol"] != "TCP" {
        return String::new();
    }
    let detected: Vec<(&str, &str)> = list(&port["detected"])
        .iter()
        .filter_map(|one| Some((one["protocol"].as_str()?, one["found"].as_str()?)))
        .collect();
    if let Some(declared) = port["declared"]["protocol"].as_str() {
        let by = match port["declared"]["by"].as_str().unwrap_or_default() {
            "name" => "port name",
            by => by,
        };
        let spoken: BTreeSet<&str> = detected.iter().map(|(protocol, _)| spelled(protocol)).collect();
        let what = match declared {
            "http" if !spoken.is_empty() => Vec::from_iter(spoken).join(", "),
            declared => spelled(declared).to_owned(),
        };
        return format!("{what} ({by})");
    }
    let mut by: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (protocol, found) in detected {
        by.entry(why(found)).or_default().insert(spelled(protocol));
    }
    if by.is_empty() {
        return "not seen yet".to_owned();
    }
    let each = by
        .into_iter()
        .map(|(why, spoken)| format!("{} ({why})", Vec::from_iter(spoken).join(", ")));
    each.collect::<Vec<_>>().join("; ")
}

fn spelled(protocol: &str) -> &str {
    match protocol {
        "http" => "HTTP",
        "http/1" => "HTTP/1.1",
        "http2" | "http/2" => "HTTP/2",
        "grpc" => "gRPC",
        "tls" => "TLS",
        other => other,
    }
}

fn why(found: &str) -> &str {
    match found {
        "client-bytes" => "first bytes",
        "server-first" => "server first",
        "nobody-spoke" => "nobody spoke",
        other => other,
    }
}

fn addresses(value: &Value) -> Vec<IpAddr> {
    let texts = list(value).iter().filter_map(Value::as_str);
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Value {
        json!({
            "pods": [{"namespace": "shop", "name": "db-0", "addresses": ["10.0.0.5", "fd00::5"]}],
            "services": [{
                "namespace": "shop", "name": "db", "addresses": ["10.96.0.1"], "pods": {"names": ["db-0"]},
                "ports": [
                    {"port": 80, "protocol": "TCP", "podPorts": [8080]},
                    {"port": 81, "protocol": "TCP", "podPorts": [8081], "declared": {"protocol": "http", "by": "appProtocol"}},
                    {"port": 53, "protocol": "UDP", "podPorts": [53]},
                ],
            }],
        })
    }

    #[track_caller]
    fn check(detected: &[(&str, &str, &str)], want: [&str; 3]) {
        let each = detected
            .iter()
            .map(|(to, protocol, found)| json!({"destination": to, "protocol": protocol, "found": found}));
        let answer = json!({"detected": each.collect::<Vec<_>>()});
        let mut status = status();
        join(&mut status, &seen(&[answer]));
        let ports = list(&status["services"][0]["ports"]);
        assert_eq!(ports.iter().map(of).collect::<Vec<_>>(), want);
    }

    #[test]
    fn a_port_is_what_is_declared_until_somebody_calls_it() {
        check(&[], ["not seen yet", "HTTP (appProtocol)", ""]);
    }

    #[test]
    fn what_proxies_found_at_the_service_and_at_its_pods_is_the_ports() {
        check(
            &[
                ("10.96.0.1:80", "opaque", "server-first"),
                ("[fd00::5]:8080", "http/2", "client-bytes"),
                ("10.0.0.5:8080", "http/1", "client-bytes"),
                ("10.96.0.1:81", "http/1", "declared"),
            ],
            [
                "HTTP/1.1, HTTP/2 (first bytes); opaque (server first)",
                "HTTP/1.1 (appProtocol)",
                "",
            ],
        );
    }

    #[test]
    fn other_addresses_other_ports_and_hearsay_are_not() {
        check(
            &[
                ("10.96.0.2:80", "http/1", "client-bytes"),
                ("10.0.0.5:80", "http/1", "client-bytes"),
                ("10.0.0.5:8080", "opaque", "peer"),
                ("nonsense", "http/1", "client-bytes"),
            ],
            ["not seen yet", "HTTP (appProtocol)", ""],
        );
    }

    #[test]
    fn what_a_pods_port_was_heard_to_speak_is_that_of_all_ports_of_the_one_service_that_lead_there() {
        let mut status = status();
        for port in [0, 1] {
            status["services"][0]["ports"][port]["podPorts"] = json!([8080]);
        }
        let one = json!({"destination": "10.0.0.5:8080", "protocol": "http/1", "found": "client-bytes"});
        join(&mut status, &seen(&[json!({"detected": [one]})]));
        assert_eq!(of(&status["services"][0]["ports"][0]), SPOKEN);
        assert_eq!(of(&status["services"][0]["ports"][1]), "HTTP/1.1 (appProtocol)");
    }

    /// Services of one pod's one port: an ordinary one, another, and a headless one.
    fn sharing(headless: usize, detected: &[(&str, &str)]) -> Vec<String> {
        let port = json!([{"port": 80, "protocol": "TCP", "podPorts": [8080]}]);
        let service = |name: &str, addresses: &[&str]| json!({"namespace": "shop", "name": name, "addresses": addresses, "pods": {"names": ["db-0"]}, "ports": port});
        let mut services = vec![service("db", &["10.96.0.1"]), service("six", &["fd00:96::6"])];
        services.extend((0..headless).map(|n| service(&format!("heads-{n}"), &[])));
        let mut status = json!({"pods": status()["pods"], "services": services});
        let one = |(direction, to): &(&str, &str)| json!({"direction": direction, "destination": to, "protocol": "http/1", "found": "client-bytes"});
        let answer = json!({"detected": detected.iter().map(one).collect::<Vec<_>>()});
        join(&mut status, &seen(&[answer]));
        let ports = list(&status["services"]).iter().map(|service| &service["ports"][0]);
        ports.map(of).collect()
    }

    const SPOKEN: &str = "HTTP/1.1 (first bytes)";
    const UNSEEN: &str = "not seen yet";

    #[test]
    fn what_a_pod_that_several_services_lead_to_was_asked_is_not_known_to_be_all_of_theirs() {
        let calls = [("outbound", "10.96.0.1:80"), ("inbound", "10.0.0.5:8080")];
        assert_eq!(sharing(1, &calls), [SPOKEN, UNSEEN, UNSEEN]);
    }

    #[test]
    fn a_pod_that_was_dialled_itself_was_dialled_by_the_only_headless_service() {
        let calls = [("outbound", "10.0.0.5:8080"), ("inbound", "10.0.0.5:8080")];
        assert_eq!(sharing(1, &calls), [UNSEEN, UNSEEN, SPOKEN]);
        assert_eq!(sharing(2, &calls), [UNSEEN; 4]);
        assert_eq!(sharing(0, &calls), [UNSEEN; 2]);
    }

    #[test]
    fn what_a_route_declares_is_said_with_the_route() {
        let port = json!({"protocol": "TCP", "declared": {"protocol": "grpc", "by": "GRPCRoute shop/ratings"}, "detected": [
            {"protocol": "http/2", "found": "declared"}]});
        assert_eq!(of(&port), "gRPC (GRPCRoute shop/ratings)");
    }
}
