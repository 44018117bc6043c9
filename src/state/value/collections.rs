//! Arrays, vectors, maps, sets, tuples.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::{Value, room};
use crate::num::u64_of;
use crate::report::Code;
use crate::state::error::{Error, Result};
use crate::state::restore::Restorer;
use crate::state::save::Saver;
use crate::state::shape::Type;

impl<T: Value, const N: usize> Value for [T; N] {
    const TYPE: Type = Type::Array(N, &T::TYPE);

    #[inline]
    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        T::save_all(self, out)
    }

    #[inline]
    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        T::restore_array(input)
    }
}

impl<T: Value> Value for Vec<T> {
    const TYPE: Type = Type::Seq(&T::TYPE);

    #[inline]
    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.number(u64_of(self.len()));
        T::save_all(self, out)
    }

    #[inline]
    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        let count = input.length()?;
        T::restore_all(count, input)
    }
}

impl<T: Value> Value for Box<[T]> {
    const TYPE: Type = Vec::<T>::TYPE;

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.number(u64_of(self.len()));
        T::save_all(self, out)
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        Vec::restore(input).map(Vec::into_boxed_slice)
    }
}

impl<T: Value> Value for VecDeque<T> {
    const TYPE: Type = Vec::<T>::TYPE;

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.number(u64_of(self.len()));
        let (front, back) = self.as_slices();
        T::save_all(front, out)?;
        T::save_all(back, out)
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        Vec::restore(input).map(VecDeque::from)
    }
}

#[cold]
fn twice(input: &Restorer<'_>) -> Error {
    input.fault(Code::StateKey).found("a key twice, in what ends here").into()
}

/// Reads pairs or values, and says of each whether its key ascends.
#[inline]
fn entries<T>(
    input: &mut Restorer<'_>,
    mut read: impl FnMut(&mut Restorer<'_>) -> Result<T>,
    ascends: impl Fn(&T, &T) -> bool,
) -> Result<(Vec<T>, bool)> {
    let count = input.length()?;
    let mut all: Vec<T> = Vec::with_capacity(room::<T>(count));
    let mut sorted = true;
    for index in 0..count {
        let one = read(input).map_err(|error| error.index(index))?;
        sorted = sorted && all.last().is_none_or(|last| ascends(last, &one));
        all.push(one);
    }
    Ok((all, sorted))
}

#[inline]
fn pair<K: Value, V: Value>(input: &mut Restorer<'_>) -> Result<(K, V)> {
    let key = K::restore(input).map_err(|error| error.field("key"))?;
    Ok((key, V::restore(input)?))
}

fn save_pairs<'a, K: Value + 'a, V: Value + 'a>(
    pairs: impl ExactSizeIterator<Item = (&'a K, &'a V)>,
    out: &mut Saver<'_>,
) -> Result<()> {
    out.number(u64_of(pairs.len()));
    let (since, count) = (out.written(), pairs.len());
    for (index, (key, value)) in pairs.enumerate() {
        out.foresee(since, index, count);
        key.save(out).map_err(|error| error.field("key").index(index))?;
        value.save(out).map_err(|error| error.index(index))?;
    }
    Ok(())
}

fn save_values<'a, T: Value + 'a>(values: impl ExactSizeIterator<Item = &'a T>, out: &mut Saver<'_>) -> Result<()> {
    out.number(u64_of(values.len()));
    let (since, count) = (out.written(), values.len());
    for (index, value) in values.enumerate() {
        out.foresee(since, index, count);
        value.save(out).map_err(|error| error.index(index))?;
    }
    Ok(())
}

impl<K: Value + Ord, V: Value> Value for BTreeMap<K, V> {
    const TYPE: Type = Type::Map(&K::TYPE, &V::TYPE);

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        save_pairs(self.iter(), out)
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        let (pairs, sorted) = entries(input, pair::<K, V>, |last, one| last.0 < one.0)?;
        let count = pairs.len();
        // Of sorted pairs it is built at once.
        let map: Self = pairs.into_iter().collect();
        if sorted || map.len() == count { Ok(map) } else { Err(twice(input)) }
    }
}

impl<T: Value + Ord> Value for BTreeSet<T> {
    const TYPE: Type = Type::Set(&T::TYPE);

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        save_values(self.iter(), out)
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        let (values, sorted) = entries(input, T::restore, |last, one| last < one)?;
        let count = values.len();
        let set: Self = values.into_iter().collect();
        if sorted || set.len() == count { Ok(set) } else { Err(twice(input)) }
    }
}

#[cfg(feature = "std")]
mod hashed {
    use core::hash::{BuildHasher, Hash};
    use std::collections::{HashMap, HashSet};

    use super::*;

    impl<K: Value + Eq + Hash, V: Value, S: BuildHasher + Default> Value for HashMap<K, V, S> {
        const TYPE: Type = Type::Map(&K::TYPE, &V::TYPE);

        fn save(&self, out: &mut Saver<'_>) -> Result<()> {
            save_pairs(self.iter(), out)
        }

        fn restore(input: &mut Restorer<'_>) -> Result<Self> {
            let count = input.length()?;
            let mut map = HashMap::with_capacity_and_hasher(room::<(K, V)>(count), S::default());
            for index in 0..count {
                let (key, value) = pair(input).map_err(|error| error.index(index))?;
                if map.insert(key, value).is_some() {
                    return Err(twice(input).index(index));
                }
            }
            Ok(map)
        }
    }

    impl<T: Value + Eq + Hash, S: BuildHasher + Default> Value for HashSet<T, S> {
        const TYPE: Type = Type::Set(&T::TYPE);

        fn save(&self, out: &mut Saver<'_>) -> Result<()> {
            save_values(self.iter(), out)
        }

        fn restore(input: &mut Restorer<'_>) -> Result<Self> {
            let count = input.length()?;
            let mut set = HashSet::with_capacity_and_hasher(room::<T>(count), S::default());
            for index in 0..count {
                if !set.insert(T::restore(input).map_err(|error| error.index(index))?) {
                    return Err(twice(input).index(index));
                }
            }
            Ok(set)
        }
    }
}

macro_rules! tuples {
    ($(($($ty:ident $index:tt),*))*) => {$(
        impl<$($ty: Value),*> Value for ($($ty,)*) {
            const TYPE: Type = Type::Tuple(&[$($ty::TYPE),*]);

            #[inline]
            fn save(&self, out: &mut Saver<'_>) -> Result<()> {
                $(out.field(stringify!($index), &self.$index)?;)*
                Ok(())
            }

            #[inline]
            fn restore(input: &mut Restorer<'_>) -> Result<Self> {
                Ok(($(input.field::<$ty>(stringify!($index))?,)*))
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}
