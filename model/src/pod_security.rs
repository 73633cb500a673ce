//! Pod Security: whether a Namespace's level refuses what injection adds (Kubernetes' Pod Security Standards).

use std::fmt;

/// The label by which a Namespace enforces a level.
pub const ENFORCE_LABEL: &str = "pod-security.kubernetes.io/enforce";

/// Why pods with a sidecar are refused in a Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What stands in the way.
    pub what: String,
    /// A command that mends it.
    pub fix: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, fix } = self;
        write!(f, "{what}; fix: {fix}")
    }
}

/// Why pods with a sidecar are refused in the Namespace of this name whose [`ENFORCE_LABEL`] says `level`; `None` where
/// nothing stands in the way.
///
/// Every level but `privileged` allows no container to add NET_ADMIN and NET_RAW, which the redirect needs for the moment in
/// which its rules are written.
#[must_use]
pub fn refusal(namespace: &str, level: Option<&str>) -> Option<Refusal> {
    let level = level.filter(|level| *level != "privileged")?;
    // Together at most 256 bytes, where warnings of reviews are cut.
    Some(Refusal {
        what: format!("Pod Security {level:?} of this Namespace refuses NET_ADMIN and NET_RAW, which weft-init needs"),
        fix: format!("kubectl label ns {namespace} {ENFORCE_LABEL}=privileged --overwrite"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_that_refuse_the_redirect_are_told_with_the_fix() {
        let name = "a".repeat(63);
        for level in ["baseline", "restricted"] {
            let said = refusal(&name, Some(level)).expect(level).to_string();
            assert!(
                said.contains(level) && said.contains("=privileged --overwrite"),
                "{said}"
            );
            assert!(said.len() <= 256, "{}", said.len());
        }
        assert_eq!(refusal(&name, Some("privileged")), None);
        assert_eq!(refusal(&name, None), None);
    }
}
