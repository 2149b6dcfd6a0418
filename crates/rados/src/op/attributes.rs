//! Ops on what an object has beside its data: extended attributes, and the omap, a sorted map from keys to
//! values. Erasure-coded pools have no omap: ops that write it fail with `EOPNOTSUPP`, it reads as empty.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Comparison, OpKind, Operation, XattrValue};

/// Extended attributes: a few, small.
impl Operation {
    /// The value of an extended attribute; `ENODATA` if there is none.
    #[must_use]
    pub fn get_xattr(self, name: impl Into<String>) -> Self {
        self.push(OpKind::GetXattr { name: name.into() })
    }

    /// All extended attributes; decode the outcome with [`OpOutcome::xattrs`](super::OpOutcome::xattrs).
    #[must_use]
    pub fn get_xattrs(self) -> Self {
        self.push(OpKind::GetXattrs)
    }

    /// Sets an extended attribute.
    #[must_use]
    pub fn set_xattr(self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.push(OpKind::SetXattr { name: name.into(), value: value.into() })
    }

    /// Removes an extended attribute if there is one; `ENOENT` where there is no object.
    #[must_use]
    pub fn remove_xattr(self, name: impl Into<String>) -> Self {
        self.push(OpKind::RemoveXattr { name: name.into() })
    }

    /// Fails the operation with `ECANCELED` unless the stored attribute compares so with `value`:
    /// `Comparison::Greater` holds where the stored one is greater. `EINVAL` if a number is expected and the
    /// attribute holds none.
    #[must_use]
    pub fn compare_xattr(
        self,
        name: impl Into<String>,
        comparison: Comparison,
        value: impl Into<XattrValue>,
    ) -> Self {
        self.push(OpKind::CompareXattr { name: name.into(), comparison, value: value.into() })
    }
}

/// The omap.
impl Operation {
    /// Up to `max` omap keys after `after`; decode with [`OpOutcome::omap_keys`](super::OpOutcome::omap_keys).
    #[must_use]
    pub fn omap_get_keys(self, after: impl Into<String>, max: u64) -> Self {
        self.push(OpKind::OmapGetKeys { after: after.into(), max })
    }

    /// Up to `max` omap pairs with keys after `after` that start with `prefix`; decode with
    /// [`OpOutcome::omap_page`](super::OpOutcome::omap_page). OSDs return at most 1024 pairs or 1 GiB at a time.
    #[must_use]
    pub fn omap_get_vals(self, after: impl Into<String>, prefix: impl Into<String>, max: u64) -> Self {
        self.push(OpKind::OmapGetVals { after: after.into(), prefix: prefix.into(), max })
    }

    /// The omap pairs of those of `keys` that exist; decode with [`OpOutcome::omap`](super::OpOutcome::omap).
    #[must_use]
    pub fn omap_get_vals_by_keys(self, keys: Vec<String>) -> Self {
        self.push(OpKind::OmapGetValsByKeys { keys })
    }

    /// The omap header: bytes that lie beside the pairs; empty if never set.
    #[must_use]
    pub fn omap_get_header(self) -> Self {
        self.push(OpKind::OmapGetHeader)
    }

    /// Fails the operation with `ECANCELED` unless the value stored under `key` compares so with `value`; a
    /// missing one counts as empty. OSDs know `Equal`, `Greater` and `Less` here, and answer `EINVAL` to others.
    #[must_use]
    pub fn omap_compare(
        self,
        key: impl Into<String>,
        comparison: Comparison,
        value: impl Into<Bytes>,
    ) -> Self {
        self.push(OpKind::OmapCompare { key: key.into(), comparison, value: value.into() })
    }

    /// Sets omap pairs; others stay. Creates the object.
    #[must_use]
    pub fn omap_set_vals<K: Into<String>, V: Into<Bytes>>(
        self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self.push(OpKind::OmapSetVals { pairs })
    }

    /// Sets the omap header. Creates the object.
    #[must_use]
    pub fn omap_set_header(self, header: impl Into<Bytes>) -> Self {
        self.push(OpKind::OmapSetHeader { header: header.into() })
    }

    /// Removes those of the omap keys that exist; `ENOENT` where there is no object.
    #[must_use]
    pub fn omap_remove_keys<K: Into<String>>(self, keys: impl IntoIterator<Item = K>) -> Self {
        // The wire has a set.
        let keys: BTreeSet<String> = keys.into_iter().map(Into::into).collect();
        self.push(OpKind::OmapRemoveKeys { keys: keys.into_iter().collect() })
    }

    /// Removes the omap keys from `begin` on that are below `end`; `ENOENT` where there is no object.
    #[must_use]
    pub fn omap_remove_range(self, begin: impl Into<String>, end: impl Into<String>) -> Self {
        self.push(OpKind::OmapRemoveRange { begin: begin.into(), end: end.into() })
    }

    /// Removes all omap pairs and the header; `ENOENT` where there is no object.
    #[must_use]
    pub fn omap_clear(self) -> Self {
        self.push(OpKind::OmapClear)
    }
}
