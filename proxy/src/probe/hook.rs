//! Probe: lifecycle hooks over HTTP. The kubelet asks the proxy, and the proxy asks the app.
//!
//! In: `/hook/<token>/<container>/<kind>`, and the originals as the injector kept them. A hook acts: only whoever may read the
//! pod's object knows the token, so nobody on the network can run it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::StatusCode;
use serde::Deserialize;
use tokio::time::timeout;

use super::{Probe, Probes, ProbesError};
use crate::connect::Dialer;

/// A hook ends with its pod's grace period at the latest; the kubelet then goes, and this bound is for a kubelet that does not.
const BOUND: Duration = Duration::from_secs(3600);
/// Who asks, as the kubelet says it of hooks.
const USER_AGENT: &str = concat!("kube-lifecycle/1.29 weft/", env!("CARGO_PKG_VERSION"));
/// How much of the app's answer is waited for, as the kubelet does: an app may act while it answers.
const REST: usize = 10 * 1024;

/// The app's own hooks.
#[derive(Debug)]
pub struct Hooks {
    /// 32 hex digits; empty where there are no hooks.
    token: String,
    hooks: Probes,
}

/// What the injector kept.
#[derive(Default, Deserialize)]
struct Kept {
    token: String,
    hooks: HashMap<String, HashMap<String, Probe>>,
}

impl Hooks {
    /// Reads what the injector kept. `address`: the pod's own.
    pub fn new(json: &str, address: IpAddr, dialer: Dialer) -> Result<Self, ProbesError> {
        let kept = match json.trim() {
            "" | "{}" => Kept::default(),
            json => serde_json::from_str(json).map_err(|error| ProbesError::Json("WEFT_HOOKS", error))?,
        };
        Ok(Self {
            token: kept.token,
            hooks: Probes {
                probes: kept.hooks,
                address,
                dialer,
                user_agent: USER_AGENT,
            },
        })
    }

    /// Runs the hook of a path. The app's status, whatever it is, or why there is none; nothing where there is no such hook.
    pub async fn run(&self, path: &str) -> Option<Result<StatusCode, String>> {
        let mut parts = path.strip_prefix("/hook/")?.split('/');
        let (token, container, kind) = (parts.next()?, parts.next()?, parts.next()?);
        // In a time that does not tell how much of it was right.
        let is_ours = verify_slices_are_equal(token.as_bytes(), self.token.as_bytes()).is_ok();
        if !is_ours || self.token.len() < 32 || parts.next().is_some() {
            return None;
        }
        let hook = self.hooks.probes.get(container)?.get(kind)?.http_get.as_ref()?;
        match timeout(BOUND, self.hooks.get(hook, REST)).await {
            Ok(answered) => Some(answered.map_err(|(_, reason)| reason)),
            Err(_) => Some(Err("the app did not answer within an hour".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn hooks(port: u16, token: &str) -> Hooks {
        let json = format!(
            r#"{{"token": "{token}", "hooks": {{"web": {{"preStop": {{"httpGet": {{"port": {port}, "path": "/bye"}}}}}}}}}}"#
        );
        let dialer = Dialer {
            mark: None,
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(1),
        };
        Hooks::new(&json, Ipv4Addr::LOCALHOST.into(), dialer).unwrap()
    }

    #[tokio::test]
    async fn a_hook_has_run_when_the_app_has_answered_whatever_it_says() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let hooks = hooks(listener.local_addr().unwrap().port(), TOKEN);
        let app = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut asked).await.unwrap() > 0);
            }
            stream.write_all(b"HTTP/1.1 500 Oh\r\n\r\n").await.unwrap();
            // What it does before its answer ends is part of the hook.
            tokio::task::yield_now().await;
            stream.write_all(b"done").await.expect("the caller has stayed");
            String::from_utf8(asked).unwrap()
        });
        let done = hooks.run(&format!("/hook/{TOKEN}/web/preStop")).await;
        assert_eq!(done, Some(Ok(StatusCode::INTERNAL_SERVER_ERROR)));
        let asked = app.await.unwrap();
        assert!(
            asked.starts_with("GET /bye HTTP/1.1") && asked.contains("user-agent: kube-lifecycle/"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn an_app_that_is_gone_is_a_failure_and_no_status() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let hooks = hooks(listener.local_addr().unwrap().port(), TOKEN);
        drop(listener);
        let done = hooks.run(&format!("/hook/{TOKEN}/web/preStop")).await;
        assert!(
            matches!(&done, Some(Err(reason)) if reason.contains("refused")),
            "{done:?}"
        );
    }

    #[tokio::test]
    async fn without_the_token_nothing_is_run() {
        let known = hooks(1, TOKEN);
        for path in [
            "/hook/web/preStop",
            "/hook//web/preStop",
            "/hook/0123456789abcdef0123456789abcdee/web/preStop",
            "/hook/0123456789abcdef/web/preStop",
            &format!("/hook/{TOKEN}/web/postStart"),
            &format!("/hook/{TOKEN}/db/preStop"),
            &format!("/hook/{TOKEN}/web/preStop/x"),
            "/probe/web/preStop",
        ] {
            assert_eq!(known.run(path).await, None, "{path}");
        }
        for token in ["", "short"] {
            assert_eq!(hooks(1, token).run(&format!("/hook/{token}/web/preStop")).await, None);
        }
        let none = Hooks::new("", Ipv4Addr::LOCALHOST.into(), known.hooks.dialer).unwrap();
        assert_eq!(none.run("/hook//web/preStop").await, None);
    }
}
