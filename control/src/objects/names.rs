//! What Kubernetes accepts as names.

/// Whether this is a DNS label (RFC 1123): the name of a Namespace.
pub fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// Whether this is a DNS label (RFC 1035), that begins with a letter: the name of a Service.
pub fn is_service_name(name: &str) -> bool {
    is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Whether this is a DNS subdomain (RFC 1123): the name of most other objects.
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

/// A label's value is no longer (API reference, `metadata.labels`), and neither is the name in its key.
pub const LABEL_VALUE_MAX: usize = 63;

/// Whether this is the value of a label, which may be empty.
pub fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_qualified(value)
}

/// Whether this is the key of a label or annotation: a name, with a DNS subdomain and a slash before it or not.
pub fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified(name),
        None => is_qualified(key),
    }
}

fn is_qualified(name: &str) -> bool {
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let outer = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    name.len() <= LABEL_VALUE_MAX && bytes.iter().all(inner) && outer(bytes.first()) && outer(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_kubernetes_takes() {
        assert!(is_label("shop") && is_label("0shop-1"));
        assert!(!is_label("") && !is_label("Shop") && !is_label("-a") && !is_label("a-") && !is_label("a.b"));
        assert!(is_service_name("reviews") && !is_service_name("0reviews"));
        assert!(is_subdomain("a.b-c.d") && !is_subdomain("a..b") && !is_subdomain("a/b") && !is_subdomain(""));
        assert!(!is_label(&"a".repeat(64)) && !is_subdomain(&"a.".repeat(127)));
    }

    #[test]
    fn labels_are_what_kubernetes_takes() {
        assert!(is_label_value("") && is_label_value("v1.2_3-x") && is_label_value("A"));
        assert!(!is_label_value("-a") && !is_label_value("a b") && !is_label_value(&"a".repeat(64)));
        assert!(is_label_key("app") && is_label_key("app.kubernetes.io/name") && is_label_key("a/B_c"));
        assert!(!is_label_key("") && !is_label_key("/a") && !is_label_key("a/") && !is_label_key("a/b/c"));
        assert!(!is_label_key("A/b") && !is_label_key("a b"));
    }
}
