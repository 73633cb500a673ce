//! `weft exec`: a command in a container, on this terminal or without one.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use tokio::signal::unix::{SignalKind, signal};
use weft_local::api::Target;
use weft_local::client::Client;

use crate::args::ExecArgs;
use crate::target::{client, target};

/// How long the last output of a command in a terminal is waited for, once it has ended.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// Runs a command in a container; the exit code is the command's.
pub(crate) async fn main(args: ExecArgs) -> Result<ExitCode> {
    let client = client(&args.pod.mesh);
    let target = target(&args.pod, args.container);
    let terminal = !args.no_tty && io::stdin().is_terminal() && io::stdout().is_terminal();
    let code = if terminal {
        in_terminal(&client, &target, &args.command).await?
    } else {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        // The container's process writes to our descriptors itself: no byte passes through here.
        client.exec(&target, &args.command, stdio).await?.wait().await?
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// The terminal as it was, put back when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("asking the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw).context("switching the terminal")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

async fn in_terminal(client: &Client, target: &Target, command: &[String]) -> Result<i32> {
    let size = tcgetwinsize(io::stdout())
        .map(|size| (size.ws_row, size.ws_col))
        .unwrap_or((24, 80));
    let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
    let mut running = client
        .exec_in_terminal(target, command, size, vec![("TERM".to_owned(), term)])
        .await?;
    let terminal = running.terminal.take().context("the mesh sent no terminal")?;
    let raw = Raw::enter()?;
    let drained = pump(&terminal)?;
    let mut resized = signal(SignalKind::window_change())?;
    let code = loop {
        tokio::select! {
            biased; // the end first
            code = running.wait() => break code?,
            _ = resized.recv() => if let Ok(size) = tcgetwinsize(io::stdout()) {
                // A terminal whose command has just ended has no size any more.
                let _ = tcsetwinsize(&terminal, size);
            },
        }
    };
    // What the command printed last is still on its way. More than a moment would be somebody else's output.
    let _ = drained.recv_timeout(LAST_OUTPUT);
    drop(raw);
    Ok(code)
}

/// Copies between this terminal and the other on threads of their own, which end with the process. The receiver hears
/// when the other terminal has nothing more to say.
fn pump(terminal: &OwnedFd) -> Result<mpsc::Receiver<()>> {
    let mut input = File::from(terminal.try_clone().context("a second end")?);
    let mut output = File::from(terminal.try_clone().context("a third end")?);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = io::stdin().read(&mut buffer) {
            if input.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    });
    let (done, drained) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 16384];
        let mut stdout = io::stdout();
        // Reading fails (EIO) when the last process of the terminal is gone.
        while let Ok(n @ 1..) = output.read(&mut buffer) {
            if stdout.write_all(&buffer[..n]).and_then(|()| stdout.flush()).is_err() {
                break;
            }
        }
        // Nobody may be waiting any more.
        let _ = done.send(());
    });
    Ok(drained)
}
