//! The column "version-tolerant" is shown, not claimed: each such peer reads what an older and a newer version saved.
//! Ours has tests of its own.

use crate::peers::{Codec, Format, Json, Kind, MessagePack, Prost};

#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
struct Old {
    #[prost(uint32, tag = "1")]
    hits: u32,
}

#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
struct New {
    // Not at the end: formats without names or tags must not get away with it.
    #[serde(default)]
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint32, tag = "1")]
    hits: u32,
}

fn tolerates<F: Codec<Old, Saved = Vec<u8>> + Codec<New, Saved = Vec<u8>>>() {
    assert!(<F as Format>::KIND == Kind::Tolerant);
    let old = Old { hits: 7 };
    let forward: New = <F as Codec<New>>::restore(&<F as Codec<Old>>::save(&old));
    assert_eq!(forward, New { name: String::new(), hits: 7 }, "{}", <F as Format>::NAME);
    let new = New { name: "seven".to_owned(), hits: 7 };
    let backward: Old = <F as Codec<Old>>::restore(&<F as Codec<New>>::save(&new));
    assert_eq!(backward, old, "{}", <F as Format>::NAME);
}

pub(crate) fn check() {
    tolerates::<Prost>();
    tolerates::<Json>();
    tolerates::<MessagePack>();
}
