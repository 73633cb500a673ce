//! How much a message would be in memory, counted before it is decoded: two bytes on the wire can be an endpoint of three hundred.
//!
//! In: encoded bytes, and which message they are. Out: how many parts it has, a message counting four times what a string does, or
//! what the bytes have until they are broken: so far a decoder comes, too. A limit of bytes alone would let a peer have a hundred
//! times as many taken.

/// A table of all messages, in order of name: their fields that are messages, by number, and where these are in the table.
type Shapes = [(&'static str, &'static [(u32, usize)])];

static SHAPES: &Shapes = &include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// The most parts of a body or a batch: what the limits of its fields allow, and some 80 MiB in memory.
pub const PARTS_MAX: usize = 1 << 20;
/// What a message counts, and what else has a length does.
const MESSAGE: usize = 4;
const BYTES: usize = 1;
/// As deep as prost decodes.
const DEPTH_MAX: usize = 100;

/// Whether a message, by its full name, has at most so many parts.
pub fn are_at_most(most: usize, message: &str, bytes: &[u8]) -> bool {
    let shape = SHAPES.binary_search_by(|(name, _)| (*name).cmp(message));
    debug_assert!(shape.is_ok(), "{message} is none of the messages");
    shape.is_ok_and(|shape| count(bytes, shape, most, DEPTH_MAX).is_some())
}

/// What is left of the parts that there may be. `None`: there are more.
fn count(mut bytes: &[u8], shape: usize, mut left: usize, depth: usize) -> Option<usize> {
    let depth = depth.checked_sub(1)?;
    let (_, messages) = SHAPES.get(shape)?;
    while let Some((number, content)) = field(&mut bytes) {
        let Some(content) = content else { continue };
        let inner = messages.iter().find(|(of, _)| *of == number);
        left = match inner {
            Some((_, inner)) => count(content, *inner, left.checked_sub(MESSAGE)?, depth)?,
            None => left.checked_sub(BYTES)?,
        };
    }
    Some(left)
}

/// The next field: its number, and its content if it has a length. `None`: there is none, or it is broken.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Option<&'a [u8]>)> {
    let key = varint(bytes)?;
    let number = u32::try_from(key >> 3).ok()?;
    let content = match key & 7 {
        0 => {
            varint(bytes)?;
            None
        }
        1 => {
            split(bytes, 8)?;
            None
        }
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Some(split(bytes, length)?)
        }
        5 => {
            split(bytes, 4)?;
            None
        }
        // Groups are in none of the messages: what is in one counts as if it were beside it.
        3 | 4 => None,
        _ => return None,
    };
    Some((number, content))
}

fn split<'a>(bytes: &mut &'a [u8], at: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(at)?;
    *bytes = rest;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *split(bytes, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::discovery::{Batch, FromControl, Resource, ResourceName, Version, from_control, resource::State};

    const FROM_CONTROL: &str = "weft.discovery.v1.FromControl";

    fn batch(resources: Vec<Resource>) -> Vec<u8> {
        let batch = Batch {
            nonce: 7,
            epoch: 1 << 40,
            resources,
            complete: true,
        };
        FromControl {
            message: Some(from_control::Message::Batch(batch)),
        }
        .encode_to_vec()
    }

    /// The parts of a message.
    fn parts(message: &str, bytes: &[u8]) -> usize {
        (0..).find(|most| are_at_most(*most, message, bytes)).unwrap()
    }

    #[test]
    fn each_message_counts_four_and_each_string_one_and_numbers_nothing() {
        let resource = Resource {
            name: Some(ResourceName {
                kind: 9,
                key: "shop/reviews:80".to_owned(),
            }),
            version: Some(Version {
                hash: Bytes::from_static(b"hash"),
                sources: Vec::new(),
            }),
            requires: vec!["gateways".to_owned()],
            state: Some(State::Body(Bytes::from(batch(vec![Resource::default(); 9])))),
        };
        // The batch; the resource with its name and key, its version and hash, what it requires, and its body, which is bytes here.
        assert_eq!(
            parts(FROM_CONTROL, &batch(vec![resource])),
            4 + 4 + (4 + 1) + (4 + 1) + 1 + 1
        );
        assert_eq!(parts(FROM_CONTROL, &batch(vec![Resource::default(); 1000])), 4 + 4000);
    }

    #[test]
    fn what_comes_before_a_broken_end_counts_as_a_decoder_takes_it() {
        let mut bytes = [0x1a, 0].repeat(1000);
        bytes.extend([0x1a, 9]);
        assert_eq!(parts("weft.discovery.v1.Batch", &bytes), 4000);
        assert_eq!(parts("weft.discovery.v1.Batch", &[0xff; 20]), 0);
    }

    #[test]
    fn what_is_deeper_than_a_decoder_goes_is_too_much() {
        let mut bytes = Vec::new();
        // A backend's filters have a mirror, which has a backend.
        for number in [1_u8, 4, 8].into_iter().cycle().take(101) {
            let mut outer = vec![number << 3 | 2];
            prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
            outer.append(&mut bytes);
            bytes = outer;
        }
        let of = ["Backend", "Filters", "Mirror"].map(|name| format!("weft.discovery.v1.{name}"));
        assert!(of.iter().any(|name| !are_at_most(usize::MAX, name, &bytes)));
        assert!(of.iter().all(|name| are_at_most(usize::MAX, name, &bytes[..0])));
    }
}
