//! Peers that say anything at any time, for fuzzing and for tests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{AddrType, DecodeError, EntityAddr, ObjectLocator, SnapId, Tid};
use ceph_msgr::Message;
use ceph_osdmap::OsdMap;

use crate::messages::kind;
use crate::monc::{MonClient, MonEvent};
use crate::objecter::{Action, Limits, Now, Objecter, Request, SessionId};
use crate::op::{Operation, SnapContext};

/// Plays a script of requests, sessions and messages of OSDs and monitors to the state machines, beginning
/// with a full OSDMap. Steps are a byte, and what they need:
///
/// ```text
/// 0 object pool    submit a write      5 session          the session is lost
/// 1 object pool    submit a read       6 message          a monitor's message
/// 2 object pool    watch               7                  a new session with a monitor
/// 3 object pool    notify              8                  some seconds pass
/// 4 session tid message  an OSD's message  9              sessions that are wanted are opened
///
/// message: u8 kind, u16 version, u16 length of the front, u16 length of the data, front, data
/// ```
///
/// # Errors
/// [`DecodeError`] if `map` is none.
///
/// # Panics
/// If a promise is broken: a request ends twice, the map goes back or becomes another cluster's.
pub fn play(map: &[u8], script: &[u8]) -> Result<(), DecodeError> {
    let map = OsdMap::decode(map)?;
    let fsid = map.fsid();
    let addr = EntityAddr { kind: AddrType::ANY, nonce: 7, addr: Some(([127, 0, 0, 1], 0).into()) };
    let mut game = Game {
        pools: map.pools().map(|pool| pool.id.0).chain([4711]).collect(),
        objecter: Objecter::new(map, addr, 1),
        monc: MonClient::new(String::new()),
        wanted: Vec::new(),
        open: Vec::new(),
        submitted: 0,
        ended: BTreeSet::new(),
        now: Now::default(),
        rest: script,
    };
    game.objecter.set_limits(Limits { ops: 16, bytes: 1 << 20 });
    while let Some(()) = game.step() {
        let epoch = game.objecter.map().epoch();
        game.follow();
        assert!(game.objecter.map().epoch() >= epoch, "the map went back");
        assert_eq!(game.objecter.map().fsid(), fsid, "the map of another cluster");
    }
    Ok(())
}

struct Game<'a> {
    objecter: Objecter<u32>,
    monc: MonClient<u32, u32>,
    pools: Vec<i64>,
    /// Sessions that the Objecter wants opened.
    wanted: Vec<SessionId>,
    open: Vec<SessionId>,
    submitted: u32,
    ended: BTreeSet<u32>,
    now: Now,
    rest: &'a [u8],
}

impl Game<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        Bytes::copy_from_slice(taken)
    }

    fn length(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes([self.byte()?, self.byte()?])))
    }

    fn message(&mut self, tid: u8) -> Option<Message> {
        let kind = self.byte()?.into();
        let version = u16::from_le_bytes([self.byte()?, self.byte()?]);
        let (front, data) = (self.length()?, self.length()?);
        let (front, data) = (self.bytes(front), self.bytes(data));
        let data = std::iter::once(data).collect();
        Some(Message { kind, version, tid: Tid(tid.into()), front, data, ..Message::default() })
    }

    fn request(&mut self, operation: Operation) -> Option<(Request, u32)> {
        let (object, pool) = (self.byte()?, self.byte()?);
        let pool = self.pools[usize::from(pool) % self.pools.len()];
        self.submitted += 1;
        let request = Request {
            object: format!("object{object}").into(),
            locator: Arc::new(ObjectLocator::new(ceph_codec::PoolId(pool), "")),
            operation,
            snap: SnapId::HEAD,
            snapc: SnapContext::default(),
        };
        Some((request, self.submitted))
    }

    fn step(&mut self) -> Option<()> {
        self.now.monotonic += Duration::from_millis(100);
        match self.byte()? % 10 {
            write @ (0 | 1) => {
                let operation =
                    if write == 0 { Operation::new().write(0, "x") } else { Operation::new().read(0, 99) };
                let (request, number) = self.request(operation)?;
                self.objecter.submit(request, self.now, number);
            }
            2 => {
                let (request, number) = self.request(Operation::new())?;
                self.objecter.watch(request, number);
            }
            3 => {
                let (request, number) = self.request(Operation::new())?;
                self.objecter.notify(request, Bytes::new(), 5, number);
            }
            4 => {
                let (session, tid) = (self.byte()?, self.byte()?);
                let message = self.message(tid)?;
                let session = *self.open.get(usize::from(session) % self.open.len().max(1))?;
                if message.kind == kind::OSD_MAP {
                    self.maps(&message.front);
                } else if self.objecter.handle_message(session, message).is_err() {
                    self.objecter.session_reset(session);
                }
            }
            5 => {
                let session = usize::from(self.byte()?) % self.open.len().max(1);
                if session < self.open.len() {
                    let session = self.open.remove(session);
                    self.objecter.session_reset(session);
                }
            }
            6 => {
                let message = self.message(1)?;
                if self.monc.handle_message(message).is_err() {
                    self.monc.session_closed();
                }
            }
            7 => {
                let addr = EntityAddr::msgr2(([127, 0, 0, 1], 3300).into());
                self.monc.session_opened(addr, self.now.monotonic);
                self.monc.command("{}".to_owned(), Bytes::new(), 0, self.now.monotonic);
            }
            8 => {
                self.now.monotonic += Duration::from_secs(7);
                self.objecter.tick(self.now);
            }
            _ => {
                for session in std::mem::take(&mut self.wanted) {
                    self.objecter.session_opened(session, ceph_msgr::features::SUPPORTED);
                    self.open.push(session);
                }
            }
        }
        Some(())
    }

    fn maps(&mut self, front: &Bytes) {
        if let Ok(maps) = crate::messages::mon::OsdMaps::decode(front) {
            let _ = self.objecter.handle_maps(&maps);
        }
    }

    /// Does what the state machines want.
    fn follow(&mut self) {
        while let Some(event) = self.monc.poll_event() {
            match event {
                MonEvent::OsdMaps(maps) => {
                    let _ = self.objecter.handle_maps(&maps);
                    self.monc.have_osdmap(self.objecter.map().epoch());
                }
                MonEvent::NewestEpoch { epoch, .. } => self.objecter.newest_epoch(epoch),
                _ => {}
            }
        }
        while self.monc.poll_message().is_some() {}
        while let Some(action) = self.objecter.poll_action() {
            match action {
                Action::Connect { session, .. } => self.wanted.push(session),
                Action::Close { session } => {
                    self.wanted.retain(|wanted| *wanted != session);
                    self.open.retain(|open| *open != session);
                }
                Action::Complete { completion, .. } => {
                    assert!(completion <= self.submitted && self.ended.insert(completion), "ended twice");
                }
                Action::AskNewestEpoch => {
                    self.monc.request_newest_epoch(self.now.monotonic);
                }
                Action::SendOp { .. }
                | Action::SendBackoff { .. }
                | Action::Watch { .. }
                | Action::Barred { .. } => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ceph_codec::{Encode, Epoch};
    use proptest::prelude::*;

    fn map() -> Vec<u8> {
        let path = "/../ceph-osdmap/testdata/pacific/incremental/full_60.osdmap";
        std::fs::read(format!("{}{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    fn message(kind: u16, version: u16, front: &[u8], data: &[u8]) -> Vec<u8> {
        let mut out = vec![u8::try_from(kind).unwrap()];
        version.encode(&mut out);
        u16::try_from(front.len()).unwrap().encode(&mut out);
        u16::try_from(data.len()).unwrap().encode(&mut out);
        [out.as_slice(), front, data].concat()
    }

    #[test]
    fn a_script_reaches_the_state_machines() {
        // A write whose OSD answers with a backoff that makes no sense, and a monitor with a map of its own.
        let mut front = ceph_codec::Uuid([9; 16]).encode_to_vec();
        (0u32, 0u32).encode(&mut front);
        (Epoch(1), Epoch(2)).encode(&mut front);
        let script = [
            &[0, 1, 0, 9, 4, 0, 1][..],
            &message(kind::OSD_BACKOFF, 1, &[1, 2, 3], &[]),
            &[9, 7, 6],
            &message(kind::OSD_MAP, 4, &front, &[]),
            &[8],
        ];
        play(&map(), &script.concat()).unwrap();
    }

    proptest! {
        #[test]
        fn whatever_peers_say_every_request_ends_at_most_once(script in prop::collection::vec(0u8..12, 0..400)) {
            play(&map(), &script).unwrap();
        }
    }
}
