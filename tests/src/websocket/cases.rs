//! Table. What is said over a WebSocket, by the sections of RFC 6455, right and wrong.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// One case: what the client says behind the handshake.
#[derive(Debug)]
pub struct Case {
    /// The section, and what of it.
    pub name: String,
    /// What is written, piece by piece.
    pub says: Vec<Vec<u8>>,
    /// How many answers are waited for before the client closes. `None`: it is the server that has something to end it for.
    pub answers: Option<usize>,
    /// Each piece in a segment of its own.
    pub slowly: bool,
}

/// A frame that has come.
#[derive(Debug)]
pub struct Frame {
    first: u8,
    payload: Vec<u8>,
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

impl Frame {
    /// The frame in front, and how long it is. `None`: not all of it has come.
    pub fn read(input: &[u8]) -> Option<(Self, usize)> {
        let (first, second) = (*input.first()?, *input.get(1)?);
        let (length, head) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes(input.get(2..4)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(input.get(2..10)?.try_into().ok()?) as usize, 10),
            n => (usize::from(n), 2),
        };
        let payload = input.get(head..head + length)?.to_vec();
        Some((Self { first, payload }, head + length))
    }

    /// Whether it is the end of a message, or a pong.
    pub fn is_answer(&self) -> bool {
        is_answered(self.first) || self.first == FIN | PONG
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = [
            "continuation",
            "text",
            "binary",
            "3",
            "4",
            "5",
            "6",
            "7",
            "close",
            "ping",
            "pong",
        ];
        let kind = kind.get(usize::from(self.first & 15)).unwrap_or(&"reserved");
        let fin = if self.first & FIN == 0 { "+" } else { "" };
        if self.first & 15 == CLOSE {
            // The reason is the library's own words.
            let code = self.payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
            return write!(f, "close{fin}:{}", code.map_or("-".to_owned(), |code| code.to_string()));
        }
        let mut hash = DefaultHasher::new();
        self.payload.hash(&mut hash);
        write!(f, "{kind}{fin}:{}:{:016x}", self.payload.len(), hash.finish())
    }
}

/// Whether the server answers to a frame: a ping, or the end of a message.
fn is_answered(first: u8) -> bool {
    [CONTINUATION, TEXT, BINARY, PING]
        .iter()
        .any(|kind| first == FIN | kind)
}

/// A client's frame, masked.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = vec![first];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    out
}

fn whole(kind: u8, payload: &[u8]) -> Vec<u8> {
    frame(FIN | kind, payload)
}

/// The end of a case that has nothing wrong in it: the server answers, and ends.
pub fn bye() -> Vec<u8> {
    whole(CLOSE, &1000_u16.to_be_bytes())
}

/// Text or bytes of a length, unlike each other.
fn body(kind: u8, length: usize) -> Vec<u8> {
    let each = |n: usize| (n.wrapping_mul(2_654_435_761) >> 7) as u8;
    match kind {
        TEXT => (0..length).map(|n| b'a' + each(n) % 26).collect(),
        _ => (0..length).map(each).collect(),
    }
}

/// Every case.
pub fn all() -> Vec<Case> {
    let mut cases = Cases(Vec::new());
    lengths(&mut cases);
    fragments(&mut cases);
    controls(&mut cases);
    closes(&mut cases);
    wrong_frames(&mut cases);
    utf8(&mut cases);
    pieces(&mut cases);
    cases.0
}

struct Cases(Vec<Case>);

impl Cases {
    /// Nothing is wrong with these frames.
    fn right(&mut self, name: impl Into<String>, says: Vec<Vec<u8>>) {
        let answers = says.iter().filter(|frame| is_answered(frame[0])).count();
        self.add(name, says, Some(answers));
    }

    /// The server has something to end it for.
    fn wrong(&mut self, name: impl Into<String>, says: Vec<Vec<u8>>) {
        self.add(name, says, None);
    }

    fn add(&mut self, name: impl Into<String>, says: Vec<Vec<u8>>, answers: Option<usize>) {
        let (name, slowly) = (name.into(), false);
        self.0.push(Case {
            name,
            says,
            answers,
            slowly,
        });
    }
}

fn lengths(cases: &mut Cases) {
    const LENGTHS: [usize; 11] = [0, 1, 125, 126, 127, 128, 4096, 65_535, 65_536, 1 << 20, 16 << 20];
    for (kind, name) in [(TEXT, "text"), (BINARY, "binary")] {
        for length in LENGTHS {
            cases.right(
                format!("5.6 {name} of {length} bytes"),
                vec![whole(kind, &body(kind, length))],
            );
        }
    }
    let many = (0..500).map(|n| whole(TEXT, n.to_string().as_bytes())).collect();
    cases.right("5.6 500 messages one after another", many);
}

fn fragments(cases: &mut Cases) {
    let part = |kind, payload: &[u8]| frame(kind, payload);
    let last = |payload: &[u8]| frame(FIN | CONTINUATION, payload);
    cases.right("5.4 two fragments", vec![part(TEXT, b"frag"), last(b"ment")]);
    cases.right(
        "5.4 three fragments",
        vec![part(BINARY, b"a"), part(CONTINUATION, b"b"), last(b"c")],
    );
    cases.right(
        "5.4 empty fragments",
        vec![part(TEXT, b""), part(CONTINUATION, b""), last(b"")],
    );
    cases.right("5.4 an empty last fragment", vec![part(TEXT, b"all"), last(b"")]);
    let mut bytes: Vec<_> = vec![part(TEXT, b"x")];
    bytes.extend((0..200).map(|_| part(CONTINUATION, b"y")));
    bytes.push(last(b"z"));
    cases.right("5.4 fragments of one byte", bytes);
    let mut large = vec![part(BINARY, &body(BINARY, 65_536))];
    large.extend((0..30).map(|_| part(CONTINUATION, &body(BINARY, 65_536))));
    large.push(last(b"end"));
    cases.right("5.4 large fragments", large);
    cases.right(
        "5.4 a ping between fragments",
        vec![part(TEXT, b"a"), whole(PING, b"now"), last(b"b")],
    );
    cases.right(
        "5.4 a pong between fragments",
        vec![part(TEXT, b"a"), whole(PONG, b"now"), last(b"b")],
    );
    let mut pings = vec![part(TEXT, b"a")];
    pings.extend((0..20).flat_map(|n| [whole(PING, &[n]), part(CONTINUATION, b"b")]));
    pings.push(last(b"c"));
    cases.right("5.4 many pings between fragments", pings);
    cases.right(
        "5.4 a character in two fragments",
        vec![part(TEXT, b"\xe2\x82"), last(b"\xac")],
    );
    cases.wrong("5.4 a close between fragments", vec![part(TEXT, b"a"), bye()]);
    cases.wrong("5.4 a continuation of nothing", vec![last(b"a")]);
    cases.wrong(
        "5.4 a message within a message",
        vec![part(TEXT, b"a"), whole(TEXT, b"b")],
    );
}

fn controls(cases: &mut Cases) {
    cases.right("5.5.2 an empty ping", vec![whole(PING, b"")]);
    cases.right("5.5.2 a ping with bytes", vec![whole(PING, b"\x00\xff\xfe")]);
    cases.right("5.5.2 the longest ping", vec![whole(PING, &body(BINARY, 125))]);
    cases.right(
        "5.5.2 pings one after another",
        (0..10).map(|n| whole(PING, &[n])).collect(),
    );
    cases.right(
        "5.5.3 a pong that nobody asked for",
        vec![whole(PONG, b"hm"), whole(TEXT, b"still")],
    );
    cases.wrong("5.5 a ping that is too long", vec![whole(PING, &body(BINARY, 126))]);
    cases.wrong(
        "5.5 a ping in fragments",
        vec![frame(PING, b"a"), frame(FIN | CONTINUATION, b"b")],
    );
    cases.wrong(
        "5.5 a close in fragments",
        vec![frame(CLOSE, b"\x03\xe8"), frame(FIN | CONTINUATION, b"")],
    );
}

fn closes(cases: &mut Cases) {
    let close = |code: u16, reason: &[u8]| whole(CLOSE, &[&code.to_be_bytes(), reason].concat());
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999, // may be sent
        0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535, // may not
    ] {
        cases.wrong(format!("7.4 close with {code}"), vec![close(code, b"")]);
    }
    cases.wrong("7.1.5 close without a code", vec![whole(CLOSE, b"")]);
    cases.wrong("5.5.1 close with half a code", vec![whole(CLOSE, b"\x03")]);
    cases.wrong("7.1.6 close with a reason", vec![close(1000, b"enough")]);
    cases.wrong(
        "7.1.6 close with the longest reason",
        vec![close(1000, &body(TEXT, 123))],
    );
    cases.wrong(
        "7.1.6 close with a reason that is no text",
        vec![close(1000, b"\xff\xff")],
    );
    cases.wrong("5.5.1 a ping behind a close", vec![bye(), whole(PING, b"late")]);
    cases.wrong("5.5.1 a message behind a close", vec![bye(), whole(TEXT, b"late")]);
}

fn wrong_frames(cases: &mut Cases) {
    for bit in [0x40, 0x20, 0x10] {
        cases.wrong(
            format!("5.2 reserved bit {bit:#x} of text"),
            vec![frame(FIN | bit | TEXT, b"a")],
        );
        cases.wrong(
            format!("5.2 reserved bit {bit:#x} of ping"),
            vec![frame(FIN | bit | PING, b"a")],
        );
    }
    for kind in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        cases.wrong(format!("5.2 reserved opcode {kind}"), vec![whole(kind, b"")]);
    }
    cases.wrong("5.1 a client's frame without a mask", vec![b"\x81\x01a".to_vec()]);
}

fn utf8(cases: &mut Cases) {
    for (name, text) in [
        ("two bytes", &b"\xc3\xa9"[..]),
        ("three bytes", b"\xe2\x82\xac"),
        ("four bytes", b"\xf0\x9f\xa7\xb5"),
        ("a byte order mark", b"\xef\xbb\xbf"),
        ("the last character", b"\xf4\x8f\xbf\xbf"),
        ("a zero", b"a\0b"),
    ] {
        cases.right(format!("8.1 {name}"), vec![whole(TEXT, text)]);
    }
    for (name, text) in [
        ("a lone continuation", &b"\x80"[..]),
        ("an overlong slash", b"\xc0\xaf"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("beyond the last character", b"\xf4\x90\x80\x80"),
        ("a character cut short", b"\xe2\x82"),
        ("Latin-1", b"caf\xe9"),
    ] {
        cases.wrong(format!("8.1 {name}"), vec![whole(TEXT, text)]);
    }
    let cut = vec![frame(TEXT, b"a\xf0\x9f"), frame(FIN | CONTINUATION, b"b")];
    cases.wrong("8.1 a character cut short in a fragment", cut);
}

fn pieces(cases: &mut Cases) {
    let slow = [
        ("5.2 byte by byte", whole(TEXT, b"slowly"), 1),
        ("5.2 in odd pieces", whole(BINARY, &body(BINARY, 300_000)), 7_777),
    ];
    for (name, message, size) in slow {
        cases.0.push(Case {
            name: name.to_owned(),
            says: message.chunks(size).map(<[u8]>::to_vec).collect(),
            answers: Some(1),
            slowly: true,
        });
    }
    let all = (0..50).flat_map(|n| whole(TEXT, format!("{n}").as_bytes())).collect();
    cases.add("5.2 all frames at once", vec![all], Some(50));
}
