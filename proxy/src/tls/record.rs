//! The record layer: seals and opens the records of TLS 1.3 in place (RFC 8446 section 5).
//!
//! In: the traffic secrets of one direction, and a buffer. Out: the same buffer, the other way round. No I/O.

use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use rustls::ConnectionTrafficSecrets;

/// Before the content: type, version, length.
pub(super) const HEADER: usize = 5;
/// Behind the plaintext: its true type, and the tag.
pub(super) const ROOM: usize = 1 + TAG;
/// The most plaintext in a record (section 5.1).
pub(super) const PLAIN_MAX: usize = 1 << 14;
/// A full record of ours.
pub(super) const RECORD_MAX: usize = HEADER + PLAIN_MAX + ROOM;

const TAG: usize = 16;
const NONCE: usize = 12;
/// The most that may follow a header: padding counts (section 5.2).
const CONTENT_MAX: usize = PLAIN_MAX + 256;
/// How many records one AES-GCM key may seal: somewhat below 2^24.5 (section 5.5).
const AES_GCM_RECORDS: u64 = 1 << 24;
/// How many key updates a peer may ask for without sending a byte in between.
const UPDATES_MAX: u8 = 32;

/// What a record carries (section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Content {
    Alert = 21,
    Handshake = 22,
    Data = 23,
}

/// Why a stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The tag does not match: changed on the way, or sealed with another key.
    #[error("a TLS record was not sealed by the peer")]
    Forged,
    /// A record longer than allowed.
    #[error("a TLS record is longer than TLS 1.3 allows")]
    Overflow,
    /// Something that has no place after the handshake.
    #[error("a TLS record has no place here: {0}")]
    Unexpected(&'static str),
    /// The peer says why it ends (section 6.2).
    #[error("the peer ended TLS with alert {0}")]
    Alert(u8),
    /// The library refuses a key, or has no more of them.
    #[error("the keys of a TLS stream are used up")]
    Keys,
}

/// Seals, one direction.
pub(super) struct Sealer(Key);

/// Opens, the other direction.
pub(super) struct Opener {
    key: Key,
    /// Key updates since the last byte of data.
    updates: u8,
}

/// What the record at the beginning of a buffer is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Not whole yet.
    Part,
    /// Data: where it lies in the buffer, and where the record ends. May be empty.
    Data(Range<usize>, usize),
    /// The peer will send no more (`close_notify`).
    Ended,
    /// The peer's next record is sealed with its next key. Whether ours must change as well; where the record ends.
    KeyUpdate(bool, usize),
}

impl Sealer {
    pub(super) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        Key::new(sequence, &secrets).map(Self)
    }

    /// Whether the key has sealed as much as it may.
    pub(super) fn is_worn(&self) -> bool {
        self.0.sequence >= self.0.most
    }

    #[cfg(test)]
    pub(super) fn wear_out(&mut self) {
        self.0.most = self.0.sequence;
    }

    /// Seals a record: [`HEADER`] bytes of room, the plaintext, and [`ROOM`] bytes of room.
    pub(super) fn seal(&mut self, content: Content, record: &mut [u8]) -> Result<(), TlsError> {
        let length = record.len() - HEADER;
        let (header, sealed) = record.split_at_mut(HEADER);
        let header: &mut [u8; HEADER] = header.try_into().map_err(|_| TlsError::Overflow)?;
        let [high, low] = u16::try_from(length).map_err(|_| TlsError::Overflow)?.to_be_bytes();
        *header = [Content::Data as u8, 3, 3, high, low];
        let (inner, tag) = sealed.split_at_mut(length - TAG);
        inner[length - ROOM] = content as u8;
        let nonce = self.0.nonce()?;
        tag.copy_from_slice(&self.0.aead.seal(nonce, *header, inner)?);
        Ok(())
    }
}

impl Opener {
    pub(super) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        let key = Key::new(sequence, &secrets)?;
        Ok(Self { key, updates: 0 })
    }

    /// Takes the peer's next key. Bounded: a peer that does nothing else is refused.
    pub(super) fn renew(&mut self, (sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<(), TlsError> {
        if self.updates >= UPDATES_MAX {
            return Err(TlsError::Unexpected("key updates without end"));
        }
        self.updates += 1;
        self.key = Key::new(sequence, &secrets)?;
        Ok(())
    }

    /// Opens the record that a buffer begins with.
    pub(super) fn open(&mut self, bytes: &mut [u8]) -> Result<Opened, TlsError> {
        let Some((&header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Ok(Opened::Part);
        };
        let [kind, .., high, low] = header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != Content::Data as u8 {
            return Err(TlsError::Unexpected("plaintext after the handshake"));
        }
        if length > CONTENT_MAX {
            return Err(TlsError::Overflow);
        }
        if rest.len() < length {
            return Ok(Opened::Part);
        }
        let end = HEADER + length;
        let nonce = self.key.nonce()?;
        let inner = self.key.aead.open(nonce, header, &mut bytes[HEADER..end])?;
        // The true type is the last byte that is not padding (section 5.4).
        let at = inner.iter().rposition(|byte| *byte != 0);
        let at = at.ok_or(TlsError::Unexpected("nothing but padding"))?;
        if at > PLAIN_MAX {
            return Err(TlsError::Overflow);
        }
        if inner[at] == Content::Data as u8 {
            if at > 0 {
                self.updates = 0;
            }
            return Ok(Opened::Data(HEADER..HEADER + at, end));
        }
        match inner[at] {
            kind if kind == Content::Alert as u8 => alert(&inner[..at], end),
            kind if kind == Content::Handshake as u8 => handshake(&inner[..at], end),
            _ => Err(TlsError::Unexpected("its type")),
        }
    }
}

/// Section 6: two alerts are no errors.
fn alert(inner: &[u8], end: usize) -> Result<Opened, TlsError> {
    const CLOSE_NOTIFY: u8 = 0;
    const USER_CANCELED: u8 = 90;
    match inner {
        [_, CLOSE_NOTIFY] => Ok(Opened::Ended),
        [_, USER_CANCELED] => Ok(Opened::Data(0..0, end)),
        [_, why] => Err(TlsError::Alert(*why)),
        _ => Err(TlsError::Unexpected("an alert that is none")),
    }
}

/// Messages after the handshake (section 4.6). A ticket is passed over: nothing is resumed. A key update is the last of
/// its record, as a key never changes within one.
fn handshake(inner: &[u8], end: usize) -> Result<Opened, TlsError> {
    const NEW_SESSION_TICKET: u8 = 4;
    const KEY_UPDATE: u8 = 24;
    let mut rest = inner;
    loop {
        let (kind, body) = match rest {
            [] => return Ok(Opened::Data(0..0, end)),
            [kind, a, b, c, body @ ..] => {
                let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                let split = body.split_at_checked(length);
                let (body, after) = split.ok_or(TlsError::Unexpected("a message in pieces"))?;
                rest = after;
                (*kind, body)
            }
            _ => return Err(TlsError::Unexpected("a message in pieces")),
        };
        match (kind, body) {
            (NEW_SESSION_TICKET, _) => {}
            (KEY_UPDATE, [asks @ (0 | 1)]) if rest.is_empty() => return Ok(Opened::KeyUpdate(*asks == 1, end)),
            _ => return Err(TlsError::Unexpected("its message")),
        }
    }
}

/// A key update that asks for none in return (section 4.6.3).
pub(super) const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
/// `close_notify` (section 6.1).
pub(super) const CLOSE_NOTIFY: [u8; 2] = [1, 0];

struct Key {
    aead: Aead,
    iv: [u8; NONCE],
    /// Of the next record.
    sequence: u64,
    /// How many records it may seal.
    most: u64,
}

impl Key {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, TlsError> {
        let (kind, key, iv, most) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Kind::Aes128Gcm, key, iv, AES_GCM_RECORDS),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Kind::Aes256Gcm, key, iv, AES_GCM_RECORDS),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Kind::ChaCha20Poly1305, key, iv, u64::MAX),
            _ => return Err(TlsError::Keys),
        };
        Ok(Self {
            aead: Aead::new(kind, key.as_ref())?,
            iv: iv.as_ref().try_into().map_err(|_| TlsError::Keys)?,
            sequence,
            most,
        })
    }

    /// The nonce of the next record: a number is never used twice (section 5.3).
    fn nonce(&mut self) -> Result<[u8; NONCE], TlsError> {
        let mut nonce = self.iv;
        for (byte, other) in nonce[NONCE - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= other;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(TlsError::Keys)?;
        Ok(nonce)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// A cipher of one of two libraries, see [`RING_IS_FASTER`].
enum Aead {
    AwsLc(aws_lc_rs::aead::LessSafeKey),
    // Boxed: half a kilobyte lies in it, which aws-lc keeps elsewhere.
    Ring(Box<ring::aead::LessSafeKey>),
}

/// aws-lc takes vector AES only with AVX-512, ring (as BoringSSL) with AVX2 as well: on a CPU that has the one without the
/// other, 16 KiB took ring 10 µs and aws-lc 18 µs. Elsewhere aws-lc is the faster one.
static RING_IS_FASTER: LazyLock<bool> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        has!("vaes") && has!("vpclmulqdq") && has!("avx2") && !has!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
});

impl Aead {
    fn new(kind: Kind, key: &[u8]) -> Result<Self, TlsError> {
        if *RING_IS_FASTER {
            Self::ring(kind, key)
        } else {
            Self::aws_lc(kind, key)
        }
    }

    fn ring(kind: Kind, key: &[u8]) -> Result<Self, TlsError> {
        use ring::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
        let algorithm = match kind {
            Kind::Aes128Gcm => &AES_128_GCM,
            Kind::Aes256Gcm => &AES_256_GCM,
            Kind::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| TlsError::Keys)?;
        Ok(Self::Ring(Box::new(LessSafeKey::new(key))))
    }

    fn aws_lc(kind: Kind, key: &[u8]) -> Result<Self, TlsError> {
        use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
        let algorithm = match kind {
            Kind::Aes128Gcm => &AES_128_GCM,
            Kind::Aes256Gcm => &AES_256_GCM,
            Kind::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| TlsError::Keys)?;
        Ok(Self::AwsLc(LessSafeKey::new(key)))
    }

    fn seal(&self, nonce: [u8; NONCE], header: [u8; HEADER], bytes: &mut [u8]) -> Result<[u8; TAG], TlsError> {
        let mut tag = [0; TAG];
        match self {
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(header), bytes);
                tag.copy_from_slice(sealed.map_err(|_| TlsError::Overflow)?.as_ref());
            }
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(header), bytes);
                tag.copy_from_slice(sealed.map_err(|_| TlsError::Overflow)?.as_ref());
            }
        }
        Ok(tag)
    }

    fn open<'a>(
        &self,
        nonce: [u8; NONCE],
        header: [u8; HEADER],
        bytes: &'a mut [u8],
    ) -> Result<&'a mut [u8], TlsError> {
        match self {
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(header), bytes)
                    .map_err(|_| TlsError::Forged)
            }
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(header), bytes)
                    .map_err(|_| TlsError::Forged)
            }
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Sealer").field(&self.0.sequence).finish()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Opener").field(&self.key.sequence).finish()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn keys(sequence: u64) -> (Sealer, Opener) {
        let secrets = || ConnectionTrafficSecrets::Aes256Gcm {
            key: AeadKey::from([7; 32]),
            iv: Iv::from([9; NONCE]),
        };
        (
            Sealer::new((sequence, secrets())).unwrap(),
            Opener::new((sequence, secrets())).unwrap(),
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
    fn key_updates_without_end_are_refused() {
        let secrets = || ConnectionTrafficSecrets::Aes256Gcm {
            key: AeadKey::from([7; 32]),
            iv: Iv::from([9; NONCE]),
        };
        let (_, mut opener) = keys(0);
        for _ in 0..UPDATES_MAX {
            opener.renew((0, secrets())).unwrap();
        }
        assert!(opener.renew((0, secrets())).is_err());
    }

    #[test]
    fn a_sequence_number_is_never_used_twice() {
        let (mut sealer, _) = keys(u64::MAX);
        assert_eq!(sealer.seal(Content::Data, &mut [0; HEADER + ROOM]), Err(TlsError::Keys));
    }
}
