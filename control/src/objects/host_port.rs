//! A host and a port, as people write them: `gateway.example:15443`, `192.0.2.7:15443`, `[2001:db8::7]:15443`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use super::names::is_subdomain;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: NonZeroU16,
}

/// A host, by name or by address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// By its DNS name, in lower case and without a dot at its end.
    Name(String),
    /// By its address.
    Ip(IpAddr),
}

/// Why a text is no host and port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// There is no port, or none that can be dialled.
    #[error("{0:?} does not end with a port from 1 to 65535")]
    Port(String),
    /// The host is neither a name nor an address.
    #[error("{0:?} is neither a DNS name in lower case nor an IP address (an IPv6 address stands in brackets)")]
    Host(String),
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let no_port = || HostPortError::Port(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
        // Not as Rust reads numbers, which may begin with `+` or `0`.
        let digits = !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(no_port)?;
        Ok(Self {
            host: host.parse()?,
            port,
        })
    }
}

impl FromStr for Host {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: Result<Ipv6Addr, _> = inner.parse();
            return address
                .map(|address| Self::Ip(address.into()))
                .map_err(|_| HostPortError::Host(text.to_owned()));
        }
        match text.parse() {
            Ok(IpAddr::V4(address)) => Ok(Self::Ip(address.into())),
            _ if is_name(text) => Ok(Self::Name(text.to_owned())),
            _ => Err(HostPortError::Host(text.to_owned())),
        }
    }
}

/// Whether this is a DNS name. One that ends with a number is a mistyped address, and resolvers take it for one.
fn is_name(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or_default();
    is_subdomain(text) && last.bytes().any(|b| b.is_ascii_lowercase())
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Texts that are a host and a port, and texts that are not.
    pub(in crate::objects) const GOOD: [&str; 7] = [
        "gateway.example:15443",
        "a:1",
        "1a.b-c.d2:65535",
        "192.0.2.7:80",
        "[2001:db8::7]:15013",
        "[::1]:15013",
        "7-up.example.1x:9999",
    ];
    pub(in crate::objects) const BAD: [&str; 20] = [
        "",
        "a",
        ":1",
        "a:",
        "a:0",
        "a:01",
        "a:65536",
        "a:+1",
        "a:1:2",
        "A:1",
        "a_b:1",
        "-a:1",
        "a.:1",
        "a..b:1",
        "192.0.2:80",
        "192.0.2.256:80",
        "2001:db8::7:15013",
        "[192.0.2.7]:80",
        "https://a:1",
        "a:1/",
    ];

    #[test]
    fn a_host_and_port_is_read_as_it_is_printed() {
        for text in GOOD {
            let read: HostPort = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
        }
        let read: HostPort = "[2001:db8:0::7]:15013".parse().unwrap();
        assert_eq!(read.host, Host::Ip("2001:db8::7".parse().unwrap()));
        assert_eq!(read.port.get(), 15013);
    }

    #[test]
    fn what_is_nearly_a_host_and_port_is_none() {
        for text in BAD {
            assert!(text.parse::<HostPort>().is_err(), "{text:?}");
        }
        let long = format!("{}:1", "a.".repeat(126) + "ab");
        assert!(long.parse::<HostPort>().is_err(), "a name has at most 253 characters");
    }
}
