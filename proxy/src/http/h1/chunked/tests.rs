//! Chunks that are read, and those that are refused.

use proptest::prelude::*;

use super::*;

/// The data, the trailers if it has ended, and what lies behind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Body {
    data: Vec<u8>,
    ended: Option<Vec<(String, String)>>,
    rest: Vec<u8>,
}

/// Reads bytes that come in pieces of a size.
fn read(input: &[u8], step: usize) -> Result<Body, Reason> {
    let mut chunked = Chunked::default();
    let mut buffer = BytesMut::new();
    let mut body = Body::default();
    for piece in input.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        while body.ended.is_none() {
            match chunked.next(&mut buffer)? {
                Next::More => break,
                Next::Data(n) => {
                    body.data.extend_from_slice(&buffer[..n]);
                    buffer.advance(n);
                    chunked.taken(n);
                }
                Next::End(trailers) => {
                    let pairs = trailers.iter().flatten();
                    let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
                    body.ended = Some(pairs.map(|(name, value)| (name.to_string(), text(value))).collect());
                }
            }
        }
    }
    body.rest = buffer.to_vec();
    Ok(body)
}

#[track_caller]
fn reads(input: &str, data: &str, trailers: &[(&str, &str)]) {
    let trailers = trailers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    for step in [1, 2, 3, 7, 1000] {
        let body = read(input.as_bytes(), step).unwrap();
        assert_eq!(String::from_utf8_lossy(&body.data), data, "{input:?} by {step}");
        assert_eq!(body.ended.as_ref(), Some(&trailers), "{input:?} by {step}");
        assert_eq!(body.rest, b"", "{input:?} by {step}");
    }
}

#[test]
fn chunks_are_read_however_they_come() {
    reads("0\r\n\r\n", "", &[]);
    reads("5\r\nhello\r\n0\r\n\r\n", "hello", &[]);
    reads("05\r\nhello\r\n000\r\n\r\n", "hello", &[]);
    reads(
        "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
        "01234567890123456789",
        &[],
    );
    reads("2\r\n\r\n\r\n0\r\n\r\n", "\r\n", &[]);
    reads("5;name=value\r\nhello\r\n0;x\r\n\r\n", "hello", &[]);
    reads("1;a=\"b;c\"\r\nx\r\n0\r\n\r\n", "x", &[]);
    reads(
        "1\r\nx\r\n0\r\nGrpc-Status: 0\r\nA: b\r\n\r\n",
        "x",
        &[("grpc-status", "0"), ("a", "b")],
    );
}

#[test]
fn trailers_lose_what_trailers_must_not_carry() {
    for field in [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Host: b",
        "Connection: close",
        "X-Weft-A: b",
    ] {
        reads(&format!("0\r\n{field}\r\nA: b\r\n\r\n"), "", &[("a", "b")]);
    }
    reads("0\r\nX-Forwarded-Client-Cert: x\r\n\r\n", "", &[]);
}

#[test]
fn what_follows_a_body_is_left_for_the_next_message() {
    let body = read(b"1\r\nx\r\n0\r\n\r\nGET /", 1000).unwrap();
    assert_eq!((body.data.as_slice(), body.rest.as_slice()), (&b"x"[..], &b"GET /"[..]));
}

#[test]
fn chunks_that_are_read_in_several_ways_are_refused() {
    let endless = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(300));
    for input in [
        "\r\n",
        "x\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t;x\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5h\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhellox\r\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\0b\r\nhello\r\n0\r\n\r\n",
        "5;\x7f\r\nhello\r\n0\r\n\r\n",
        ";x\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "0\n\r\n",
        "0\r\n\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA b\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\n A: b\r\n\r\n",
        "0\r\nA: b\r\n c\r\n\r\n",
        "0\r\nA: b\0\r\n\r\n",
        "0\r\nA: b\rc\r\n\r\n",
        "0\r\n\rx",
        endless.as_str(),
    ] {
        for step in [1, 3, 1000] {
            assert!(read(input.as_bytes(), step).is_err(), "{input:?} by {step}");
        }
    }
}

#[test]
fn trailers_have_the_limits_of_a_head() {
    let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(201));
    let large = format!("0\r\nA: {}\r\n\r\n", "b".repeat(HEAD_BYTES));
    for input in [many, large] {
        assert_eq!(read(input.as_bytes(), 4096).unwrap_err(), Reason::HeadersTooLarge);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_we_write_we_read(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..70), 0..8), step in 1_usize..99) {
        let mut out = BytesMut::new();
        for piece in &pieces {
            super::super::write::chunk(&mut out, piece);
        }
        super::super::write::last_chunk(&mut out, None);
        let body = read(&out, step).unwrap();
        prop_assert_eq!(body.data, pieces.concat());
        prop_assert_eq!(body.ended, Some(Vec::new()));
    }

    #[test]
    fn bytes_that_come_one_by_one_are_read_like_bytes_that_come_at_once(
        input in "([0-9a-f;\r\n:x ]|\r\n|5\r\nhello\r\n|0\r\n){0,40}",
    ) {
        prop_assert_eq!(read(input.as_bytes(), 1), read(input.as_bytes(), 1000));
    }
}
