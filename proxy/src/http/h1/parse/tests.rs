//! What is refused, and what is forwarded as what. Nothing may leave that two readers take differently.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::http::h1::write;

/// What becomes of bytes that a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    More,
    Refused(Reason),
    /// How many bytes were a head, and what it is forwarded as.
    Head(usize, String),
}

fn answer(input: &[u8]) -> Answer {
    let mut scanned = 0;
    match find_end(input, &mut scanned) {
        Err(reason) => Answer::Refused(reason),
        Ok(None) => Answer::More,
        Ok(Some(end)) => match request(Bytes::copy_from_slice(&input[..end]), Origin::Outside) {
            Err(reason) => Answer::Refused(reason),
            Ok(request) => {
                let mut out = BytesMut::new();
                write::request(&mut out, &request.head, None);
                Answer::Head(end, String::from_utf8_lossy(&out).into_owned())
            }
        },
    }
}

#[track_caller]
fn refused(heads: &[&str]) {
    for head in heads {
        assert_eq!(answer(head.as_bytes()), Answer::Refused(Reason::BadRequest), "{head:?}");
    }
}

/// Each is refused as the fields of an otherwise good POST.
#[track_caller]
fn fields_refused(fields: &[&str]) {
    for field in fields {
        let head = format!("POST /x HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
        assert_eq!(
            answer(head.as_bytes()),
            Answer::Refused(Reason::BadRequest),
            "{field:?}"
        );
    }
}

#[track_caller]
fn forwarded(head: &str, want: &str) {
    assert_eq!(
        answer(head.as_bytes()),
        Answer::Head(head.len(), want.to_owned()),
        "{head:?}"
    );
}

#[test]
fn request_lines_that_are_not_quite_right_are_refused() {
    refused(&[
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1 x\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/0.9\r\nHost: a\r\n\r\n",
        "GET / HTTP/1\r\nHost: a\r\n\r\n",
        "GET / HTTP/11\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        "GET / HTTP/01.1\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP /1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/ 1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\x0b\r\nHost: a\r\n\r\n",
        "GET /\r\nHost: a\r\n\r\n",
        "GET\r\nHost: a\r\n\r\n",
        "/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "G=T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "G\"T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "G\u{e9}T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET: / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HELO there\r\n\r\n",
        "\x16\x03\x01\x02\x00\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]);
}

#[test]
fn line_ends_that_some_readers_take_for_one_and_others_do_not_are_refused() {
    refused(&[
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHo\0st: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tfolded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX:\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 5\r\n\r\n",
    ]);
}

#[test]
fn field_names_that_are_not_tokens_are_refused() {
    fields_refused(&[
        ": empty",
        "X : y",
        "X\t: y",
        " X: y",
        "X Y: z",
        "X",
        "X;Y",
        "X(Y): z",
        "X@Y: z",
        "X[Y]: z",
        "X{Y}: z",
        "X,Y: z",
        "X\"Y: z",
        "X/Y: z",
        "X\\Y: z",
        "X=Y: z",
        "X\u{e9}: z",
        "X\x0b: z",
        "X\x7f: z",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Content-Length : 5",
        "Content-Length\x0b: 5",
    ]);
}

#[test]
fn control_characters_in_values_are_refused() {
    fields_refused(&[
        "X: a\x01b",
        "X: a\x0bb",
        "X: a\x0cb",
        "X: a\x1bb",
        "X: a\x7fb",
        "X: \x08",
        "X:\x0b y",
    ]);
}

#[test]
fn content_lengths_that_are_not_one_number_are_refused() {
    fields_refused(&[
        "Content-Length:",
        "Content-Length: ",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: -0",
        "Content-Length: 5 5",
        "Content-Length: 5,5",
        "Content-Length: 5, 5",
        "Content-Length: 5,",
        "Content-Length: ,5",
        "Content-Length: 0x5",
        "Content-Length: 5h",
        "Content-Length: 5.0",
        "Content-Length: 5e0",
        "Content-Length: 5;x",
        "Content-Length: \"5\"",
        "Content-Length: five",
        "Content-Length: 1_0",
        "Content-Length: 18446744073709551616",
        "Content-Length: 99999999999999999999999999",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 0\r\nContent-Length: 0",
        "Content-Length: 5\r\ncontent-length: 5",
        "Content-Length: \u{665}",
    ]);
}

#[test]
fn transfer_encodings_other_than_one_chunked_are_refused() {
    fields_refused(&[
        "Transfer-Encoding:",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: chunked;",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: x chunked",
        "Transfer-Encoding: chunked x",
        "Transfer-Encoding: chun ked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: chunke\u{64}\u{301}",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: x",
    ]);
}

#[test]
fn a_length_beside_a_transfer_encoding_is_refused() {
    fields_refused(&[
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 5\r\nX: y\r\ntransfer-encoding: CHUNKED",
    ]);
    refused(&[
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]);
}

#[test]
fn hosts_that_are_missing_doubled_or_strange_are_refused() {
    refused(&[
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: /\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u:p@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a;b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a%41\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:000080\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [a]\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a]\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \"a\"\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: *\r\n\r\n",
    ]);
}

#[test]
fn targets_that_are_read_in_several_ways_are_refused() {
    refused(&[
        "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a/b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ?x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET #x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x?y#z HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET \\x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x\\y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /..\\x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /.. HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /../x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a/../../x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%2e%2e/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%2E./x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a/.%2e/%2e./x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a/%2e/../../x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET //../x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ** HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:// HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:/a/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:a/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET file:///etc HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/x#y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/../x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a\\x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/x HTTP/1.1\r\n\r\n",
        "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT http://a:80/ HTTP/1.1\r\nHost: a:80\r\n\r\n",
        "CONNECT a:80/x HTTP/1.1\r\nHost: a:80\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: b:80\r\n\r\n",
        "CONNECT u@a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]);
}

#[test]
fn connection_options_that_would_hide_a_field_from_the_next_reader_are_refused() {
    fields_refused(&[
        "Connection: host",
        "Connection: content-length",
        "Connection: Transfer-Encoding",
        "Connection: x-forwarded-client-cert",
        "Connection: close, X-Forwarded-For",
        "Connection: x-weft-protocol",
        "Connection: x_forwarded_client_cert",
        "Connection: authorization",
        "Connection: cookie",
        "Connection: traceparent",
        "Connection: x y",
        "Connection: a@b",
        "Connection: \u{e9}",
    ]);
}

#[test]
fn what_is_larger_than_the_limits_is_refused_as_that() {
    let long = "a".repeat(HEAD_BYTES);
    let many = "X: y\r\n".repeat(HEAD_FIELDS);
    for head in [
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{long}: x\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
        format!("{long}{long}"),
    ] {
        assert_eq!(
            answer(head.as_bytes()),
            Answer::Refused(Reason::HeadersTooLarge),
            "{}",
            &head[..60]
        );
    }
}

#[test]
fn as_many_cookies_as_a_browser_sends_are_forwarded() {
    let crumbs: Vec<String> = (0..150).map(|n| format!("c{n}={n}")).collect();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", crumbs.join("; "));
    assert!(matches!(answer(head.as_bytes()), Answer::Head(..)));
    let head = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(HEAD_FIELDS - 1)
    );
    assert!(matches!(answer(head.as_bytes()), Answer::Head(..)));
}

#[test]
fn what_is_clear_is_forwarded_with_framing_of_our_own() {
    forwarded("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    forwarded(
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    forwarded("GET / HTTP/1.1\r\nHOST:a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    forwarded(
        "GET / HTTP/1.1\r\nHost:  a\t \r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    forwarded(
        "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
    );
    forwarded("GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET / HTTP/1.1\r\nhost: \r\n\r\n");
    forwarded(
        "POST /a%2Fb;c=d?e=/../f HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\nX-Y:  z \r\n\r\n",
        "POST /a%2Fb;c=d?e=/../f HTTP/1.1\r\nhost: a\r\nx-y: z\r\ncontent-length: 7\r\n\r\n",
    );
    forwarded(
        "POST /a/../b HTTP/1.1\r\nTransfer-Encoding: ChUnKeD\r\nHost: a\r\n\r\n",
        "POST /a/../b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    forwarded(
        "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    );
    forwarded(
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    forwarded("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nhost: \r\n\r\n");
    forwarded(
        "GET http://a/x?y HTTP/1.1\r\nHost: A\r\n\r\n",
        "GET /x?y HTTP/1.1\r\nhost: A\r\n\r\n",
    );
    forwarded(
        "GET HTTPS://a?y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /?y HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    forwarded("GET http://a HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    forwarded(
        "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    forwarded(
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    forwarded(
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
    );
    forwarded(
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nhost: a\r\nx: \u{e9}\r\n\r\n",
    );
}

#[test]
fn what_belongs_to_the_hop_or_to_the_mesh_ends_here() {
    for field in [
        "Connection: keep-alive",
        "Connection: close",
        "Connection: x-mine\r\nX-Mine: 1",
        "X-Mine: 1\r\nConnection: close, , X-MINE",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: gzip",
        "Upgrade: websocket",
        "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: upgrade\r\nUpgrade: h2c, websocket",
        "Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b",
        "Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\nUpgrade: c",
        "X-Forwarded-Client-Cert: URI=spiffe://x/ns/y/sa/z",
        "x-forwarded-client-cert: a\r\nX-FORWARDED-CLIENT-CERT: b",
        "X-Weft-Protocol: h1",
        "x-weft-: h1",
        "x_forwarded_client_cert: URI=spiffe://x/ns/y/sa/z",
        "X-Forwarded_Client-Cert: a",
        "X_Weft_Protocol: h1",
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
        forwarded(&head, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    }
}

#[test]
fn upgrades_and_trailers_are_asked_for_anew() {
    forwarded(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    );
    forwarded(
        "GET / HTTP/1.1\r\nHost: a\r\nTE: gzip, trailers\r\nConnection: TE\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n",
    );
    // With a body, two messages would be under way when the protocol changes.
    forwarded(
        "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n",
    );
    forwarded(
        "GET / HTTP/1.0\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    );
}

#[test]
fn internal_headers_are_kept_from_a_peer_of_the_mesh_and_the_callers_name_is_not() {
    let head = Bytes::from_static(b"GET / HTTP/1.1\r\nHost: a\r\nX-Weft-A: b\r\nX-Forwarded-Client-Cert: c\r\n\r\n");
    let kept = request(head.clone(), Origin::Mesh).unwrap().head.headers;
    assert_eq!((kept.len(), kept["x-weft-a"].as_bytes()), (1, &b"b"[..]));
    assert!(request(head, Origin::Outside).unwrap().head.headers.is_empty());
}

#[test]
fn whether_another_request_may_follow() {
    for (head, want) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x-y, close\r\n\r\n", false),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
            false,
        ),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false),
    ] {
        let request = request(Bytes::copy_from_slice(head.as_bytes()), Origin::Outside).unwrap();
        assert_eq!(request.keep_alive, want, "{head:?}");
    }
}

#[track_caller]
fn response_to(method: &Method, upgrade: bool, head: &str) -> Result<Response, Reason> {
    let mut scanned = 0;
    let end = find_end(head.as_bytes(), &mut scanned).map_err(|_| Reason::UpstreamProtocol)?;
    assert_eq!(end.unwrap_or(head.len()), head.len());
    response(Bytes::copy_from_slice(head.as_bytes()), method, upgrade)
}

#[test]
fn responses_that_could_be_read_in_two_ways_are_refused() {
    for head in [
        "HTTP/1.1 200 OK\nX: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\rz\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "220 smtp.example ready\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\n",
    ] {
        let refused = response_to(&Method::GET, false, head).map(|_| ());
        assert_eq!(refused, Err(Reason::UpstreamProtocol), "{head:?}");
    }
    let asked = response_to(
        &Method::GET,
        true,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    );
    assert_eq!(
        asked.map(|_| ()),
        Err(Reason::UpstreamProtocol),
        "without connection: upgrade"
    );
}

#[rustfmt::skip] // a table
#[test]
fn the_end_of_a_response_is_found_as_the_rfc_says() {
    let get = &Method::GET;
    for (method, head, framing, keep_alive) in [
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Exact(5), true),
        (get, "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", Framing::Exact(5), true),
        (get, "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", Framing::Exact(5), true),
        (get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunked, true),
        (get, "HTTP/1.1 200 OK\r\n\r\n", Framing::UntilEnd, false),
        (get, "HTTP/1.0 200 OK\r\n\r\n", Framing::UntilEnd, false),
        (get, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Exact(5), false),
        (get, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", Framing::Exact(5), true),
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", Framing::Exact(5), false),
        (get, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Framing::Exact(0), true),
        (get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Framing::Exact(0), true),
        (get, "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Exact(0), true),
        (get, "HTTP/1.1 100 Continue\r\n\r\n", Framing::Exact(0), true),
        (&Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Exact(0), true),
        (&Method::HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Exact(0), true),
        (&Method::CONNECT, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Tunnel, false),
        (&Method::CONNECT, "HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\n", Framing::Exact(5), true),
    ] {
        let response = response_to(method, false, head).unwrap();
        assert_eq!(
            (response.framing, response.keep_alive),
            (framing, keep_alive),
            "{method} {head:?}"
        );
    }
    let switched =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(
        response_to(get, true, switched).unwrap().framing,
        Framing::Tunnel
    );
}

#[test]
fn what_is_reserved_leaves_no_response_either() {
    let head = "HTTP/1.1 200 OK\r\nX-Weft-A: b\r\nX-Forwarded-Client-Cert: c\r\nX_Forwarded_Client_Cert: c\r\nX_Weft_A: b\r\n\
                Keep-Alive: 5\r\nX: y\r\n\r\n";
    let headers = response_to(&Method::GET, false, head).unwrap().head.headers;
    assert_eq!((headers.len(), headers["x"].as_bytes()), (1, &b"y"[..]));
}

/// Pieces from which heads are made that are nearly right, or quite.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "GET ",
        "POST ",
        "CONNECT ",
        "OPTIONS ",
        "/",
        "/a/../b",
        "*",
        "http://a/",
        "a:80",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\r\n",
        "\r\n",
        "\n",
        "\r",
        "Host: a",
        "Host: a:80",
        "host: b",
        "Content-Length: 5",
        "Content-Length: 05",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: x",
        "Connection: close",
        "Connection: x",
        "X: y",
        "X:",
        " ",
        "\t",
        ":",
        "\0",
        "\u{e9}",
        "Upgrade: x",
        "Connection: upgrade",
        "TE: trailers",
        "Expect: 100-continue",
        "x-weft-a: b",
    ])
}

/// A good head with something put in anywhere.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let good = "POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: y\r\n\r\nhello";
    (0..good.len(), prop::collection::vec(piece(), 0..3), 0_usize..4).prop_map(move |(at, pieces, cut)| {
        let end = (at + cut).min(good.len());
        [
            &good.as_bytes()[..at],
            pieces.concat().as_bytes(),
            &good.as_bytes()[end..],
        ]
        .concat()
    })
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        nearly(),
        prop::collection::vec(piece(), 0..16).prop_map(|pieces| pieces.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn more_bytes_never_change_an_answer(input in anything()) {
        let mut before = Answer::More;
        for end in 0..=input.len() {
            let now = answer(&input[..end]);
            if before != Answer::More {
                prop_assert_eq!(&now, &before, "at {}", end);
            }
            before = now;
        }
    }

    #[test]
    fn bytes_that_come_one_by_one_are_read_like_bytes_that_come_at_once(input in anything()) {
        let mut scanned = 0;
        let stepwise = (1..=input.len()).find_map(|end| find_end(&input[..end], &mut scanned).transpose());
        let mut fresh = 0;
        let once = find_end(&input, &mut fresh).transpose();
        prop_assert_eq!(stepwise, once);
    }

    #[test]
    fn what_is_forwarded_is_read_again_as_the_same_and_in_one_way_only(input in anything()) {
        if let Answer::Head(_, first) = answer(&input) {
            let lower = first.to_ascii_lowercase();
            let count = |what: &str| lower.matches(what).count();
            prop_assert_eq!(count("\r\nhost:"), 1);
            prop_assert!(count("\r\ncontent-length:") + count("\r\ntransfer-encoding:") <= 1);
            prop_assert_eq!(count("\n"), count("\r\n"));
            prop_assert_eq!(count("\r"), count("\r\n"));
            prop_assert_eq!(count("\r\n\r\n"), 1);
            prop_assert_eq!(answer(first.as_bytes()), Answer::Head(first.len(), first.clone()));
        }
    }
}
