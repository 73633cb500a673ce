//! What crosses the wire between pods: tcpdump on the mesh's bridge, and TCP streams put together from it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::until;
use crate::mesh::Mesh;

/// A running capture of the mesh's bridge.
pub struct Capture {
    child: Child,
    file: PathBuf,
}

/// One direction of one TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Who sends.
    pub from: SocketAddr,
    /// Who receives.
    pub to: SocketAddr,
}

/// The bytes of a flow, as far as they were seen, in order.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    first: Option<u32>,
    bytes: BTreeMap<u32, Vec<u8>>,
}

impl Capture {
    /// Begins to capture everything that crosses the bridge.
    #[track_caller]
    #[must_use]
    pub fn begin(mesh: &Mesh) -> Self {
        let inside = mesh.inside_pid().to_string();
        let bridges = Command::new("nsenter")
            .args(["-t", &inside, "-n", "ip", "-o", "link", "show", "type", "bridge"])
            .output()
            .expect("nsenter and ip run");
        let bridges = String::from_utf8_lossy(&bridges.stdout).into_owned();
        let bridge = bridges
            .split(": ")
            .nth(1)
            .unwrap_or_else(|| panic!("no bridge in the mesh: {bridges:?}"));
        Self::at(
            mesh.inside_pid(),
            bridge,
            mesh.manifests().with_file_name("capture.pcap"),
        )
    }

    /// Begins to capture everything that crosses an interface in the network of a process.
    #[track_caller]
    #[must_use]
    pub fn at(inside: Pid, interface: &str, file: PathBuf) -> Self {
        let inside = inside.to_string();
        let child = Command::new("nsenter")
            .args(["-t", &inside, "-n", "tcpdump", "-i", interface])
            .args(["-s", "0", "-U", "--immediate-mode", "-B", "32768", "-Z", "root", "-w"])
            .arg(&file)
            .arg("tcp")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tcpdump runs: apt-get install tcpdump");
        until("tcpdump has written its header", || {
            std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24)
        });
        Self { child, file }
    }

    /// Whether these bytes have crossed the bridge so far.
    #[must_use]
    pub fn has_seen(&self, bytes: &[u8]) -> bool {
        let captured = std::fs::read(&self.file).expect("the capture");
        captured.windows(bytes.len()).any(|window| window == bytes)
    }

    /// Ends the capture: every stream that it saw, and all captured bytes.
    #[track_caller]
    #[must_use]
    pub fn end(mut self) -> (BTreeMap<Flow, Stream>, Vec<u8>) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")),
            Signal::SIGINT,
        )
        .expect("tcpdump runs");
        self.child.wait().expect("tcpdump ends");
        let bytes = std::fs::read(&self.file).expect("the capture");
        let mut streams: BTreeMap<Flow, Stream> = BTreeMap::new();
        let mut rest = bytes.get(24..).expect("a pcap header");
        while let Some(length) = rest.get(8..12) {
            let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
            let Some(frame) = rest.get(16..16 + length) else {
                break;
            };
            if let Some((flow, seq, syn, payload)) = tcp(frame) {
                streams.entry(flow).or_default().add(seq, syn, payload);
            }
            rest = &rest[16 + length..];
        }
        (streams, bytes)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stream {
    fn add(&mut self, seq: u32, syn: bool, payload: &[u8]) {
        if syn {
            self.first = Some(seq.wrapping_add(1));
        }
        if !payload.is_empty() {
            self.bytes.entry(seq).or_insert_with(|| payload.to_vec());
        }
    }

    /// Whether the whole stream, from its first packet on, is a row of TLS records (RFC 8446 section 5.1).
    #[must_use]
    pub fn is_tls(&self) -> bool {
        let joined = self.joined();
        let mut rest = joined.as_slice();
        while rest.len() >= 5 {
            let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
            if !(20..=23).contains(&rest[0]) || rest[1] != 3 || rest[2] > 3 || length > 16_640 {
                return false;
            }
            rest = rest.get(5 + length..).unwrap_or_default();
        }
        true
    }

    /// The bytes from the first one on, up to the first gap.
    #[must_use]
    pub fn joined(&self) -> Vec<u8> {
        let Some(mut next) = self.first.or_else(|| self.bytes.keys().next().copied()) else {
            return vec![];
        };
        let mut joined = Vec::new();
        let mut parts: Vec<(u32, &Vec<u8>)> = self.bytes.iter().map(|(seq, bytes)| (*seq, bytes)).collect();
        let begin = next;
        parts.sort_by_key(|(seq, _)| seq.wrapping_sub(begin));
        for (seq, bytes) in parts {
            let old = next.wrapping_sub(seq) as usize;
            if seq.wrapping_sub(begin) > next.wrapping_sub(begin) {
                break;
            }
            if let Some(new) = bytes.get(old..) {
                joined.extend_from_slice(new);
                next = next.wrapping_add(new.len() as u32);
            }
        }
        joined
    }
}

/// The TCP segment in an Ethernet frame: its flow, sequence number, whether it is a SYN, its payload.
fn tcp(frame: &[u8]) -> Option<(Flow, u32, bool, &[u8])> {
    let ether = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let ip = frame.get(14..)?;
    let (from, to, segment): (IpAddr, IpAddr, &[u8]) = match ether {
        0x0800 => {
            let header = usize::from(ip.first()? & 0x0f) * 4;
            let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
            let address = |at: usize| {
                Some(IpAddr::from(Ipv4Addr::from(
                    <[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?,
                )))
            };
            // With offloading, a frame's length field may be 0.
            let end = if total == 0 { ip.len() } else { total.min(ip.len()) };
            (address(12)?, address(16)?, ip.get(header..end)?)
        }
        0x86dd => {
            let payload = usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
            let address = |at: usize| {
                Some(IpAddr::from(Ipv6Addr::from(
                    <[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?,
                )))
            };
            let end = if payload == 0 {
                ip.len()
            } else {
                (40 + payload).min(ip.len())
            };
            (*ip.get(6)? == 6).then_some(())?;
            (address(8)?, address(24)?, ip.get(40..end)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*segment.get(at)?, *segment.get(at + 1)?]));
    let seq = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
    let header = usize::from(segment.get(12)? >> 4) * 4;
    let syn = segment.get(13)? & 0x02 != 0;
    let flow = Flow {
        from: SocketAddr::new(from, port(0)?),
        to: SocketAddr::new(to, port(2)?),
    };
    Some((flow, seq, syn, segment.get(header..)?))
}
