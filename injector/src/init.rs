//! `weft init`: puts the redirect rules in place inside a pod, and proves them before it exits 0.

use std::io::Write;
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
        skip_outbound_ports: args.skip_outbound_ports.clone(),
        skip_outbound_subnets: args.skip_outbound_subnets.clone(),
    };
    apply("iptables", |jumps| redirect::rules(&settings, jumps).v4)?;
    let v6 = has_v6();
    if v6 {
        apply("ip6tables", |jumps| redirect::rules(&settings, jumps).v6)?;
    }
    if !skipped(&settings, NOBODY_V4) {
        prove(NOBODY_V4).context("proving the IPv4 redirect")?;
    }
    if v6 && !skipped(&settings, NOBODY_V6) {
        prove(NOBODY_V6).context("proving the IPv6 redirect")?;
    }
    println!(
        "redirect in place and proven: IPv4{}",
        if v6 { " and IPv6" } else { "; IPv6 is off in this pod" }
    );
    Ok(())
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
        "{restore} failed: {}; the pod needs NET_ADMIN and NET_RAW in its init container",
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
