//! Against rustls's own record layer on the other side, in either role, over real sockets.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_certs::credential::Credential;

use super::*;
use crate::discover::testing::{authority, credential, identity};

mod by_hand;

const ALPN: &[&[u8]] = &[b"weft-tcp/1"];

fn pair() -> (Credential, Credential) {
    let authority = authority();
    let make = |name| credential(&authority, &identity("shop", name), Duration::from_secs(60), 1);
    (make("web"), make("reviews"))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("reviews.test").unwrap()
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// Ours as the client, rustls's as the server.
async fn our_client() -> (TlsStream, tokio_rustls::server::TlsStream<TcpStream>) {
    let (web, reviews) = pair();
    let (near, far) = sockets().await;
    let (ours, theirs) = tokio::join!(
        connect(web.client_config(ALPN), name(), near),
        TlsAcceptor::from(reviews.server_config(ALPN)).accept(far),
    );
    let ours = ours.unwrap();
    assert_eq!(ours.alpn.as_deref(), Some(ALPN[0]));
    assert_eq!(&*ours.certificates, reviews.chain());
    assert_eq!(ours.stream.side(), Side::Client);
    (ours.stream, theirs.unwrap())
}

/// Ours as the server, rustls's as the client.
async fn our_server() -> (TlsStream, tokio_rustls::client::TlsStream<TcpStream>) {
    let (web, reviews) = pair();
    let (far, near) = sockets().await;
    let (ours, theirs) = tokio::join!(
        accept(reviews.server_config(ALPN), near, BytesMut::new()),
        TlsConnector::from(web.client_config(ALPN)).connect(name(), far),
    );
    let ours = ours.unwrap();
    assert_eq!(&*ours.certificates, web.chain());
    (ours.stream, theirs.unwrap())
}

/// `n` bytes that no other place in the stream has.
fn bytes(n: usize) -> Vec<u8> {
    (0..n)
        .map(|i| u8::try_from((i ^ (i >> 8) ^ (i >> 16)) & 0xff).unwrap())
        .collect()
}

/// Sends all of it in pieces of such sizes, and ends.
async fn say(stream: &mut (impl AsyncWrite + Unpin), all: &[u8], sizes: &[usize]) {
    let mut rest = all;
    for size in sizes.iter().cycle() {
        let n = rest.len().min(*size);
        stream.write_all(&rest[..n]).await.unwrap();
        rest = &rest[n..];
        if rest.is_empty() {
            break;
        }
    }
    stream.shutdown().await.unwrap();
}

async fn hear(stream: &mut (impl AsyncRead + Unpin), size: usize) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), vec![0; size]);
    loop {
        match stream.read(&mut piece).await.unwrap() {
            0 => return all,
            n => all.extend_from_slice(&piece[..n]),
        }
    }
}

/// Both ways at once: each side says all of it, and hears all of the other.
async fn talk(mut ours: TlsStream, theirs: impl AsyncRead + AsyncWrite + Unpin, sizes: &[usize], read: usize) {
    let all = bytes(3_000_000);
    let (mut their_reader, mut their_writer) = tokio::io::split(theirs);
    let our_turn = async {
        say(&mut ours, &all, sizes).await;
        hear(&mut ours, read).await
    };
    let their_turn = async {
        let heard = hear(&mut their_reader, 70_000).await;
        say(&mut their_writer, &all, sizes).await;
        heard
    };
    let (ours, theirs) = tokio::join!(our_turn, their_turn);
    assert!(ours == all, "{} bytes came of {}", ours.len(), all.len());
    assert!(theirs == all, "{} bytes arrived of {}", theirs.len(), all.len());
}

#[tokio::test]
async fn every_byte_arrives_in_order_whatever_the_sizes_in_either_role() {
    for (sizes, read) in [
        (&[100_000][..], 65_536),
        (&[16_384][..], 16_384),
        (&[1, 17, 16_385, 300, 70_001][..], 999),
        (&[5_000][..], 200_000),
    ] {
        let (ours, theirs) = our_client().await;
        talk(ours, theirs, sizes, read).await;
        let (ours, theirs) = our_server().await;
        talk(ours, theirs, sizes, read).await;
    }
}

/// Passes on what comes in such pieces, both ways, until both have ended.
async fn dribble(one: TcpStream, other: TcpStream, size: usize) {
    let (mut one_reader, mut one_writer) = one.into_split();
    let (mut other_reader, mut other_writer) = other.into_split();
    let pass = async |from: &mut tokio::net::tcp::OwnedReadHalf, to: &mut tokio::net::tcp::OwnedWriteHalf| {
        let mut piece = vec![0; size];
        while let Ok(n @ 1..) = from.read(&mut piece).await {
            to.write_all(&piece[..n]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(
        pass(&mut one_reader, &mut other_writer),
        pass(&mut other_reader, &mut one_writer)
    );
}

#[tokio::test]
async fn handshakes_and_records_may_come_in_pieces_of_any_size() {
    for size in [1, 2, 3, 5, 6, 100, 999, 1460, 5000] {
        let (web, reviews) = pair();
        let ((client, left), (right, server)) = (sockets().await, sockets().await);
        let said = bytes(20_000);
        let ours = async {
            let mut client = connect(web.client_config(ALPN), name(), client).await.unwrap().stream;
            say(&mut client, &said, &[7000]).await;
            hear(&mut client, 512).await
        };
        let theirs = async {
            let mut server = accept(reviews.server_config(ALPN), server, BytesMut::new())
                .await
                .unwrap()
                .stream;
            let heard = hear(&mut server, 512).await;
            say(&mut server, &heard, &[3000]).await;
        };
        let (heard, (), ()) = tokio::join!(ours, theirs, dribble(left, right, size));
        assert!(heard == said, "{size}");
    }
}

#[tokio::test]
async fn slices_are_gathered_into_one_record() {
    let (mut ours, mut theirs) = our_client().await;
    let slices = [&b"one"[..], b"", b"two", b"three"].map(std::io::IoSlice::new);
    assert_eq!(ours.write_vectored(&slices).await.unwrap(), 11);
    let mut heard = [0; 64];
    let n = theirs.read(&mut heard).await.unwrap();
    assert_eq!(&heard[..n], b"onetwothree");
}

#[tokio::test]
async fn what_is_said_right_behind_the_handshake_is_heard() {
    let (web, reviews) = pair();
    let (far, near) = sockets().await;
    let theirs = async {
        let mut stream = TlsConnector::from(web.client_config(ALPN))
            .connect(name(), far)
            .await
            .unwrap();
        // In one segment with the last of the handshake, and after it.
        say(&mut stream, &bytes(200_000), &[150_000]).await;
        stream
    };
    let ours = async {
        let mut shaken = accept(reviews.server_config(ALPN), near, BytesMut::new())
            .await
            .unwrap();
        hear(&mut shaken.stream, 1000).await
    };
    let (_, heard) = tokio::join!(theirs, ours);
    assert!(heard == bytes(200_000));
}

#[tokio::test]
async fn a_peer_that_changes_its_keys_is_followed_and_answered() {
    let (mut ours, mut theirs) = our_client().await;
    for round in 0..5_u8 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(&[round; 1000]).await.unwrap();
        theirs.flush().await.unwrap();
        let mut heard = [0; 1000];
        ours.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [round; 1000]);
        // rustls asks for ours to be changed as well.
        ours.write_all(&[round; 1000]).await.unwrap();
        theirs.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [round; 1000]);
    }
}

#[tokio::test]
async fn a_key_that_is_worn_is_replaced() {
    let (mut ours, mut theirs) = our_server().await;
    for round in 0..3_u8 {
        ours.wear_out();
        ours.write_all(&[round; 40_000]).await.unwrap();
        let mut heard = vec![0; 40_000];
        theirs.read_exact(&mut heard).await.unwrap();
        assert!(heard.iter().all(|byte| *byte == round));
    }
}

#[tokio::test]
async fn an_end_that_was_not_announced_is_an_error_and_one_that_was_is_not() {
    let (mut ours, theirs) = our_client().await;
    drop(theirs.into_inner().0);
    let error = ours.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    let (mut ours, mut theirs) = our_client().await;
    theirs.shutdown().await.unwrap();
    assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    // The other direction goes on.
    ours.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    theirs.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[tokio::test]
async fn what_nobody_sealed_is_refused() {
    for (forged, why) in [
        (
            &[23, 3, 3, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            TlsError::Forged,
        ),
        (&[23, 3, 3, 0, 3, 1, 2, 3][..], TlsError::Forged),
        (&[23, 3, 3, 0x41, 1][..], TlsError::Overflow),
        (
            b"GET / HTTP/1.1\r\n",
            TlsError::Unexpected("plaintext after the handshake"),
        ),
        // An alert that anybody could have sent: an end must not be forged.
        (
            &[21, 3, 3, 0, 2, 1, 0][..],
            TlsError::Unexpected("plaintext after the handshake"),
        ),
    ] {
        let (mut ours, theirs) = our_client().await;
        let mut socket = theirs.into_inner().0;
        socket.write_all(forged).await.unwrap();
        let error = ours.read_u8().await.unwrap_err();
        let found = error.get_ref().and_then(|error| error.downcast_ref::<TlsError>());
        assert_eq!(found, Some(&why), "{forged:?}");
    }
}

#[tokio::test]
async fn a_record_that_was_changed_or_repeated_is_refused() {
    for repeat in [true, false] {
        let (mut ours, theirs) = our_server().await;
        let (mut socket, mut session) = theirs.into_inner();
        std::io::Write::write_all(&mut session.writer(), b"pay one coin").unwrap();
        let mut record = Vec::new();
        session.write_tls(&mut record).unwrap();
        if repeat {
            socket.write_all(&record).await.unwrap();
            ours.read_exact(&mut [0; 12]).await.unwrap();
        } else {
            record[8] ^= 1;
        }
        socket.write_all(&record).await.unwrap();
        assert!(ours.read_u8().await.is_err());
    }
}

#[tokio::test]
async fn a_reader_that_reads_nothing_stops_the_writer() {
    let (mut ours, theirs) = our_client().await;
    let mut taken = 0_usize;
    // Until the kernel's buffers are full, and ours: then nothing is taken any more.
    let full = tokio::time::timeout(Duration::from_millis(500), async {
        loop {
            taken += ours.write(&[0; 65_536]).await.unwrap();
        }
    });
    assert!(full.await.is_err());
    assert!(
        taken < 64 << 20,
        "{taken} bytes were taken of a stream that nobody reads"
    );
    assert!(ours.unsent() <= 80 * 1024, "{} bytes are kept", ours.unsent());
    drop(theirs);
}

#[tokio::test]
async fn a_stream_that_is_idle_keeps_no_buffer() {
    let (mut ours, mut theirs) = our_client().await;
    theirs.write_all(&bytes(100_000)).await.unwrap();
    let mut heard = vec![0; 100_000];
    ours.read_exact(&mut heard).await.unwrap();
    ours.write_all(&heard).await.unwrap();
    theirs.read_exact(&mut heard).await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(10), ours.read_u8());
    assert!(quiet.await.is_err());
    assert_eq!(ours.kept(), 0);
}

#[tokio::test]
async fn a_stranger_is_refused_and_told_why() {
    let ((web, _), (_, reviews)) = (pair(), pair());
    let (near, far) = sockets().await;
    let (ours, theirs) = tokio::join!(
        connect(web.client_config(ALPN), name(), near),
        TlsAcceptor::from(reviews.server_config(ALPN)).accept(far),
    );
    let inner = ours.unwrap_err();
    let inner = inner.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    assert!(matches!(inner, Some(rustls::Error::InvalidCertificate(_))), "{inner:?}");
    let told = theirs.unwrap_err();
    let told = told.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    assert!(matches!(told, Some(rustls::Error::AlertReceived(_))), "{told:?}");
}

#[tokio::test]
async fn a_client_without_a_certificate_or_with_garbage_is_refused() {
    let (web, reviews) = pair();
    let bundles = web.bundles().clone();
    let nobody = weft_certs::credential::bootstrap_client_config(bundles, reviews.identity(), ALPN);
    let (far, near) = sockets().await;
    let (ours, _) = tokio::join!(
        accept(reviews.server_config(ALPN), near, BytesMut::new()),
        TlsConnector::from(nobody).connect(name(), far),
    );
    assert!(ours.is_err());
    let (mut far, near) = sockets().await;
    far.write_all(b"\x16\x03\x01\xff\xffgarbage").await.unwrap();
    far.shutdown().await.unwrap();
    assert!(
        accept(reviews.server_config(ALPN), near, BytesMut::new())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_hello_that_was_read_ahead_counts() {
    let (web, reviews) = pair();
    let (far, mut near) = sockets().await;
    let config: Arc<rustls::ServerConfig> = reviews.server_config(ALPN);
    let ours = async {
        let mut ahead = BytesMut::new();
        // Not even the whole of it.
        while ahead.len() < 100 {
            near.read_buf(&mut ahead).await.unwrap();
        }
        accept(config, near, ahead).await.unwrap()
    };
    let theirs = TlsConnector::from(web.client_config(ALPN)).connect(name(), far);
    let (mut ours, theirs) = tokio::join!(ours, theirs);
    theirs.unwrap().write_all(b"x").await.unwrap();
    assert_eq!(ours.stream.read_u8().await.unwrap(), b'x');
}
