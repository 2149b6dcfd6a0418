//! Scenarios: the maps of a real cluster's life, requests in flight, and an OSD's side played by the test.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use ceph_codec::{AddrType, HObject};
use flate2::read::GzDecoder;
use proptest::prelude::*;

mod answers;
mod flow_control;
mod hostile;

use super::flow_control::Load;
use super::*;
use crate::messages::mon::OsdMaps;
use crate::op::OpOutcome;
use ceph_codec::{Decode, Reader, SpgId};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ceph-osdmap/testdata/pacific/incremental");
const FEATURES: u64 = ceph_msgr::features::SUPPORTED;

fn full(epoch: u32) -> OsdMap {
    OsdMap::decode(&std::fs::read(format!("{DATA}/full_{epoch}.osdmap")).unwrap()).unwrap()
}

/// The incremental maps 2 to 121 of a cluster in which OSDs went down and came back, pools split, merged and
/// went away, and everything that moves a placement group was done.
fn incrementals() -> BTreeMap<u32, Bytes> {
    let file = std::fs::File::open(format!("{DATA}/incs.tar.gz")).unwrap();
    let mut out = BTreeMap::new();
    for entry in tar::Archive::new(GzDecoder::new(file)).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let Some(epoch) = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok())
        else {
            continue;
        };
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        out.insert(epoch, Bytes::from(bytes));
    }
    out
}

fn maps(of: &OsdMap, incrementals: impl IntoIterator<Item = (u32, Bytes)>) -> OsdMaps {
    OsdMaps {
        fsid: of.fsid(),
        incrementals: incrementals.into_iter().map(|(epoch, bytes)| (Epoch(epoch), bytes)).collect(),
        full: BTreeMap::new(),
        oldest: Epoch(1),
        newest: Epoch(0),
    }
}

fn me() -> EntityAddr {
    EntityAddr { kind: AddrType::ANY, nonce: 7, addr: Some("127.0.0.1:0".parse().unwrap()) }
}

fn request(pool: i64, object: &str, operation: Operation) -> Request {
    Request {
        object: object.into(),
        locator: Arc::new(ObjectLocator::new(ceph_codec::PoolId(pool), "")),
        operation,
        snap: SnapId::HEAD,
        snapc: SnapContext::default(),
    }
}

fn write() -> Operation {
    Operation::new().write(0, "x")
}

fn ok(attempt: i32) -> OsdOpReply {
    OsdOpReply {
        flags: 0,
        result: 0,
        epoch: Epoch(0),
        retry_attempt: attempt,
        user_version: 1,
        outcomes: vec![OpOutcome { rval: 0, data: Bytes::new() }],
        redirect: None,
    }
}

/// What an OSD reads from an `MOSDOp`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    session: SessionId,
    tid: u64,
    spg: SpgId,
    flags: u32,
    attempt: i32,
}

fn read_op(session: SessionId, tid: Tid, front: &[u8]) -> Sent {
    let r = &mut Reader::new(front);
    let spg = SpgId::decode(r).unwrap();
    r.take("hash, epoch", 8).unwrap();
    let flags = u32::decode(r).unwrap();
    let tail = &front[front.len() - 12..];
    Sent { session, tid: tid.0, spg, flags, attempt: i32::decode_from(tail).unwrap() }
}

#[derive(Default)]
struct World {
    connects: Vec<SessionId>,
    sent: Vec<Sent>,
    done: Vec<(u32, Result<(), OpError>)>,
    events: Vec<(u64, WatchEvent)>,
    closed: Vec<SessionId>,
    acked_backoffs: Vec<OsdBackoff>,
    asked_newest: usize,
    barred: usize,
}

impl World {
    fn drain(&mut self, objecter: &mut Objecter<u32>) {
        while let Some(action) = objecter.poll_action() {
            match action {
                Action::Connect { session, .. } => self.connects.push(session),
                Action::Close { session } => self.closed.push(session),
                Action::SendOp { session, tid, front, .. } => self.sent.push(read_op(session, tid, &front)),
                Action::SendBackoff { backoff, .. } => self.acked_backoffs.push(backoff),
                Action::Complete { completion, result } => self.done.push((completion, result.map(drop))),
                Action::Watch { cookie, event } => self.events.push((cookie, event)),
                Action::AskNewestEpoch => self.asked_newest += 1,
                Action::Barred { .. } => self.barred += 1,
            }
        }
    }
}

/// An Objecter with the first map that has OSDs and pools, one operation submitted and its session open.
fn one_in_flight(operation: Operation) -> (Objecter<u32>, World, SessionId) {
    let mut objecter = Objecter::new(full(60), me(), 1);
    let mut world = World::default();
    let pool = objecter.map().pools().next().unwrap().id.0;
    objecter.submit(request(pool, "object", operation), Now::default(), 1);
    world.drain(&mut objecter);
    let session = world.connects[0];
    objecter.session_opened(session, FEATURES);
    world.drain(&mut objecter);
    assert_eq!(world.sent.len(), 1);
    (objecter, world, session)
}

#[test]
fn an_operation_waits_for_its_session_and_completes_once() {
    let mut objecter = Objecter::new(full(60), me(), 1);
    let mut world = World::default();
    let pool = objecter.map().pools().next().unwrap().id.0;
    for n in 0..3 {
        objecter.submit(request(pool, "same object", write()), Now::default(), n);
    }
    world.drain(&mut objecter);
    assert_eq!((world.connects.len(), world.sent.len()), (1, 0), "one connection, nothing sent on it yet");
    objecter.session_opened(world.connects[0], FEATURES);
    world.drain(&mut objecter);
    assert_eq!(world.sent.iter().map(|s| s.tid).collect::<Vec<_>>(), [1, 2, 3], "in the order of submission");
    objecter.handle_op_reply(world.connects[0], Tid(2), ok(0));
    objecter.handle_op_reply(world.connects[0], Tid(2), ok(0));
    world.drain(&mut objecter);
    assert_eq!(world.done, [(1, Ok(()))]);
}

#[test]
fn after_a_reset_the_same_tid_is_sent_again_marked_as_a_retry() {
    let (mut objecter, mut world, session) = one_in_flight(write());
    objecter.session_reset(session);
    world.drain(&mut objecter);
    let again = *world.connects.last().unwrap();
    assert_ne!(again, session, "a new incarnation");
    objecter.session_opened(again, FEATURES);
    world.drain(&mut objecter);
    let [first, second] = world.sent.as_slice() else { panic!("{:?}", world.sent) };
    assert_eq!((first.tid, first.attempt, first.flags & flag::RETRY), (1, 0, 0));
    assert_eq!((second.tid, second.attempt, second.flags & flag::RETRY), (1, 1, flag::RETRY));

    objecter.handle_op_reply(session, Tid(1), ok(0));
    objecter.handle_op_reply(again, Tid(1), ok(0));
    world.drain(&mut objecter);
    assert_eq!(world.done, [], "the old connection and the old attempt do not count");
    objecter.handle_op_reply(again, Tid(1), ok(1));
    world.drain(&mut objecter);
    assert_eq!(world.done, [(1, Ok(()))]);
}

#[test]
fn a_backed_off_operation_waits_for_the_unblock() {
    let (mut objecter, mut world, session) = one_in_flight(write());
    let spg = world.sent[0].spg;
    let min = HObject {
        key: vec![],
        name: vec![],
        snap: SnapId(0),
        hash: 0,
        max: false,
        namespace: vec![],
        pool: spg.pg.pool,
    };
    let max = HObject { max: true, ..min.clone() };
    let block = OsdBackoff { spg, epoch: Epoch(9), op: backoff_op::BLOCK, id: 3, begin: min, end: max };
    objecter.handle_backoff(session, block.clone());
    objecter.submit(request(spg.pg.pool.0, "object", write()), Now::default(), 2);
    world.drain(&mut objecter);
    assert_eq!(world.sent.len(), 1, "held back");
    assert_eq!(world.acked_backoffs, [OsdBackoff { op: backoff_op::ACK_BLOCK, ..block.clone() }]);
    objecter.handle_backoff(session, OsdBackoff { op: backoff_op::UNBLOCK, ..block });
    world.drain(&mut objecter);
    assert_eq!(world.sent[1..].iter().map(|s| s.tid).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_pool_that_is_in_no_map_is_an_error_only_at_the_newest_epoch() {
    let mut objecter = Objecter::new(full(60), me(), 1);
    let mut world = World::default();
    objecter.submit(request(4711, "object", write()), Now::default(), 1);
    objecter.submit(request(4711, "object", write()), Now::default(), 2);
    world.drain(&mut objecter);
    assert_eq!((world.asked_newest, world.done.len()), (1, 0));
    objecter.newest_epoch(Epoch(61));
    world.drain(&mut objecter);
    assert_eq!(world.done, [], "there is a newer map, it may have the pool");
    objecter.newest_epoch(Epoch(60));
    world.drain(&mut objecter);
    let gone = Err(OpError::NoPool(ceph_codec::PoolId(4711)));
    assert_eq!(world.done, [(2, gone)]);
}

#[test]
fn a_watch_is_taken_up_again_after_a_reset_and_lost_only_once() {
    let mut objecter = Objecter::new(full(60), me(), 500);
    let mut world = World::default();
    let pool = objecter.map().pools().next().unwrap().id.0;
    let cookie = objecter.watch(request(pool, "header", Operation::new()), 1);
    assert_eq!(cookie, 500);
    world.drain(&mut objecter);
    let session = world.connects[0];
    objecter.session_opened(session, FEATURES);
    world.drain(&mut objecter);
    objecter.handle_op_reply(session, Tid(world.sent[0].tid), ok(0));
    world.drain(&mut objecter);
    assert_eq!(world.done, [(1, Ok(()))], "registered");

    objecter.session_reset(session);
    world.drain(&mut objecter);
    let again = *world.connects.last().unwrap();
    objecter.session_opened(again, FEATURES);
    world.drain(&mut objecter);
    let reconnect = world.sent.last().unwrap().clone();
    assert_eq!((reconnect.attempt, world.sent.len()), (0, 2), "a new request, not a resend");
    let refused = OsdOpReply { result: -Errno::ENOTCONN.0, ..ok(0) };
    objecter.handle_op_reply(again, Tid(reconnect.tid), refused);
    objecter.tick(Now::default());
    world.drain(&mut objecter);
    assert_eq!(world.events, [(500, WatchEvent::Lost(Errno::ENOTCONN))]);
    assert_eq!(world.sent.len(), 2, "no pings for a lost watch");
}

#[test]
fn a_watch_is_pinged_but_not_twice_at_a_time() {
    let mut objecter = Objecter::new(full(60), me(), 1);
    let mut world = World::default();
    let pool = objecter.map().pools().next().unwrap().id.0;
    objecter.watch(request(pool, "header", Operation::new()), 1);
    world.drain(&mut objecter);
    objecter.session_opened(world.connects[0], FEATURES);
    world.drain(&mut objecter);
    objecter.handle_op_reply(world.connects[0], Tid(1), ok(0));
    for _ in 0..3 {
        objecter.tick(Now::default());
    }
    world.drain(&mut objecter);
    assert_eq!(world.sent.len(), 2, "{:?}", world.sent);
}

#[test]
fn once_blocklisted_everything_fails_and_stays_failed() {
    let map = OsdMap::decode(
        &std::fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../ceph-osdmap/testdata/pacific/live/05-flags-blocklist.osdmap"
        ))
        .unwrap(),
    )
    .unwrap();
    let (barred, _) = map.blocklist().exact().next().expect("the map has a blocklist");
    let mut objecter = Objecter::new(map.clone(), *barred, 1);
    let mut world = World::default();
    let pool = map.pools().next().unwrap().id.0;
    objecter.submit(request(pool, "object", write()), Now::default(), 1);
    world.drain(&mut objecter);
    let error = objecter.ended().unwrap().clone();
    let since = objecter.map().modified().to_system_time();
    assert_eq!(error, OpError::Blocklisted { since, epoch: objecter.map().epoch() });
    assert_eq!(world.done, [(1, Err(error))]);
    assert_eq!(world.connects, []);
}

#[test]
fn a_gap_in_the_maps_resends_everything() {
    let (mut objecter, mut world, session) = one_in_flight(write());
    let newer = std::fs::read(format!("{DATA}/full_80.osdmap")).unwrap();
    let message = OsdMaps { full: BTreeMap::from([(Epoch(80), newer.into())]), ..maps(objecter.map(), []) };
    objecter.handle_maps(&message).unwrap();
    world.drain(&mut objecter);
    let resent = world.sent.len() == 2 || world.closed.contains(&session) || !objecter.homeless.is_empty();
    assert!(resent, "sent again, or on its way to another OSD");
    assert_eq!(objecter.map().epoch(), Epoch(80));
}

#[test]
fn maps_of_another_cluster_are_refused() {
    let mut objecter: Objecter<u32> = Objecter::new(full(60), me(), 1);
    let mut message = maps(objecter.map(), incrementals());
    message.fsid = ceph_codec::Uuid([9; 16]);
    assert!(objecter.handle_maps(&message).is_err());
    assert_eq!(objecter.map().epoch(), Epoch(60));
}

/// What is in flight to one object left in the order of submission, the last time it was sent.
fn check_order(objecter: &Objecter<u32>, world: &World) {
    for session in objecter.sessions.values() {
        let mut last: BTreeMap<(&str, i64, bool), usize> = BTreeMap::new();
        for op in session.ops.values().filter(|op| op.attempts > 0) {
            let sent = |s: &Sent| s.tid == op.tid.0 && s.session == session.id;
            let Some(at) = world.sent.iter().rposition(sent) else { continue };
            let place = (&*op.target.object, op.target.locator.pool.0, op.target.is_write());
            let before = last.insert(place, at);
            assert!(before.is_none_or(|before| before < at), "{} overtook an older request", op.tid);
        }
    }
}

/// Every operation is in one place, and that is where the newest map wants it.
fn check(objecter: &Objecter<u32>, open: &BTreeSet<SessionId>) {
    let map = objecter.map();
    let mut seen = BTreeSet::new();
    for op in objecter.homeless.values().chain(objecter.waiting.values()) {
        assert!(seen.insert(op.tid) && !op.with_osd);
    }
    for (osd, session) in &objecter.sessions {
        assert!(map.is_up(*osd), "a session with a dead OSD");
        for op in session.ops.values() {
            assert!(seen.insert(op.tid));
            let pg = op.target.spg.pg;
            assert_eq!(map.placement(pg).acting_primary, Some(*osd), "{pg} at epoch {}", map.epoch());
            assert_eq!(op.target.spg.shard, map.placement(pg).primary_shard());
            let held = session.backoffs.blocks(op.target.spg, &op.target.place());
            let sendable = open.contains(&session.id) && !op.target.paused && !held;
            if !session.is_window_full() {
                assert!(!sendable || op.attempts > 0, "{} is sendable and was never sent", op.tid);
                assert_eq!(op.with_osd, sendable, "what is with the OSD counts, what is parked does not");
            }
            assert!(sendable || !op.with_osd);
        }
    }
    check_flow_control(objecter);
}

/// What is under way is what was counted, and within the limits; nothing waits without need.
fn check_flow_control(objecter: &Objecter<u32>) {
    let ops = || objecter.sessions.values().flat_map(|session| session.ops.values());
    let mut admitted = Load::default();
    ops().filter(|op| op.with_osd).for_each(|op| admitted.add(op.cost.unwrap()));
    assert_eq!(objecter.flow.sent, admitted);
    assert!(admitted.ops <= objecter.flow.limits.ops);
    assert!(admitted.bytes <= objecter.flow.limits.bytes || admitted.ops == 1);
    if let Some((_, next)) = objecter.waiting.first_key_value() {
        assert!(
            !admitted.has_room_for(next.cost.unwrap(), &objecter.flow.limits),
            "nobody sent the next one"
        );
    }
    let mut unfinished = Load::default();
    let parked = objecter.homeless.values().chain(objecter.waiting.values());
    let callers = ops().chain(parked).filter(|op| op.completion.should_resend());
    callers.for_each(|op| unfinished.add(op.cost.unwrap_or(0)));
    assert_eq!(objecter.flow.unfinished, unfinished);
}

#[derive(Debug, Clone)]
enum Step {
    Submit {
        object: u16,
        pool: u8,
        read: bool,
    },
    Maps(u8),
    Open,
    Reset(u8),
    Answer(u8),
    /// The OSD holds back a placement group, or lets it go.
    Backoff(u8),
    /// What is older than so many steps takes too long.
    Expire(u8),
    Limit(u8),
    /// Nothing is sent for some epochs.
    Barrier(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u16>(), any::<u8>(), any::<bool>())
            .prop_map(|(object, pool, read)| Step::Submit { object, pool, read }),
        3 => (1u8..8).prop_map(Step::Maps),
        4 => Just(Step::Open),
        1 => any::<u8>().prop_map(Step::Reset),
        3 => any::<u8>().prop_map(Step::Answer),
        1 => any::<u8>().prop_map(Step::Backoff),
        1 => (3..60u8).prop_map(Step::Expire),
        1 => (1..30u8).prop_map(Step::Limit),
        1 => (0..4u8).prop_map(Step::Barrier),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Through a cluster's whole life, whatever happens to connections: requests are where they belong, none
    /// is lost, none completes twice, and each keeps its tid.
    #[test]
    fn no_request_is_lost_or_done_twice(steps in prop::collection::vec(step(), 1..120)) {
        let mut objecter = Objecter::new(full(20), me(), 1);
        let all = incrementals();
        let mut world = World::default();
        let mut open = BTreeSet::new();
        let mut held = BTreeMap::new();
        let mut submitted = 0u32;
        let mut now = Now::default();
        for step in steps {
            now.monotonic += Duration::from_secs(1);
            match step {
                Step::Submit { object, pool, read } => {
                    let pools: Vec<i64> = objecter.map().pools().map(|p| p.id.0).collect();
                    let Some(pool) = pools.get(usize::from(pool) % pools.len().max(1)) else { continue };
                    let op = if read { Operation::new().read(0, 1) } else { write() };
                    objecter.submit(request(*pool, &format!("o{}", object % 16), op), now, submitted);
                    submitted += 1;
                }
                Step::Expire(age) => {
                    objecter.set_op_timeout(Some(Duration::from_secs(age.into())));
                    objecter.expire(now);
                    let all = objecter.requests(now.monotonic);
                    assert!(all.iter().all(|request| request.age < Duration::from_secs(age.into())));
                }
                Step::Limit(ops) => {
                    let in_flight = objecter.flow.sent.ops;
                    objecter.set_limits(Limits { ops: in_flight.max(ops.into()), bytes: u64::MAX });
                }
                Step::Barrier(ahead) => {
                    let epoch = objecter.map().epoch().0 + u32::from(ahead);
                    objecter.set_epoch_barrier(Epoch(epoch));
                }
                Step::Maps(count) => {
                    let from = objecter.map().epoch().0 + 1;
                    let next = all.range(from..from + u32::from(count)).map(|(e, b)| (*e, b.clone()));
                    let message = maps(objecter.map(), next);
                    objecter.handle_maps(&message).unwrap();
                }
                Step::Open => {
                    for session in std::mem::take(&mut world.connects) {
                        objecter.session_opened(session, FEATURES);
                        open.insert(session);
                    }
                }
                Step::Reset(which) => {
                    if let Some(session) = open.iter().nth(usize::from(which) % open.len().max(1)).copied() {
                        open.remove(&session);
                        objecter.session_reset(session);
                    }
                }
                Step::Backoff(which) => {
                    if world.sent.is_empty() { continue }
                    let sent = world.sent[usize::from(which) % world.sent.len()].clone();
                    let begin = HObject {
                        key: vec![], name: vec![], snap: SnapId(0), hash: 0, max: false, namespace: vec![],
                        pool: ceph_codec::PoolId(0),
                    };
                    let (op, spg) = match held.remove(&sent.session) {
                        Some(spg) => (backoff_op::UNBLOCK, spg),
                        None => (backoff_op::BLOCK, sent.spg),
                    };
                    if op == backoff_op::BLOCK {
                        held.insert(sent.session, spg);
                    }
                    let begin = HObject { pool: spg.pg.pool, ..begin };
                    let end = HObject { max: true, ..begin.clone() };
                    let backoff = OsdBackoff { spg, epoch: Epoch(1), op, id: 1, begin, end };
                    objecter.handle_backoff(sent.session, backoff);
                }
                Step::Answer(which) => {
                    if world.sent.is_empty() { continue }
                    let sent = world.sent[usize::from(which) % world.sent.len()].clone();
                    objecter.handle_op_reply(sent.session, Tid(sent.tid), ok(sent.attempt));
                }
            }
            world.drain(&mut objecter);
            for session in &world.closed {
                open.remove(session);
            }
            check(&objecter, &open);
            check_order(&objecter, &world);
        }
        let waiting = objecter.homeless.len() + objecter.waiting.len() + objecter.sessions.values().map(|s| s.ops.len()).sum::<usize>();
        let mut done: Vec<u32> = world.done.iter().map(|(n, _)| *n).collect();
        prop_assert_eq!(done.len() + waiting, submitted as usize);
        done.sort_unstable();
        done.dedup();
        prop_assert_eq!(done.len(), world.done.len(), "completed twice");
    }
}

#[test]
fn a_redirected_request_gets_a_new_tid_and_leaves_the_cache_alone() {
    let (mut objecter, mut world, session) = one_in_flight(write());
    let pool = world.sent[0].spg.pg.pool;
    let locator = ObjectLocator { key: "elsewhere".into(), ..ObjectLocator::new(pool, "") };
    let redirect = crate::messages::osd::Redirect { locator, object: "other".into() };
    objecter.handle_op_reply(session, Tid(1), OsdOpReply { redirect: Some(redirect), ..ok(0) });
    world.drain(&mut objecter);
    for connect in world.connects.clone() {
        objecter.session_opened(connect, FEATURES);
    }
    world.drain(&mut objecter);
    let last = world.sent.last().unwrap();
    assert_eq!((last.tid, last.attempt), (2, 0));
    assert_eq!(last.flags & flag::REDIRECTED, flag::REDIRECTED);
}

fn reply(outcomes: usize, result: i32) -> OsdOpReply {
    let outcome = OpOutcome { rval: 0, data: Bytes::new() };
    OsdOpReply { result, outcomes: vec![outcome; outcomes], ..ok(0) }
}

#[test]
fn an_answer_for_another_number_of_ops_is_malformed() {
    let (mut objecter, mut world, session) = one_in_flight(Operation::new().stat().read(0, 1));
    objecter.handle_op_reply(session, Tid(1), reply(1, 0));
    world.drain(&mut objecter);
    assert!(matches!(world.done[..], [(1, Err(OpError::Malformed(_)))]), "{:?}", world.done);
}

#[test]
fn an_osd_that_knows_of_the_blocklist_first_ends_everything() {
    let (mut objecter, mut world, session) = one_in_flight(write());
    objecter.submit(request(world.sent[0].spg.pg.pool.0, "object", write()), Now::default(), 2);
    objecter.handle_op_reply(session, Tid(1), reply(1, -Errno::EBLOCKLISTED.0));
    objecter.watch(request(1, "header", Operation::new()), 3);
    world.drain(&mut objecter);
    let since = SystemTime::UNIX_EPOCH;
    let barred = || Err(OpError::Blocklisted { since, epoch: Epoch(0) });
    assert_eq!(world.done, [(1, barred()), (2, barred()), (3, barred())]);
    assert_eq!((world.closed.as_slice(), world.barred), (&[session][..], 1));
    assert!(objecter.ended().is_some_and(OpError::ends_the_instance));
}

#[test]
fn after_the_end_nothing_is_sent() {
    let (mut objecter, mut world, session) = one_in_flight(write());
    objecter.end(OpError::Shutdown);
    objecter.submit(request(1, "object", write()), Now::default(), 2);
    objecter.end(OpError::IdentityLost);
    objecter.submit(request(1, "object", write()), Now::default(), 3);
    world.drain(&mut objecter);
    let shut = || Err(OpError::Shutdown);
    assert_eq!(world.done, [(1, shut()), (2, shut()), (3, shut())]);
    assert_eq!((world.closed.as_slice(), world.connects.len()), (&[session][..], 1));
}

/// Watches one object in each of many placement groups, registered.
fn watching(epoch: u32) -> (Objecter<u32>, World) {
    let mut objecter = Objecter::new(full(epoch), me(), 1);
    let mut world = World::default();
    let pool = objecter.map().pools().next().unwrap().id.0;
    for n in 0..40 {
        objecter.watch(request(pool, &format!("header{n}"), Operation::new()), n);
    }
    world.drain(&mut objecter);
    for session in std::mem::take(&mut world.connects) {
        objecter.session_opened(session, FEATURES);
    }
    world.drain(&mut objecter);
    for sent in std::mem::take(&mut world.sent) {
        objecter.handle_op_reply(sent.session, Tid(sent.tid), ok(0));
    }
    world.drain(&mut objecter);
    (objecter, world)
}

#[test]
fn a_watch_is_registered_again_in_every_new_interval_of_its_placement_group() {
    let mut changed_under_the_same_primary = 0;
    for epoch in [60, 80] {
        let (mut objecter, mut world) = watching(epoch);
        for (next, bytes) in incrementals().range(epoch + 1..epoch + 20) {
            let before = objecter.map().clone();
            let watched: Vec<_> =
                objecter.lingers.iter().map(|(c, l)| (*c, l.target.spg.pg, l.generation)).collect();
            let message = maps(objecter.map(), [(*next, bytes.clone())]);
            objecter.handle_maps(&message).unwrap();
            for (cookie, pg, generation) in watched {
                let Some(linger) = objecter.lingers.get(&cookie).filter(|l| !l.lost && l.target.spg.pg == pg)
                else {
                    continue;
                };
                let (old, new) = (before.placement(pg), objecter.map().placement(pg));
                if (&old.acting, &old.up) != (&new.acting, &new.up) {
                    assert!(linger.generation > generation, "{pg} at epoch {next}: {old:?} {new:?}");
                    changed_under_the_same_primary += usize::from(old.acting_primary == new.acting_primary);
                }
            }
            world.drain(&mut objecter);
            for session in std::mem::take(&mut world.connects) {
                objecter.session_opened(session, FEATURES);
            }
            world.drain(&mut objecter);
            for sent in std::mem::take(&mut world.sent) {
                objecter.handle_op_reply(sent.session, Tid(sent.tid), ok(sent.attempt));
            }
        }
        assert_eq!(world.events, [], "no watch is lost by that");
    }
    assert!(changed_under_the_same_primary > 0, "the maps have what this is about");
}

#[test]
fn a_full_pool_does_not_hold_back_watches() {
    let target =
        |flags| Target::new("o".into(), Arc::new(ObjectLocator::new(ceph_codec::PoolId(1), "")), flags);
    assert!(target(flag::WRITE).respects_full());
    let (objecter, _) = watching(60);
    assert!(objecter.lingers.values().all(|l| l.target.is_write() && !l.target.respects_full()));
}

#[test]
fn a_watch_in_a_pool_that_is_in_no_map_ends_at_the_newest_epoch() {
    let mut objecter = Objecter::new(full(60), me(), 1);
    let mut world = World::default();
    objecter.watch(request(4711, "header", Operation::new()), 1);
    objecter.notify(request(4711, "header", Operation::new()), Bytes::new(), 5, 2);
    world.drain(&mut objecter);
    assert_eq!((world.asked_newest, world.done.len()), (1, 0));
    objecter.newest_epoch(Epoch(60));
    objecter.newest_epoch(Epoch(60));
    world.drain(&mut objecter);
    let gone = Err(OpError::NoPool(ceph_codec::PoolId(4711)));
    assert_eq!(world.done, [(1, gone.clone()), (2, gone)]);
    assert!(objecter.lingers.is_empty());
}

#[test]
fn the_newest_epoch_says_nothing_to_operations_younger_than_the_question() {
    let mut objecter = Objecter::new(full(60), me(), 1);
    let mut world = World::default();
    objecter.submit(request(4711, "object", write()), Now::default(), 1);
    world.drain(&mut objecter);
    objecter.submit(request(4712, "object", write()), Now::default(), 2);
    objecter.newest_epoch(Epoch(60));
    world.drain(&mut objecter);
    assert_eq!(world.done, [(1, Err(OpError::NoPool(ceph_codec::PoolId(4711))))]);
    assert_eq!(world.asked_newest, 2, "asked again for the other");
}
