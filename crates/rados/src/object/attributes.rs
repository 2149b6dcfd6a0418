//! Extended attributes and the omap of an object. Erasure-coded pools have no omap.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Object;
use crate::error::OpError;
use crate::op::{OmapPage, Operation};

/// Extended attributes.
impl Object<'_> {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `ENODATA` if there is none of that name, `ENOENT` if there is no object.
    pub async fn xattr(&self, name: &str) -> Result<Bytes, OpError> {
        Ok(self.get(Operation::new().get_xattr(name)).await?.data)
    }

    /// All extended attributes.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn xattrs(&self) -> Result<BTreeMap<String, Bytes>, OpError> {
        Ok(self.get(Operation::new().get_xattrs()).await?.xattrs()?)
    }

    /// Sets an extended attribute. Creates the object.
    ///
    /// # Errors
    /// `ENAMETOOLONG` or `EFBIG` if name or value are too long for the store (`osd_max_attr_size`).
    pub async fn set_xattr(&self, name: &str, value: impl Into<Bytes>) -> Result<u64, OpError> {
        self.set(Operation::new().set_xattr(name, value)).await
    }

    /// Removes an extended attribute if there is one.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn remove_xattr(&self, name: &str) -> Result<u64, OpError> {
        self.set(Operation::new().remove_xattr(name)).await
    }
}

/// The omap.
impl Object<'_> {
    /// The values of those of `keys` that exist.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn omap_get<K: Into<String>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<BTreeMap<String, Bytes>, OpError> {
        let keys = keys.into_iter().map(Into::into).collect();
        Ok(self.get(Operation::new().omap_get_vals_by_keys(keys)).await?.omap()?)
    }

    /// Up to `max` pairs with keys after `after` that start with `prefix`. To go on, pass the last key.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn omap_page(&self, after: &str, prefix: &str, max: u64) -> Result<OmapPage, OpError> {
        Ok(self.get(Operation::new().omap_get_vals(after, prefix, max)).await?.omap_page()?)
    }

    /// Up to `max` keys after `after`, and whether there are more. To go on, pass the last key.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn omap_keys(&self, after: &str, max: u64) -> Result<(Vec<String>, bool), OpError> {
        Ok(self.get(Operation::new().omap_get_keys(after, max)).await?.omap_keys()?)
    }

    /// The bytes that lie beside the pairs; empty if never set.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn omap_header(&self) -> Result<Bytes, OpError> {
        Ok(self.get(Operation::new().omap_get_header()).await?.data)
    }

    /// Sets pairs; others stay. Creates the object.
    ///
    /// # Errors
    /// `EOPNOTSUPP` in an erasure-coded pool.
    pub async fn omap_set<K: Into<String>, V: Into<Bytes>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<u64, OpError> {
        self.set(Operation::new().omap_set_vals(pairs)).await
    }

    /// Sets the header. Creates the object.
    ///
    /// # Errors
    /// `EOPNOTSUPP` in an erasure-coded pool.
    pub async fn omap_set_header(&self, header: impl Into<Bytes>) -> Result<u64, OpError> {
        self.set(Operation::new().omap_set_header(header)).await
    }

    /// Removes those of `keys` that exist.
    ///
    /// # Errors
    /// `ENOENT` if there is no object, `EOPNOTSUPP` in an erasure-coded pool.
    pub async fn omap_remove<K: Into<String>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<u64, OpError> {
        self.set(Operation::new().omap_remove_keys(keys)).await
    }

    /// Removes the keys from `begin` on that are below `end`.
    ///
    /// # Errors
    /// `ENOENT` if there is no object, `EOPNOTSUPP` in an erasure-coded pool.
    pub async fn omap_remove_range(&self, begin: &str, end: &str) -> Result<u64, OpError> {
        self.set(Operation::new().omap_remove_range(begin, end)).await
    }

    /// Removes all pairs and the header.
    ///
    /// # Errors
    /// `ENOENT` if there is no object, `EOPNOTSUPP` in an erasure-coded pool.
    pub async fn omap_clear(&self) -> Result<u64, OpError> {
        self.set(Operation::new().omap_clear()).await
    }
}
