//! gRPC messages of whoever may mean harm: how many parts one has is known before it is decoded ([`crate::parts`]). One that is not
//! decoded is `DATA_LOSS`, which no server of ours says: who has it knows that it could not read, and not what the other side answered.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::{Buf as _, Bytes};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use crate::parts;

/// The codec of a method.
#[derive(Clone, Debug)]
pub struct Bounded<T, U> {
    message: &'static str,
    most: usize,
    of: PhantomData<(T, U)>,
}

/// Decodes what has not too many parts.
#[derive(Clone, Debug)]
pub struct BoundedDecoder<U> {
    message: &'static str,
    most: usize,
    of: PhantomData<U>,
}

impl<T, U> Bounded<T, U> {
    /// `message`: what is decoded, by its full name. `most`: the most parts that it may have.
    pub const fn new(message: &'static str, most: usize) -> Self {
        Self {
            message,
            most,
            of: PhantomData,
        }
    }
}

impl<T, U> Codec for Bounded<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder {
            message: self.message,
            most: self.most,
            of: PhantomData,
        }
    }
}

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        decode(self.message, bytes, self.most).map(Some)
    }
}

/// Decodes one message that has no more than so many parts.
///
/// # Errors
/// It has more, or is broken (`DATA_LOSS`).
pub fn decode<T: Message + Default>(message: &'static str, bytes: Bytes, most: usize) -> Result<T, Status> {
    if parts::of(message, &bytes, most).is_none() {
        let reason = format!("a message that is broken, or has more than {most} parts, is not read");
        return Err(Status::data_loss(reason));
    }
    T::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}
