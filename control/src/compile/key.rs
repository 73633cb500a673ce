//! The keys of resources: what they are made of, written down.

use std::fmt;
use std::str::FromStr;

use crate::index::Name;

/// A Service's port, as clients of a namespace see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ServiceKey {
    pub(super) service: Name,
    pub(super) port: u16,
    /// The clients' namespace, where routes of it act. `None`: the view of all others.
    pub(super) client: Option<String>,
}

/// The endpoints of a Service's port, or of a subset of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SetKey {
    pub(super) service: Name,
    pub(super) port: u16,
    /// A ServiceSubset of the Service's namespace.
    pub(super) subset: Option<String>,
    /// The Service in all clusters that export it, and in no other.
    pub(super) import: bool,
}

/// Behind the key of an import's endpoints.
const IMPORT: &str = "+import";

/// The endpoints behind a port of an import.
pub(super) fn of_import(import: &Name, port: u16) -> SetKey {
    SetKey {
        service: import.clone(),
        port,
        subset: None,
        import: true,
    }
}

/// Whether the Service's port behind a key is as clients of this namespace see it, and not those of another. A key that is
/// none is nobody's.
pub(super) fn is_in_view(key: &str, namespace: &str) -> bool {
    let key: Result<ServiceKey, ()> = key.parse();
    key.is_ok_and(|key| key.client.is_none_or(|client| client == namespace))
}

/// `shop/reviews:80`
fn service_and_port(text: &str) -> Option<(Name, u16)> {
    let (name, port) = text.rsplit_once(':')?;
    let (namespace, name) = name.split_once('/')?;
    Some((Name::new(namespace, name), port.parse().ok().filter(|&port| port != 0)?))
}

fn split(text: &str, mark: char) -> (&str, Option<String>) {
    text.split_once(mark)
        .map_or((text, None), |(front, rest)| (front, Some(rest.to_owned())))
}

impl FromStr for ServiceKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (front, client) = split(text, '@');
        let (service, port) = service_and_port(front).ok_or(())?;
        Ok(Self { service, port, client })
    }
}

impl FromStr for SetKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (front, subset) = split(text, '#');
        let of_import = front.strip_suffix(IMPORT);
        let (service, port) = service_and_port(of_import.unwrap_or(front)).ok_or(())?;
        Ok(Self {
            service,
            port,
            subset,
            import: of_import.is_some(),
        })
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)?;
        self.client.iter().try_for_each(|client| write!(f, "@{client}"))
    }
}

impl fmt::Display for SetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let import = if self.import { IMPORT } else { "" };
        write!(f, "{}:{}{import}", self.service, self.port)?;
        self.subset.iter().try_for_each(|subset| write!(f, "#{subset}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for text in ["shop/reviews:80", "shop/reviews:80@web"] {
            assert_eq!(text.parse::<ServiceKey>().unwrap().to_string(), text);
        }
        for text in ["shop/reviews:80", "shop/reviews:80#v1", "shop/reviews:80+import"] {
            assert_eq!(text.parse::<SetKey>().unwrap().to_string(), text);
        }
        for text in ["", "shop/reviews", "reviews:80", "shop/reviews:0", "shop/reviews:x"] {
            assert!(
                text.parse::<ServiceKey>().is_err() && text.parse::<SetKey>().is_err(),
                "{text}"
            );
        }
    }
}
