//! Listening on TCP addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

/// `EAFNOSUPPORT` of Linux: the kernel does not speak this family.
const NO_SUCH_FAMILY: i32 = 97;

/// Listens on an address. `[::]` is for both families; where the kernel speaks no IPv6, it is for IPv4 alone.
pub async fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error)
            if error.raw_os_error() == Some(NO_SUCH_FAMILY) && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn the_wildcard_is_for_ipv4_too() {
        let listener = tcp("[::]:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    }
}
