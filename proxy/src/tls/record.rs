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
/// The most that may follow a header. Padding counts as plaintext (section 5.4), so with ciphers that add no more than a tag
/// this is less than section 5.2 allows.
const CONTENT_MAX: usize = PLAIN_MAX + ROOM;
/// How many records one AES-GCM key may seal: somewhat below 2^24.5 (section 5.5).
const AES_GCM_RECORDS: u64 = 1 << 24;
/// How many records in a row may carry no byte of data: key updates, tickets, empty ones. Each costs work.
const IDLE_MAX: u8 = 32;

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

impl TlsError {
    /// The alert that tells the peer (section 6.2), unless it said so itself.
    pub(super) fn alert(self) -> Option<u8> {
        match self {
            Self::Unexpected(_) => Some(10),
            Self::Forged => Some(20),
            Self::Overflow => Some(22),
            Self::Keys => Some(80),
            Self::Alert(_) => None,
        }
    }
}

/// Seals, one direction.
pub(super) struct Sealer(Key);

/// Opens, the other direction.
pub(super) struct Opener {
    key: Key,
    /// Whether the peer may give tickets: a server may (section 4.6.1).
    tickets: bool,
    /// Records since the last byte of data.
    idle: u8,
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
    /// `tickets`: whether the peer may give them, as a server may.
    pub(super) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets), tickets: bool) -> Result<Self, TlsError> {
        let key = Key::new(sequence, &secrets)?;
        Ok(Self { key, tickets, idle: 0 })
    }

    /// Takes the peer's next key.
    pub(super) fn renew(&mut self, (sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<(), TlsError> {
        self.key = Key::new(sequence, &secrets)?;
        Ok(())
    }

    /// Opens the record that a buffer begins with. Bounded: a peer that sends nothing but records without data is refused.
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
        let opened = match inner[at] {
            kind if kind == Content::Data as u8 && at > 0 => {
                self.idle = 0;
                return Ok(Opened::Data(HEADER..HEADER + at, end));
            }
            kind if kind == Content::Data as u8 => Opened::Data(0..0, end),
            kind if kind == Content::Alert as u8 => alert(&inner[..at], end)?,
            kind if kind == Content::Handshake as u8 => handshake(&inner[..at], end, self.tickets)?,
            _ => return Err(TlsError::Unexpected("its type")),
        };
        if opened != Opened::Ended {
            if self.idle >= IDLE_MAX {
                return Err(TlsError::Unexpected("records that carry nothing, without end"));
            }
            self.idle += 1;
        }
        Ok(opened)
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

/// Messages after the handshake (section 4.6). A server's ticket is passed over: nothing is resumed. A key update is the
/// last of its record, as a key never changes within one.
fn handshake(inner: &[u8], end: usize, tickets: bool) -> Result<Opened, TlsError> {
    const NEW_SESSION_TICKET: u8 = 4;
    const KEY_UPDATE: u8 = 24;
    if inner.is_empty() {
        return Err(TlsError::Unexpected("an empty message"));
    }
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
            (NEW_SESSION_TICKET, _) if tickets => {}
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
mod tests;
