//! Origin: where a redirected connection was going.
//!
//! In: an accepted socket. Out: the original destination, in canonical form (a v4-mapped v6 address is v4).

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// How the original destination is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The kernel's connection tracking knows it.
    Socket,
    /// Every connection goes here: for tests without redirection.
    Fixed(SocketAddr),
}

impl Origin {
    /// The original destination of an accepted connection.
    pub fn of(self, socket: &TcpStream) -> io::Result<SocketAddr> {
        match self {
            Self::Socket => original_destination(socket),
            Self::Fixed(address) => Ok(address),
        }
    }
}

/// Asks the kernel. Never `getsockname` alone: the v6 redirect may pick a secondary address. A connection that was not
/// redirected (dialled to the listener itself) has no entry, and then its own local address is where it was going.
fn original_destination(socket: &TcpStream) -> io::Result<SocketAddr> {
    let local = socket.local_addr()?;
    let is_v4 = local.ip().to_canonical().is_ipv4();
    let socket = SockRef::from(socket);
    // A v4 peer of a v6 listener is still known by the v4 table.
    let found = if is_v4 {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    let address = match found {
        Ok(address) => address.as_socket().ok_or(io::ErrorKind::InvalidData)?,
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENOPROTOOPT)) => local,
        Err(error) => return Err(error),
    };
    Ok(canonical(address))
}

/// A v4-mapped v6 address as the v4 address that it is.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_v4() {
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.1.2.3:80".parse().unwrap());
        let v6: SocketAddr = "[fd00::1]:80".parse().unwrap();
        assert_eq!(canonical(v6), v6);
    }

    #[tokio::test]
    async fn a_connection_that_was_not_redirected_went_to_its_own_listener() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
        let (socket, _) = accepted.unwrap();
        assert_eq!(Origin::Socket.of(&socket).unwrap(), at);
        assert_eq!(
            Origin::Fixed("10.0.0.1:1".parse().unwrap()).of(&socket).unwrap().port(),
            1
        );
        drop(dialled);
    }
}
