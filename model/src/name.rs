//! Names of objects.

use std::fmt;

/// Names an object: kind, namespace and name. Printed as `HTTPRoute shop/reviews`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// `HTTPRoute`, `Service`, …
    pub kind: String,
    /// Empty for objects without a namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

/// One port of a Service, as the words of telemetry, SNI and explanations. Printed as `shop/reviews:80`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The Service's port (not the pod's).
    pub port: u16,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return write!(f, "{} {}", self.kind, self.name);
        }
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}
