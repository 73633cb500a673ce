//! One request of HTTP over a connection that is there already: enough for an admin port.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// For whoever is asked on this machine.
pub(crate) const NEAR: Duration = Duration::from_secs(5);
/// The metrics of a proxy at its cap of series take about 10 MiB.
const MOST_BYTES: u64 = 32 << 20;

/// `GET path`; the body, if the status is 200 and all of it comes within `patience`. With HTTP/1.0 the end of the body is the
/// end of the connection.
pub(crate) async fn get(stream: impl AsyncRead + AsyncWrite + Unpin, path: &str, patience: Duration) -> Result<String> {
    let asked = async {
        let mut stream = stream;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.context("asking")?;
        let mut bytes = Vec::new();
        let read = stream
            .take(MOST_BYTES)
            .read_to_end(&mut bytes)
            .await
            .context("reading the answer")?;
        ensure!(
            (read as u64) < MOST_BYTES,
            "the answer is longer than {MOST_BYTES} bytes"
        );
        String::from_utf8(bytes).context("reading the answer")
    };
    let answer = timeout(patience, asked)
        .await
        .with_context(|| format!("no whole answer within {patience:?}"))??;
    body(&answer).map(str::to_owned)
}

fn body(answer: &str) -> Result<&str> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of its head")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("the answer is {status:?}: {}", body.trim());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_body_is_what_comes_until_the_end() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let serve = async {
            let mut request = [0; 512];
            let read = theirs.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /metrics HTTP/1.0\r\n"));
            theirs.write_all(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nx 1\n").await.unwrap();
            drop(theirs);
        };
        let (got, ()) = tokio::join!(get(ours, "/metrics", NEAR), serve);
        assert_eq!(got.unwrap(), "x 1\n");
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_waited_for_as_long_as_the_caller_says() {
        let (ours, _theirs) = tokio::io::duplex(1024);
        let said = get(ours, "/status", Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(said.to_string(), "no whole answer within 20ms");
    }

    #[test]
    fn an_answer_that_is_not_200_is_an_error_with_its_words() {
        let said = body("HTTP/1.1 404 Not Found\r\n\r\nno such trace\n")
            .unwrap_err()
            .to_string();
        assert!(said.contains("404") && said.contains("no such trace"), "{said}");
        assert!(body("HTTP/1.1 200 OK\r\n").is_err());
    }
}
