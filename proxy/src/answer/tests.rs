//! What is said before an answer, and what becomes of it.

use std::net::Ipv4Addr;

use bytes::BytesMut;
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use weft_certs::credential::bootstrap_client_config;

use super::*;
use crate::discover::testing::{authority, credential, identity};
use crate::tls;

const WITHIN: Duration = Duration::from_secs(2);

#[test]
fn every_reason_says_whether_another_endpoint_may_be_tried() {
    assert_eq!(meaning(TAKEN), Ok(()));
    for &reason in Reason::ALL {
        let told = meaning(code(reason)).unwrap_err();
        assert_eq!(told.again(), is_unsent(reason), "{reason}");
        let known = CODES.iter().any(|(_, known)| *known == reason);
        assert_eq!(
            told.reason() == reason,
            known || reason == Reason::UpstreamClosed,
            "{reason}"
        );
    }
    // What a later build may say.
    assert!(meaning(77).unwrap_err().again());
    assert!(!meaning(200).unwrap_err().again());
}

#[tokio::test]
async fn what_a_client_says_at_once_is_sent_before_the_answer_and_taken_with_it() {
    let (mut client, mut near) = Io::pipe(1024);
    let (mut endpoint, mut app) = Io::pipe(1024);
    client.write_all(b"hello").await.unwrap();
    let answering = async {
        let mut heard = [0; 5];
        app.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        app.write_all(b"\0and the app's").await.unwrap();
    };
    let mut early = Early::of(&mut near);
    let (answer, ()) = tokio::join!(early.answer(&mut endpoint, WITHIN), answering);
    assert_eq!(answer, Ok(5));
    assert!(near.ahead().is_empty());
    assert_eq!(endpoint.read_ahead(64).await.unwrap(), 13);
    assert_eq!(endpoint.ahead(), b"and the app's");
}

#[tokio::test]
async fn the_next_endpoint_gets_the_same_bytes_and_no_more_are_kept_than_may_be() {
    let (mut client, mut near) = Io::pipe(256 * 1024);
    let said: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    client.write_all(&said).await.unwrap();
    client.shutdown().await.unwrap();
    let mut early = Early::of(&mut near);
    for refusal in [1, 2, 99] {
        let (mut endpoint, mut app) = Io::pipe(256 * 1024);
        let answering = async {
            let mut heard = vec![0; KEEP];
            app.read_exact(&mut heard).await.unwrap();
            assert!(heard == said[..KEEP]);
            app.write_all(&[refusal]).await.unwrap();
            app
        };
        let (answer, mut app) = tokio::join!(early.answer(&mut endpoint, WITHIN), answering);
        assert!(answer.unwrap_err().again());
        drop(endpoint);
        assert_eq!(
            app.read(&mut [0; 1]).await.unwrap(),
            0,
            "more than can be kept was sent"
        );
    }
    let (mut endpoint, mut app) = Io::pipe(256 * 1024);
    app.write_all(&[TAKEN]).await.unwrap();
    let sent = early.answer(&mut endpoint, WITHIN).await.unwrap() as usize;
    let mut rest = Vec::new();
    near.read_to_end(&mut rest).await.unwrap();
    assert!(rest == said[sent..], "{sent} were sent, {} are left", rest.len());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_says_nothing_is_lost_and_tried_elsewhere_only_if_nothing_was_written() {
    for (said, again) in [(&b""[..], true), (b"x", false)] {
        let (mut client, mut near) = Io::pipe(1024);
        client.write_all(said).await.unwrap();
        let (mut endpoint, app) = Io::pipe(1024);
        let silent = Early::of(&mut near).answer(&mut endpoint, WITHIN).await.unwrap_err();
        assert_eq!((silent.reason(), silent.again()), (Reason::ConnectTimeout, again));

        let ending = async {
            tokio::time::sleep(WITHIN / 2).await;
            drop(app);
        };
        let mut early = Early::of(&mut near);
        let (ended, ()) = tokio::join!(early.answer(&mut endpoint, WITHIN), ending);
        let ended = ended.unwrap_err();
        assert_eq!((ended.reason(), ended.again()), (Reason::UpstreamClosed, again));
    }
}

#[tokio::test]
async fn an_answer_that_came_before_the_endpoint_broke_is_heard() {
    let (mut client, mut near) = Io::pipe(1024);
    client.write_all(b"hello").await.unwrap();
    let (mut endpoint, mut app) = Io::pipe(1024);
    app.write_all(&[1]).await.unwrap();
    drop(app);
    let told = Early::of(&mut near).answer(&mut endpoint, WITHIN).await.unwrap_err();
    assert_eq!((told.reason(), told.again()), (Reason::AppUnreachable, true));
    assert_eq!(near.ahead(), b"", "nothing was read where the answer was there");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_read_however_much_the_client_has_said() {
    let (endpoint, far) = Io::pipe(64 * 1024);
    let (mut client, mut near) = Io::pipe(64 * 1024);
    client.write_all(&[7; KEEP]).await.unwrap();
    let calling = async {
        let mut endpoint = endpoint;
        Early::of(&mut near).answer(&mut endpoint, WITHIN).await
    };
    let (told, ()) = tokio::join!(calling, refuse(far, Reason::PolicyUnsupported));
    let told = told.unwrap_err();
    assert_eq!((told.reason(), told.again()), (Reason::PolicyUnsupported, false));
}

#[tokio::test]
async fn a_certificate_that_is_refused_behind_the_handshake_is_a_failure_of_tls() {
    const ALPN: &[&[u8]] = &[b"weft-tcp/1"];
    let reviews = credential(&authority(), &identity("shop", "reviews"), Duration::from_secs(60), 1);
    // It shows none. The server says that it wants one only when the client's handshake is over.
    let nobody = bootstrap_client_config(reviews.bundles().clone(), reviews.identity(), ALPN);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let dialling = async {
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let name = ServerName::try_from("reviews.test").unwrap();
        let shaken = tls::connect(nobody, name, socket).await.unwrap();
        let mut endpoint = Io::tls(shaken.stream);
        Early::nothing().answer(&mut endpoint, WITHIN).await
    };
    let accepting = async {
        let (socket, _) = listener.accept().await.unwrap();
        tls::accept(reviews.server_config(ALPN), socket, BytesMut::new()).await
    };
    let (answer, accepted) = tokio::join!(dialling, accepting);
    assert!(accepted.is_err());
    let (reason, written) = (Reason::TlsFailed, false);
    assert_eq!(answer, Err(NotTaken::Lost { reason, written }));
}
