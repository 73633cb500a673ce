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
}
