//! What an OSD tells about the objects of a placement group.

use ceph_codec::{Decode, DecodeError, HObject, Reader};

use crate::ListedObject;

/// The output of [`OpKind::ListObjects`](crate::OpKind). Ceph: `pg_nls_response_template` in
/// `src/osd/osd_types.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedObjects {
    /// Where to go on: in this placement group, or at the beginning of the next.
    pub(crate) next: HObject,
    pub(crate) objects: Vec<ListedObject>,
}

impl Decode for ListedObjects {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("pg_nls_response_t", 1, |r, _| {
            let next = HObject::decode(r)?;
            let objects = r.seq("listed objects", |r| {
                let (namespace, name) = (String::decode(r)?, String::decode(r)?);
                Ok(ListedObject { namespace, name, key: String::decode(r)? })
            })?;
            Ok(Self { next, objects })
        })
    }
}
