//! Carries TCP connections from a listener of the mesh's network to one address of the host, and nowhere else.
//!
//! Runs outside the sandbox. In: a listener that was made inside. Out: bytes to and from the address that the settings
//! name; what is inside can't choose another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections carried at once: one per proxy of the largest mesh a machine carries, and some more.
const CONNECTIONS: usize = 256;
/// A collector on the same machine answers at once or not at all.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Serves `listener` until dropped. A target that is away costs the caller its connection and nothing else.
pub(crate) async fn serve(listener: TcpListener, target: SocketAddr) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((inner, _)) => {
                connections.spawn(async move {
                    carry(inner, target).await;
                    drop(slot);
                });
            }
            // Out of descriptors, or a connection that was gone before it was accepted: neither is cured by haste.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut inner: TcpStream, target: SocketAddr) {
    let Ok(Ok(mut outer)) = timeout(CONNECT_PATIENCE, TcpStream::connect(target)).await else {
        return;
    };
    // Either side may break off at any time; there is nobody to tell.
    let _ = copy_bidirectional(&mut inner, &mut outer).await;
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_connects_to_the_listener_talks_to_the_target() {
        let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay = tokio::spawn(serve(listener, target.local_addr().unwrap()));
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut server, _) = target.accept().await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut bytes).await.unwrap(), 0);
        relay.abort();
    }

    #[tokio::test]
    async fn a_target_that_is_away_closes_the_connection() {
        let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = gone.local_addr().unwrap();
        drop(gone);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay = tokio::spawn(serve(listener, target));
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut bytes = [0; 1];
        assert!(matches!(client.read(&mut bytes).await, Ok(0) | Err(_)));
        relay.abort();
    }
}
