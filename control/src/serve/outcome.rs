//! How a request for a certificate ends: one word for the caller, the log and the metric.

use tonic::Code;

/// How a request ended: a metric's label, and the word in a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A first leaf was issued.
    Issued,
    /// A leaf was renewed with leaf and token.
    Renewed,
    /// A leaf was renewed with itself alone.
    RenewedByLeaf,
    /// The CSR is none, or its key is of no use.
    CsrInvalid,
    /// There is no token.
    TokenMissing,
    /// The token is not good.
    TokenRefused,
    /// The token is for somebody else.
    TokenAudience,
    /// The token has ended.
    TokenExpired,
    /// The token is not bound to a pod.
    TokenUnbound,
    /// No token can be checked now.
    TokenUnverifiable,
    /// The certificate shown is of another identity than the token, or has ended.
    LeafMismatch,
    /// The token's pod is not known.
    PodUnknown,
    /// The token's pod is another, runs as another account, or has ended.
    PodMismatch,
    /// The caller's address is not the pod's.
    AddressMismatch,
    /// Too often.
    RateLimited,
    /// Too many at once.
    Overloaded,
    /// The authority did not issue.
    Failed,
}

impl Outcome {
    pub(crate) const ALL: [Self; 17] = [
        Self::Issued,
        Self::Renewed,
        Self::RenewedByLeaf,
        Self::CsrInvalid,
        Self::TokenMissing,
        Self::TokenRefused,
        Self::TokenAudience,
        Self::TokenExpired,
        Self::TokenUnbound,
        Self::TokenUnverifiable,
        Self::LeafMismatch,
        Self::PodUnknown,
        Self::PodMismatch,
        Self::AddressMismatch,
        Self::RateLimited,
        Self::Overloaded,
        Self::Failed,
    ];

    /// The stable word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Renewed => "renewed",
            Self::RenewedByLeaf => "renewed-by-leaf",
            Self::CsrInvalid => "csr-invalid",
            Self::TokenMissing => "token-missing",
            Self::TokenRefused => "token-refused",
            Self::TokenAudience => "token-audience",
            Self::TokenExpired => "token-expired",
            Self::TokenUnbound => "token-unbound",
            Self::TokenUnverifiable => "token-unverifiable",
            Self::LeafMismatch => "leaf-mismatch",
            Self::PodUnknown => "pod-unknown",
            Self::PodMismatch => "pod-mismatch",
            Self::AddressMismatch => "address-mismatch",
            Self::RateLimited => "rate-limited",
            Self::Overloaded => "overloaded",
            Self::Failed => "failed",
        }
    }

    /// The gRPC status that a caller gets.
    pub(crate) fn code(self) -> Code {
        match self {
            Self::Issued | Self::Renewed | Self::RenewedByLeaf => Code::Ok,
            Self::CsrInvalid => Code::InvalidArgument,
            Self::TokenMissing | Self::TokenRefused | Self::TokenAudience | Self::TokenExpired | Self::TokenUnbound => {
                Code::Unauthenticated
            }
            Self::TokenUnverifiable => Code::Unavailable,
            Self::LeafMismatch | Self::PodUnknown | Self::PodMismatch | Self::AddressMismatch => Code::PermissionDenied,
            Self::RateLimited | Self::Overloaded => Code::ResourceExhausted,
            Self::Failed => Code::Internal,
        }
    }
}
