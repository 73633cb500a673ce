//! What a caller says, message by message: each is a flag, a length of four bytes, and as many of Protocol Buffers (gRPC over HTTP/2,
//! "Length-Prefixed-Message").
//!
//! It is read here, and not by the library: that makes room for as much as a head announces, and keeps the room of the longest
//! message, which is the Hello, for as long as the stream lives.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::Body;
use tonic::{Code, Status};
use weft_proto::codec;
use weft_proto::discovery::FromProxy;

use super::room::Place;
use super::{MESSAGE_MAX, PARTS_MAX};

const HEAD: usize = 5;
/// A message of more bytes does not leave its room to the next one.
const LONG: usize = 16 << 10;

/// See the head of the file.
pub(super) struct Messages<B> {
    /// Never locked, but for the compiler, which must know that no two threads read at a time.
    said: Mutex<B>,
    read: BytesMut,
    pub(super) place: Place,
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Messages<B> {
    pub(super) fn new(said: B, place: Place) -> Self {
        Self {
            said: Mutex::new(said),
            read: BytesMut::new(),
            place,
        }
    }

    /// The next one; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// It is too large, or broken, or there is no room for it ([`Code::Aborted`]); or the stream has broken.
    pub(super) async fn next(&mut self) -> Result<Option<FromProxy>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let said = self.said.get_mut().unwrap_or_else(PoisonError::into_inner);
            let frame = match poll_fn(|context| Pin::new(&mut *said).poll_frame(context)).await {
                Some(Ok(frame)) => frame,
                Some(Err(status)) if status.code() == Code::Cancelled => return Ok(None),
                Some(Err(status)) => return Err(status),
                None if self.read.is_empty() => return Ok(None),
                None => return Err(Status::internal("the stream ends within a message")),
            };
            let Ok(bytes) = frame.into_data() else { continue };
            if !self.place.read(bytes.len()) {
                return Err(Status::aborted(
                    "callers that are not let in yet say more than there is room for; try again",
                ));
            }
            self.read.extend_from_slice(&bytes);
        }
    }

    /// Takes one, if all of it was read.
    fn take(&mut self) -> Result<Option<FromProxy>, Status> {
        let Some(([flag, length @ ..], rest)) = self.read.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        if *flag != 0 {
            return Err(Status::internal("a message is compressed, which was not offered"));
        }
        let length = u32::from_be_bytes(*length) as usize;
        if length > MESSAGE_MAX {
            let reason = format!("a message of {length} bytes is too large: {MESSAGE_MAX} are read");
            return Err(Status::out_of_range(reason));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.read.advance(HEAD);
        let message = self.read.split_to(length).freeze();
        if length > LONG {
            // What comes next has room of its own: that of the message is given back.
            self.read = BytesMut::from(&*self.read);
        }
        codec::decode("weft.discovery.v1.FromProxy", message, PARTS_MAX).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use hyper::body::Frame;
    use prost::Message as _;
    use weft_proto::discovery::{Ack, from_proxy::Message};

    use super::super::room::Room;
    use super::*;

    struct Frames(VecDeque<Result<Bytes, Status>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|bytes| bytes.map(Frame::data)))
        }
    }

    fn ack(nonce: u64) -> Vec<u8> {
        let message = Some(Message::Ack(Ack {
            nonce,
            refusals: Vec::new(),
        }));
        let message = FromProxy { message }.encode_to_vec();
        [head(message.len()), message].concat()
    }

    fn head(length: usize) -> Vec<u8> {
        [&[0], &u32::try_from(length).unwrap().to_be_bytes()[..]].concat()
    }

    /// The nonces that were read, and what came then.
    async fn read(frames: impl IntoIterator<Item = Result<Vec<u8>, Status>>) -> (Vec<u64>, Result<(), (Code, String)>) {
        let frames = frames.into_iter().map(|bytes| bytes.map(Bytes::from));
        let mut messages = Messages::new(Frames(frames.collect()), Arc::<Room>::default().place("a"));
        let mut nonces = Vec::new();
        loop {
            match messages.next().await {
                Ok(Some(FromProxy {
                    message: Some(Message::Ack(ack)),
                })) => nonces.push(ack.nonce),
                Ok(Some(other)) => panic!("{other:?}"),
                Ok(None) => return (nonces, Ok(())),
                Err(status) => return (nonces, Err((status.code(), status.message().to_owned()))),
            }
        }
    }

    #[tokio::test]
    async fn messages_are_read_however_their_bytes_come() {
        let all = [ack(1), ack(2), ack(300)].concat();
        for size in 1..=all.len() {
            let came = read(all.chunks(size).map(|bytes| Ok(bytes.to_vec()))).await;
            assert_eq!(came, (vec![1, 2, 300], Ok(())), "{size} at a time");
        }
        assert_eq!(read([]).await, (vec![], Ok(())));
        let cut = read([Ok(ack(1)), Err(Status::cancelled("gone"))]).await;
        assert_eq!(cut, (vec![1], Ok(())), "its caller has gone");
    }

    #[tokio::test]
    async fn what_is_too_large_or_broken_ends_the_stream_after_what_came_before() {
        for (then, code, words) in [
            (head(MESSAGE_MAX + 1), Code::OutOfRange, "too large"),
            (vec![1, 0, 0, 0, 0], Code::Internal, "compressed"),
            (vec![0, 0], Code::Internal, "ends within a message"),
            (head(1), Code::Internal, "ends within a message"),
            ([head(1), vec![0xff]].concat(), Code::DataLoss, "broken"),
        ] {
            let (nonces, end) = read([Ok([ack(1), then].concat())]).await;
            let (told, reason) = end.unwrap_err();
            assert_eq!((nonces, told), (vec![1], code), "{reason}");
            assert!(reason.contains(words), "{reason}");
        }
    }

    #[tokio::test]
    async fn who_is_not_let_in_says_no_more_than_there_is_room_for_and_who_is_in_does() {
        let pieces = || [Ok(head(MESSAGE_MAX)), Ok(vec![0; MESSAGE_MAX - 1])].map(|bytes| bytes.map(Bytes::from));
        let room = Arc::<Room>::default();
        let of = || Messages::new(Frames(pieces().into()), room.place("a"));
        let mut fit = [of(), of()];
        for one in &mut fit {
            let ended = one.next().await.unwrap_err();
            assert_eq!(ended.code(), Code::Internal, "it was read to its end: {ended}");
        }
        assert_eq!(of().next().await.unwrap_err().code(), Code::Aborted);
        let mut entered = of();
        entered.place.let_in();
        assert_eq!(entered.next().await.unwrap_err().code(), Code::Internal);
    }

    #[tokio::test]
    async fn the_room_of_a_long_message_is_given_back() {
        let long = FromProxy {
            message: Some(Message::Ack(Ack {
                nonce: 1,
                refusals: vec![Default::default(); 100_000],
            })),
        };
        let long = long.encode_to_vec();
        let frames = [head(long.len()), long, ack(2)[..3].to_vec()].concat();
        let mut messages = Messages::new(
            Frames(VecDeque::from([Ok(frames.into())])),
            Arc::<Room>::default().place("a"),
        );
        assert!(messages.next().await.unwrap().is_some());
        assert!(
            messages.read.len() == 3 && messages.read.capacity() < 1024,
            "{}",
            messages.read.capacity()
        );
    }
}
