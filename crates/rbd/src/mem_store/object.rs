//! One object: its data, snapshots of it, attributes, and what ops do to it.

use std::collections::BTreeMap;

use bytes::Bytes;
use ceph_codec::{Decode, Encode, Reader, SnapId, Utime, encode_bytes, versioned};
use rados::{Errno, OpKind, SnapContext};

use super::{Caller, cls_lock, cls_object_map, cls_rbd};

/// Reads of whole blocks of zeroes are holes, as on a store that allocates in blocks.
const BLOCK: usize = 4096;

/// Objects larger than this are refused, as by an OSD (`osd_max_object_size`).
const MAX_SIZE: u64 = 128 << 20;

#[derive(Debug, Clone, Default)]
pub(super) struct Object {
    /// A removed object stays as long as it has snapshots.
    pub(super) exists: bool,
    pub(super) data: Vec<u8>,
    pub(super) omap: BTreeMap<String, Vec<u8>>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    pub(super) version: u64,
    /// The newest snapshot context that it was written under.
    snap_seq: SnapId,
    clones: Vec<Clone>,
}

/// The contents that some snapshots share.
#[derive(Debug, std::clone::Clone)]
struct Clone {
    snaps: Vec<SnapId>,
    data: Vec<u8>,
}

pub(super) type OpResult = Result<Bytes, Errno>;

impl Object {
    /// The contents at a snapshot; none if it did not exist then.
    pub(super) fn data_at(&self, snap: SnapId) -> Option<&[u8]> {
        if let Some(clone) = self.clones.iter().find(|clone| clone.snaps.contains(&snap)) {
            return Some(&clone.data);
        }
        (snap > self.snap_seq && self.exists).then_some(&self.data)
    }

    /// Keeps the contents for snapshots made since the last write.
    pub(super) fn preserve(&mut self, snapc: &SnapContext) {
        if snapc.seq <= self.snap_seq {
            return;
        }
        let snaps: Vec<_> = snapc.snaps.iter().copied().filter(|snap| *snap > self.snap_seq).collect();
        if self.exists && !snaps.is_empty() {
            self.clones.push(Clone { snaps, data: self.data.clone() });
        }
        self.snap_seq = snapc.seq;
    }

    /// Gives up what only this snapshot needs.
    pub(super) fn forget(&mut self, snap: SnapId) {
        for clone in &mut self.clones {
            clone.snaps.retain(|other| *other != snap);
        }
        self.clones.retain(|clone| !clone.snaps.is_empty());
    }

    /// Ceph: `obj_list_snap_response_t` in `src/osd/osd_types.h`.
    pub(super) fn snap_set_encoded(&self) -> Bytes {
        let mut versions: Vec<(SnapId, Vec<SnapId>, &[u8])> = Vec::new();
        for clone in &self.clones {
            let mut snaps = clone.snaps.clone();
            snaps.sort_unstable();
            versions.push((snaps.last().copied().unwrap_or_default(), snaps, &clone.data));
        }
        if self.exists {
            versions.push((SnapId::HEAD, Vec::new(), &self.data));
        }
        let mut out = Vec::new();
        versioned(&mut out, 2, 1, |out| {
            u32::try_from(versions.len()).unwrap_or(u32::MAX).encode(out);
            for (at, (id, snaps, data)) in versions.iter().enumerate() {
                let next = versions.get(at + 1).map_or(&[][..], |(.., data)| data);
                versioned(out, 1, 1, |out| {
                    id.encode(out);
                    ceph_codec::encode_seq(snaps.iter(), out);
                    ceph_codec::encode_seq(common_blocks(data, next).iter(), out);
                    (data.len() as u64).encode(out);
                });
            }
            self.snap_seq.encode(out);
        });
        out.into()
    }

    /// Whether nothing is left of it.
    pub(super) fn is_gone(&self) -> bool {
        !self.exists && self.clones.is_empty()
    }

    /// Applies one op to the live object. An op that fails changes nothing.
    pub(super) fn apply(&mut self, kind: &OpKind, caller: &Caller<'_>) -> OpResult {
        match kind {
            OpKind::Create { exclusive } => {
                if *exclusive && self.exists {
                    return Err(Errno::EEXIST);
                }
                self.exists = true;
            }
            OpKind::Write { offset, data } => {
                let end = *offset + data.len() as u64;
                self.grow(end)?;
                self.data[index(*offset)..index(end)].copy_from_slice(data);
            }
            OpKind::WriteFull { data } => {
                self.exists = true;
                self.data = data.to_vec();
            }
            OpKind::Zero { offset, len } if self.exists => {
                let size = self.data.len() as u64;
                let (start, end) = ((*offset).min(size), offset.saturating_add(*len).min(size));
                self.data[index(start)..index(end)].fill(0);
            }
            OpKind::Truncate { size } if self.exists => {
                if *size > MAX_SIZE {
                    return Err(Errno(27)); // EFBIG
                }
                self.data.resize(index(*size), 0);
            }
            // Neither creates the object.
            OpKind::Zero { .. } | OpKind::Truncate { .. } | OpKind::SetAllocHint { .. } => {}
            OpKind::Delete => {
                self.must_exist()?;
                (self.exists, self.data) = (false, Vec::new());
                self.omap.clear();
                self.xattrs.clear();
            }
            OpKind::Rollback { snap } => match self.data_at(*snap).map(<[u8]>::to_vec) {
                Some(data) => (self.exists, self.data) = (true, data),
                None => (self.exists, self.data) = (false, Vec::new()),
            },
            OpKind::SetXattr { name, value } => {
                self.exists = true;
                self.xattrs.insert(name.clone(), value.to_vec());
            }
            OpKind::GetXattr { name } => {
                self.must_exist()?;
                return self.xattrs.get(name).map(|v| Bytes::copy_from_slice(v)).ok_or(Errno::ENODATA);
            }
            OpKind::AssertVersion { version } => {
                self.must_exist()?;
                match self.version.cmp(version) {
                    std::cmp::Ordering::Less => return Err(Errno(75)), // EOVERFLOW
                    std::cmp::Ordering::Greater => return Err(Errno::ERANGE),
                    std::cmp::Ordering::Equal => {}
                }
            }
            OpKind::ListWatchers => {
                self.must_exist()?;
                return Ok(caller.watchers_encoded());
            }
            OpKind::OmapGetVals { after, prefix, max } => {
                self.must_exist()?;
                return Ok(self.omap_page(after, prefix, *max));
            }
            OpKind::OmapGetValsByKeys { keys } => {
                self.must_exist()?;
                let found: BTreeMap<_, _> =
                    keys.iter().filter_map(|key| Some((key, self.omap.get(key)?))).collect();
                return Ok(found.encode_to_vec().into());
            }
            OpKind::Call { class, method, input, .. } => return self.call(class, method, input, caller),
            OpKind::Read { .. } | OpKind::SparseRead { .. } | OpKind::Stat | OpKind::CompareExtent { .. } => {
                self.must_exist()?;
                return read(&self.data, kind);
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(Bytes::new())
    }

    fn call(&mut self, class: &str, method: &str, input: &Bytes, caller: &Caller<'_>) -> OpResult {
        let output = match class {
            "lock" => cls_lock::call(self, method, input, caller),
            "rbd" if method.starts_with("object_map_") => cls_object_map::call(self, method, input),
            "rbd" if method == "sparse_copyup" => self.sparse_copyup(input),
            "rbd" => cls_rbd::call(self, method, input, caller.now),
            _ => Err(Errno::EOPNOTSUPP),
        };
        output.map(Bytes::from)
    }

    /// Ceph: `sparse_copyup` in `src/cls/rbd/cls_rbd.cc`.
    fn sparse_copyup(&mut self, input: &Bytes) -> Result<Vec<u8>, Errno> {
        if self.exists {
            return Ok(Vec::new());
        }
        let r = &mut Reader::new(input);
        let extents = BTreeMap::<u64, u64>::decode(r).map_err(|_| Errno::EINVAL)?;
        let mut data = r.bytes("data").map_err(|_| Errno::EINVAL)?;
        self.exists = true;
        for (offset, len) in extents {
            let (piece, rest) = data.split_at_checked(index(len)).ok_or(Errno::EINVAL)?;
            let end = offset.checked_add(len).ok_or(Errno::EINVAL)?;
            self.grow(end)?;
            self.data[index(offset)..index(end)].copy_from_slice(piece);
            data = rest;
        }
        Ok(Vec::new())
    }

    pub(super) fn must_exist(&self) -> Result<(), Errno> {
        if self.exists { Ok(()) } else { Err(Errno::ENOENT) }
    }

    fn grow(&mut self, size: u64) -> Result<(), Errno> {
        if size > MAX_SIZE {
            return Err(Errno(27)); // EFBIG
        }
        self.exists = true;
        if self.data.len() < index(size) {
            self.data.resize(index(size), 0);
        }
        Ok(())
    }

    fn omap_page(&self, after: &str, prefix: &str, max: u64) -> Bytes {
        let mut matching = self
            .omap
            .range::<str, _>((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .filter(|(key, _)| key.starts_with(prefix));
        let page: BTreeMap<_, _> =
            matching.by_ref().take(usize::try_from(max).unwrap_or(usize::MAX)).collect();
        (page, matching.next().is_some()).encode_to_vec().into()
    }
}

/// Ops that read data, of the live object or of a snapshot.
pub(super) fn read(data: &[u8], kind: &OpKind) -> OpResult {
    let part = |offset: u64, len: u64| {
        let size = data.len() as u64;
        let end = if len == 0 { size } else { offset.saturating_add(len).min(size) };
        &data[index(offset.min(size))..index(end)]
    };
    Ok(match kind {
        OpKind::Read { offset, len: 0 } => Bytes::copy_from_slice(part(*offset, u64::MAX)),
        OpKind::Read { offset, len } => Bytes::copy_from_slice(part(*offset, *len)),
        OpKind::SparseRead { offset, len } => sparse(*offset, part(*offset, *len)),
        OpKind::Stat => (data.len() as u64, Utime::default()).encode_to_vec().into(),
        OpKind::CompareExtent { offset, data: expected } => {
            let mut found = part(*offset, expected.len() as u64).to_vec();
            found.resize(expected.len(), 0);
            match found.iter().zip(expected.iter()).position(|(a, b)| a != b) {
                None => Bytes::new(),
                Some(place) => return Err(Errno(4095 + i32::try_from(place).unwrap_or(0))),
            }
        }
        _ => return Err(Errno::EINVAL),
    })
}

fn sparse(offset: u64, data: &[u8]) -> Bytes {
    let mut extents: Vec<(u64, u64)> = Vec::new();
    let mut contents = Vec::new();
    for (block, at) in data.chunks(BLOCK).zip((offset..).step_by(BLOCK)) {
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        contents.extend_from_slice(block);
        match extents.last_mut() {
            Some((start, len)) if *start + *len == at => *len += block.len() as u64,
            _ => extents.push((at, block.len() as u64)),
        }
    }
    let mut out = Vec::new();
    ceph_codec::encode_seq(extents.iter(), &mut out);
    encode_bytes(&contents, &mut out);
    out.into()
}

/// Offset and length of the blocks that are the same in both.
fn common_blocks(a: &[u8], b: &[u8]) -> Vec<(u64, u64)> {
    let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK)).zip((0..).step_by(BLOCK));
    let common = blocks.filter(|((a, b), _)| a[..a.len().min(b.len())] == b[..a.len().min(b.len())]);
    common.map(|((a, b), at)| (at, a.len().min(b.len()) as u64)).collect()
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("objects are far smaller than the address space")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rados::OpOutcome;

    fn snapc(seq: u64, snaps: &[u64]) -> SnapContext {
        SnapContext { seq: SnapId(seq), snaps: snaps.iter().map(|s| SnapId(*s)).collect() }
    }

    #[test]
    fn a_write_after_a_snapshot_keeps_the_old_contents() {
        let mut object = Object { exists: true, data: b"old".to_vec(), ..Object::default() };
        object.preserve(&snapc(3, &[3, 2]));
        object.data = b"new".to_vec();
        assert_eq!(object.data_at(SnapId(2)), Some(&b"old"[..]));
        assert_eq!(object.data_at(SnapId(3)), Some(&b"old"[..]));
        assert_eq!(object.data_at(SnapId(4)), Some(&b"new"[..]), "not written since");
    }

    #[test]
    fn an_object_made_after_a_snapshot_is_not_in_it() {
        let mut object = Object::default();
        object.preserve(&snapc(3, &[3]));
        object.exists = true;
        assert_eq!(object.data_at(SnapId(3)), None);
    }

    #[test]
    fn zero_blocks_are_holes_of_a_sparse_read() {
        let mut data = vec![1; 4096];
        data.extend([0; 8192]);
        data.extend([2; 100]);
        let outcome = OpOutcome { rval: 0, data: sparse(0, &data) };
        let sparse = outcome.sparse().unwrap();
        assert_eq!(sparse.extents, [(0, 4096), (12288, 100)]);
        assert_eq!(sparse.data.len(), 4196);
    }
}
