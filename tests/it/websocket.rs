//! WebSocket, between unmodified peers through two sidecars: nothing that works without a mesh is worse with it.
//!
//! The servers are Python's `websockets` and Rust's tungstenite. Each is driven by both: the Rust driver says frames of its own,
//! right and wrong, by the sections of RFC 6455; Python's client compresses (RFC 7692) and negotiates. Every case is run from
//! within the server's pod over its loopback, where there is no proxy, and from another pod.

use std::collections::BTreeMap;

use weft_tests::Mesh;
use weft_tests::host::until;
use weft_tests::programs::Programs;

const SERVER: &str = r#"
import asyncio
import websockets

async def echo(socket):
    async for message in socket:
        await socket.send(message)

async def main():
    options = dict(max_size=17 << 20, ping_interval=None, subprotocols=["chat", "superchat"])
    async with websockets.serve(echo, None, 9001, **options):
        await asyncio.Future()

asyncio.run(main())
"#;

const DRIVER: &str = r#"
import asyncio
import hashlib
import sys
import websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory as Deflate

URL = "ws://%s:%s/echo" % (sys.argv[1], sys.argv[2])

def digest(message):
    data = message.encode() if isinstance(message, str) else message
    return "%s:%d:%s" % (type(message).__name__, len(data), hashlib.sha1(data).hexdigest()[:12])

async def talk(name, messages, close=1000, ping=False, **options):
    heard = []
    try:
        options.setdefault("compression", None)
        async with websockets.connect(URL, max_size=17 << 20, ping_interval=None, **options) as socket:
            heard.append("%s %s" % (socket.subprotocol, sorted(e.name for e in socket.extensions)))
            for message in messages:
                await socket.send(message)
                heard.append(digest(await socket.recv()))
                if ping:
                    await (await socket.ping(b"now"))
                    heard.append("pong")
            await socket.close(close, "enough")
            heard.append("closed %s %s" % (socket.close_code, socket.close_reason))
    except Exception as error:
        heard.append("%s %s" % (type(error).__name__, error))
    print("%s\t%s" % (name, " ".join(heard)), flush=True)

def text(length):
    return "".join(chr(97 + n * 7919 % 26) for n in range(min(length, 65536))) * (max(length, 1) // 65536 or 1)

def noise(length):
    out, seed = [], b"weft"
    while len(out) * 64 < length:
        seed = hashlib.sha512(seed).digest()
        out.append(seed)
    return b"".join(out)[:length]

async def main():
    for length in [0, 1, 125, 126, 127, 65535, 65536, 1 << 20, 16 << 20]:
        await talk("python text %d" % length, [text(length)])
        await talk("python deflated text %d" % length, [text(length)], compression="deflate")
        await talk("python deflated noise %d" % length, [noise(length)], compression="deflate")
    for bits in [9, 12, 15]:
        factory = Deflate(server_max_window_bits=bits, client_max_window_bits=bits)
        await talk("python deflate %d bits" % bits, [text(100000)] * 3, extensions=[factory])
    for server, client in [(True, False), (False, True), (True, True)]:
        factory = Deflate(server_no_context_takeover=server, client_no_context_takeover=client)
        await talk("python deflate no context %s %s" % (server, client), [text(5000)] * 5, extensions=[factory])
    await talk("python deflated fragments", [[text(1000)] * 20], compression="deflate")
    await talk("python fragments", [[text(1000)] * 20])
    await talk("python empty fragments", [["", "a", ""]])
    await talk("python bytes in fragments", [[noise(5000)] * 100], compression="deflate")
    await talk("python many", [str(n) for n in range(300)], compression="deflate")
    await talk("python pings", ["a", "b", "c"], ping=True)
    await talk("python unicode", ["\u20ac\U0001f9f5\u00e9", "\ufeff", "a\0b"])
    await talk("python subprotocol", ["a"], subprotocols=["superchat"])
    await talk("python other subprotocol", ["a"], subprotocols=["none"])
    await talk("python headers", ["a"], extra_headers={"x-some": "thing", "cookie": "a=b"})
    for code in [1001, 1003, 1008, 1011, 3000, 4999]:
        await talk("python close %d" % code, ["a"], close=code)

asyncio.run(main())
"#;

/// The Rust peer.
const PEER: &str = env!("CARGO_BIN_EXE_weft-websocket-peer");

fn manifests(peer: &str) -> String {
    let mut text = "apiVersion: v1
kind: Namespace
metadata: {name: ws, labels: {weft.dev/inject: enabled}, annotations: {config.weft.dev/inbound: strict}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ws, namespace: ws}
data:
"
    .to_owned();
    for (file, body) in [("server.py", SERVER), ("driver.py", DRIVER)] {
        let body: String = body.lines().map(|line| format!("    {line}\n")).collect();
        text += &format!("  {file}: |\n{body}");
    }
    let python = "[/usr/bin/python3, /app/server.py]".to_owned();
    let rust = format!("[{peer:?}, serve, '9001']");
    for (name, command) in [
        ("python", python),
        ("rust", rust),
        ("client", "[sleep, infinity]".to_owned()),
    ] {
        text += &format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: ws, labels: {{app: {name}}}}}
spec:
  containers:
    - name: app
      command: {command}
      volumeMounts: [{{name: app, mountPath: /app}}]
  volumes: [{{name: app, configMap: {{name: ws}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: ws}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: undeclared, port: 9001}}]
"
        );
    }
    text
}

/// What each case gave, by its name.
fn run(mesh: &Mesh, peer: &str, from: &str, to: &str) -> BTreeMap<String, String> {
    let rust = mesh.exec_ok("ws", from, &[peer, "drive", to, "9001"]);
    let python = mesh.exec_ok("ws", from, &["/usr/bin/python3", "/app/driver.py", to, "9001"]);
    let lines = [rust, python].concat();
    let pairs = lines
        .lines()
        .map(|line| line.split_once('\t').expect("a name and what came"));
    pairs.map(|(name, came)| (name.to_owned(), came.to_owned())).collect()
}

#[test]
fn no_websocket_is_worse_through_two_sidecars_than_without() {
    let programs = Programs::of(&[PEER]);
    let peer = programs.path("weft-websocket-peer").display().to_string();
    let mesh = Mesh::builder().file("ws.yaml", &manifests(&peer)).up();
    for server in ["python", "rust"] {
        // The servers have no readiness probe.
        let listens = ["sh", "-c", "exec 3<>/dev/tcp/127.0.0.1/9001"];
        until("the server listens", || {
            let listens = ["bash", listens[1], listens[2]];
            mesh.exec("ws", server, &listens).status.success()
        });
        let (direct, meshed) = (
            run(&mesh, &peer, server, "127.0.0.1"),
            run(&mesh, &peer, "client", server),
        );
        assert!(direct.len() >= 100, "{} cases", direct.len());
        let worse: Vec<String> = direct
            .iter()
            .filter(|(name, came)| meshed.get(*name) != Some(came))
            .map(|(name, came)| format!("{name}\n  direct: {came}\n  meshed: {:?}", meshed.get(name)))
            .collect();
        println!("{server}: {} cases, {} worse than direct", direct.len(), worse.len());
        assert!(
            worse.is_empty(),
            "{} of {} differ:\n{}",
            worse.len(),
            direct.len(),
            worse.join("\n")
        );
        // So that nothing passes because nothing works.
        let echoed = direct
            .values()
            .filter(|came| came.contains("close:1000") || came.contains("closed 1000"));
        assert!(echoed.count() >= 50, "{direct:#?}");
        assert!(
            !direct.values().any(|came| came.contains("nothing in time")),
            "{direct:#?}"
        );
        let metrics = mesh.admin("ws", server, "/metrics");
        let upgraded = metrics.lines().any(|line| {
            line.starts_with("http_server_request_duration_seconds_count{")
                && line.contains("http_response_status_code=\"101\"")
                && line.contains("mutual_tls=\"true\"")
        });
        assert!(upgraded, "they were upgrades to the mesh, over mutual TLS: {metrics}");
    }
}
