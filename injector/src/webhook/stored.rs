//! How the Secret lays out what is served, what will be, and what was.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;

use super::pair::Pair;
use super::rotation::Held;

/// What a Secret holds. `None`: it holds nothing that could be served, so it may be written anew.
pub(super) fn read(secret: &Secret) -> Option<Held> {
    let data = secret.data.as_ref()?;
    let text = |name: &str| String::from_utf8(data.get(name)?.0.clone()).ok();
    let pair = |before: &str| {
        let part = |name: &str| text(&format!("{before}{name}"));
        Pair::read(part("ca.crt")?, part("tls.crt")?, part("tls.key")?).ok()
    };
    let previous = || {
        let end: u64 = text("previous-end")?.parse().ok()?;
        Some((text("previous-ca.crt")?, UNIX_EPOCH + Duration::from_secs(end)))
    };
    Some(Held {
        current: pair("")?,
        next: pair("next-"),
        previous: previous(),
    })
}

/// The Secret that holds this: a new one, or `before` with nothing changed but its data.
pub(super) fn write(name: &str, before: Option<&Secret>, held: &Held) -> Secret {
    let mut data = BTreeMap::new();
    let mut put = |name: String, text: &str| {
        data.insert(name, ByteString(text.as_bytes().to_vec()));
    };
    for (before, pair) in [("", Some(&held.current)), ("next-", held.next.as_ref())] {
        let Some(pair) = pair else { continue };
        put(format!("{before}ca.crt"), &pair.ca);
        put(format!("{before}tls.crt"), &pair.certificate);
        put(format!("{before}tls.key"), &pair.key);
    }
    if let Some((ca, end)) = &held.previous {
        put("previous-ca.crt".to_owned(), ca);
        put("previous-end".to_owned(), &seconds(*end).to_string());
    }
    let labels = [
        ("app.kubernetes.io/managed-by", "weft"),
        ("app.kubernetes.io/part-of", "weft"),
    ];
    let fresh = || Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    };
    Secret {
        data: Some(data),
        ..before.cloned().unwrap_or_else(fresh)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let now = UNIX_EPOCH + Duration::from_secs(seconds(SystemTime::now()));
        let pair = || Pair::make(&["a.b.svc".to_owned()], Duration::from_secs(60), now).unwrap();
        let mut held = Held::new(pair());
        let first = write("weft-webhook", None, &held);
        assert_eq!(read(&first), Some(held.clone()));
        assert_eq!(first.type_.as_deref(), Some("kubernetes.io/tls"));

        held.next = Some(pair());
        held.previous = Some((pair().ca, now));
        let second = write("weft-webhook", Some(&first), &held);
        assert_eq!(read(&second), Some(held.clone()));
        assert_eq!(
            second.metadata, first.metadata,
            "the version that was read is the one that is replaced"
        );

        held.next = None;
        held.previous = None;
        assert_eq!(read(&write("weft-webhook", Some(&second), &held)), Some(held));
    }

    #[test]
    fn what_cannot_be_served_counts_as_nothing() {
        assert_eq!(read(&Secret::default()), None);
        let pair = Pair::make(&["a.b.svc".to_owned()], Duration::from_secs(60), SystemTime::now()).unwrap();
        let mut secret = write("weft-webhook", None, &Held::new(pair));
        secret.data.as_mut().unwrap().remove("tls.key");
        assert_eq!(read(&secret), None);
    }
}
