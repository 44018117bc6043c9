//! The formats: each with the setting that is its best for this work.

use prost::Message;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::models::Pages;

/// What a row is to the others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Never a base of ratios.
    Ours,
    /// Another version's fields may be more or fewer.
    Tolerant,
    /// Both sides have the very same types.
    Rigid,
    /// No format at all.
    Memory,
}

/// A format.
pub(crate) trait Format {
    const NAME: &'static str;
    const KIND: Kind;
}

/// What was saved.
pub(crate) trait Size {
    /// Bytes.
    fn size(&self) -> usize;
}

impl Size for Vec<u8> {
    fn size(&self) -> usize {
        self.len()
    }
}

impl Size for AlignedVec {
    fn size(&self) -> usize {
        self.len()
    }
}

/// A format for values of this type. Both directions include all allocation; neither includes that its result is freed.
pub(crate) trait Codec<T>: Format {
    type Saved: Size + 'static;
    fn save(value: &T) -> Self::Saved;
    fn restore(saved: &Self::Saved) -> T;
}

/// `encode_to_vec` has its capacity from `encoded_len`: nothing grows.
pub(crate) struct Prost;

impl Format for Prost {
    const NAME: &'static str = "prost";
    const KIND: Kind = Kind::Tolerant;
}

impl<T: Message + Default> Codec<T> for Prost {
    type Saved = Vec<u8>;

    fn save(value: &T) -> Vec<u8> {
        value.encode_to_vec()
    }

    fn restore(saved: &Self::Saved) -> T {
        let bytes = saved.as_slice();
        T::decode(bytes).unwrap()
    }
}

/// Bytes are arrays of numbers, as `serde_bytes` has them here; base64 would be another model.
pub(crate) struct Json;

impl Format for Json {
    const NAME: &'static str = "serde_json";
    const KIND: Kind = Kind::Tolerant;
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    type Saved = Vec<u8>;

    fn save(value: &T) -> Vec<u8> {
        serde_json::to_vec(value).unwrap()
    }

    fn restore(saved: &Self::Saved) -> T {
        let bytes = saved.as_slice();
        serde_json::from_slice(bytes).unwrap()
    }
}

pub(crate) struct MessagePack;

impl Format for MessagePack {
    const NAME: &'static str = "rmp-serde, named";
    const KIND: Kind = Kind::Tolerant;
}

impl<T: Serialize + DeserializeOwned> Codec<T> for MessagePack {
    type Saved = Vec<u8>;

    fn save(value: &T) -> Vec<u8> {
        rmp_serde::to_vec_named(value).unwrap()
    }

    fn restore(saved: &Self::Saved) -> T {
        let bytes = saved.as_slice();
        rmp_serde::from_slice(bytes).unwrap()
    }
}

pub(crate) struct Postcard;

impl Format for Postcard {
    const NAME: &'static str = "postcard";
    const KIND: Kind = Kind::Rigid;
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Postcard {
    type Saved = Vec<u8>;

    fn save(value: &T) -> Vec<u8> {
        postcard::to_allocvec(value).unwrap()
    }

    fn restore(saved: &Self::Saved) -> T {
        let bytes = saved.as_slice();
        postcard::from_bytes(bytes).unwrap()
    }
}

/// Its own traits, which know bytes and arrays, and not serde's. Fixed integers: faster than its varints.
pub(crate) struct Bincode;

const FIXED: bincode::config::Configuration<bincode::config::LittleEndian, bincode::config::Fixint> =
    bincode::config::standard().with_fixed_int_encoding();

impl Format for Bincode {
    const NAME: &'static str = "bincode 2, fixed integers";
    const KIND: Kind = Kind::Rigid;
}

impl<T: bincode::Encode + bincode::Decode<()>> Codec<T> for Bincode {
    type Saved = Vec<u8>;

    fn save(value: &T) -> Vec<u8> {
        bincode::encode_to_vec(value, FIXED).unwrap()
    }

    fn restore(saved: &Self::Saved) -> T {
        let bytes = saved.as_slice();
        let (value, read) = bincode::decode_from_slice(bytes, FIXED).unwrap();
        assert_eq!(read, bytes.len());
        value
    }
}

/// Saving gives rkyv's own aligned buffer. Restoring checks the bytes and then makes the owned types that all others
/// make; a program that works on the archive in place would pay for the check alone.
pub(crate) struct Rkyv;

impl Format for Rkyv {
    const NAME: &'static str = "rkyv, checked, to owned";
    const KIND: Kind = Kind::Rigid;
}

impl<T> Codec<T> for Rkyv
where
    T: rkyv::Archive + for<'a> rkyv::Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Error>> + rkyv::Deserialize<T, HighDeserializer<Error>>,
{
    type Saved = AlignedVec;

    fn save(value: &T) -> AlignedVec {
        rkyv::to_bytes::<Error>(value).unwrap()
    }

    fn restore(saved: &Self::Saved) -> T {
        let bytes = saved.as_slice();
        rkyv::from_bytes::<T, Error>(bytes).unwrap()
    }
}

/// A copy into memory that is fresh from the kernel: its page faults are included, in both directions.
pub(crate) struct Memcpy;

impl Format for Memcpy {
    const NAME: &'static str = "memcpy, page faults included";
    const KIND: Kind = Kind::Memory;
}

impl Codec<Pages> for Memcpy {
    type Saved = Vec<u8>;

    fn save(value: &Pages) -> Vec<u8> {
        value.bytes.clone()
    }

    fn restore(saved: &Self::Saved) -> Pages {
        let bytes = saved.as_slice();
        Pages { bytes: bytes.to_vec() }
    }
}
