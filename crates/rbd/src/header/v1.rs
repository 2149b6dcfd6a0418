//! The header of an image of format 1, which old clusters still have: one object that holds all of it.
//!
//! ```text
//! "<<< Rados Block Device Image >>>\n", 40 bytes | block name, 24 bytes | "RBD\0" | version, 8 bytes
//! order u8 | crypt type u8 | comp type u8 | unused u8 | size le64
//! newest snapshot le64 | snapshots le32 | reserved le32 | length of all names le64
//! for each snapshot, newest first: id le64 | size le64
//! for each snapshot: name, ends with NUL
//! ```
//! There are no features: no exclusive lock, no object map, no clones.
//!
//! Ceph: `rbd_obj_header_ondisk` in `src/include/rbd_types.h`, `old_snapshots_list` in `src/cls/rbd/cls_rbd.cc`.

use std::collections::BTreeMap;

use ceph_codec::{Decode, DecodeError, Reader, SnapId, Utime};
use rados::{OpError, Operation, SnapContext};

use super::{Header, Snapshot};
use crate::cls::SnapshotNamespace;
use crate::{Features, Flags, ObjectStore, OpFeatures};

/// No header is longer: thousands of snapshots with long names.
const MAX_LEN: u64 = 4 << 20;
/// Bytes of a snapshot, without its name.
const SNAPSHOT_LEN: usize = 16;
/// How many of its characters count, at most.
const MAX_PREFIX_LEN: usize = 24;

impl Header {
    pub(super) async fn load_v1<S: ObjectStore>(store: &S, object: &str) -> Result<Self, OpError> {
        let reply = store.read(object, Operation::new().read(0, MAX_LEN), SnapId::HEAD).await?;
        Ok(decode(&reply.data(0))?)
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Header, DecodeError> {
    let mut reader = Reader::new(bytes);
    let r = &mut reader;
    r.take("image header text", 40)?;
    let prefix = text("block name", until_nul(r.take("block name", MAX_PREFIX_LEN)?))?;
    let signature: [u8; 4] = r.array("image header signature")?;
    if signature != *b"RBD\0" {
        return Err(DecodeError::Invalid {
            what: "image header signature",
            value: u32::from_be_bytes(signature).into(),
        });
    }
    r.take("image header version", 8)?;
    let [order, _crypt, _compression, _unused]: [u8; 4] = r.array("image header options")?;
    let size = u64::decode(r)?;
    let seq = SnapId::decode(r)?;
    let count = r.count("snapshots", SNAPSHOT_LEN)?;
    u32::decode(r)?; // reserved
    u64::decode(r)?; // length of all names; they end by themselves
    let mut sizes = Vec::with_capacity(count);
    for _ in 0..count {
        sizes.push((SnapId::decode(r)?, u64::decode(r)?));
    }
    // Whatever follows the last NUL is no name.
    let mut names = r.rest().split_inclusive(|byte| *byte == 0).map_while(|name| name.strip_suffix(b"\0"));
    let mut snapshots = Vec::with_capacity(count);
    for (id, size) in sizes {
        let missing = DecodeError::Truncated { what: "snapshot name", need: 1, have: 0 };
        snapshots.push(Snapshot {
            id,
            name: text("snapshot name", names.next().ok_or(missing)?)?,
            namespace: SnapshotNamespace::User,
            size,
            timestamp: Utime::default(),
            protected: false,
            unprotecting: false,
            child_count: 0,
            flags: Flags::default(),
            parent_overlap: None,
        });
    }
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.id));
    Ok(Header {
        format: 1,
        order,
        object_prefix: prefix,
        data_pool: None,
        striping: None,
        create_timestamp: Utime::default(),
        access_timestamp: Utime::default(),
        modify_timestamp: Utime::default(),
        size,
        features: Features::default(),
        incompatible: Features::default(),
        op_features: OpFeatures::default(),
        flags: Flags::default(),
        snapc: SnapContext { seq, snaps: snapshots.iter().map(|snapshot| snapshot.id).collect() },
        snapshots,
        snapshot_limit: None,
        parent: None,
        parent_overlap: None,
        group: None,
        config: BTreeMap::new(),
    })
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn text(what: &'static str, bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::NotUtf8 { what })
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;
    use crate::{DirectoryEntry, Image, ImageRef, MemStore, OpenError, OpenOptions, SnapshotRef};

    /// `rados get old.rbd` of an image made by `rbd create --image-format 1` of Ceph 16.2.15, with two snapshots.
    const PACIFIC: [u8; 152] = hex!(
        "3c3c3c205261646f7320426c6f636b2044657669636520496d616765203e3e3e0a00000000000000"
        "72622e302e313039352e3662386234353637000000000000 52424400 3030312e30303500 16000000"
        "0000000300000000 0500000000000000 02000000 00000000 0800000000000000"
        "0500000000000000 0000000300000000 0400000000000000 0000000200000000 74776f006f6e6500"
    );

    #[test]
    fn the_header_of_ceph_pacific_is_read() {
        let header = decode(&PACIFIC).unwrap();
        assert_eq!((header.format, header.order, header.size), (1, 22, 48 << 20));
        assert_eq!(header.object_prefix, "rb.0.1095.6b8b4567");
        assert_eq!((header.snapc.seq, header.snapc.is_valid()), (SnapId(5), true));
        let snapshots: Vec<_> =
            header.snapshots.iter().map(|s| (s.id.0, s.name.as_str(), s.size >> 20)).collect();
        assert_eq!(snapshots, [(5, "two", 48), (4, "one", 32)]);
    }

    #[test]
    fn what_is_cut_off_or_no_header_is_an_error() {
        for len in 0..PACIFIC.len() {
            assert!(decode(&PACIFIC[..len]).is_err(), "{len} bytes");
        }
        let mut other = PACIFIC;
        other[64] = b'X';
        assert!(decode(&other).is_err());
        let mut many = PACIFIC;
        many[96..100].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode(&many).is_err());
    }

    #[tokio::test]
    async fn an_image_of_format_1_is_found_by_its_name_and_only_read() {
        let store = MemStore::new();
        let none = SnapContext::default();
        let put = |object: &'static str, bytes: &'static [u8]| {
            store.write(object, Operation::new().write_full(bytes), &none)
        };
        put("old.rbd", &PACIFIC).await.unwrap();
        put("rb.0.1095.6b8b4567.000000000001", b"data").await.unwrap();

        let error = Image::open(store.clone(), OpenOptions::image("old")).await.unwrap_err();
        assert_eq!(error, OpenError::FormatV1 { image: "old".into() });
        let image = Image::open(store.clone(), OpenOptions::image("old").read_only()).await.unwrap();
        assert_eq!((image.size(), image.info().format), (48 << 20, 1));
        assert_eq!(image.read(4 << 20, 5).await.unwrap().to_vec(), b"data\0");
        let one = OpenOptions::image("old").snapshot(SnapshotRef::Name("one".into()));
        assert_eq!(Image::open(store.clone(), one).await.unwrap().size(), 32 << 20);
        let details = Image::inspect(&store, &OpenOptions::image("old")).await.unwrap();
        assert_eq!((details.info.image_ref(), details.watchers.len()), (ImageRef::Name("old".into()), 2));

        put("rbd_directory", &hex!("00000000 01000000 03000000 6f6c64 00000000")).await.unwrap();
        let listed = crate::list_all_images(&store).await.unwrap();
        assert_eq!(listed, [DirectoryEntry { name: "old".into(), id: String::new() }]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(at in 0usize..152, bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut wire = PACIFIC.to_vec();
            wire.truncate(at);
            wire.extend(bytes);
            let _ = decode(&wire);
        }
    }
}
