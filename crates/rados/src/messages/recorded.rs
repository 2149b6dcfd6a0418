//! Messages in a file: for golden tests and fuzzing.

use bytes::Bytes;
use ceph_codec::{Decode, DecodeError, Reader};

use super::kind;
use super::listing::ListedObjects;
use super::mon::{AuthReply, CommandAck, OsdMaps, VersionReply, decode_config, decode_mon_map};
use super::osd::{OsdBackoff, OsdOpReply};
use super::pool_op::PoolOpReply;
use super::watch::WatchNotify;
use crate::watch::NotifyReply;

/// A message cut into its parts.
///
/// ```text
/// u16 type | u16 version | u32 length of the front | front | data
/// ```
pub(crate) struct Recorded {
    pub(crate) kind: u16,
    pub(crate) version: u16,
    pub(crate) front: Bytes,
    pub(crate) data: Bytes,
}

impl Recorded {
    pub(crate) fn parse(bytes: &Bytes) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(bytes);
        Ok(Self {
            kind: u16::decode(r)?,
            version: u16::decode(r)?,
            front: bytes.slice_ref(r.bytes("front")?),
            data: bytes.slice_ref(r.rest()),
        })
    }
}

/// Decodes everything that can be decoded in a recorded message.
pub(crate) fn decode(bytes: &Bytes) -> Result<(), DecodeError> {
    let Recorded { kind, version, front, data } = Recorded::parse(bytes)?;
    match kind {
        kind::OSD_OP_REPLY => {
            for outcome in OsdOpReply::decode(version, &front, &data)?.outcomes {
                // Which shape it has only the request tells; none may do harm.
                let _ = (
                    outcome.stat(),
                    outcome.sparse(),
                    outcome.omap(),
                    outcome.omap_keys(),
                    outcome.omap_page(),
                    outcome.watchers(),
                    outcome.snap_set(),
                    ListedObjects::decode_from(&outcome.data),
                );
            }
        }
        kind::OSD_MAP => drop(OsdMaps::decode(&front)?),
        kind::WATCH_NOTIFY => {
            WatchNotify::decode(version, &front)?;
            NotifyReply::decode(&data)?;
        }
        kind::OSD_BACKOFF => drop(OsdBackoff::decode_from(&front)?),
        kind::MON_MAP => drop(decode_mon_map(&front)?),
        kind::CONFIG => drop(decode_config(&front)?),
        kind::AUTH_REPLY => drop(AuthReply::decode_from(&front)?),
        kind::MON_GET_VERSION_REPLY => drop(VersionReply::decode_from(&front)?),
        kind::POOL_OP_REPLY => drop(PoolOpReply::decode(&front)?.new_snap()),
        kind::MON_COMMAND_ACK => drop(CommandAck::decode_from(&front)?),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Errno;
    use ceph_codec::{Encode, Epoch, GlobalId, SnapId, Utime};
    use proptest::prelude::*;

    fn recorded(name: &str) -> Bytes {
        let path = format!("{}/testdata/pacific/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}")).into()
    }

    fn message(name: &str) -> Recorded {
        Recorded::parse(&recorded(name)).unwrap()
    }

    fn reply(name: &str) -> OsdOpReply {
        let m = message(name);
        OsdOpReply::decode(m.version, &m.front, &m.data).unwrap()
    }

    #[test]
    fn the_reply_to_several_reads_is_cut_at_the_ops() {
        let reply = reply("osd_op_reply-read-stat-sparse-watchers");
        assert_eq!((reply.result, reply.retry_attempt, reply.outcomes.len()), (0, 0, 4));
        let [read, stat, sparse, watchers] = reply.outcomes.as_slice() else { panic!() };
        assert_eq!(read.data, "hello");
        assert_eq!(stat.stat().unwrap().size, 5);
        assert!(stat.stat().unwrap().mtime > Utime { sec: 1_700_000_000, nsec: 0 });
        let sparse = sparse.sparse().unwrap();
        assert_eq!((sparse.extents, &sparse.data[..]), (vec![(0, 5)], &b"hello"[..]));
        assert_eq!(watchers.watchers().unwrap(), []);
    }

    #[test]
    fn a_watcher_has_client_cookie_and_address() {
        let watchers = reply("osd_op_reply-list-watchers").outcomes[0].watchers().unwrap();
        let [watcher] = watchers.as_slice() else { panic!("{watchers:?}") };
        assert_eq!(watcher.name.to_string(), "client.4125");
        assert_eq!(watcher.cookie, 136_048_824_481_236);
        assert_eq!(watcher.addr.to_string(), "127.0.0.1:0/750916945");
        assert_eq!(watcher.timeout_secs, 30);
    }

    #[test]
    fn a_missing_object_is_a_negative_errno() {
        assert_eq!(reply("osd_op_reply-enoent").result, -2);
    }

    #[test]
    fn a_notify_and_its_completion_are_read() {
        let m = message("watch_notify-notify");
        let notify = WatchNotify::decode(m.version, &m.front).unwrap();
        assert_eq!((notify.event, notify.cookie), (super::super::watch::event::NOTIFY, 136_048_824_481_236));
        assert_eq!((&notify.payload[..], notify.notifier), (&b"payload"[..], GlobalId(4125)));
        let m = message("watch_notify-complete");
        let complete = WatchNotify::decode(m.version, &m.front).unwrap();
        assert_eq!(complete.event, super::super::watch::event::NOTIFY_COMPLETE);
        let reply = NotifyReply::decode(&m.data).unwrap();
        assert_eq!(reply.acks, [(GlobalId(4125), 136_048_824_481_236, Bytes::from("answer"))]);
    }

    #[test]
    fn monitors_tell_their_map_the_osdmaps_and_results() {
        let monmap = decode_mon_map(&message("mon_map").front).unwrap();
        let addrs: Vec<String> = monmap.mons.values().map(|mon| mon.addrs.to_string()).collect();
        assert_eq!(addrs, ["v2:127.0.0.1:13500/0"]);
        let full = OsdMaps::decode(&message("osd_map-full").front).unwrap();
        assert_eq!((full.fsid, full.full.len(), full.incrementals.len()), (monmap.fsid, 1, 0));
        let next = OsdMaps::decode(&message("osd_map-incremental").front).unwrap();
        assert_eq!((next.full.len(), next.incrementals.keys().next()), (0, Some(&Epoch(11))));
        let ack = message("mon_command_ack");
        assert_eq!(CommandAck::decode_from(&ack.front).unwrap().result, 0);
        assert_eq!(ack.data, "[\"rbdpool\"]");
        let config = decode_config(&message("mon_config").front).unwrap();
        let followed = ["objecter_inflight_ops", "rados_osd_op_timeout"].map(|name| config[name].as_str());
        assert_eq!(followed, ["7", "5"]);
        let version = VersionReply::decode_from(&message("mon_get_version_reply").front).unwrap();
        assert_eq!((version.handle, version.newest), (2, 10));
    }

    #[test]
    fn keys_pairs_and_attributes_are_read() {
        let keys = reply("osd_op_reply-omap-keys").outcomes[0].omap_keys();
        assert_eq!(keys, Ok((vec!["b".to_owned()], true)), "one was asked for, there are more");
        let page = reply("osd_op_reply-omap-page").outcomes[0].omap_page().unwrap();
        assert_eq!((page.pairs, page.more), ([("b".to_owned(), Bytes::from("22"))].into(), false));
        let xattrs = reply("osd_op_reply-xattrs").outcomes[0].xattrs().unwrap();
        let expected = [("name", "value"), ("other", "")].map(|(k, v)| (k.to_owned(), Bytes::from(v)));
        assert_eq!(xattrs, expected.into());
    }

    #[test]
    fn clones_and_their_snapshots_are_read() {
        let set = reply("osd_op_reply-list-snaps").outcomes[0].snap_set().unwrap();
        let [clone, head] = set.clones.as_slice() else { panic!("{set:?}") };
        assert_eq!((clone.id, clone.size, &clone.overlap[..]), (SnapId(2), 1, &[(0, 1)][..]));
        assert_eq!(clone.snaps, [SnapId(1)], "2 was removed");
        assert_eq!((head.id, head.size), (SnapId::HEAD, 1));
    }

    #[test]
    fn a_page_of_a_listing_ends_where_the_next_request_of_librados_begins() {
        let read = |name| ListedObjects::decode_from(&reply(name).outcomes[0].data).unwrap();
        let page = read("osd_op_reply-list-objects");
        assert!(page.objects.iter().any(|object| object.name == "omap-cmp"), "{page:?}");
        let path = format!("{}/testdata/librados/list-objects-next", env!("CARGO_MANIFEST_DIR"));
        let next = Recorded::parse(&std::fs::read(path).unwrap().into()).unwrap();
        assert_eq!(page.next.encode_to_vec(), next.data);
        assert!(read("osd_op_reply-list-objects-end").next.max, "the end of the pool");
    }

    #[test]
    fn a_failed_operation_says_which_op_failed() {
        let rvals = |name| reply(name).outcomes.iter().map(|o| o.rval).collect::<Vec<_>>();
        let compound = reply("osd_op_reply-compound");
        assert_eq!(compound.result, -Errno::ECANCELED.0);
        assert_eq!(rvals("osd_op_reply-compound"), [0, -Errno::ECANCELED.0, 0]);
        assert_eq!(rvals("osd_op_reply-compare-extent"), [-4096], "they differ at byte 1");
    }

    #[test]
    fn a_monitor_tells_the_number_of_a_new_snapshot_and_since_when_it_exists() {
        let reply = PoolOpReply::decode(&message("pool_op_reply").front).unwrap();
        assert_eq!((reply.result, reply.epoch), (0, Epoch(17)));
        assert_eq!(reply.new_snap(), Ok(SnapId(2)));
    }

    proptest! {
        #[test]
        fn damage_never_panics(index: usize, at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let dir = format!("{}/testdata/pacific", env!("CARGO_MANIFEST_DIR"));
            let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
            files.sort();
            let mut bytes = std::fs::read(&files[index % files.len()]).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes.clone().into());
            bytes.truncate(cut.index(bytes.len()));
            let _ = decode(&bytes.into());
        }
    }
}
