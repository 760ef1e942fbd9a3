//! How gRPC messages become bytes here: prost, with buffers of their size.
//!
//! tonic's own codec begins each message, in both directions, with a buffer of 8 KiB, which costs more
//! than all the rest of encoding a put's answer and makes idle watch streams heavy.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

/// What a buffer begins with: room for most requests, and for the answer to a write.
const BUFFER_BYTES: usize = 256;

/// How much of a stream's waiting messages is put into one piece; tonic's default.
const PIECE_BYTES: usize = 32 * 1024;

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, PIECE_BYTES)
}

/// The codec of all generated services and clients.
#[derive(Clone, Copy, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Fitting<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        Fitting(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

/// Encodes a message into a buffer that has room for all of it.
#[derive(Clone, Copy, Debug)]
pub struct Fitting<T>(PhantomData<T>);

impl<T: Message> Encoder for Fitting<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).expect("the buffer grows as needed");
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}
