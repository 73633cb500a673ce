//! The handshake: rustls's, driven over a socket until records can flow.
//!
//! In: a socket, a configuration, and what has been read of the socket already. Out: a stream with its keys, and what the
//! peer has shown. Nothing but the handshake is sent, and rustls is shown nothing but the handshake: a message behind it
//! would change keys that we take over, or leave opened bytes where sealed ones are expected.

use std::io;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedConnectionCommon as Common, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ExtractedSecrets, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::record::{HEADER, Opener, Sealer, TlsError};
use super::stream::{Renewal, Side, TlsStream};

/// The most bytes of a peer's handshake that wait for the rest: rustls refuses longer messages itself.
const INCOMING_MAX: usize = 128 * 1024;
const READ: usize = 4096;

/// A handshake that is done.
#[derive(Debug)]
pub struct Shaken {
    /// The stream.
    pub stream: TlsStream,
    /// What the peer has shown, the leaf first; the configuration's verifier has accepted it.
    pub certificates: Box<[CertificateDer<'static>]>,
    /// The protocol that was agreed upon (RFC 7301).
    pub alpn: Option<Vec<u8>>,
}

/// Opens TLS to a server. An error of TLS is a [`rustls::Error`] or a [`TlsError`] within. Not cancel safe.
pub async fn connect(config: Arc<ClientConfig>, name: ServerName<'static>, socket: TcpStream) -> io::Result<Shaken> {
    let mut connection = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
    let mut shake = Shake::new(socket, BytesMut::new());
    shake
        .run(&mut connection, Common::<ClientConnectionData>::process_tls_records)
        .await?;
    let shown = Shown::of(&connection);
    let (secrets, kernel) = connection.dangerous_into_kernel_connection().map_err(invalid)?;
    shake.done(shown, secrets, Side::Client, Renewal::client(kernel))
}

/// Accepts TLS of a client. `ahead`: what has been read of the socket. Errors as of [`connect`]. Not cancel safe.
pub async fn accept(config: Arc<ServerConfig>, socket: TcpStream, ahead: BytesMut) -> io::Result<Shaken> {
    let mut connection = UnbufferedServerConnection::new(config).map_err(invalid)?;
    let mut shake = Shake::new(socket, ahead);
    shake
        .run(&mut connection, Common::<ServerConnectionData>::process_tls_records)
        .await?;
    let shown = Shown::of(&connection);
    let (secrets, kernel) = connection.dangerous_into_kernel_connection().map_err(invalid)?;
    shake.done(shown, secrets, Side::Server, Renewal::server(kernel))
}

struct Shown {
    certificates: Box<[CertificateDer<'static>]>,
    alpn: Option<Vec<u8>>,
}

impl Shown {
    fn of(connection: &CommonState) -> Self {
        let certificates = connection.peer_certificates().unwrap_or_default();
        Self {
            certificates: certificates.iter().map(|der| der.clone().into_owned()).collect(),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
        }
    }
}

struct Shake {
    socket: TcpStream,
    /// Read and not processed yet.
    incoming: BytesMut,
    /// How much of it rustls is shown. Never more than one record further than it has gone.
    shown: usize,
    /// Where the first record begins that it was not shown whole.
    next: usize,
    outgoing: Vec<u8>,
}

/// What is to be done next.
enum Next {
    Go,
    /// With more of the peer's bytes.
    Show,
    Done,
}

impl Shake {
    fn new(socket: TcpStream, incoming: BytesMut) -> Self {
        Self {
            socket,
            incoming,
            shown: 0,
            next: 0,
            outgoing: Vec::new(),
        }
    }

    async fn run<D, P>(&mut self, connection: &mut Common<D>, process: P) -> io::Result<()>
    where
        P: for<'c, 'i> Fn(&'c mut Common<D>, &'i mut [u8]) -> UnbufferedStatus<'c, 'i, D>,
    {
        loop {
            match self.step(connection, &process).await? {
                Next::Go => {}
                Next::Done => return Ok(()),
                Next::Show if self.show() => {}
                Next::Show if self.incoming.len() >= INCOMING_MAX => {
                    return Err(invalid(TlsError::Overflow));
                }
                Next::Show => {
                    self.incoming.reserve(READ);
                    if self.socket.read_buf(&mut self.incoming).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.show();
                }
            }
        }
    }

    /// Shows one record more, or what there is of it: a header that is wrong is refused before the rest has come. `false`:
    /// all there is was shown.
    fn show(&mut self) -> bool {
        let before = self.shown;
        let rest = &self.incoming[self.next..];
        let whole = rest.first_chunk::<HEADER>().and_then(|[.., high, low]| {
            let length = HEADER + usize::from(u16::from_be_bytes([*high, *low]));
            (rest.len() >= length).then_some(length)
        });
        match whole {
            Some(length) => {
                self.next += length;
                self.shown = self.next;
            }
            None => self.shown = self.incoming.len(),
        }
        self.shown > before
    }

    async fn step<D, P>(&mut self, connection: &mut Common<D>, process: &P) -> io::Result<Next>
    where
        P: for<'c, 'i> Fn(&'c mut Common<D>, &'i mut [u8]) -> UnbufferedStatus<'c, 'i, D>,
    {
        let UnbufferedStatus { discard, state, .. } = process(connection, &mut self.incoming[..self.shown]);
        let mut may_write = false;
        let next = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let at = self.outgoing.len();
                if let Err(EncodeError::InsufficientSize(short)) = data.encode(&mut []) {
                    self.outgoing.resize(at + short.required_size, 0);
                }
                data.encode(&mut self.outgoing[at..]).map_err(io::Error::other)?;
                Next::Go
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                self.socket.write_all(&self.outgoing).await?;
                self.outgoing.clear();
                data.done();
                Next::Go
            }
            Ok(ConnectionState::BlockedHandshake) => Next::Show,
            Ok(ConnectionState::WriteTraffic(_)) => {
                may_write = true;
                Next::Show
            }
            // Data, or that there is no more: both come behind the handshake, and are not shown.
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => {
                self.say_why(connection, process).await;
                return Err(invalid(error));
            }
        };
        self.incoming.advance(discard);
        // What is done with was shown whole.
        self.shown -= discard;
        self.next -= discard;
        // A server may write before the client has proved itself: that is not the end of a handshake.
        Ok(if may_write && !connection.is_handshaking() {
            Next::Done
        } else {
            next
        })
    }

    /// Sends the alert that says why, if there is one. Whether it arrives does not matter.
    async fn say_why<D, P>(&mut self, connection: &mut Common<D>, process: &P)
    where
        P: for<'c, 'i> Fn(&'c mut Common<D>, &'i mut [u8]) -> UnbufferedStatus<'c, 'i, D>,
    {
        // Only while there is something to send: a session that has failed must not read on.
        while connection.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(mut data)) =
                process(connection, &mut self.incoming[..self.shown]).state
        {
            let at = self.outgoing.len();
            if let Err(EncodeError::InsufficientSize(short)) = data.encode(&mut []) {
                self.outgoing.resize(at + short.required_size, 0);
            }
            if data.encode(&mut self.outgoing[at..]).is_err() {
                return;
            }
        }
        let _ = self.socket.write_all(&self.outgoing).await;
    }

    fn done(self, shown: Shown, secrets: ExtractedSecrets, side: Side, renewal: Renewal) -> io::Result<Shaken> {
        let sealer = Sealer::new(secrets.tx).map_err(invalid)?;
        let opener = Opener::new(secrets.rx, side == Side::Client).map_err(invalid)?;
        Ok(Shaken {
            stream: TlsStream::new(self.socket, side, (sealer, opener, renewal), self.incoming),
            certificates: shown.certificates,
            alpn: shown.alpn,
        })
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Renewal {
    fn client(kernel: KernelConnection<ClientConnectionData>) -> Self {
        Self::Client(Box::new(kernel))
    }

    fn server(kernel: KernelConnection<ServerConnectionData>) -> Self {
        Self::Server(Box::new(kernel))
    }
}
