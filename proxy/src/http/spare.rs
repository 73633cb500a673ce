//! Memory that requests hand on to each other, per thread: a request in a row of requests need not ask the allocator for what
//! the last one has just given back.
//!
//! Bounded in number and in size: what a large request needed is not kept.

use std::cell::RefCell;

use bytes::BytesMut;
use http::HeaderMap;

/// How many of each kind a thread keeps: a few more than it has requests under way at one instant.
const KEPT: usize = 32;
/// The largest map that is kept, in fields.
const FIELDS: usize = 64;
/// The largest buffer that is kept, in bytes.
const BYTES: usize = 4096;

thread_local! {
    static MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty map.
pub(crate) fn map(fields: usize) -> HeaderMap {
    MAPS.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| HeaderMap::with_capacity(fields))
}

/// Gives a map back.
pub(crate) fn keep_map(mut map: HeaderMap) {
    if (1..=FIELDS).contains(&map.capacity()) {
        map.clear();
        MAPS.with_borrow_mut(|maps| {
            if maps.len() < KEPT {
                maps.push(map);
            }
        });
    }
}

/// An empty buffer.
pub(crate) fn buffer() -> BytesMut {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a buffer back.
pub(crate) fn keep_buffer(mut buffer: BytesMut) {
    buffer.clear();
    // Takes back the room in front of what was written. There may be none, and then there is nothing to keep.
    let _ = buffer.try_reclaim(buffer.capacity() + 1);
    if (1..=BYTES).contains(&buffer.capacity()) {
        BUFFERS.with_borrow_mut(|buffers| {
            if buffers.len() < KEPT {
                buffers.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    #[test]
    fn what_is_given_back_is_empty_and_used_again() {
        let mut map = HeaderMap::with_capacity(8);
        map.insert("x", "y".parse().unwrap());
        keep_map(map);
        assert!(super::map(1).is_empty());
        BUFFERS.with_borrow_mut(Vec::clear);
        let mut buffer = BytesMut::with_capacity(1000);
        buffer.extend_from_slice(&[0; 900]);
        buffer.advance(900);
        keep_buffer(buffer);
        let again = super::buffer();
        assert!(again.is_empty() && again.capacity() >= 1000, "{}", again.capacity());
    }

    #[test]
    fn what_is_large_or_too_much_is_not_kept() {
        BUFFERS.with_borrow_mut(Vec::clear);
        keep_buffer(BytesMut::with_capacity(100_000));
        assert_eq!(buffer().capacity(), 0);
        keep_map(HeaderMap::with_capacity(1000));
        assert!(map(1).capacity() < 1000);
        for _ in 0..100 {
            keep_buffer(BytesMut::with_capacity(100));
        }
        assert_eq!(BUFFERS.with_borrow(Vec::len), KEPT);
    }
}
