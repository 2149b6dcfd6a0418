//! Messages to and from monitors.

use std::collections::BTreeMap;

use bytes::Bytes;
use ceph_codec::{
    Decode, DecodeError, Encode, EntityAddr, EntityAddrVec, Epoch, GlobalId, Reader, Utime, Uuid,
    encode_bytes,
};

/// The three fields that Paxos messages begin with. Ceph: `PaxosServiceMessage::paxos_encode`.
pub(super) fn encode_paxos(version: u64, out: &mut Vec<u8>) {
    version.encode(out);
    (-1i16).encode(out); // session's monitor, retired
    0u64.encode(out); // session's tid, retired
}

pub(super) fn skip_paxos(r: &mut Reader<'_>) -> Result<(), DecodeError> {
    r.take("paxos fields", 8 + 2 + 8).map(drop)
}

/// The monitors of a cluster. Ceph: `MonMap` in `src/mon/MonMap.cc`, versions 6 to 10.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MonMap {
    pub(crate) fsid: Uuid,
    pub(crate) epoch: Epoch,
    pub(crate) mons: BTreeMap<String, MonInfo>,
    /// Grows when the keys of services are replaced out of turn, which makes all their tickets void. 0 before
    /// version 10.
    pub(crate) auth_epoch: Epoch,
}

impl MonMap {
    /// Whether one of the monitors is there.
    pub(crate) fn contains(&self, addr: EntityAddr) -> bool {
        self.mons.values().filter_map(|mon| mon.addrs.msgr2()).any(|known| known.addr == addr.addr)
    }
}

/// One monitor. Ceph: `mon_info_t`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MonInfo {
    pub(crate) addrs: EntityAddrVec,
    /// Smaller is preferred.
    pub(crate) priority: u16,
    /// Chance to be chosen among those of one priority; all 0 means equal chances.
    pub(crate) weight: u16,
}

impl Decode for MonMap {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("MonMap", 10, |r, version| {
            if version < 6 {
                return Err(DecodeError::TooOld { what: "MonMap", version, oldest: 6 });
            }
            let fsid = Uuid::decode(r)?;
            let epoch = Epoch::decode(r)?;
            Utime::decode(r)?; // last_changed
            Utime::decode(r)?; // created
            for _ in 0..2 {
                // persistent and optional features
                r.versioned("mon_feature_t", 1, |r, _| u64::decode(r))?;
            }
            let mons = r.map("monitors", |r| {
                r.versioned("mon_info_t", 6, |r, version| {
                    String::decode(r)?; // name, also the key
                    Ok(MonInfo {
                        addrs: EntityAddrVec::decode(r)?,
                        priority: if version >= 2 { u16::decode(r)? } else { 0 },
                        weight: if version >= 4 { u16::decode(r)? } else { 0 },
                    })
                })
            })?;
            let auth_epoch = if version >= 10 {
                skip_to_auth_epoch(r)?;
                Epoch::decode(r)?
            } else {
                Epoch(0)
            };
            Ok(Self { fsid, epoch, mons, auth_epoch })
        })
    }
}

/// Skips what concerns monitors only: ranks, release, elections, stretch mode.
fn skip_to_auth_epoch(r: &mut Reader<'_>) -> Result<(), DecodeError> {
    r.seq("ranks", |r| r.bytes("rank").map(drop))?;
    u8::decode(r)?; // min_mon_release
    r.seq("removed ranks", |r| u32::decode(r))?;
    u8::decode(r)?; // election strategy
    r.seq("disallowed leaders", |r| r.bytes("disallowed leader").map(drop))?;
    bool::decode(r)?; // stretch mode
    r.bytes("tiebreaker")?;
    r.seq("monitors marked down", |r| r.bytes("monitor").map(drop)).map(drop)
}

/// Ceph: `MMonMap`.
pub(crate) fn decode_mon_map(front: &[u8]) -> Result<MonMap, DecodeError> {
    MonMap::decode_from(Reader::new(front).bytes("monmap")?)
}

/// What to be told about, and from which version on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// First version wanted; 0 asks for the whole thing.
    pub(crate) start: u64,
    /// One answer only.
    pub(crate) once: bool,
}

/// Ceph: `MMonSubscribe`, version 3.
pub(crate) fn encode_subscribe(what: &BTreeMap<&'static str, Subscription>, hostname: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    u32::try_from(what.len()).expect("a handful of topics").encode(&mut out);
    for (topic, sub) in what {
        topic.encode(&mut out);
        sub.start.encode(&mut out);
        u8::from(sub.once).encode(&mut out);
    }
    hostname.encode(&mut out);
    out
}

/// Ceph: `MMonGetVersion`, version 1.
pub(crate) fn encode_get_version(handle: u64, what: &str) -> Vec<u8> {
    let mut out = handle.encode_to_vec();
    what.encode(&mut out);
    out
}

/// Ceph: `MMonGetVersionReply`, version 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VersionReply {
    pub(crate) handle: u64,
    pub(crate) newest: u64,
}

impl Decode for VersionReply {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { handle: u64::decode(r)?, newest: u64::decode(r)? })
    }
}

/// Ceph: `MMonCommand`, version 0.
pub(crate) fn encode_command(fsid: Uuid, json: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + json.len());
    encode_paxos(0, &mut out);
    fsid.encode(&mut out);
    1u32.encode(&mut out);
    json.encode(&mut out);
    out
}

/// Ceph: `MMonCommandAck`. Binary output travels as the message's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandAck {
    /// 0, or a negative errno.
    pub(crate) result: i32,
    /// What the monitor says about it, for people.
    pub(crate) status: String,
}

impl Decode for CommandAck {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        skip_paxos(r)?;
        Ok(Self { result: i32::decode(r)?, status: String::from_utf8_lossy(r.bytes("status")?).into_owned() })
    }
}

/// Options by name, as the monitors' configuration has them for this client. Ceph: `MConfig`, version 1.
///
/// What is no text is nobody's option and passed over: it must not cost the session.
pub(crate) fn decode_config(front: &[u8]) -> Result<BTreeMap<String, String>, DecodeError> {
    let r = &mut Reader::new(front);
    let count = r.count("options", 8)?;
    let mut options = BTreeMap::new();
    for _ in 0..count {
        let (name, value) = (r.bytes("name of an option")?, r.bytes("value of an option")?);
        if let (Ok(name), Ok(value)) = (str::from_utf8(name), str::from_utf8(value)) {
            options.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(options)
}

/// Ceph: `MAuth`, version 1.
pub(crate) fn encode_auth(protocol: u32, payload: &[u8], monmap_epoch: Epoch) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + payload.len());
    encode_paxos(0, &mut out);
    protocol.encode(&mut out);
    encode_bytes(payload, &mut out);
    monmap_epoch.encode(&mut out);
    out
}

/// Ceph: `MAuthReply`, version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthReply {
    pub(crate) result: i32,
    pub(crate) global_id: GlobalId,
    pub(crate) payload: Vec<u8>,
}

impl Decode for AuthReply {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u32::decode(r)?; // protocol
        Ok(Self { result: i32::decode(r)?, global_id: GlobalId::decode(r)?, payload: Vec::decode(r)? })
    }
}

/// Ceph: `MOSDMap`, version 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OsdMaps {
    pub(crate) fsid: Uuid,
    pub(crate) incrementals: BTreeMap<Epoch, Bytes>,
    pub(crate) full: BTreeMap<Epoch, Bytes>,
    /// The oldest epoch that the sender still has.
    pub(crate) oldest: Epoch,
    /// The newest epoch that the sender has.
    pub(crate) newest: Epoch,
}

impl OsdMaps {
    pub(crate) fn decode(front: &Bytes) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(front);
        Ok(Self {
            fsid: Uuid::decode(r)?,
            incrementals: decode_blobs(front, r)?,
            full: decode_blobs(front, r)?,
            oldest: Epoch::decode(r)?,
            newest: Epoch::decode(r)?,
        })
    }
}

/// Reads a map of blobs that stay slices of `front`.
fn decode_blobs(front: &Bytes, r: &mut Reader<'_>) -> Result<BTreeMap<Epoch, Bytes>, DecodeError> {
    let count = r.count("OSDMaps", 8)?;
    let mut out = BTreeMap::new();
    for _ in 0..count {
        let epoch = Epoch::decode(r)?;
        out.insert(epoch, front.slice_ref(r.bytes("encoded OSDMap")?));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_of_monitors_tells_when_the_keys_of_services_were_replaced() {
        let map = MonMap::decode_from(include_bytes!("../../testdata/tentacle/monmap")).unwrap();
        assert_eq!((map.epoch, map.auth_epoch), (Epoch(2), Epoch(7)));
        assert_eq!(map.mons.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        let addr = map.mons["b"].addrs.msgr2().unwrap();
        assert!(map.contains(addr));
        assert!(!map.contains(EntityAddr { addr: Some(([127, 0, 0, 1], 1).into()), ..addr }));
    }

    #[test]
    fn a_subscription_names_its_topics_in_order() {
        let mut what = BTreeMap::new();
        what.insert("osdmap", Subscription { start: 7, once: false });
        what.insert("monmap", Subscription { start: 0, once: true });
        let wire = encode_subscribe(&what, "");
        assert_eq!(&wire[..4], [2, 0, 0, 0]);
        assert_eq!(&wire[8..14], b"monmap");
        assert_eq!(wire[22], 1, "once");
    }

    #[test]
    fn an_option_that_is_no_text_is_passed_over() {
        let wire =
            BTreeMap::from([(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), vec![0xff])]).encode_to_vec();
        assert_eq!(decode_config(&wire).unwrap(), BTreeMap::from([("a".into(), "1".into())]));
        assert!(decode_config(&[0xff; 4]).is_err(), "more options than bytes");
    }

    #[test]
    fn maps_share_the_messages_memory() {
        let mut wire = Uuid([7; 16]).encode_to_vec();
        BTreeMap::from([(3u32, vec![1u8, 2])]).encode(&mut wire);
        BTreeMap::from([(2u32, vec![9u8])]).encode(&mut wire);
        (1u32, 3u32).encode(&mut wire);
        let front = Bytes::from(wire);
        let maps = OsdMaps::decode(&front).unwrap();
        assert_eq!(maps.incrementals[&Epoch(3)], [1, 2][..]);
        assert_eq!(maps.full[&Epoch(2)], [9][..]);
        assert_eq!(maps.newest, Epoch(3));
    }
}
