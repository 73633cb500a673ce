//! Every limit on HTTP, with the numbers that hold when nobody sets others.

use std::time::Duration;

/// The bytes of a message's head, decoded: names, values, and the request or status line. Trailers count anew.
pub const HEAD_BYTES: usize = 64 * 1024;
/// The fields of a head, or of trailers; each cookie crumb of HTTP/2 counts.
pub const HEAD_FIELDS: usize = 200;
/// Streams that a peer may have open on one HTTP/2 connection.
pub const STREAMS: u32 = 100;
/// What a peer may send on one HTTP/2 stream before we have passed it on.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// What a peer may send on one HTTP/2 connection before we have passed it on.
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What the `h2` crate may hold of one stream's data that the peer has not taken.
pub const STREAM_SEND_BUFFER: usize = 32 * 1024;
/// How much of a body that nobody wants is read and dropped, so that a client which still writes gets to see the response.
pub const LINGER_BYTES: u64 = 256 * 1024;
/// Streams of one HTTP/2 connection that may be reset within a second, before anything was answered, if they are half of all.
pub const HASTY_RESETS: u64 = 100;
/// Interim responses (1xx) before a final one.
pub const INTERIM_RESPONSES: u32 = 32;
/// What is kept of a request's body, so that it can be sent once more where no byte reached the app.
pub const REPLAY_BYTES: usize = 16 * 1024;

/// What is kept of a request's body for its copies. A larger one is not copied.
pub const COPY_BYTES: usize = 64 * 1024;

/// How long a stranger's request may wait for the next byte of its body: [`Limits::body_time`] where whoever sends it is
/// nobody that the mesh knows.
pub const BODY_TIME: Duration = Duration::from_secs(60);

/// Times, per connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte of a head to its last.
    pub header_time: Duration,
    /// How long a connection may be open without a request.
    pub idle_time: Duration,
    /// How long the other side may take nothing while there is something for it.
    pub stall_time: Duration,
    /// How long a client may go on sending a body that nobody reads any more.
    pub linger_time: Duration,
    /// How long a request may wait for the next byte of its body, while no byte of the response comes either. `None`: as long
    /// as its client likes, as streams of gRPC may between those that know each other.
    pub body_time: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_time: Duration::from_secs(5),
            idle_time: Duration::from_secs(60),
            stall_time: Duration::from_secs(30),
            linger_time: Duration::from_secs(2),
            body_time: None,
        }
    }
}
