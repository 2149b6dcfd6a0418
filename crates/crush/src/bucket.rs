//! Buckets: the inner nodes of the hierarchy, and how each kind chooses one of its items.

use std::iter;

use crate::hash::{hash3, hash4};
use crate::ln::ln;

/// An inner node of the hierarchy: a host, a rack, a root.
///
/// Ceph: `crush_bucket` in `src/crush/crush.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its number; always negative.
    pub id: i32,
    /// Its level in the hierarchy, a key of [`CrushMap::types`](crate::CrushMap::types). Devices are level 0.
    pub level: u16,
    /// The hash function: 0 is rjenkins1, the only one there is.
    pub hash: u8,
    /// Weight of all items, 16.16 fixed point.
    pub weight: u32,
    /// Children: devices (from 0 up) and buckets (negative).
    pub items: Vec<i32>,
    /// How an item is chosen.
    pub alg: Algorithm,
}

/// How a bucket chooses one of its items, with the weights (16.16 fixed point) it needs for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Algorithm {
    /// A permutation of items of the same weight.
    Uniform,
    /// From the newest item to the oldest; good when buckets only grow.
    List {
        /// For each item its own weight and that of all items up to it.
        weights: Vec<(u32, u32)>,
    },
    /// A binary tree of weights: leaves at the odd indexes, the root at half the length.
    Tree {
        /// Weight below each node.
        nodes: Vec<u32>,
    },
    /// The longest straw, of a length precomputed from the weights.
    Straw {
        /// Length of each item's straw.
        straws: Vec<u32>,
    },
    /// The longest straw, of a length drawn from an exponential distribution.
    Straw2 {
        /// Weight of each item.
        weights: Vec<u32>,
    },
}

/// What replaces the weights and ids of one straw2 bucket.
///
/// Ceph: `crush_choose_arg` in `src/crush/crush.h`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChooseArg {
    /// Weights of the items, one set for each position in the result; the last serves all further positions.
    /// Empty: the bucket's own.
    pub weight_sets: Vec<Vec<u32>>,
    /// Numbers to hash in place of the items. Empty: the items.
    pub ids: Vec<i32>,
}

impl Bucket {
    pub(crate) fn len_u32(&self) -> u32 {
        u32::try_from(self.items.len()).expect("the wire counts items in 32 bits")
    }

    fn hash3(&self, a: u32, b: u32, c: u32) -> u32 {
        if self.hash == 0 { hash3(a, b, c) } else { 0 }
    }

    fn hash4(&self, a: u32, b: u32, c: u32, d: u32) -> u32 {
        if self.hash == 0 { hash4(a, b, c, d) } else { 0 }
    }

    /// Chooses by all algorithms but [`Algorithm::Uniform`], for which this is the first item.
    /// `None` only if the bucket is empty or a tree without proper shape.
    ///
    /// Ceph: `crush_bucket_choose` in `src/crush/mapper.c`.
    pub(crate) fn choose(&self, x: u32, r: u32, arg: Option<&ChooseArg>, position: usize) -> Option<i32> {
        match &self.alg {
            Algorithm::Uniform => self.items.first().copied(),
            Algorithm::List { weights } => self.choose_list(weights, x, r),
            Algorithm::Tree { nodes } => self.choose_tree(nodes, x, r),
            Algorithm::Straw { straws } => {
                let draws = self.items.iter().zip(straws).map(|(&item, &straw)| {
                    let draw = self.hash3(x, item.cast_unsigned(), r) & 0xffff;
                    (item, u64::from(draw) * u64::from(straw))
                });
                longest(draws)
            }
            Algorithm::Straw2 { weights } => {
                let sets = arg.map_or(&[][..], |arg| &arg.weight_sets);
                let weights = sets.get(position).or_else(|| sets.last()).unwrap_or(weights);
                let ids = arg.map(|arg| &arg.ids).filter(|ids| !ids.is_empty()).unwrap_or(&self.items);
                // A set may be too short in maps edited by old monitors: the rest weighs nothing.
                let weights = weights.iter().copied().chain(iter::repeat(0));
                let draws = self.items.iter().zip(ids).zip(weights).map(|((&item, &id), weight)| {
                    let draw = if weight == 0 { i64::MIN } else { self.exponential(x, id, r, weight) };
                    (item, draw)
                });
                longest(draws)
            }
        }
    }

    fn choose_list(&self, weights: &[(u32, u32)], x: u32, r: u32) -> Option<i32> {
        let newest_first = self.items.iter().zip(weights).rev();
        for (&item, &(weight, sum)) in newest_first {
            let draw = self.hash4(x, item.cast_unsigned(), r, self.id.cast_unsigned()) & 0xffff;
            if (u64::from(draw) * u64::from(sum)) >> 16 < u64::from(weight) {
                return Some(item);
            }
        }
        self.items.first().copied()
    }

    fn choose_tree(&self, nodes: &[u32], x: u32, r: u32) -> Option<i32> {
        let mut node = nodes.len() >> 1;
        if node == 0 {
            return None;
        }
        while node & 1 == 0 {
            let n = u32::try_from(node).ok()?;
            let hash = self.hash4(x, n, r, self.id.cast_unsigned());
            let point = (u64::from(hash) * u64::from(*nodes.get(node)?)) >> 32;
            let half = 1 << (node.trailing_zeros() - 1);
            let left = node - half;
            node = if point < u64::from(*nodes.get(left)?) { left } else { node + half };
        }
        self.items.get(node >> 1).copied()
    }

    /// A draw from an exponential distribution: the logarithm of a uniform one, divided by the weight.
    fn exponential(&self, x: u32, id: i32, r: u32, weight: u32) -> i64 {
        let uniform = self.hash3(x, id.cast_unsigned(), r).to_le_bytes();
        let ln = ln(u16::from_le_bytes([uniform[0], uniform[1]])).cast_signed() - (1 << 48);
        ln / i64::from(weight.cast_signed())
    }
}

/// The item with the highest draw; the first of equals.
fn longest<D: PartialOrd>(draws: impl Iterator<Item = (i32, D)>) -> Option<i32> {
    draws.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(item, _)| item)
}

/// A lazily computed pseudo-random permutation of a bucket's items.
///
/// It depends only on the bucket and the mapper's input, so one serves a whole mapping.
#[derive(Debug)]
pub(crate) struct Permutation {
    order: Vec<usize>,
    done: usize,
}

impl Permutation {
    pub(crate) fn new(bucket: &Bucket) -> Self {
        Self { order: (0..bucket.items.len()).collect(), done: 0 }
    }

    /// The item at place `r` modulo the bucket's size.
    ///
    /// Ceph: `bucket_perm_choose` in `src/crush/mapper.c`.
    pub(crate) fn choose(&mut self, bucket: &Bucket, x: u32, r: u32) -> Option<i32> {
        let size = bucket.len_u32();
        let wanted = r.checked_rem(size)?;
        for place in self.done..=usize::try_from(wanted).ok()? {
            let p = u32::try_from(place).ok()?;
            let step = bucket.hash3(x, bucket.id.cast_unsigned(), p) % (size - p);
            self.order.swap(place, place + usize::try_from(step).ok()?);
            self.done = place + 1;
        }
        let index = *self.order.get(usize::try_from(wanted).ok()?)?;
        bucket.items.get(index).copied()
    }
}
