//! mTLS: who is on the other side, and proof of who we are.
//!
//! Inbound, in: a plain stream. Out: mutual TLS of the mesh, terminated, with the peer's verified identity; or the stream as
//! it was, where the ClientHello is not the mesh's. Outbound, in: a socket and the identity that must be there. Out: a
//! stream to exactly that identity. Private ALPN tokens say "mesh", and what the stream carries.

use std::io;
use std::time::Duration;

use rustls::server::{Accepted, Acceptor};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use weft_certs::credential::Credential;
use weft_certs::verify::{self, Side};
use weft_model::identity::Identity;

use crate::connect::ConnectError;
use crate::http::HttpVersion;
use crate::io::Io;
use crate::tls::{self, Shaken, TlsError};
use crate::trust::Chain;

/// The largest ClientHello that is looked at. With a hybrid key share it takes about 2 KiB; foreign ones may be larger.
const HELLO_MAX: usize = 32 * 1024;

/// What a stream between two proxies carries: its ALPN token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
    /// Any bytes.
    Tcp,
}

/// What a stream begins with.
#[derive(Debug)]
pub enum Hello {
    /// The mesh's ClientHello: it is read ahead.
    Mesh,
    /// TLS, but not the mesh's.
    Foreign,
    /// No TLS. The bytes are read ahead.
    Plaintext,
    /// Nothing, for as long as was allowed.
    Silent,
    /// The other side ended without a byte.
    Ended,
}

/// Mutual TLS, terminated.
#[derive(Debug)]
pub struct Terminated {
    /// The stream.
    pub io: Io,
    /// Who is on the other side.
    pub peer: Identity,
    /// What proves it.
    pub chain: Chain,
    /// What the stream carries.
    pub hop: Hop,
}

/// Why mutual TLS did not come to be on the inbound side.
#[derive(Debug, thiserror::Error)]
pub enum TerminateError {
    /// It took too long.
    #[error("the handshake took too long")]
    Timeout,
    /// The handshake failed.
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    /// The peer's certificate cannot be read, although it verified.
    #[error("the peer's certificate cannot be read")]
    Certificate(#[source] verify::VerifyError),
    /// What was agreed upon is no token of the mesh.
    #[error("no token of the mesh was agreed upon")]
    Token,
}

impl Hop {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::H1, Self::H2, Self::Tcp];

    /// The ALPN token.
    pub const fn token(self) -> &'static [u8] {
        match self {
            Self::H1 => b"weft-h1/1",
            Self::H2 => b"weft-h2/1",
            Self::Tcp => b"weft-tcp/1",
        }
    }

    /// The hop of a token.
    pub fn of_token(token: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|hop| hop.token() == token)
    }

    /// The HTTP version that it carries, if it is HTTP.
    pub fn http(self) -> Option<HttpVersion> {
        match self {
            Self::H1 => Some(HttpVersion::H1),
            Self::H2 => Some(HttpVersion::H2),
            Self::Tcp => None,
        }
    }
}

impl From<HttpVersion> for Hop {
    fn from(version: HttpVersion) -> Self {
        match version {
            HttpVersion::H1 => Self::H1,
            HttpVersion::H2 => Self::H2,
        }
    }
}

/// Looks at what a stream begins with, across segments, without taking a byte. `silence` bounds the wait for the first
/// byte, `whole` the wait for the rest of a ClientHello. Cancel safe.
pub async fn hello(io: &mut Io, silence: Duration, whole: Duration) -> io::Result<Hello> {
    Ok(match begins(io, silence, whole).await? {
        Begins::Silent => Hello::Silent,
        Begins::Ended => Hello::Ended,
        Begins::Plaintext => Hello::Plaintext,
        // It stopped in the middle: whatever it is, it is not the mesh.
        Begins::Late if begins_tls(io.ahead()) != Some(true) => Hello::Plaintext,
        Begins::Late | Begins::Broken => Hello::Foreign,
        Begins::Tls(accepted) if is_mesh(&accepted) => Hello::Mesh,
        Begins::Tls(_) => Hello::Foreign,
    })
}

/// The server name that the ClientHello of a stream asks for, without taking a byte; bounded as [`hello`] is. `None`: there is
/// none. Cancel safe.
pub async fn server_name(io: &mut Io, silence: Duration, whole: Duration) -> io::Result<Option<String>> {
    let Begins::Tls(accepted) = begins(io, silence, whole).await? else {
        return Ok(None);
    };
    Ok(accepted.client_hello().server_name().map(str::to_owned))
}

/// What a stream begins with, as read.
pub(crate) enum Begins {
    /// Nothing, for as long as was allowed.
    Silent,
    /// The other side ended without a byte.
    Ended,
    /// No TLS.
    Plaintext,
    /// It stopped before it could be told, for as long as was allowed.
    Late,
    /// A ClientHello that is broken, too long or cut short.
    Broken,
    /// A ClientHello, whole.
    Tls(Box<Accepted>),
}

/// Reads what a stream begins with, as [`hello`] does, without taking a byte. Cancel safe.
pub(crate) async fn begins(io: &mut Io, silence: Duration, whole: Duration) -> io::Result<Begins> {
    if io.ahead().is_empty() {
        let Ok(read) = timeout(silence, io.read_ahead(HELLO_MAX)).await else {
            return Ok(Begins::Silent);
        };
        if read? == 0 {
            return Ok(Begins::Ended);
        }
    }
    let deadline = Instant::now() + whole;
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        match begins_tls(io.ahead()) {
            Some(false) => return Ok(Begins::Plaintext),
            Some(true) => match feed(&mut acceptor, io.ahead(), &mut fed) {
                Fed::Whole(accepted) => return Ok(Begins::Tls(accepted)),
                Fed::Part => {}
                Fed::Broken => return Ok(Begins::Broken),
            },
            None => {}
        }
        if io.ahead().len() >= HELLO_MAX {
            return Ok(Begins::Broken);
        }
        let Ok(read) = timeout_at(deadline, io.read_ahead(HELLO_MAX)).await else {
            return Ok(Begins::Late);
        };
        if read? == 0 {
            return Ok(match begins_tls(io.ahead()) {
                Some(true) => Begins::Broken,
                _ => Begins::Plaintext,
            });
        }
    }
}

/// Whether bytes may be the beginning of a ClientHello.
pub fn may_be_hello(bytes: &[u8]) -> bool {
    !bytes.is_empty() && begins_tls(bytes) != Some(false)
}

/// Whether bytes begin a TLS handshake record with a ClientHello (RFC 8446 sections 5.1 and 4). `None`: too few.
fn begins_tls(bytes: &[u8]) -> Option<bool> {
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    let wanted = [(0, HANDSHAKE), (1, 3), (5, CLIENT_HELLO)];
    if wanted
        .iter()
        .any(|(at, byte)| bytes.get(*at).is_some_and(|b| b != byte))
    {
        return Some(false);
    }
    (bytes.len() > 5).then_some(true)
}

enum Fed {
    Whole(Box<Accepted>),
    Part,
    Broken,
}

fn feed(acceptor: &mut Acceptor, bytes: &[u8], fed: &mut usize) -> Fed {
    while *fed < bytes.len() {
        match acceptor.read_tls(&mut &bytes[*fed..]) {
            Ok(0) | Err(_) => return Fed::Broken,
            Ok(read) => *fed += read,
        }
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => Fed::Whole(Box::new(accepted)),
        Ok(None) => Fed::Part,
        Err(_) => Fed::Broken,
    }
}

/// Whether a ClientHello offers a token of the mesh.
pub(crate) fn is_mesh(accepted: &Accepted) -> bool {
    accepted
        .client_hello()
        .alpn()
        .is_some_and(|mut tokens| tokens.any(|t| Hop::of_token(t).is_some()))
}

/// Whether a ClientHello offers to carry this.
pub(crate) fn offers(accepted: &Accepted, hop: Hop) -> bool {
    let tokens = accepted.client_hello().alpn();
    tokens.is_some_and(|mut tokens| tokens.any(|token| token == hop.token()))
}

/// Terminates mutual TLS on a plain stream whose ClientHello, read ahead, is the mesh's. Not cancel safe.
pub async fn terminate(mut io: Io, credential: &Credential, within: Duration) -> Result<Terminated, TerminateError> {
    let ahead = io.take_ahead();
    let socket = io.into_socket().map_err(|_| TerminateError::Token)?;
    let config = credential.server_config(&Hop::ALL.map(Hop::token));
    let shaken = timeout(within, tls::accept(config, socket, ahead));
    let shaken = shaken.await.map_err(|_| TerminateError::Timeout)?;
    let Shaken {
        stream,
        certificates,
        alpn,
    } = shaken.map_err(TerminateError::Handshake)?;
    let peer = credential
        .peer_identity(&certificates, Side::Client)
        .map_err(TerminateError::Certificate)?;
    let hop = alpn.as_deref().and_then(Hop::of_token).ok_or(TerminateError::Token)?;
    Ok(Terminated {
        io: Io::tls(stream),
        peer,
        chain: Chain::new(certificates, Side::Client),
        hop,
    })
}

/// Opens mutual TLS to exactly one identity. Nothing but the handshake has been sent when this returns. Not cancel safe.
pub async fn originate(
    socket: TcpStream,
    credential: &Credential,
    sni: ServerName<'static>,
    expected: &Identity,
    hop: Hop,
    within: Duration,
) -> Result<(Io, Chain), ConnectError> {
    let config = credential.client_config_expecting(expected, &[hop.token()]);
    let Shaken {
        stream,
        certificates,
        alpn,
    } = match timeout(within, tls::connect(config, sni, socket)).await {
        Ok(shaken) => shaken.map_err(|error| tls_error(&error))?,
        Err(_) => return Err(ConnectError::Timeout),
    };
    // The verifier has refused everything else already; said twice because everything rests on it.
    let found = credential.peer_identity(&certificates, Side::Server);
    if found.as_ref() != Ok(expected) {
        return Err(ConnectError::Identity);
    }
    if alpn.as_deref() != Some(hop.token()) {
        return Err(ConnectError::Tls);
    }
    let chain = Chain::new(certificates, Side::Server);
    Ok((Io::tls(stream), chain))
}

fn tls_error(error: &io::Error) -> ConnectError {
    let Some(source) = error.get_ref() else {
        // The peer closed, or reset: it is there, but does not take the connection (its app may be gone).
        return ConnectError::Closed;
    };
    match source.downcast_ref::<rustls::Error>() {
        Some(tls) if verify::is_certificate_error(tls) => ConnectError::Identity,
        Some(_) => ConnectError::Tls,
        None if source.is::<TlsError>() => ConnectError::Tls,
        None => ConnectError::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_our_record_layer_in_the_handshake_is_one_of_tls_and_an_end_is_not() {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        assert_eq!(tls_error(&invalid(TlsError::Overflow)), ConnectError::Tls);
        assert_eq!(tls_error(&invalid(TlsError::Keys)), ConnectError::Tls);
        for end in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset] {
            assert_eq!(tls_error(&end.into()), ConnectError::Closed);
        }
    }
}
