//! Connect: a TCP connection to an endpoint, or to the app, within a deadline.
//!
//! In: an address, and from where. Out: a socket that carries the mark, or why there is none. What speaks mutual TLS on it is
//! the room [`crate::mtls`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use weft_model::reason::Reason;

use crate::config::Settings;

/// Data that is not acknowledged for so long ends a connection that carries little: a node that is gone sends no reset. Not
/// elsewhere: the kernel counts the time that the other side takes nothing as well, and an app may pause in the middle of an
/// upload or a stream for as long as it likes. A gateway counts for itself, whatever it passes on (`gateway::vanished`).
pub const VANISHED: Duration = Duration::from_secs(3);
/// Silence after which the kernel asks whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How connections are made.
#[derive(Clone, Copy, Debug)]
pub struct Dialer {
    /// The packet mark that exempts the proxy's own connections from redirection.
    pub mark: Option<u32>,
    /// How long TCP may take.
    pub connect_timeout: Duration,
    /// How long TLS may take.
    pub handshake_timeout: Duration,
}

/// What is sent over a connection to an endpoint, which says how soon it may be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Heads of requests, which the other side takes at once: what is not acknowledged soon tells that it has vanished.
    Heads,
    /// Anything.
    Bodies,
}

impl Carries {
    /// Sets a connection up for it.
    pub fn tune(self, socket: &TcpStream) -> io::Result<()> {
        match self {
            Self::Heads => SockRef::from(socket).set_tcp_user_timeout(Some(VANISHED)),
            Self::Bodies => Ok(()),
        }
    }
}

/// Why there is no connection. Not a byte of the app's was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// It took too long.
    #[error("connecting took too long")]
    Timeout,
    /// The network failed.
    #[error("connecting failed: {0}")]
    Failed(io::ErrorKind),
    /// It was closed in the middle of the handshake: the peer's proxy is there, and its app is not.
    #[error("closed during the handshake")]
    Closed,
    /// TLS failed.
    #[error("the mesh's handshake failed")]
    Tls,
    /// A valid certificate, but not of the identity that must be there; or one that does not verify.
    #[error("the endpoint is not who it must be")]
    Identity,
    /// We have no certificate to show.
    #[error("no certificate")]
    NoCertificate,
}

impl ConnectError {
    /// In the mesh's words.
    pub fn reason(self) -> Reason {
        match self {
            Self::Refused | Self::Failed(_) | Self::Closed => Reason::ConnectFailed,
            Self::Timeout => Reason::ConnectTimeout,
            Self::Tls => Reason::TlsFailed,
            Self::Identity => Reason::IdentityMismatch,
            Self::NoCertificate => Reason::NoCertificate,
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            kind => Self::Failed(kind),
        }
    }
}

impl Dialer {
    /// As the settings say.
    pub fn new(settings: &Settings) -> Self {
        Self {
            mark: settings.mark,
            connect_timeout: settings.connect_timeout,
            handshake_timeout: settings.handshake_timeout,
        }
    }

    /// Those of a gateway: it gives up on an endpoint before the peer's proxy, whose handshake has begun by then, does on the
    /// gateway, and so the proxy hears whose fault it is. Peers are taken to wait as long as we do.
    pub fn of_gateway(settings: &Settings) -> Self {
        Self {
            connect_timeout: settings.connect_timeout.min(settings.peer_handshake_timeout * 7 / 10),
            ..Self::new(settings)
        }
    }

    /// Opens a TCP connection, from a certain address if one is given. Cancel safe.
    pub async fn tcp(&self, to: SocketAddr, from: Option<IpAddr>) -> Result<TcpStream, ConnectError> {
        let socket = self.socket(to, from)?;
        match timeout(self.connect_timeout, socket.connect(to)).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(ConnectError::Timeout),
        }
    }

    fn socket(&self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpSocket> {
        let socket = Socket::new(
            Domain::for_address(to),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if let Some(from) = from {
            // The kernel picks the port when it knows the destination, so that ports are not used up by source alone.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        tune(&socket)?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }
}

/// What holds for every connection: no delay, and an end when the other side is gone.
pub fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    const DIALER: Dialer = Dialer {
        mark: None,
        connect_timeout: Duration::from_secs(1),
        handshake_timeout: Duration::from_secs(1),
    };

    #[tokio::test]
    async fn the_app_sees_the_address_that_was_asked_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let from = IpAddr::from([127, 7, 7, 7]);
        let to = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(DIALER.tcp(to, Some(from)), listener.accept());
        assert_eq!(accepted.unwrap().1.ip(), from);
        assert!(dialled.unwrap().nodelay().unwrap());
    }

    #[tokio::test]
    async fn what_carries_heads_is_given_up_sooner_and_what_carries_bodies_is_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        for (carries, want) in [(Carries::Heads, Some(VANISHED)), (Carries::Bodies, None)] {
            let socket = DIALER.tcp(listener.local_addr().unwrap(), None).await.unwrap();
            carries.tune(&socket).unwrap();
            assert_eq!(SockRef::from(&socket).tcp_user_timeout().unwrap(), want);
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(DIALER.tcp(to, None).await.unwrap_err(), ConnectError::Refused);
    }
}
