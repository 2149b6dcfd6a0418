//! What an OSD answers, and decoders for the shapes that ops return.

use std::collections::BTreeMap;

use bytes::Bytes;
use ceph_codec::{Decode, DecodeError, EntityAddr, EntityName, Reader, Utime};

use super::{Errno, SnapSet};

/// What one op of an operation returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpOutcome {
    /// 0 or positive on success, a negative errno on failure of an op that was allowed to fail.
    pub rval: i32,
    /// The op's output.
    pub data: Bytes,
}

/// What an operation returned. An operation that failed as a whole is an error instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpReply {
    /// The overall result, 0 or positive.
    pub result: i32,
    /// The object's version after it, for users. Ceph: `user_version`.
    pub version: u64,
    /// One for each op, in order.
    pub outcomes: Vec<OpOutcome>,
}

impl OpReply {
    /// The data of op number `index`; empty if there is no such op.
    #[must_use]
    pub fn data(&self, index: usize) -> Bytes {
        self.outcomes.get(index).map(|o| o.data.clone()).unwrap_or_default()
    }

    /// The outcome of op number `index`.
    ///
    /// # Errors
    /// [`DecodeError`] if the OSD sent fewer.
    pub fn outcome(&self, index: usize) -> Result<&OpOutcome, DecodeError> {
        self.outcomes
            .get(index)
            .ok_or(DecodeError::Invalid { what: "number of ops in the reply", value: index as u64 })
    }
}

/// Size and modification time of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectStat {
    /// Bytes.
    pub size: u64,
    /// When it was last written.
    pub mtime: Utime,
}

/// One watcher of an object. Ceph: `watch_item_t` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectWatcher {
    /// The client instance.
    pub name: EntityName,
    /// The number that the client gave the watch.
    pub cookie: u64,
    /// Seconds without a ping after which the OSD drops it.
    pub timeout_secs: u32,
    /// The client's address.
    pub addr: EntityAddr,
}

/// What a sparse read returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseExtents {
    /// Offset in the object and length, ascending, both in bytes.
    pub extents: Vec<(u64, u64)>,
    /// The bytes of all extents, one after the other.
    pub data: Bytes,
}

/// Some pairs of an omap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OmapPage {
    /// Ascending.
    pub pairs: BTreeMap<String, Bytes>,
    /// Whether there are more after the last.
    pub more: bool,
}

impl OpOutcome {
    /// Its errno, if it is one that was allowed to fail and did.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        (self.rval < 0).then(|| Errno(self.rval.saturating_neg()))
    }

    /// Decodes the outcome of [`stat`](crate::Operation::stat).
    ///
    /// # Errors
    /// [`DecodeError`] if it is none.
    pub fn stat(&self) -> Result<ObjectStat, DecodeError> {
        let r = &mut Reader::new(&self.data);
        Ok(ObjectStat { size: u64::decode(r)?, mtime: Utime::decode(r)? })
    }

    /// Decodes the outcome of [`sparse_read`](crate::Operation::sparse_read).
    ///
    /// # Errors
    /// [`DecodeError`] if it is none, or if extents and data do not agree.
    pub fn sparse(&self) -> Result<SparseExtents, DecodeError> {
        let r = &mut Reader::new(&self.data);
        let extents: Vec<(u64, u64)> = r.seq("extents of a sparse read", <(u64, u64)>::decode)?;
        // Past the end of an object in an erasure-coded pool there is only the empty list of extents, see
        // `PrimaryLogPG::do_sparse_read`.
        let data =
            if extents.is_empty() && r.is_empty() { &[][..] } else { r.bytes("data of a sparse read")? };
        let mut end = 0u64;
        let mut total = 0u64;
        for &(offset, len) in &extents {
            let bad = DecodeError::Invalid { what: "extent of a sparse read", value: offset };
            if offset < end {
                return Err(bad);
            }
            end = offset.checked_add(len).ok_or(bad)?;
            total += len;
        }
        if total != data.len() as u64 {
            return Err(DecodeError::Invalid {
                what: "data length of a sparse read",
                value: data.len() as u64,
            });
        }
        Ok(SparseExtents { extents, data: self.data.slice_ref(data) })
    }

    /// Decodes the outcome of [`omap_get_keys`](crate::Operation::omap_get_keys): the keys, ascending, and
    /// whether there are more after the last.
    ///
    /// # Errors
    /// [`DecodeError`] if it is none, or if a key is not UTF-8.
    pub fn omap_keys(&self) -> Result<(Vec<String>, bool), DecodeError> {
        let r = &mut Reader::new(&self.data);
        Ok((r.seq("omap keys", String::decode)?, bool::decode(r)?))
    }

    /// Decodes the outcome of [`omap_get_vals`](crate::Operation::omap_get_vals).
    ///
    /// # Errors
    /// [`DecodeError`] if it is none, or if a key is not UTF-8.
    pub fn omap_page(&self) -> Result<OmapPage, DecodeError> {
        let r = &mut Reader::new(&self.data);
        Ok(OmapPage { pairs: self.pairs(r)?, more: bool::decode(r)? })
    }

    /// Decodes the outcome of [`omap_get_vals_by_keys`](crate::Operation::omap_get_vals_by_keys).
    ///
    /// # Errors
    /// [`DecodeError`] if it is none, or if a key is not UTF-8.
    pub fn omap(&self) -> Result<BTreeMap<String, Bytes>, DecodeError> {
        self.pairs(&mut Reader::new(&self.data))
    }

    /// Decodes the outcome of [`get_xattrs`](crate::Operation::get_xattrs).
    ///
    /// # Errors
    /// [`DecodeError`] if it is none, or if a name is not UTF-8.
    pub fn xattrs(&self) -> Result<BTreeMap<String, Bytes>, DecodeError> {
        self.pairs(&mut Reader::new(&self.data))
    }

    /// Reads a map whose values stay slices of the outcome.
    fn pairs(&self, r: &mut Reader<'_>) -> Result<BTreeMap<String, Bytes>, DecodeError> {
        r.map("pairs", |r| Ok(self.data.slice_ref(r.bytes("value")?)))
    }

    /// Decodes the outcome of [`list_snaps`](crate::Operation::list_snaps).
    ///
    /// # Errors
    /// [`DecodeError`] if it is none.
    pub fn snap_set(&self) -> Result<SnapSet, DecodeError> {
        SnapSet::decode_from(&self.data)
    }

    /// Decodes the outcome of [`list_watchers`](crate::Operation::list_watchers).
    ///
    /// # Errors
    /// [`DecodeError`] if it is none.
    pub fn watchers(&self) -> Result<Vec<ObjectWatcher>, DecodeError> {
        let r = &mut Reader::new(&self.data);
        r.versioned("obj_list_watch_response_t", 1, |r, _| {
            r.seq("watchers", |r| {
                r.versioned("watch_item_t", 2, |r, version| {
                    Ok(ObjectWatcher {
                        name: EntityName::decode(r)?,
                        cookie: u64::decode(r)?,
                        timeout_secs: u32::decode(r)?,
                        addr: if version >= 2 { EntityAddr::decode(r)? } else { EntityAddr::BLANK },
                    })
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ceph_codec::Encode;
    use proptest::prelude::*;

    fn sparse(data: &'static [u8]) -> Result<SparseExtents, DecodeError> {
        OpOutcome { rval: 0, data: Bytes::from_static(data) }.sparse()
    }

    /// Both seen from OSDs of Ceph 16.2.15: of a replicated, and of an erasure-coded pool.
    #[test]
    fn a_sparse_read_past_the_end_of_an_object_finds_nothing() {
        let nothing = SparseExtents { extents: vec![], data: Bytes::new() };
        assert_eq!(sparse(&[0; 8]), Ok(nothing.clone()));
        assert_eq!(sparse(&[0; 4]), Ok(nothing));
        let one_extent = &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert!(sparse(one_extent).is_err(), "its data are missing");
        assert!(sparse(&[]).is_err());
    }

    #[test]
    fn omap_pairs_come_as_they_were_written() {
        let pairs = BTreeMap::from([("a".to_owned(), vec![1u8]), ("b".to_owned(), vec![])]);
        let mut data = pairs.encode_to_vec();
        true.encode(&mut data);
        let page = OpOutcome { rval: 0, data: data.into() }.omap_page().unwrap();
        assert!(page.more);
        assert_eq!(page.pairs, pairs.into_iter().map(|(key, value)| (key, value.into())).collect());
    }

    proptest! {
        #[test]
        fn no_output_of_an_op_makes_a_decoder_panic(data: Vec<u8>) {
            let outcome = OpOutcome { rval: 0, data: data.into() };
            let _ = (outcome.stat(), outcome.sparse(), outcome.watchers(), outcome.snap_set());
            let _ = (outcome.omap_keys(), outcome.omap_page(), outcome.omap(), outcome.xattrs());
        }

        /// A count says nothing about the memory: only what is there is read.
        #[test]
        fn a_count_of_more_than_there_is_is_refused(count in 10u32.., rest in prop::collection::vec(any::<u8>(), 0..9)) {
            let mut data = count.encode_to_vec();
            data.extend(rest);
            let outcome = OpOutcome { rval: 0, data: data.into() };
            prop_assert!(outcome.omap().is_err() && outcome.omap_keys().is_err() && outcome.sparse().is_err());
        }
    }
}
