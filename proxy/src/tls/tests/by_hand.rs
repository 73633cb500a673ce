//! Against a client of rustls's that is driven by hand, so that its last flight and what follows come in one piece, and
//! against records that rustls would not send.

use std::io::{Read as _, Write as _};

use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConfig, ClientConnection, ServerConfig};

use super::super::record::{CLOSE_NOTIFY, Content, HEADER, KEY_UPDATE, Opened, Opener, ROOM, Sealer};
use super::*;

/// What is there already takes no longer.
const SOON: Duration = Duration::from_secs(5);

/// A client that has done its handshake, but for its last flight, which it has not sent.
async fn almost(socket: &mut TcpStream, config: Arc<ClientConfig>) -> ClientConnection {
    let mut session = ClientConnection::new(config, name()).unwrap();
    while session.is_handshaking() {
        socket.write_all(&sendable(&mut session)).await.unwrap();
        let mut piece = [0; 4096];
        let n = socket.read(&mut piece).await.unwrap();
        take(&mut session, &piece[..n]);
    }
    session
}

fn sendable(session: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn take(session: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        session.read_tls(&mut bytes).unwrap();
        session.process_new_packets().unwrap();
    }
}

async fn hear_exactly(session: &mut ClientConnection, socket: &mut TcpStream, n: usize) -> Vec<u8> {
    let (mut heard, mut piece) = (vec![0; n], [0; 4096]);
    let mut at = 0;
    while at < n {
        let read = socket.read(&mut piece).await.unwrap();
        assert!(read > 0, "it ended after {at} bytes");
        take(session, &piece[..read]);
        while let Ok(read @ 1..) = session.reader().read(&mut heard[at..]) {
            at += read;
        }
    }
    heard
}

/// A client that has said its last flight and this much of its own; then it has only its keys.
struct Raw {
    socket: TcpStream,
    sealer: Sealer,
    opener: Opener,
}

impl Raw {
    /// Ours as the server, and a client whose last flight comes in one piece with what `behind` makes of its keys.
    async fn with(behind: impl FnOnce(&mut Sealer) -> Vec<u8>) -> (TlsStream, Self) {
        let (web, reviews) = pair();
        let (mut socket, near) = sockets().await;
        let theirs = async {
            let mut session = almost(&mut socket, web.client_config(ALPN)).await;
            let mut bytes = sendable(&mut session);
            let secrets = session.dangerous_extract_secrets().unwrap();
            let mut sealer = Sealer::new(secrets.tx).unwrap();
            bytes.extend(behind(&mut sealer));
            socket.write_all(&bytes).await.unwrap();
            let opener = Opener::new(secrets.rx, false).unwrap();
            Self { socket, sealer, opener }
        };
        let (ours, theirs) = tokio::join!(accept(reviews.server_config(ALPN), near, BytesMut::new()), theirs);
        (ours.unwrap().stream, theirs)
    }

    async fn say(&mut self, content: Content, plain: &[u8]) {
        let record = sealed(&mut self.sealer, content, plain);
        self.socket.write_all(&record).await.unwrap();
    }

    /// What the next record is.
    async fn hear(&mut self) -> Result<Opened, TlsError> {
        let mut record = vec![0; HEADER];
        let header = tokio::time::timeout(SOON, self.socket.read_exact(&mut record));
        header.await.expect("nothing was said").unwrap();
        let length = u16::from_be_bytes([record[3], record[4]]);
        record.resize(HEADER + usize::from(length), 0);
        self.socket.read_exact(&mut record[HEADER..]).await.unwrap();
        self.opener.open(&mut record)
    }
}

fn sealed(sealer: &mut Sealer, content: Content, plain: &[u8]) -> Vec<u8> {
    let mut record = [&[0; HEADER], plain, &[0; ROOM]].concat();
    sealer.seal(content, &mut record).unwrap();
    record
}

async fn why_reading_fails(stream: &mut TlsStream) -> Option<TlsError> {
    let read = tokio::time::timeout(SOON, stream.read_u8()).await;
    let error = read.expect("it goes on").unwrap_err();
    error.get_ref().and_then(|error| error.downcast_ref()).copied()
}

/// Records of the handshake no longer than this.
fn in_fragments(config: &ClientConfig, most: Option<usize>) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.max_fragment_size = most;
    Arc::new(config)
}

#[tokio::test]
async fn a_key_update_in_one_piece_with_the_last_flight_is_followed_and_answered() {
    for most in [None, Some(32), Some(100)] {
        let (web, reviews) = pair();
        let (mut far, near) = sockets().await;
        let theirs = async {
            let mut session = almost(&mut far, in_fragments(&web.client_config(ALPN), most)).await;
            session.writer().write_all(b"one").unwrap();
            session.refresh_traffic_keys().unwrap();
            session.writer().write_all(b"two").unwrap();
            far.write_all(&sendable(&mut session)).await.unwrap();
            let answer = hear_exactly(&mut session, &mut far, 6).await;
            session.writer().write_all(&answer).unwrap();
            far.write_all(&sendable(&mut session)).await.unwrap();
        };
        let ours = async {
            let shaken = accept(reviews.server_config(ALPN), near, BytesMut::new()).await;
            let mut stream = shaken.unwrap().stream;
            let mut heard = [0; 6];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"onetwo");
            stream.write_all(b"ans").await.unwrap();
            stream.write_all(b"wer").await.unwrap();
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"answer");
        };
        tokio::join!(ours, theirs);
    }
}

#[tokio::test]
async fn a_message_in_pieces_behind_the_last_flight_is_known_for_what_it_is() {
    let (mut ours, _theirs) = Raw::with(|sealer| {
        let mut bytes = sealed(sealer, Content::Data, b"hello");
        bytes.extend(sealed(sealer, Content::Handshake, &KEY_UPDATE[..3]));
        bytes
    })
    .await;
    let mut heard = [0; 5];
    let read = ours.read_exact(&mut heard).await;
    let error = match read {
        Ok(_) => why_reading_fails(&mut ours).await,
        Err(error) => error.get_ref().and_then(|error| error.downcast_ref()).copied(),
    };
    assert_eq!(error, Some(TlsError::Unexpected("a message in pieces")));
}

#[tokio::test]
async fn a_flight_of_a_server_may_come_in_records_of_any_size_with_tickets_behind_it() {
    for most in [None, Some(32), Some(100)] {
        let (web, reviews) = pair();
        let (near, far) = sockets().await;
        let mut config = ServerConfig::clone(&reviews.server_config(ALPN));
        config.max_fragment_size = most;
        // Of no use, as nothing is resumed, but allowed.
        config.session_storage = ServerSessionMemoryCache::new(8);
        config.send_tls13_tickets = if most.is_none() { 2 } else { 0 };
        let (ours, theirs) = tokio::join!(
            connect(web.client_config(ALPN), name(), near),
            TlsAcceptor::from(Arc::new(config)).accept(far),
        );
        let (mut ours, mut theirs) = (ours.unwrap().stream, theirs.unwrap());
        theirs.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        ours.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
    }
}

#[tokio::test]
async fn a_stream_that_nobody_has_read_since_its_handshake_keeps_what_came_behind_it_and_no_more() {
    assert_eq!(our_client().await.0.kept(), 0);
    assert_eq!(our_server().await.0.kept(), 0);
    let mut length = 0;
    let (ours, _theirs) = Raw::with(|sealer| {
        let mut part = sealed(sealer, Content::Data, b"hello");
        part.truncate(15);
        length = part.len();
        part
    })
    .await;
    assert!(ours.kept() <= length, "{} bytes are kept", ours.kept());
}

#[tokio::test]
async fn what_comes_behind_the_end_is_not_kept() {
    let (mut ours, _theirs) = Raw::with(|sealer| {
        let mut bytes = sealed(sealer, Content::Data, b"hello");
        bytes.extend(sealed(sealer, Content::Alert, &CLOSE_NOTIFY));
        bytes.extend(sealed(sealer, Content::Data, b"no longer"));
        bytes
    })
    .await;
    assert_eq!(hear(&mut ours, 100).await, b"hello");
    assert_eq!(ours.kept(), 0);
}

#[tokio::test]
async fn what_has_no_place_is_refused_and_the_peer_is_told_why() {
    let ticket = [&[4, 0, 0, 3][..], b"abc"].concat();
    for (content, plain, error, told) in [
        // A ticket, of a client.
        (Content::Handshake, &ticket[..], TlsError::Unexpected("its message"), 10),
        (Content::Handshake, &[], TlsError::Unexpected("an empty message"), 10),
        (Content::Alert, &[], TlsError::Unexpected("an alert that is none"), 10),
    ] {
        let (mut ours, mut theirs) = Raw::with(|_| Vec::new()).await;
        theirs.say(content, plain).await;
        theirs.socket.shutdown().await.unwrap();
        assert_eq!(why_reading_fails(&mut ours).await, Some(error));
        assert_eq!(theirs.hear().await, Err(TlsError::Alert(told)));
        // Nothing follows a fatal alert.
        ours.shutdown().await.unwrap();
        assert_eq!(theirs.socket.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn whoever_sends_what_was_not_sealed_or_is_too_long_is_told_so() {
    for (record, error, told) in [
        ([&[23, 3, 3, 0, 20][..], &[0; 20]].concat(), TlsError::Forged, 20),
        (vec![23, 3, 3, 0x40, 0x12], TlsError::Overflow, 22),
        (
            b"GET / HTTP/1.1".to_vec(),
            TlsError::Unexpected("plaintext after the handshake"),
            10,
        ),
    ] {
        let (mut ours, mut theirs) = Raw::with(|_| Vec::new()).await;
        theirs.socket.write_all(&record).await.unwrap();
        theirs.socket.shutdown().await.unwrap();
        assert_eq!(why_reading_fails(&mut ours).await, Some(error));
        assert_eq!(theirs.hear().await, Err(TlsError::Alert(told)));
    }
}

#[tokio::test]
async fn an_alert_is_not_answered_and_none_is_put_into_the_middle_of_a_record() {
    let (mut ours, mut theirs) = Raw::with(|_| Vec::new()).await;
    theirs.say(Content::Alert, &[2, 46]).await;
    assert_eq!(why_reading_fails(&mut ours).await, Some(TlsError::Alert(46)));
    ours.shutdown().await.unwrap();
    assert_eq!(theirs.hear().await, Ok(Opened::Ended));

    let (mut ours, mut theirs) = Raw::with(|_| Vec::new()).await;
    // Until the kernel takes no more, in the middle of a record.
    while ours.unsent() == 0 {
        ours.write_all(&[0; 65_536]).await.unwrap();
    }
    theirs.say(Content::Handshake, &[]).await;
    assert!(why_reading_fails(&mut ours).await.is_some());
    let ending = async {
        ours.shutdown().await.unwrap();
    };
    let hearing = async {
        loop {
            match theirs.hear().await {
                Ok(Opened::Data(..)) => {}
                other => return other,
            }
        }
    };
    // What waits is sent, and behind it that no more comes.
    assert_eq!(tokio::join!(ending, hearing).1, Ok(Opened::Ended));
}

#[tokio::test]
async fn records_that_carry_nothing_are_passed_over_but_not_without_end() {
    for (content, plain) in [(Content::Data, &[][..]), (Content::Alert, &[1, 90])] {
        let (mut ours, mut theirs) = Raw::with(|_| Vec::new()).await;
        for _ in 0..3 {
            for _ in 0..32 {
                theirs.say(content, plain).await;
            }
            theirs.say(Content::Data, b"x").await;
            assert_eq!(ours.read_u8().await.unwrap(), b'x');
        }
        for _ in 0..33 {
            theirs.say(content, plain).await;
        }
        theirs.socket.shutdown().await.unwrap();
        let error = TlsError::Unexpected("records that carry nothing, without end");
        assert_eq!(why_reading_fails(&mut ours).await, Some(error));
    }
}
