//! An object with its last valid form: what is invalid is held, not obeyed and not dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::objects::{DecodeError, Object};

/// An object as it is now, and as it was when it last was valid.
#[derive(Clone, Debug)]
pub(crate) struct Kept<T> {
    /// The object as it is now.
    pub(crate) object: Arc<Object>,
    /// Its last valid form, and the object that had it.
    pub(crate) valid: Option<(Arc<Object>, T)>,
    /// Why the object as it is now is refused. Empty: `valid` is its form.
    pub(crate) refusals: Vec<Refusal>,
    /// Fields that nothing understands.
    pub(crate) unknown: Vec<String>,
    /// Whether a valid form may have been known before this process began: then proxies may hold it.
    pub(crate) from_before: bool,
}

/// A form, and the fields that nothing understands.
pub(crate) type Formed<T> = Result<(T, Vec<String>), Vec<Refusal>>;

/// Why an object is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// One word of the Gateway API.
    pub(crate) reason: &'static str,
    /// The field.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) message: String,
    /// What would be right.
    pub(crate) fix: String,
}

/// Reads an object. Where that panics the object is refused, as for anything else that is wrong with it: one object must not
/// end the process, and end it again at each start.
pub(super) fn guarded<T>(object: &Object, read: impl FnOnce(&Object) -> Formed<T>) -> Formed<T> {
    // Reading is pure, so nothing is left half done.
    catch_unwind(AssertUnwindSafe(|| read(object))).unwrap_or_else(|_| {
        let object = object.reference();
        tracing::error!(%object, "an object made its reader panic: it is refused");
        Err(vec![Refusal {
            reason: "Internal",
            field: String::new(),
            message: "could not be read because of a fault in the control plane".to_owned(),
            fix: "report it, with the object; writing it differently may help until then".to_owned(),
        }])
    })
}

impl<T> Kept<T> {
    /// Takes a new version of the object, after an older one if there was one. `initial`: the process just began.
    pub(crate) fn new(object: Arc<Object>, formed: Formed<T>, before: Option<Self>, initial: bool) -> Self {
        match formed {
            Ok((form, unknown)) => Self {
                valid: Some((Arc::clone(&object), form)),
                object,
                refusals: Vec::new(),
                unknown,
                from_before: false,
            },
            Err(refusals) => {
                let (valid, from_before) = before.map_or((None, initial), |before| (before.valid, before.from_before));
                Self {
                    object,
                    valid,
                    refusals,
                    unknown: Vec::new(),
                    from_before,
                }
            }
        }
    }

    /// The last valid form.
    pub(crate) fn form(&self) -> Option<&T> {
        self.valid.as_ref().map(|(_, form)| form)
    }

    /// Why proxies are to keep what they have of it: it is invalid, and no valid form is known here.
    pub(crate) fn hold(&self) -> Option<String> {
        if self.valid.is_some() || !self.from_before {
            return None;
        }
        let refusal = self.refusals.first()?;
        Some(format!(
            "{}: {}: {}",
            self.object.reference(),
            refusal.field,
            refusal.message
        ))
    }
}

impl Refusal {
    /// A value that is wrong, or not honoured.
    pub(crate) fn value(field: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            reason: "UnsupportedValue",
            field: field.into(),
            message: message.into(),
            fix: fix.into(),
        }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        let fix = error.fix();
        Self::value(error.field, error.message, fix)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_that_makes_its_reader_panic_is_held() {
        let object = Object {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: "shop".to_owned(),
            name: "p1".to_owned(),
            uid: "u".to_owned(),
            resource_version: 1,
            generation: 0,
            labels: Default::default(),
            annotations: Default::default(),
            raw: json!({}),
            origin: None,
        };
        let object = Arc::new(object);
        let good = guarded(&object, |_| Ok((7, Vec::new())));
        let before = Kept::new(object.clone(), good, None, true);
        let after = Kept::new(
            object.clone(),
            guarded(&object, |_| panic!("on purpose")),
            Some(before),
            false,
        );
        assert_eq!(after.form(), Some(&7));
        assert_eq!(after.refusals[0].reason, "Internal");
    }
}
