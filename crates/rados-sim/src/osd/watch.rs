//! Watches and notifies. Ceph: `src/osd/Watch.cc`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ceph_codec::{Decode, Encode, PgId, Reader, encode_bytes};

use super::OsdEvent;
use crate::net::ConnId;
use crate::store::{ObjectKey, StoredWatch};
use crate::wire::{WatchNotify, WireOp, errno};
use crate::world::{Event, Millis, World};

/// A notify that waits for its watchers.
#[derive(Debug)]
pub(super) struct Notify {
    object: ObjectKey,
    notifier: u64,
    conn: ConnId,
    cookie: u64,
    /// Client and cookie.
    waiting: BTreeSet<(u64, u64)>,
    acks: BTreeMap<(u64, u64), Vec<u8>>,
}

/// Ceph: `osd_client_watch_timeout`.
const WATCH_TIMEOUT: Millis = 30_000;

const UNWATCH: u8 = 0;
const WATCH: u8 = 3;
const RECONNECT: u8 = 5;
const PING: u8 = 7;

impl World {
    pub(super) fn watch_op(
        &mut self,
        osd: usize,
        object: &ObjectKey,
        client: u64,
        conn: ConnId,
        wire_op: &WireOp,
    ) -> Result<Bytes, i32> {
        let (cookie, action) = (wire_op.u64_at(0), wire_op.body[16]);
        let now = self.now;
        let Some(session) = self.cluster.osds[osd].sessions.get(&conn) else { return Err(errno::ENOTCONN) };
        let addr = session.addr;
        let Some(stored) = self.cluster.store.objects.get_mut(object) else { return Err(errno::ENOENT) };
        let key = (object.clone(), client, cookie);
        match action {
            WATCH => {
                stored.watchers.insert((client, cookie), StoredWatch { addr, seen: now });
                self.cluster.osds[osd].watchers.insert(key, conn);
                self.await_watch_timeout(object, client, cookie);
            }
            RECONNECT => {
                let Some(watch) = stored.watchers.get_mut(&(client, cookie)) else {
                    return Err(errno::ENOTCONN);
                };
                watch.seen = now;
                self.cluster.osds[osd].watchers.insert(key, conn);
            }
            PING => {
                let Some(watch) = stored.watchers.get_mut(&(client, cookie)) else {
                    return Err(errno::ENOTCONN);
                };
                if self.cluster.osds[osd].watchers.get(&key) != Some(&conn) {
                    return Err(errno::ETIMEDOUT);
                }
                watch.seen = now;
            }
            UNWATCH => {
                stored.watchers.remove(&(client, cookie));
                self.cluster.osds[osd].watchers.remove(&key);
                self.settle_notifies(osd, object, client, cookie);
            }
            _ => return Err(errno::EINVAL),
        }
        self.note(format_args!(
            "osd.{osd}: watch {cookie} of client.{client} on {}: action {action}",
            object.2
        ));
        Ok(Bytes::new())
    }

    fn await_watch_timeout(&mut self, object: &ObjectKey, client: u64, cookie: u64) {
        let event = OsdEvent::WatchTimeout { object: object.clone(), client, cookie };
        self.schedule(WATCH_TIMEOUT / 3, Event::Osd(event));
    }

    pub(super) fn watch_timeout(&mut self, object: ObjectKey, client: u64, cookie: u64) {
        let now = self.now;
        let Some(stored) = self.cluster.store.objects.get_mut(&object) else { return };
        let Some(watch) = stored.watchers.get(&(client, cookie)) else { return };
        let (seen, addr) = (watch.seen, watch.addr);
        if now - seen < WATCH_TIMEOUT {
            return self.await_watch_timeout(&object, client, cookie);
        }
        stored.watchers.remove(&(client, cookie));
        self.note(format_args!("watch {cookie} of client.{client} at {addr} on {} timed out", object.2));
        for osd in 0..self.cluster.osds.len() {
            let key = (object.clone(), client, cookie);
            if let Some(conn) = self.cluster.osds[osd].watchers.remove(&key) {
                let message =
                    WatchNotify { event: WatchNotify::DISCONNECT, cookie, ..WatchNotify::default() };
                self.send(conn, &message.to_message());
            }
            self.settle_notifies(osd, &object, client, cookie);
        }
    }

    pub(super) fn notify_op(
        &mut self,
        osd: usize,
        object: &ObjectKey,
        client: u64,
        conn: ConnId,
        wire_op: &WireOp,
    ) -> Result<Bytes, i32> {
        let r = &mut Reader::new(&wire_op.data);
        let fields = (|| Ok::<_, ceph_codec::DecodeError>((<(u32, u32)>::decode(r)?, r.bytes("payload")?)))();
        let Ok(((_, timeout_secs), payload)) = fields else { return Err(errno::EINVAL) };
        let payload = wire_op.data.slice_ref(payload);
        let Some(stored) = self.cluster.store.objects.get(object) else { return Err(errno::ENOENT) };
        let waiting: BTreeSet<(u64, u64)> = stored.watchers.keys().copied().collect();
        let this = &mut self.cluster.osds[osd];
        let (id, generation) = (this.next_id(), this.generation);
        let mut watchers = Vec::new();
        for (watcher, cookie) in &waiting {
            if let Some(to) = this.watchers.get(&(object.clone(), *watcher, *cookie)) {
                watchers.push((*to, *cookie));
            }
        }
        let cookie = wire_op.u64_at(0);
        self.note(format_args!("osd.{osd}: notify {id} of client.{client} to {waiting:?}"));
        let notify =
            Notify { object: object.clone(), notifier: client, conn, cookie, waiting, acks: BTreeMap::new() };
        self.cluster.osds[osd].notifies.insert(id, notify);
        for (to, cookie) in watchers {
            let message = WatchNotify {
                event: WatchNotify::NOTIFY,
                cookie,
                notify_id: id,
                payload: payload.clone(),
                notifier: client,
                ..WatchNotify::default()
            };
            self.send(to, &message.to_message());
        }
        let delay = Millis::from(timeout_secs.min(60)) * 1000;
        // The answer, which tells the number, comes before the completion.
        self.schedule(delay.max(1), Event::Osd(OsdEvent::NotifyTimeout { osd, generation, id }));
        if self.cluster.osds[osd].notifies.get(&id).is_some_and(|notify| notify.waiting.is_empty()) {
            self.schedule(1, Event::Osd(OsdEvent::NotifyTimeout { osd, generation, id }));
        }
        Ok(id.to_le_bytes().to_vec().into())
    }

    pub(super) fn notify_ack(&mut self, osd: usize, client: u64, wire_op: &WireOp) -> Result<Bytes, i32> {
        let r = &mut Reader::new(&wire_op.data);
        let fields = (|| Ok::<_, ceph_codec::DecodeError>((<(u64, u64)>::decode(r)?, r.bytes("answer")?)))();
        let Ok(((id, cookie), answer)) = fields else { return Err(errno::EINVAL) };
        let answer = answer.to_vec();
        if let Some(notify) = self.cluster.osds[osd].notifies.get_mut(&id)
            && notify.waiting.remove(&(client, cookie))
        {
            notify.acks.insert((client, cookie), answer);
            if notify.waiting.is_empty() {
                self.complete_notify(osd, id, false);
            }
        }
        Ok(Bytes::new())
    }

    /// A watcher is gone: nobody waits for it any more.
    fn settle_notifies(&mut self, osd: usize, object: &ObjectKey, client: u64, cookie: u64) {
        let mut done = Vec::new();
        for (id, notify) in &mut self.cluster.osds[osd].notifies {
            if notify.object == *object
                && notify.waiting.remove(&(client, cookie))
                && notify.waiting.is_empty()
            {
                done.push(*id);
            }
        }
        for id in done {
            self.complete_notify(osd, id, false);
        }
    }

    pub(super) fn complete_notify(&mut self, osd: usize, id: u64, timed_out: bool) {
        let Some(notify) = self.cluster.osds[osd].notifies.remove(&id) else { return };
        let mut data = Vec::new();
        u32::try_from(notify.acks.len()).expect("few watchers").encode(&mut data);
        for (watcher, answer) in &notify.acks {
            watcher.encode(&mut data);
            encode_bytes(answer, &mut data);
        }
        u32::try_from(notify.waiting.len()).expect("few watchers").encode(&mut data);
        notify.waiting.iter().for_each(|watcher| watcher.encode(&mut data));
        let late = timed_out && !notify.waiting.is_empty();
        let message = WatchNotify {
            event: WatchNotify::COMPLETE,
            cookie: notify.cookie,
            notify_id: id,
            result: if late { errno::ETIMEDOUT } else { 0 },
            notifier: notify.notifier,
            data: data.into(),
            ..WatchNotify::default()
        };
        self.note(format_args!("osd.{osd}: notify {id} complete, late {late}"));
        self.send(notify.conn, &message.to_message());
    }

    /// The interval is over: watchers have to come again, notifiers too.
    pub(super) fn forget_watchers(&mut self, osd: usize, pg: PgId) {
        let Some(info) = self.cluster.info(self.cluster.osds[osd].epoch) else { return };
        let map = std::sync::Arc::clone(&info.map);
        let is_in = |(pool, namespace, name): &ObjectKey| {
            map.pool(*pool).is_none_or(|pool| pool.raw_to_pg(pool.hash_object(namespace, "", name)) == pg)
        };
        let this = &mut self.cluster.osds[osd];
        this.watchers.retain(|(object, ..), _| !is_in(object));
        this.notifies.retain(|_, notify| !is_in(&notify.object));
    }
}
