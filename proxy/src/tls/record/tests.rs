//! Records sealed and opened, without a socket.

use rustls::crypto::cipher::{AeadKey, Iv};

use super::*;

fn keys(sequence: u64) -> (Sealer, Opener) {
    let secrets = || ConnectionTrafficSecrets::Aes256Gcm {
        key: AeadKey::from([7; 32]),
        iv: Iv::from([9; NONCE]),
    };
    (
        Sealer::new((sequence, secrets())).unwrap(),
        Opener::new((sequence, secrets()), true).unwrap(),
    )
}

fn record(content: Content, plain: &[u8], sealer: &mut Sealer) -> Vec<u8> {
    let mut record = [&[0; HEADER], plain, &[0; ROOM]].concat();
    sealer.seal(content, &mut record).unwrap();
    record
}

#[test]
fn both_libraries_seal_alike_and_open_what_the_other_has_sealed() {
    for (kind, key) in [
        (Kind::Aes128Gcm, &[1; 16][..]),
        (Kind::Aes256Gcm, &[1; 32]),
        (Kind::ChaCha20Poly1305, &[1; 32]),
    ] {
        let (one, other) = (Aead::ring(kind, key).unwrap(), Aead::aws_lc(kind, key).unwrap());
        for length in [0, 1, 15, 16, 17, 100, PLAIN_MAX + 1] {
            let plain: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            for (sealer, opener) in [(&one, &other), (&other, &one)] {
                let mut bytes = plain.clone();
                let tag = sealer.seal([3; NONCE], [4; HEADER], &mut bytes).unwrap();
                bytes.extend(tag);
                let mut wrong = bytes.clone();
                assert_eq!(opener.open([3; NONCE], [4; HEADER], &mut bytes).unwrap(), plain);
                assert_eq!(opener.open([5; NONCE], [4; HEADER], &mut wrong), Err(TlsError::Forged));
            }
        }
    }
}

#[test]
fn a_record_is_opened_once_it_is_whole() {
    let (mut sealer, mut opener) = keys(5);
    let whole = record(Content::Data, b"hello", &mut sealer);
    for length in 0..whole.len() {
        assert_eq!(opener.open(&mut whole[..length].to_vec()), Ok(Opened::Part));
    }
    let mut bytes = [&whole[..], b"more"].concat();
    assert_eq!(opener.open(&mut bytes), Ok(Opened::Data(5..10, whole.len())));
    assert_eq!(&bytes[5..10], b"hello");
}

#[test]
fn messages_after_the_handshake_are_tickets_and_key_updates_and_nothing_else() {
    let ticket = [&[4, 0, 0, 3][..], b"abc"].concat();
    let opened = |content, message: &[u8]| {
        let (mut sealer, mut opener) = keys(0);
        let mut record = record(content, message, &mut sealer);
        let end = record.len();
        (opener.open(&mut record), end)
    };
    let (found, end) = opened(Content::Handshake, &[&ticket[..], &ticket].concat());
    assert_eq!(found, Ok(Opened::Data(0..0, end)));
    let (found, end) = opened(Content::Handshake, &KEY_UPDATE);
    assert_eq!(found, Ok(Opened::KeyUpdate(false, end)));
    let (found, end) = opened(Content::Handshake, &[24, 0, 0, 1, 1]);
    assert_eq!(found, Ok(Opened::KeyUpdate(true, end)));
    for bad in [
        &[24, 0, 0, 1, 2][..],
        &[24, 0, 0, 0],
        &[24, 0, 0],
        &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0],
        &[1, 0, 0, 1, 0],
        &[4, 0, 0, 9, 1],
        &[],
    ] {
        assert!(opened(Content::Handshake, bad).0.is_err(), "{bad:?}");
    }
}

#[test]
fn alerts_are_ends_or_errors() {
    for (message, wanted) in [
        (&CLOSE_NOTIFY[..], Ok(Opened::Ended)),
        (&[1, 90], Ok(Opened::Data(0..0, 24))),
        (&[2, 40], Err(TlsError::Alert(40))),
        (&[2], Err(TlsError::Unexpected("an alert that is none"))),
    ] {
        let (mut sealer, mut opener) = keys(0);
        assert_eq!(opener.open(&mut record(Content::Alert, message, &mut sealer)), wanted);
    }
}

#[test]
fn a_record_of_padding_alone_is_refused() {
    let (sealer, mut opener) = keys(0);
    let mut record = [&[23, 3, 3, 0, 20][..], &[0; 4], &[0; TAG]].concat();
    let mut key = sealer.0;
    let nonce = key.nonce().unwrap();
    let tag = key
        .aead
        .seal(nonce, [23, 3, 3, 0, 20], &mut record[HEADER..HEADER + 4])
        .unwrap();
    record[HEADER + 4..].copy_from_slice(&tag);
    assert_eq!(
        opener.open(&mut record),
        Err(TlsError::Unexpected("nothing but padding"))
    );
}

#[test]
fn key_updates_and_tickets_without_end_are_refused() {
    for message in [&KEY_UPDATE[..], &[4, 0, 0, 1, 0]] {
        let (mut sealer, mut opener) = keys(0);
        for _ in 0..2 {
            for _ in 0..IDLE_MAX {
                assert!(
                    opener
                        .open(&mut record(Content::Handshake, message, &mut sealer))
                        .is_ok()
                );
            }
            assert!(opener.open(&mut record(Content::Data, b"x", &mut sealer)).is_ok());
        }
        for _ in 0..IDLE_MAX {
            assert!(
                opener
                    .open(&mut record(Content::Handshake, message, &mut sealer))
                    .is_ok()
            );
        }
        let found = opener.open(&mut record(Content::Handshake, message, &mut sealer));
        assert!(matches!(found, Err(TlsError::Unexpected(_))), "{found:?}");
    }
}

#[test]
fn an_end_counts_however_little_came_before_it() {
    let (mut sealer, mut opener) = keys(0);
    for _ in 0..IDLE_MAX {
        assert!(opener.open(&mut record(Content::Data, b"", &mut sealer)).is_ok());
    }
    let found = opener.open(&mut record(Content::Alert, &CLOSE_NOTIFY, &mut sealer));
    assert_eq!(found, Ok(Opened::Ended));
}

#[test]
fn padding_counts_as_plaintext() {
    let padded = |padding: usize| {
        let (mut sealer, mut opener) = keys(0);
        let plain = [b"x", &[Content::Data as u8][..], &vec![0; padding]].concat();
        let mut record = [&[0; HEADER], &plain[..], &[0; TAG]].concat();
        let length = u16::try_from(record.len() - HEADER).unwrap().to_be_bytes();
        record[..HEADER].copy_from_slice(&[23, 3, 3, length[0], length[1]]);
        let (header, sealed) = record.split_first_chunk_mut::<HEADER>().unwrap();
        let (inner, tag) = sealed.split_at_mut(plain.len());
        let nonce = sealer.0.nonce().unwrap();
        tag.copy_from_slice(&sealer.0.aead.seal(nonce, *header, inner).unwrap());
        let end = record.len();
        (opener.open(&mut record), end)
    };
    for padding in [0, 1, PLAIN_MAX - 1] {
        let (found, end) = padded(padding);
        assert_eq!(found, Ok(Opened::Data(HEADER..HEADER + 1, end)), "{padding}");
    }
    assert_eq!(padded(PLAIN_MAX).0, Err(TlsError::Overflow));
}

#[test]
fn a_sequence_number_is_never_used_twice() {
    let (mut sealer, _) = keys(u64::MAX);
    assert_eq!(sealer.seal(Content::Data, &mut [0; HEADER + ROOM]), Err(TlsError::Keys));
}
