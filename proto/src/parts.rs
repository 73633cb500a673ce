//! How much a message would be in memory, counted before it is decoded: two bytes on the wire can be an endpoint of three hundred.
//!
//! In: encoded bytes, and which message they are. Out: how many parts it has, a message counting four times what a string or an entry
//! of a map does, and a map itself as much. A limit of bytes alone would let a peer have a hundred times as many taken. What is
//! broken has no parts, wherever it is: a decoder finds it out after it has taken what comes behind it.

/// A table of all messages, in order of name: their fields that are something else than a number or a string.
type Shapes = [(&'static str, &'static [(u32, Inner)])];

/// What a field of a message has in it.
#[derive(Clone, Copy, Debug)]
enum Inner {
    /// A message, by where it is in the table.
    Message(usize),
    /// An entry of a map.
    Entries,
}

static SHAPES: &Shapes = &include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// The most parts of what another cluster says at once: of endpoints, which have some 28 and their labels, as many as 8 MiB hold. In
/// memory that is up to some 200 MiB.
pub const PARTS_MAX: usize = 1 << 20;
/// What a message counts, and a map beside its entries: with the first of them it has room for eleven.
const MESSAGE: usize = 4;
const MAP: usize = 4;
/// What else has a length counts.
const BYTES: usize = 1;
/// As deep as prost decodes.
const DEPTH_MAX: usize = 100;

/// How many parts a message has, by its full name. `None`: more than `most`, or it is broken, or deeper than a decoder goes.
pub fn of(message: &str, bytes: &[u8], most: usize) -> Option<usize> {
    let shape = SHAPES.binary_search_by(|(name, _)| (*name).cmp(message));
    debug_assert!(shape.is_ok(), "{message} is none of the messages");
    Some(most - left(bytes, shape.ok()?, most, DEPTH_MAX)?)
}

/// What is left of the parts that there may be.
fn left(mut bytes: &[u8], shape: usize, mut most: usize, depth: usize) -> Option<usize> {
    let depth = depth.checked_sub(1)?;
    let (_, inners) = SHAPES.get(shape)?;
    // Whoever writes a message writes a map's entries one after the other.
    let mut map = None;
    while !bytes.is_empty() {
        let (number, content) = field(&mut bytes)?;
        let Some(content) = content else { continue };
        most = match inners.iter().find(|(of, _)| *of == number) {
            Some((_, Inner::Message(inner))) => left(content, *inner, most.checked_sub(MESSAGE)?, depth)?,
            Some((_, Inner::Entries)) if map.replace(number) != Some(number) => most.checked_sub(MAP + BYTES)?,
            Some((_, Inner::Entries)) | None => most.checked_sub(BYTES)?,
        };
    }
    Some(most)
}

/// The next field: its number, and its content if it has a length. `None`: it is broken, or a group, which none of the messages has.
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
    use crate::federation::ExportedEndpoint;

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

    fn parts(message: &str, bytes: &[u8]) -> Option<usize> {
        of(message, bytes, usize::MAX)
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
        let all = 4 + 4 + (4 + 1) + (4 + 1) + 1 + 1;
        let bytes = batch(vec![resource]);
        assert_eq!(parts(FROM_CONTROL, &bytes), Some(all));
        assert_eq!(of(FROM_CONTROL, &bytes, all), Some(all));
        assert_eq!(of(FROM_CONTROL, &bytes, all - 1), None);
        assert_eq!(
            parts(FROM_CONTROL, &batch(vec![Resource::default(); 1000])),
            Some(4 + 4000)
        );
    }

    #[test]
    fn a_map_is_four_parts_and_each_entry_of_it_one() {
        let endpoint = ExportedEndpoint {
            labels: [("a", "b"), ("c", "d")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..ExportedEndpoint::default()
        };
        assert_eq!(
            parts("weft.federation.v1.ExportedEndpoint", &endpoint.encode_to_vec()),
            Some(4 + 2)
        );
        // Each of these is a message of 48 bytes, and a map of 560 for one entry.
        let selections = [0x12, 2, 0x12, 0].repeat(1000);
        assert_eq!(parts("weft.discovery.v1.Peer", &selections), Some((4 + 4 + 1) * 1000));
    }

    #[test]
    fn what_is_broken_has_no_parts_wherever_it_is() {
        let mut bytes = [0x1a, 0].repeat(1000);
        assert_eq!(parts("weft.discovery.v1.Batch", &bytes), Some(4000));
        bytes.extend([0x1a, 9]);
        assert_eq!(parts("weft.discovery.v1.Batch", &bytes), None);
        // A length that runs over the message that it is in: a decoder would read on behind that.
        let mut runs_over = vec![0x0a, 2, 0x1a, 0x80, 0x08];
        runs_over.resize(1029, 0);
        assert_eq!(parts(FROM_CONTROL, &runs_over), None);
        for broken in [&[0xff; 20][..], &[0x0b, 0x0c], &[0x0e], &[0x0d, 1], &[0x80]] {
            assert_eq!(parts(FROM_CONTROL, broken), None, "{broken:?}");
        }
    }

    #[test]
    fn what_is_deeper_than_a_decoder_goes_is_too_much() {
        // A backend's filters have a mirror, which has a backend.
        let nested = |messages| {
            let mut bytes = Vec::new();
            for number in [1_u8, 4, 8].into_iter().cycle().take(messages) {
                let mut outer = vec![number << 3 | 2];
                prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
                outer.append(&mut bytes);
                bytes = outer;
            }
            parts("weft.discovery.v1.Backend", &bytes)
        };
        assert_eq!(nested(99), Some(4 * 99));
        assert_eq!(nested(102), None);
    }
}
