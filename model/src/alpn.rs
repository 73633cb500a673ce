//! ALPN tokens between proxies: what the outbound side found, so that inbound never detects it again.
//!
//! Private and versioned. A ClientHello without one of them is the app's own TLS.

/// HTTP/1.1, upgrades and CONNECT included.
pub const H1: &[u8] = b"weft-h1/1";
/// HTTP/2.
pub const H2: &[u8] = b"weft-h2/1";
/// Any bytes.
pub const TCP: &[u8] = b"weft-tcp/1";

/// All tokens that this build speaks.
pub const ALL: [&[u8]; 3] = [H1, H2, TCP];
