//! Probe: redirects of the app, as the kubelet takes them: those that stay on the same host are followed.
//!
//! In: what was asked, and where the app pointed to. Out: what to ask next, or nothing where its status counts.

use std::net::IpAddr;

use http::{StatusCode, Uri};

use super::HttpGet;

/// What is asked for one probe at most, the first included.
pub(super) const ASKED_MAX: usize = 10;

/// Whether a status tells of another place to ask.
pub(super) fn leads_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// What to ask next. `address`: the pod's own. `location`: as the app wrote it.
pub(super) fn next(get: &HttpGet, address: IpAddr, location: &str) -> Option<HttpGet> {
    let location = location.split('#').next().filter(|location| !location.is_empty())?;
    let mut whole = location.to_owned();
    if location.starts_with("//") {
        let is_https = get.scheme.eq_ignore_ascii_case("https");
        whole = format!("{}:{location}", if is_https { "https" } else { "http" });
    }
    if let Ok(uri) = whole.parse::<Uri>()
        && let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host())
    {
        let is_same = match get.host.as_str() {
            "" => host.trim_matches(['[', ']']).parse() == Ok(address),
            name => name.eq_ignore_ascii_case(host),
        };
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        return is_same.then(|| HttpGet {
            port: uri.port_u16().unwrap_or(default),
            path: uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            scheme: scheme.to_owned(),
            // The place has a host of its own, and a header's no longer counts.
            http_headers: get
                .http_headers
                .iter()
                .filter(|header| !header.name.eq_ignore_ascii_case("host"))
                .cloned()
                .collect(),
            ..get.clone()
        });
    }
    let base = get.path.split('?').next().unwrap_or_default();
    let path = match location.as_bytes().first() {
        Some(b'/') => location.to_owned(),
        Some(b'?') => format!("{base}{location}"),
        _ => format!("{}/{location}", base.rsplit_once('/').map_or("", |(above, _)| above)),
    };
    Some(HttpGet { path, ..get.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a probe of http://10.0.0.5:8080/a/healthz?full=1 is led to: `port path`.
    #[track_caller]
    fn check(location: &str, want: Option<&str>) {
        let get = r#"{"port": 8080, "path": "/a/healthz?full=1", "httpHeaders": [{"name": "Host", "value": "web"}]}"#;
        let get: HttpGet = serde_json::from_str(get).unwrap();
        let next = next(&get, "10.0.0.5".parse().unwrap(), location);
        let shown = next.map(|next| {
            let hosts = next.http_headers.len();
            format!("{}{} {} {hosts}", next.scheme, next.port, next.path)
        });
        assert_eq!(shown.as_deref(), want, "{location}");
    }

    #[test]
    fn what_stays_on_the_host_is_asked_next_and_nothing_else() {
        check("/status", Some("8080 /status 1"));
        check("/status?x=1#part", Some("8080 /status?x=1 1"));
        check("status", Some("8080 /a/status 1"));
        check("?full=2", Some("8080 /a/healthz?full=2 1"));
        check("http://10.0.0.5:9090/b", Some("http9090 /b 0"));
        check("https://10.0.0.5/b", Some("https443 /b 0"));
        check("//10.0.0.5:8081/b", Some("http8081 /b 0"));
        for elsewhere in [
            "https://login.test/",
            "//web/b",
            "http://10.0.0.6:8080/",
            "ftp://10.0.0.5/",
            "",
            "#x",
        ] {
            check(elsewhere, None);
        }
    }
}
