//! Ports of which nothing is declared: unmodified servers and clients work, cost next to nothing to connect to, and what is
//! HTTP is routed, with plenty of CPU and with next to none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use weft_tests::programs::{Programs, needed};
use weft_tests::quota::Quota;
use weft_tests::{Background, Mesh, golang};

const MANIFESTS: &str = include_str!("../data/undeclared/peers.yaml");
const FILES: [(&str, &str); 4] = [
    ("driver.py", include_str!("../data/undeclared/driver.py")),
    ("answers.py", include_str!("../data/undeclared/answers.py")),
    ("exim.conf", include_str!("../data/undeclared/exim.conf")),
    ("nginx.conf", include_str!("../data/undeclared/nginx.conf")),
];

const NEEDED: [(&str, &str); 10] = [
    ("/usr/lib/postgresql", "postgresql"),
    ("/usr/sbin/mariadbd", "mariadb-server"),
    ("/usr/bin/mariadb", "mariadb-client"),
    ("/usr/bin/redis-server", "redis-server"),
    ("/usr/sbin/exim4", "exim4-daemon-light"),
    ("/usr/sbin/sshd", "openssh-server"),
    ("/usr/sbin/nats-server", "nats-server"),
    ("/usr/sbin/nginx", "nginx-light"),
    ("/usr/lib/python3/dist-packages/pymongo", "python3-pymongo"),
    ("/usr/lib/python3/dist-packages/grpc", "python3-grpcio"),
];

/// A Service, its server's port, the client that asks it, the answer, the protocol, and how that may be found out.
struct Peer(
    &'static str,
    u16,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

/// Those that are HTTP come last.
const PEERS: [Peer; 9] = [
    Peer("postgres", 5432, "psql", "42", "opaque", &["client-bytes"]),
    Peer("mariadb", 3306, "mariadb", "42", "opaque", &["server-first"]),
    Peer("redis", 6379, "redis-cli", "42", "opaque", &["client-bytes"]),
    Peer("mail", 2525, "smtplib", "250", "opaque", &["server-first"]),
    // Both speak at once.
    Peer("ssh", 2222, "ssh", "42", "opaque", &["client-bytes", "server-first"]),
    Peer("nats", 4222, "nats-req", "42", "opaque", &["server-first"]),
    Peer("mongo", 27017, "pymongo", "42", "opaque", &["client-bytes"]),
    Peer(
        "web",
        8080,
        "http",
        "200 applied 42 routed",
        "http/1",
        &["client-bytes"],
    ),
    Peer(
        "greeter",
        50051,
        "grpcio",
        "42 applied routed",
        "http/2",
        &["client-bytes"],
    ),
];

/// How many of the above are not HTTP.
const OPAQUE: usize = 7;

/// Of each Service. What is learnt of a destination is of one port, so each that is new is learnt anew.
const PORTS: std::ops::RangeInclusive<u16> = 9001..=9016;

/// How often it is measured what a connection takes.
const ROUNDS: usize = 9;

/// What one more connection may take through two sidecars, of which nothing is known yet, in milliseconds.
const ADDED_MAX: f64 = 100.0;

/// FerretDB, MongoDB's protocol over SQLite: version 2 needs an extension of PostgreSQL instead.
const FERRETDB: &str = "v1.24.0";
/// The examples of NATS' client for Go.
const NATS: &str = "v1.48.0";

/// Programs that are no packages of Debian's.
fn programs() -> Programs {
    static BUILT: OnceLock<[PathBuf; 3]> = OnceLock::new();
    Programs::of(BUILT.get_or_init(|| {
        let ferretdb = golang::built("ferretdb", FERRETDB, &["ferretdb"], |to| {
            let source = to.join("source");
            golang::source("github.com/FerretDB/FerretDB", FERRETDB, &source);
            // It does not start if it doesn't know what it is.
            std::fs::write(source.join("build/version/version.txt"), FERRETDB).expect("the version");
            golang::build(&source, "./cmd/ferretdb", &to.join("ferretdb"));
        });
        let names = ["nats-req", "nats-rply"];
        let nats = golang::built("nats-examples", NATS, &names, |to| {
            let packages = names.map(|name| format!("github.com/nats-io/nats.go/examples/{name}"));
            golang::install(&packages.each_ref().map(String::as_str), NATS, to);
        });
        [ferretdb.join("ferretdb"), nats.join(names[0]), nats.join(names[1])]
    }))
}

/// The uid that Exim's package has made.
fn exim() -> String {
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let user = users.lines().find_map(|line| line.strip_prefix("Debian-exim:x:"));
    let uid = user.and_then(|fields| fields.split(':').next());
    uid.expect("a user Debian-exim").to_owned()
}

/// A pair of keys for SSH: the private one, and the public one.
fn keys() -> [String; 2] {
    let dir = tempfile::tempdir().expect("a directory");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", "id"])
        .current_dir(dir.path())
        .status()
        .expect("ssh-keygen is missing: apt-get install openssh-client");
    assert!(made.success(), "ssh-keygen makes a key");
    ["id", "id.pub"].map(|name| std::fs::read_to_string(dir.path().join(name)).expect("a key"))
}

fn manifests(place: &Path) -> String {
    let mut text = MANIFESTS
        .replace("PLACE", &place.display().to_string())
        .replace("EXIM", &exim());
    text += "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: peers, namespace: peers}\ndata:\n";
    let keys = keys();
    let keys = ["id", "id.pub"].into_iter().zip(keys.iter().map(String::as_str));
    for (file, body) in FILES.into_iter().chain(keys) {
        let body: String = body.lines().map(|line| format!("    {line}\n")).collect();
        text += &format!("  {file}: |\n{body}");
    }
    for Peer(service, target, ..) in PEERS {
        text += &format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: peers}}
spec:
  selector: {{app: servers}}
  ports:
"
        );
        for port in PORTS {
            text += &format!("    - {{name: any-{port}, port: {port}, targetPort: {target}}}\n");
        }
    }
    text
}

/// What a client found.
#[derive(Debug)]
struct Answer {
    client: String,
    took: f64,
    said: String,
    at: String,
}

fn answers(text: &str) -> Vec<Answer> {
    let read = |line: &str| {
        let said: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}"));
        let word = |field: &str| said[field].as_str().expect("a word").to_owned();
        Answer {
            client: word("client"),
            took: said["ms"].as_f64().expect("milliseconds"),
            said: word("said"),
            at: word("at"),
        }
    };
    text.lines().map(read).collect()
}

/// Asks servers through the mesh from the client's pod, each through this port of its Service.
fn driver<'a>(port: &'a str, how: &'a str, clients: &[&'a str]) -> Vec<&'a str> {
    [&["/usr/bin/python3", "/peers/driver.py", port, how], clients].concat()
}

fn ask(mesh: &Mesh, port: u16, how: &str, clients: &[&str]) -> Vec<Answer> {
    answers(&mesh.exec_ok("peers", "client", &driver(&port.to_string(), how, clients)))
}

/// The same beside the test.
fn ask_beside(mesh: &Mesh, port: u16, clients: &[&str]) -> Background {
    mesh.spawn("peers", "client", &driver(&port.to_string(), "together", clients))
}

fn clients(peers: &[Peer]) -> Vec<&'static str> {
    peers.iter().map(|Peer(_, _, client, ..)| *client).collect()
}

/// All were answered, and their protocols were found out.
#[track_caller]
fn all_right(mesh: &Mesh, asked: &[Answer]) {
    let config = mesh.config("peers", "client");
    let detected = config["detected"].as_array().expect("verdicts");
    let verdict = |answer: &Answer| {
        let of = |verdict: &&Value| verdict["destination"] == *answer.at && verdict["direction"] == "outbound";
        detected.iter().find(of)
    };
    let wrong = asked.iter().filter(|answer| {
        let (said, protocol, found): (_, _, &[&str]) = match answer.client.as_str() {
            "late-h2" => ("acknowledged", "http/2", &["client-bytes"]),
            client => {
                let Peer(_, _, _, said, protocol, found) = PEERS.iter().find(|peer| peer.2 == client).expect("it");
                (*said, *protocol, found)
            }
        };
        let is_right =
            |verdict: &Value| verdict["protocol"] == protocol && found.iter().any(|found| verdict["found"] == *found);
        answer.said != said || !verdict(answer).is_some_and(is_right)
    });
    let wrong: Vec<String> = wrong
        .map(|answer| format!("{answer:?} {:?}", verdict(answer)))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        asked.len(),
        wrong.join("\n")
    );
}

/// What is not HTTP went as bytes over mutual TLS, at least so often to each Service; what is HTTP never did.
#[track_caller]
fn only_bytes_were_opaque(mesh: &Mesh, at_least: f64) {
    let metrics = mesh.admin("peers", "client", "/metrics");
    for Peer(service, _, _, _, protocol, _) in PEERS {
        let service = format!("destination_service=\"{service}\"");
        let opened = |with: &str| {
            let lines = metrics.lines().filter(|line| {
                line.starts_with("weft_tcp_connections_opened_total{") && line.contains(&service) && line.contains(with)
            });
            lines
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum::<f64>()
        };
        assert_eq!(opened("mutual_tls=\"false\""), 0.0, "{service}: {metrics}");
        let opened = opened("mutual_tls=\"true\"");
        match protocol {
            "opaque" => assert!(opened >= at_least, "{service}: {opened}: {metrics}"),
            _ => assert_eq!(opened, 0.0, "{service}: {metrics}"),
        }
    }
}

fn up() -> (Mesh, Programs) {
    needed(&NEEDED);
    let programs = programs();
    let place = programs.path("ferretdb");
    let manifests = manifests(place.parent().expect("it lies somewhere"));
    (Mesh::builder().file("peers.yaml", &manifests).up(), programs)
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

#[test]
fn undeclared_peers_work_and_connect_with_less_than_100_ms_more_and_late_http_is_routed() {
    let (mesh, _programs) = up();
    let late = ask_beside(&mesh, *PORTS.end(), &["http=15", "late-h2=3"]);
    let opaque = clients(&PEERS[..OPAQUE]);
    let mut took: BTreeMap<&str, [Vec<f64>; 2]> = BTreeMap::new();
    for port in PORTS.take(ROUNDS) {
        let direct = driver("direct", "one-by-one", &opaque);
        let direct = answers(&mesh.exec_ok("peers", "servers", &direct));
        let meshed = ask(&mesh, port, "one-by-one", &opaque);
        all_right(&mesh, &meshed);
        for (direct, meshed) in direct.iter().zip(&meshed) {
            assert_eq!(direct.said, meshed.said, "{}", direct.client);
            let client = opaque.iter().find(|client| **client == direct.client).expect("it");
            let [without, with] = took.entry(client).or_default();
            without.push(direct.took);
            with.push(meshed.took);
        }
    }
    // What has been learnt of a port holds no longer than it is true, and what is HTTP is routed.
    all_right(&mesh, &ask(&mesh, *PORTS.start(), "one-by-one", &clients(&PEERS)));
    all_right(&mesh, &answers(&late.output()));
    only_bytes_were_opaque(&mesh, ROUNDS as f64);
    let mut slow = Vec::new();
    for (client, [without, with]) in took {
        let (without, with) = (median(without), median(with));
        let line = format!("{client}: {without:.1} ms direct, {with:.1} ms through the mesh");
        println!("{line}");
        if with - without >= ADDED_MAX {
            slow.push(line);
        }
    }
    assert!(slow.is_empty(), "more than {ADDED_MAX} ms added:\n{}", slow.join("\n"));
}

#[test]
fn proxies_held_to_a_twentieth_of_a_core_find_out_the_same() {
    let (mesh, _programs) = up();
    let quotas: Vec<Quota> = mesh.proxy_pids().into_iter().map(|pid| Quota::of(pid, 5)).collect();
    assert_eq!(quotas.len(), 2, "the client's and the servers'");
    let late = ask_beside(&mesh, *PORTS.end(), &["http=15", "late-h2=15"]);
    let mut ports = PORTS;
    let mut port = || ports.next().expect("another port");
    let first = port();
    // Anew, remembered, and many at once.
    all_right(&mesh, &ask(&mesh, first, "together", &clients(&PEERS)));
    all_right(&mesh, &ask(&mesh, first, "together", &clients(&PEERS)));
    let many = [vec!["http"; 10], vec!["grpcio"; 3], vec!["mariadb"; 10]].concat();
    all_right(&mesh, &ask(&mesh, port(), "together", &many));
    all_right(&mesh, &answers(&late.output()));
    only_bytes_were_opaque(&mesh, 2.0);
    for quota in quotas {
        // For each of the 15 s at least one, of ten periods.
        let throttled = quota.throttled();
        println!("a proxy stood still in {throttled} periods");
        assert!(throttled >= 15, "{quota:?}: {throttled}");
    }
}
