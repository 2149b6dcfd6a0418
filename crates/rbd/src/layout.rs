//! How the bytes of an image are spread over its objects.
//!
//! ```text
//! stripe count 4, stripe unit u, object size 2u:
//!
//!            object 0   object 1   object 2   object 3  |  object 4 ...
//! stripe 0   u 0        u 1        u 2        u 3       |  u 8
//! stripe 1   u 4        u 5        u 6        u 7       |  u 12
//!            `------------- object set 0 -----------'      `-- object set 1
//! ```
//! With a stripe count of 1 (the default) object n simply is the n-th piece of the image.
//!
//! Ceph: `src/osdc/Striper.cc`, `doc/dev/file-striping.rst`.

use std::ops::Range;

use thiserror::Error;

/// Object size and striping of an image. Fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    order: u8,
    stripe_unit: u64,
    stripe_count: u64,
}

/// An impossible layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// Objects would be smaller than 4 KiB or larger than 32 MiB.
    #[error("object order {0} is not between 12 and 25")]
    Order(u8),
    /// Stripe units do not fill an object, or there are none.
    #[error("stripe unit {stripe_unit} and count {stripe_count} do not fit objects of {object_size} bytes")]
    Striping {
        /// Bytes.
        stripe_unit: u64,
        /// Objects that a stripe goes over.
        stripe_count: u64,
        /// Bytes.
        object_size: u64,
    },
}

/// A range of bytes within one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Number of the object.
    pub object: u64,
    /// First byte, from the start of the object.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// All that a request touches in one object: always one contiguous range of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectExtent {
    /// The range in the object.
    pub extent: Extent,
    /// Where the parts of it are in the request's buffer, in the order of the object.
    pub pieces: Vec<Range<u64>>,
}

impl Layout {
    /// A layout of objects of `1 << order` bytes.
    ///
    /// # Errors
    /// [`LayoutError`] if Ceph would not create such an image.
    pub fn new(order: u8, stripe_unit: u64, stripe_count: u64) -> Result<Self, LayoutError> {
        if !(12..=25).contains(&order) {
            return Err(LayoutError::Order(order));
        }
        let object_size: u64 = 1 << order;
        let fits = stripe_unit > 0 && object_size.is_multiple_of(stripe_unit);
        // More objects per stripe than fit an image of the largest size make no sense, and would overflow.
        if !fits || stripe_count == 0 || stripe_count > 1 << 32 {
            return Err(LayoutError::Striping { stripe_unit, stripe_count, object_size });
        }
        // A stripe over one object is no stripe at all, whatever its unit.
        let stripe_unit = if stripe_count == 1 { object_size } else { stripe_unit };
        Ok(Self { order, stripe_unit, stripe_count })
    }

    /// A layout without striping.
    ///
    /// # Errors
    /// [`LayoutError::Order`] unless `order` is between 12 and 25.
    pub fn simple(order: u8) -> Result<Self, LayoutError> {
        Self::new(order, 1, 1)
    }

    /// Binary logarithm of the object size.
    #[must_use]
    pub fn order(&self) -> u8 {
        self.order
    }

    /// Bytes of an object.
    #[must_use]
    pub fn object_size(&self) -> u64 {
        1 << self.order
    }

    /// Bytes that are contiguous in image and object. The object size where the stripe count is 1.
    #[must_use]
    pub fn stripe_unit(&self) -> u64 {
        self.stripe_unit
    }

    /// Objects that a stripe goes over.
    #[must_use]
    pub fn stripe_count(&self) -> u64 {
        self.stripe_count
    }

    /// Number of objects that an image of `size` bytes has if all exist.
    ///
    /// Ceph: `Striper::get_num_objects`.
    #[must_use]
    pub fn object_count(&self, size: u64) -> u64 {
        let set_size = self.object_size().saturating_mul(self.stripe_count);
        let (sets, rest) = (size / set_size, size % set_size);
        let in_last_set = rest.div_ceil(self.stripe_unit).min(self.stripe_count);
        sets.saturating_mul(self.stripe_count).saturating_add(in_last_set)
    }

    /// Maps a byte range of the image to objects.
    ///
    /// The extents come in image order, cover the range exactly, and none crosses a stripe unit; an empty range
    /// has none. A range that would end past 2^64 ends there.
    pub fn extents(&self, offset: u64, len: u64) -> impl Iterator<Item = Extent> + use<> {
        let layout = *self;
        let end = offset.saturating_add(len);
        let mut next = offset;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let extent = layout.extent_at(next, end - next);
            next += extent.len;
            Some(extent)
        })
    }

    fn extent_at(&self, offset: u64, max_len: u64) -> Extent {
        if self.stripe_count == 1 {
            let in_object = offset & (self.object_size() - 1);
            let len = max_len.min(self.object_size() - in_object);
            return Extent { object: offset >> self.order, offset: in_object, len };
        }
        let (block, in_block) = (offset / self.stripe_unit, offset % self.stripe_unit);
        let (stripe, position) = (block / self.stripe_count, block % self.stripe_count);
        let stripes_per_object = self.object_size() / self.stripe_unit;
        let (set, stripe_in_object) = (stripe / stripes_per_object, stripe % stripes_per_object);
        Extent {
            object: set * self.stripe_count + position,
            offset: stripe_in_object * self.stripe_unit + in_block,
            len: max_len.min(self.stripe_unit - in_block),
        }
    }

    /// Maps a byte range of the image to objects, one element for each object, by number.
    ///
    /// Ceph: `Striper::file_to_extents`.
    #[must_use]
    pub fn object_extents(&self, offset: u64, len: u64) -> Vec<ObjectExtent> {
        let mut objects: Vec<ObjectExtent> = Vec::new();
        let mut at = 0;
        for extent in self.extents(offset, len) {
            let piece = at..at + extent.len;
            at += extent.len;
            match objects.binary_search_by_key(&extent.object, |o| o.extent.object) {
                Ok(found) => {
                    let known = &mut objects[found];
                    debug_assert_eq!(known.extent.offset + known.extent.len, extent.offset);
                    known.extent.len += extent.len;
                    known.pieces.push(piece);
                }
                Err(place) => objects.insert(place, ObjectExtent { extent, pieces: vec![piece] }),
            }
        }
        objects
    }

    /// How many bytes of an object are among the first `size` bytes of the image. They are always the first of the
    /// object.
    #[must_use]
    pub fn len_within(&self, object: u64, size: u64) -> u64 {
        let set_size = self.object_size().saturating_mul(self.stripe_count);
        let (set, position) = (object / self.stripe_count, object % self.stripe_count);
        let in_set = size.saturating_sub(set.saturating_mul(set_size)).min(set_size);
        let stripe_size = self.stripe_unit.saturating_mul(self.stripe_count);
        let (stripes, rest) = (in_set / stripe_size, in_set % stripe_size);
        let in_last_stripe = rest.saturating_sub(position * self.stripe_unit).min(self.stripe_unit);
        stripes * self.stripe_unit + in_last_stripe
    }

    /// Maps a byte range of an object to the image: pairs of offset and length, in the order of the object, which is
    /// that of the image.
    ///
    /// Ceph: `Striper::extent_to_file`.
    pub fn image_extents(&self, extent: Extent) -> impl Iterator<Item = (u64, u64)> + use<> {
        let layout = *self;
        let Extent { object, offset, len } = extent;
        let end = offset.saturating_add(len).min(self.object_size());
        let mut next = offset;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let len = (layout.stripe_unit - next % layout.stripe_unit).min(end - next);
            let found = (layout.image_offset(object, next), len);
            next += len;
            Some(found)
        })
    }

    /// Maps a place in an object to the image.
    #[must_use]
    pub fn image_offset(&self, object: u64, offset: u64) -> u64 {
        let (set, position) = (object / self.stripe_count, object % self.stripe_count);
        let stripes_per_object = self.object_size() / self.stripe_unit;
        let stripe = set * stripes_per_object + offset / self.stripe_unit;
        (stripe * self.stripe_count + position) * self.stripe_unit + offset % self.stripe_unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn simple() -> Layout {
        Layout::simple(22).unwrap()
    }

    fn any_layout() -> impl Strategy<Value = Layout> {
        (12u8..=25, 0u8..=10, 1u64..20).prop_map(|(order, unit, count)| {
            Layout::new(order, 1 << order.saturating_sub(unit), count).unwrap()
        })
    }

    #[test]
    fn a_request_is_split_at_object_boundaries() {
        let extents: Vec<_> = simple().extents(4 * MIB - 512, 1024).collect();
        assert_eq!(
            extents,
            [
                Extent { object: 0, offset: 4 * MIB - 512, len: 512 },
                Extent { object: 1, offset: 0, len: 512 }
            ]
        );
    }

    #[test]
    fn stripes_go_round_the_objects_of_a_set() {
        let layout = Layout::new(12, 2048, 3).unwrap();
        let objects: Vec<_> = layout.extents(0, 8 * 2048).map(|e| (e.object, e.offset)).collect();
        assert_eq!(objects, [(0, 0), (1, 0), (2, 0), (0, 2048), (1, 2048), (2, 2048), (3, 0), (4, 0)]);
    }

    #[test]
    fn a_stripe_over_one_object_is_none() {
        assert_eq!(Layout::new(20, 4096, 1), Layout::simple(20));
    }

    #[test]
    fn impossible_layouts_are_refused() {
        assert_eq!(Layout::simple(11), Err(LayoutError::Order(11)));
        assert_eq!(Layout::simple(26), Err(LayoutError::Order(26)));
        assert!(Layout::new(12, 0, 2).is_err());
        assert!(Layout::new(12, 8192, 2).is_err());
        assert!(Layout::new(12, 4096, 0).is_err());
        assert!(Layout::new(12, 4096, u64::MAX).is_err());
    }

    #[test]
    fn a_partial_last_stripe_counts_only_the_objects_it_touches() {
        let layout = Layout::new(20, 65536, 4).unwrap();
        assert_eq!(layout.object_count(64 * MIB), 64, "as rbd info says");
        assert_eq!(layout.object_count(4 * MIB + 65537), 6);
        assert_eq!(layout.object_count(0), 0);
    }

    proptest! {
        #[test]
        fn extents_tile_the_request(layout in any_layout(), start in 0u64..1 << 40, len in 0u64..1 << 22) {
            let mut next = start;
            for e in layout.extents(start, len).take(5000) {
                prop_assert_eq!(layout.image_offset(e.object, e.offset), next, "in order, without gap or overlap");
                prop_assert!(e.len > 0 && e.offset + e.len <= layout.object_size(), "inside one object");
                next += e.len;
            }
            prop_assert!(next == start + len || len / layout.stripe_unit() >= 4999);
        }

        #[test]
        fn every_object_has_one_range_and_its_pieces_fill_it(
            layout in any_layout(), start in 0u64..1 << 34, len in 0u64..1 << 20,
        ) {
            let mut total = 0;
            for o in layout.object_extents(start, len) {
                let mut offset = o.extent.offset;
                for piece in &o.pieces {
                    prop_assert_eq!(layout.image_offset(o.extent.object, offset), start + piece.start);
                    offset += piece.end - piece.start;
                }
                prop_assert_eq!(offset, o.extent.offset + o.extent.len);
                total += o.extent.len;
            }
            prop_assert_eq!(total, len);
        }

        #[test]
        fn an_object_range_maps_back_to_where_it_came_from(
            layout in any_layout(), start in 0u64..1 << 34, len in 0u64..1 << 20, size in 0u64..1 << 34,
        ) {
            for o in layout.object_extents(start, len) {
                let found: Vec<_> = layout.image_extents(o.extent).collect();
                prop_assert!(found.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0 || pair[0].1 == layout.stripe_unit()));
                let within = layout.len_within(o.extent.object, size);
                let mut offset = o.extent.offset;
                for (at, len) in found {
                    prop_assert_eq!(layout.extents(at, len).collect::<Vec<_>>(), [Extent { offset, len, ..o.extent }]);
                    let expected = size.saturating_sub(at).min(len);
                    prop_assert_eq!(within.saturating_sub(offset).min(len), expected);
                    offset += len;
                }
                prop_assert_eq!(offset, o.extent.offset + o.extent.len);
            }
        }

        #[test]
        fn the_object_count_is_the_largest_number_in_use_plus_one(layout in any_layout(), size in 1u64..1 << 26) {
            let set = layout.object_size() * layout.stripe_count();
            let from = size.saturating_sub(set).min(size - 1);
            let largest = layout.object_extents(from, size - from).last().map_or(0, |o| o.extent.object);
            prop_assert_eq!(layout.object_count(size), largest + 1);
        }
    }
}
