//! `weft init`: puts the redirect rules in place inside a pod, and proves them before it exits 0.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::redirect::{self, Exempt, OUTBOUND_PORT, RedirectSettings};

/// Addresses that are nobody's (RFC 5737, RFC 3849): dialled to prove the redirect.
const NOBODY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NOBODY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// How the kernel says that a connection has no way out: no route, no address to come from, or a route that refuses.
const NO_ROUTE: [ErrorKind; 3] = [
    ErrorKind::NetworkUnreachable,
    ErrorKind::AddrNotAvailable,
    ErrorKind::HostUnreachable,
];
const PROOF_TIME: Duration = Duration::from_secs(3);

/// Redirects this pod's TCP to its proxy, and proves it.
#[derive(Debug, Parser)]
#[command(name = "weft init")]
struct Args {
    /// Exempt connections of this uid (the proxy's, in Kubernetes).
    #[arg(
        long,
        value_name = "UID",
        conflicts_with = "exempt_mark",
        required_unless_present = "exempt_mark"
    )]
    exempt_uid: Option<u32>,
    /// Exempt connections with this packet mark (in a local mesh).
    #[arg(long, value_name = "N")]
    exempt_mark: Option<u32>,
    /// The pod's own ports that are not redirected.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    skip_inbound_ports: Vec<u16>,
    /// Destination ports that are not redirected.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    skip_outbound_ports: Vec<u16>,
    /// Destination networks that are not redirected.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    skip_outbound_subnets: Vec<IpNet>,
}

/// What can be typed, for references.
pub fn command() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}

/// Runs the role. `args` begin with the program's name.
pub fn main(args: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let asked = !error.use_stderr();
            // Nothing can be done about a closed stderr.
            let _ = error.print();
            return ExitCode::from(if asked { 0 } else { 64 });
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft init: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let exempt = match (args.exempt_uid, args.exempt_mark) {
        (_, Some(mark)) => Exempt::Mark(mark),
        (Some(uid), None) => Exempt::Uid(uid),
        (None, None) => bail!("one of --exempt-uid and --exempt-mark is needed"),
    };
    let settings = RedirectSettings {
        exempt,
        skip_inbound_ports: args.skip_inbound_ports.clone(),
        skip_outbound_ports: args.skip_outbound_ports.clone(),
        skip_outbound_subnets: args.skip_outbound_subnets.clone(),
    };
    apply("iptables", |jumps| redirect::rules(&settings, jumps).v4)?;
    let v4 = proof(&settings, NOBODY_V4).context("proving the IPv4 redirect")?;
    let mut v6 = Proof::Off;
    if has_v6() {
        apply("ip6tables", |jumps| redirect::rules(&settings, jumps).v6)?;
        v6 = proof(&settings, NOBODY_V6).context("proving the IPv6 redirect")?;
    }
    println!("{}", told(v4, v6)?);
    Ok(())
}

/// What is known of the redirect of an IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// It works.
    Proven,
    /// The settings leave alone what the proof would dial.
    Skipped,
    /// The rules are there, and no route by which a connection could leave the pod and show it.
    NoRoute,
    /// The pod has no such addresses at all.
    Off,
}

fn proof(settings: &RedirectSettings, nobody: IpAddr) -> Result<Proof> {
    if skipped(settings, nobody) {
        return Ok(Proof::Skipped);
    }
    if !has_route(nobody)? {
        return Ok(Proof::NoRoute);
    }
    prove(nobody)?;
    Ok(Proof::Proven)
}

/// Whether a connection to this address would leave the pod. A UDP socket is asked, which sends nothing: so what comes back
/// is the pod's own routes, and never an answer from the network.
fn has_route(nobody: IpAddr) -> Result<bool> {
    let target = SocketAddr::new(nobody, OUTBOUND_PORT);
    let socket = Socket::new(Domain::for_address(target), Type::DGRAM, None)?;
    match socket.connect(&target.into()) {
        Ok(()) => Ok(true),
        Err(error) if NO_ROUTE.contains(&error.kind()) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("asking for a route to {target}")),
    }
}

/// What is said at the end. An error where nothing is proven although something could be.
fn told(v4: Proof, v6: Proof) -> Result<String> {
    ensure!(
        [v4, v6]
            .iter()
            .any(|proof| matches!(proof, Proof::Proven | Proof::Skipped)),
        "the redirect can't be proven: the pod has no route out, neither by IPv4 nor by IPv6"
    );
    let both = [("IPv4", v4), ("IPv6", v6)];
    let proven = both.iter().filter(|(_, proof)| *proof == Proof::Proven);
    let proven: Vec<&str> = proven.map(|(name, _)| *name).collect();
    let mut text = match proven.is_empty() {
        true => "redirect in place".to_owned(),
        false => format!("redirect in place and proven: {}", proven.join(" and ")),
    };
    for (name, proof) in both {
        text += &match proof {
            Proof::Proven => continue,
            Proof::Skipped => {
                format!("; {name} is not proven, because the settings leave the address of the proof alone")
            }
            Proof::NoRoute => format!("; {name} is not proven, because it has no route out of this pod"),
            Proof::Off => format!("; {name} is off in this pod"),
        };
    }
    Ok(text)
}

/// Whether this network namespace has IPv6 addresses besides none at all. Without, there is nothing to redirect.
fn has_v6() -> bool {
    std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|text| !text.trim().is_empty())
}

fn skipped(settings: &RedirectSettings, address: IpAddr) -> bool {
    settings.skip_outbound_ports.contains(&OUTBOUND_PORT)
        || settings.skip_outbound_subnets.iter().any(|net| net.contains(&address))
}

/// Feeds `rules(jumps needed?)` to `<tool>-restore`.
fn apply(tool: &str, rules: impl Fn(bool) -> String) -> Result<()> {
    let save = Command::new(format!("{tool}-save")).args(["-t", "nat"]).output();
    let save = save.with_context(|| format!("{tool}-save can't be run; install the package iptables"))?;
    let jumps = !String::from_utf8_lossy(&save.stdout)
        .lines()
        .any(|line| line == redirect::jump_line());

    let restore = format!("{tool}-restore");
    let mut child = Command::new(&restore)
        .args(["--noflush", "--wait", "5"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{restore} can't be run; install the package iptables"))?;
    let mut stdin = child.stdin.take().context("the child's input")?;
    stdin
        .write_all(rules(jumps).as_bytes())
        .with_context(|| format!("writing to {restore}"))?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{restore} failed: {}; the pod needs NET_ADMIN and NET_RAW in its init container, and the node's kernel nat for IPv4, \
         and for IPv6 where pods have it (modprobe ip6table_nat)",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Dials an address that is nobody's, and must find itself on the outbound listener with that original destination.
fn prove(nobody: IpAddr) -> Result<()> {
    let own = if nobody.is_ipv4() {
        IpAddr::from(Ipv4Addr::LOCALHOST)
    } else {
        IpAddr::from(Ipv6Addr::LOCALHOST)
    };
    let listener = listen(SocketAddr::new(own, OUTBOUND_PORT))?;
    let (sender, receiver) = mpsc::channel();
    // Ends with the process at the latest; a listener that hears nothing is what the time limit below is for.
    std::thread::spawn(move || {
        let original = listener.accept().and_then(|(socket, _)| {
            let socket = SockRef::from(&socket);
            if nobody.is_ipv4() {
                socket.original_dst_v4()
            } else {
                socket.original_dst_v6()
            }
        });
        // The receiver may have given up.
        let _ = sender.send(original);
    });
    let target = SocketAddr::new(nobody, OUTBOUND_PORT);
    let dialled = TcpStream::connect_timeout(&target, PROOF_TIME);
    dialled.with_context(|| format!("a connection to {target} was not redirected: the rules have no effect"))?;
    let original = receiver
        .recv_timeout(PROOF_TIME)
        .context("the redirected connection did not arrive")?;
    let original = original.context("reading the original destination")?.as_socket();
    ensure!(
        original == Some(target),
        "the original destination of {target} reads {original:?}"
    );
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket
        .bind(&address.into())
        .with_context(|| format!("listening on {address}"))?;
    socket.listen(1)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests;
