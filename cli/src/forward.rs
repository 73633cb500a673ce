//! `weft port-forward`.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use weft_local::api::Target;
use weft_local::client::Client;

use crate::args::ForwardArgs;
use crate::target::{client, target};

/// Connections at once. A browser takes a dozen.
const SLOTS: usize = 256;

/// Listens on the loopback until it is interrupted.
pub(crate) async fn main(args: ForwardArgs) -> Result<ExitCode> {
    let client = client(&args.pod.mesh);
    let (namespace, pod, container) = client.find(&target(&args.pod, None)).await?;
    let target = Target {
        namespace,
        pod,
        container: Some(container),
    };
    let slots = Arc::new(Semaphore::new(SLOTS));
    let mut listeners = tokio::task::JoinSet::new();
    for (local, remote) in args.ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local)).await;
        let listener = listener.with_context(|| format!("listening on 127.0.0.1:{local}"))?;
        println!(
            "{} -> {}/{}:{remote}",
            listener.local_addr()?,
            target.namespace,
            target.pod
        );
        listeners.spawn(accept(listener, client.clone(), target.clone(), remote, slots.clone()));
    }
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = listeners.join_next() => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn accept(listener: TcpListener, client: Client, target: Target, port: u16, slots: Arc<Semaphore>) {
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, at worst: the others need time to close theirs.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (client, target) = (client.clone(), target.clone());
        tokio::spawn(async move {
            if let Err(error) = carry(stream, &client, &target, port).await {
                eprintln!("weft port-forward: {error:#}");
            }
            drop(slot);
        });
    }
}

async fn carry(mut here: TcpStream, client: &Client, target: &Target, port: u16) -> Result<()> {
    let mut there = client.dial(target, port).await?;
    // Either end may break off; that is between the two.
    let _ = copy_bidirectional(&mut here, &mut there).await;
    Ok(())
}
