//! Listing the objects of a pool.
//!
//! Objects sort by their hash, its bits reversed, and each placement group holds one contiguous range of that
//! order. So one cursor, a place in that order, goes through the groups one after the other, and stays good
//! when groups split or merge meanwhile: what exists all the time is listed exactly once.
//!
//! Ceph: `Objecter::enumerate_objects` in `src/osdc/Objecter.cc`, `CEPH_OSD_OP_PGNLS` in
//! `src/osd/PrimaryLogPG.cc`.

use std::sync::Arc;

use ceph_codec::{Decode, DecodeError, Encode, HObject, ObjectLocator, SnapId};
use futures::stream::{self, Stream, TryStreamExt};

use super::IoCtx;
use crate::error::OpError;
use crate::messages::listing::ListedObjects;
use crate::objecter::Request;
use crate::op::{OpKind, Operation, SnapContext};

/// A namespace for [`IoCtx::with_namespace`] that stands for all of them when listing, and only then.
///
/// Ceph: `LIBRADOS_ALL_NSPACES`.
pub const ALL_NAMESPACES: &str = "\u{1}";

/// Objects that [`IoCtx::objects`] asks for at a time; OSDs return at most 1024 (`osd_max_pgls`).
const PAGE: usize = 512;

/// An object found by listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListedObject {
    /// Its namespace; empty for the default one.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it is placed by instead of by its name, if not empty.
    pub key: String,
}

/// A place between the objects of a pool. It stays good for as long as the pool exists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectCursor(HObject);

impl ObjectCursor {
    /// Before the first object.
    #[must_use]
    pub fn begin() -> Self {
        Self(HObject::MIN)
    }

    /// After the last object.
    #[must_use]
    pub fn end() -> Self {
        Self(HObject::MAX)
    }

    /// Whether it is after the last object.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.0.max
    }

    /// As bytes, to go on later, or elsewhere.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// From [`to_bytes`](Self::to_bytes).
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        HObject::decode_from(bytes).map(Self::from)
    }
}

impl From<HObject> for ObjectCursor {
    fn from(place: HObject) -> Self {
        // An OSD takes no other form of it.
        if place.max { Self::end() } else { Self(place) }
    }
}

/// Some objects of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPage {
    /// In the order of their hashes.
    pub objects: Vec<ListedObject>,
    /// Where to go on; [`ObjectCursor::is_end`] if there are no more.
    pub next: ObjectCursor,
}

impl IoCtx {
    /// Lists up to `max` objects of the namespace, from a place on. Fewer only where the pool ends.
    ///
    /// # Errors
    /// `EINVAL` if the place is one in another pool; `NotUtf8` as the source of [`OpError::Malformed`] if an object
    /// has a name that this crate cannot address.
    pub async fn list_objects(&self, from: &ObjectCursor, max: usize) -> Result<ObjectPage, OpError> {
        let mut page = ObjectPage { objects: Vec::new(), next: from.clone() };
        while page.objects.len() < max && !page.next.is_end() {
            let wanted = max - page.objects.len();
            let ListedObjects { next, mut objects } = self.list_some(&page.next, wanted).await?;
            let next = ObjectCursor::from(next);
            // One that stands still, or gives more than asked for, would never end or fill the memory.
            if next <= page.next || objects.len() > wanted {
                let value = objects.len() as u64;
                return Err(OpError::Malformed(DecodeError::Invalid { what: "page of a listing", value }));
            }
            page.next = next;
            page.objects.append(&mut objects);
        }
        Ok(page)
    }

    /// All objects of the namespace, a page at a time.
    ///
    /// ```no_run
    /// # async fn example(pool: rados::IoCtx) -> Result<(), rados::OpError> {
    /// use futures::TryStreamExt;
    ///
    /// let mut objects = std::pin::pin!(pool.with_namespace(rados::ALL_NAMESPACES).objects());
    /// while let Some(object) = objects.try_next().await? {
    ///     println!("{}/{}", object.namespace, object.name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn objects(&self) -> impl Stream<Item = Result<ListedObject, OpError>> + Send + use<> {
        let begin = (self.clone(), ObjectCursor::begin());
        stream::try_unfold(begin, |(ioctx, from)| async move {
            if from.is_end() {
                return Ok::<_, OpError>(None);
            }
            let ObjectPage { objects, next } = ioctx.list_objects(&from, PAGE).await?;
            Ok(Some((stream::iter(objects.into_iter().map(Ok)), (ioctx, next))))
        })
        .try_flatten()
    }

    /// The same pool, with the namespace and the key of an object found by listing.
    #[must_use]
    pub fn place_of(&self, object: &ListedObject) -> Self {
        self.with_namespace(&object.namespace).with_key(&object.key)
    }

    /// Lists objects of the placement group that `from` is in.
    async fn list_some(&self, from: &ObjectCursor, max: usize) -> Result<ListedObjects, OpError> {
        let kind = OpKind::ListObjects { max: max as u64, epoch: self.client.epoch(), from: from.0.clone() };
        let locator =
            ObjectLocator { key: String::new(), hash: Some(from.0.hash.into()), ..(*self.locator).clone() };
        let request = Request {
            object: "".into(),
            locator: Arc::new(locator),
            operation: Operation::new().push(kind),
            snap: SnapId::HEAD,
            snapc: SnapContext::default(),
        };
        let reply = self.submit(request).await?;
        Ok(ListedObjects::decode_from(&reply.outcome(0)?.data)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ceph_codec::PoolId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_comes_back_from_its_bytes(hash: u32, name in "\\PC*", namespace in "\\PC*") {
            let place = HObject {
                name: name.into(),
                namespace: namespace.into(),
                snap: SnapId::HEAD,
                hash,
                pool: PoolId(3),
                ..HObject::MIN
            };
            let cursor = ObjectCursor::from(place);
            prop_assert!(ObjectCursor::begin() < cursor && cursor < ObjectCursor::end());
            prop_assert_eq!(ObjectCursor::from_bytes(&cursor.to_bytes()), Ok(cursor));
        }

        #[test]
        fn no_bytes_make_a_cursor_panic(bytes: Vec<u8>) {
            let _ = ObjectCursor::from_bytes(&bytes);
        }
    }

    #[test]
    fn there_is_one_end() {
        let odd_end = HObject { max: true, hash: 7, name: "x".into(), ..HObject::MIN };
        assert_eq!(ObjectCursor::from_bytes(&odd_end.encode_to_vec()), Ok(ObjectCursor::end()));
        assert!(ObjectCursor::end().is_end() && !ObjectCursor::begin().is_end());
    }
}
