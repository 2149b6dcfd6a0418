//! How much is under way at a time, what waits, and what is told about it.

use super::*;
use crate::op::OpKind;
use crate::requests::WaitsFor;

/// An Objecter whose OSD session for `pool`'s object "object" is open, with limits.
fn limited(ops: u64, bytes: u64) -> (Objecter<u32>, World, SessionId, i64) {
    let (mut objecter, mut world, session) = one_in_flight(write());
    let pool = world.sent[0].spg.pg.pool.0;
    objecter.handle_op_reply(session, Tid(1), ok(0));
    world.drain(&mut objecter);
    world.sent.clear();
    world.done.clear();
    world.connects.clear();
    objecter.set_limits(Limits { ops, bytes });
    (objecter, world, session, pool)
}

fn sent(world: &World) -> Vec<u64> {
    world.sent.iter().map(|sent| sent.tid).collect()
}

#[test]
fn what_exceeds_the_limits_follows_in_the_order_of_submission() {
    let (mut objecter, mut world, session, pool) = limited(2, 100);
    let lens = [10, 10, 95, 5, 5];
    for (n, len) in (2..).zip(lens) {
        objecter.submit(request(pool, "object", Operation::new().write(0, vec![0; len])), Now::default(), n);
    }
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2, 3], "two operations");
    assert!(!objecter.has_room());
    objecter.handle_op_reply(session, Tid(2), ok(0));
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2, 3], "small ones do not overtake the large one");
    objecter.handle_op_reply(session, Tid(3), ok(0));
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2, 3, 4, 5], "100 bytes");
    objecter.set_op_timeout(Some(Duration::from_secs(1)));
    objecter.expire(Now { monotonic: Duration::from_secs(1), ..Now::default() });
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2, 3, 4, 5], "all of them took too long");
    assert_eq!(world.done[2..].iter().filter(|(_, result)| *result == Err(OpError::TimedOut)).count(), 3);
    check_flow_control(&objecter);
}

#[test]
fn reads_count_by_what_they_may_return() {
    let (mut objecter, mut world, _, pool) = limited(10, 100);
    objecter.submit(request(pool, "object", Operation::new().read(0, 60)), Now::default(), 2);
    objecter.submit(request(pool, "object", Operation::new().sparse_read(0, 60)), Now::default(), 3);
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2]);
}

#[test]
fn watches_and_acknowledgements_do_not_wait_behind_data() {
    let (mut objecter, mut world, _, pool) = limited(1, 100);
    objecter.submit(request(pool, "object", write()), Now::default(), 2);
    objecter.submit(request(pool, "object", write()), Now::default(), 3);
    objecter.watch(request(pool, "object", Operation::new()), 4);
    let ack = OpKind::NotifyAck { notify_id: 1, cookie: 1, payload: Bytes::new() };
    objecter.submit(request(pool, "object", Operation::new().push(ack)), Now::default(), 5);
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2, 4, 5]);
}

#[test]
fn what_is_parked_does_not_keep_others_away() {
    let (mut objecter, mut world, session, pool) = limited(2, 100);
    let next = objecter.map().epoch().next();
    objecter.set_epoch_barrier(next);
    for n in 2..6 {
        objecter.submit(request(pool, "object", write()), Now::default(), n);
    }
    world.drain(&mut objecter);
    assert_eq!((sent(&world), objecter.flow.sent), (vec![], Load::default()));
    assert!(!objecter.has_room(), "whoever asks is told that requests pile up");
    let why: BTreeSet<_> =
        objecter.requests(Duration::ZERO).into_iter().map(|request| request.waits_for.to_string()).collect();
    assert_eq!(why.into_iter().collect::<Vec<_>>(), [format!("for OSDMap {next}")]);
    let all = incrementals();
    objecter.handle_maps(&maps(objecter.map(), [(next.0, all[&next.0].clone())])).unwrap();
    world.drain(&mut objecter);
    if !world.closed.contains(&session) {
        assert_eq!(sent(&world), [2, 3], "in their order, within the limits");
    }
    check_flow_control(&objecter);
}

#[test]
fn a_request_tells_what_it_waits_for() {
    let (mut objecter, mut world, session, pool) = limited(1, 100);
    let at = |seconds| Now { monotonic: Duration::from_secs(seconds), ..Now::default() };
    objecter.submit(request(pool, "object", Operation::new().write(4096, "12345")), at(1), 2);
    objecter.submit(request(pool, "object", Operation::new().call("rbd", "get_size", "x").stat()), at(2), 3);
    objecter.submit(request(4711, "object", write()), at(3), 4);
    objecter.notify(request(pool, "object", Operation::new()), Bytes::new(), 30, 5);
    world.drain(&mut objecter);
    let told = |objecter: &Objecter<u32>| {
        let requests = objecter.requests(Duration::from_secs(11));
        let mut told: Vec<_> =
            requests.into_iter().map(|r| (r.what, r.age.as_secs(), r.attempts, r.waits_for)).collect();
        told.sort_by_key(|(_, age, attempts, _)| std::cmp::Reverse((*age, *attempts == 0)));
        told
    };
    let write = |why| ("write 4096~5".to_owned(), 10, 1, why);
    assert_eq!(
        told(&objecter),
        [
            write(WaitsFor::Answer),
            ("call rbd.get_size, stat".to_owned(), 9, 0, WaitsFor::Room),
            ("write 0~1".to_owned(), 8, 0, WaitsFor::Pool(ceph_codec::PoolId(4711))),
            ("notify".to_owned(), 8, 1, WaitsFor::Answer),
        ]
    );
    let stall = objecter.stall(Duration::from_secs(13), Duration::from_secs(11), 1);
    assert_eq!((stall.requests, stall.oldest.len()), (2, 1), "those old enough, and one in detail");
    assert_eq!(stall.reasons, [WaitsFor::Room, WaitsFor::Answer]);
    let oldest = &stall.oldest[0];
    let sent = &world.sent[0];
    assert_eq!(
        oldest.to_string(),
        format!(
            "tid 2: write 4096~5 on object (pg {}, osd.{}, sent 1 times) waits 12 s for the OSD's answer",
            sent.spg, session.osd
        )
    );

    let registered = OpOutcome { rval: 0, data: Bytes::copy_from_slice(&7u64.to_le_bytes()) };
    objecter.handle_op_reply(session, Tid(5), OsdOpReply { outcomes: vec![registered], ..ok(0) });
    assert!(told(&objecter).contains(&("notify".to_owned(), 8, 1, WaitsFor::Watchers)));
    objecter.session_reset(session);
    let addr = objecter.sessions[&session.osd].addr;
    assert!(told(&objecter).contains(&write(WaitsFor::Connection(addr))));
}

#[test]
fn what_an_osd_holds_back_does_not_keep_others_away() {
    let (mut objecter, mut world, session, pool) = limited(1, 100);
    objecter.submit(request(pool, "object", write()), Now::default(), 2);
    objecter.submit(request(pool, "object", write()), Now::default(), 3);
    objecter.submit(request(pool, "another", write()), Now::default(), 4);
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2]);
    let op = &objecter.sessions[&session.osd].ops[&Tid(2)];
    let (spg, place) = (op.target.spg, op.target.place());
    let block =
        OsdBackoff { spg, epoch: Epoch(9), op: backoff_op::BLOCK, id: 3, begin: place.clone(), end: place };
    objecter.handle_backoff(session, block.clone());
    for connect in std::mem::take(&mut world.connects) {
        objecter.session_opened(connect, FEATURES);
    }
    world.drain(&mut objecter);
    for connect in std::mem::take(&mut world.connects) {
        objecter.session_opened(connect, FEATURES);
    }
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2, 4], "only the object in question waits");
    objecter.handle_backoff(session, OsdBackoff { op: backoff_op::UNBLOCK, ..block });
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2, 4], "there is room for one");
    let other = world.sent[1].session;
    objecter.handle_op_reply(other, Tid(4), ok(0));
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2, 4, 2]);
    check_flow_control(&objecter);
}

#[test]
fn an_answer_that_leads_nowhere_makes_room() {
    let (mut objecter, mut world, session, pool) = limited(1, 100);
    objecter.submit(request(pool, "object", write()), Now::default(), 2);
    objecter.submit(request(pool, "object", write()), Now::default(), 3);
    let locator = ObjectLocator::new(ceph_codec::PoolId(4711), "");
    let redirect = crate::messages::osd::Redirect { locator, object: String::new() };
    objecter.handle_op_reply(session, Tid(2), OsdOpReply { redirect: Some(redirect), ..ok(0) });
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2, 3]);
}

#[test]
fn over_connections_that_break_as_much_is_sent_as_they_carried() {
    let (mut objecter, mut world, mut session, pool) = limited(1000, 1 << 30);
    for n in 2..42 {
        objecter.submit(request(pool, "object", write()), Now::default(), n);
    }
    world.drain(&mut objecter);
    assert_eq!(sent(&world).len(), 40, "a connection is good until it breaks");
    let mut attempt = 0;
    let mut reconnect = |objecter: &mut Objecter<u32>, world: &mut World, session: &mut SessionId| {
        objecter.session_reset(*session);
        world.drain(objecter);
        *session = world.connects.pop().unwrap();
        world.sent.clear();
        objecter.session_opened(*session, FEATURES);
        world.drain(objecter);
        attempt += 1;
        attempt
    };
    reconnect(&mut objecter, &mut world, &mut session);
    assert_eq!(sent(&world), [2], "it was not seen to carry anything but the first");
    objecter.submit(request(pool, "object", write()), Now::default(), 99);
    objecter.handle_op_reply(session, Tid(2), ok(1));
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2, 3, 4], "with every answer one more, in the order of submission");
    objecter.handle_op_reply(session, Tid(3), ok(1));
    objecter.handle_op_reply(session, Tid(4), ok(1));
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [2, 3, 4, 5, 6, 7, 8]);
    let why = objecter.requests(Duration::ZERO).into_iter().map(|request| request.waits_for);
    assert_eq!(why.filter(|why| *why == WaitsFor::OthersAnswers).count(), 34);
    reconnect(&mut objecter, &mut world, &mut session);
    assert_eq!(sent(&world), [5], "half of the three that it answered");
    objecter.session_reset(session);
    world.drain(&mut objecter);
    let unopened = world.connects.pop().unwrap();
    objecter.session_reset(unopened);
    world.drain(&mut objecter);
    session = world.connects.pop().unwrap();
    objecter.session_opened(session, FEATURES);
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [5, 5], "one that never opened says nothing");
    objecter.widen();
    world.drain(&mut objecter);
    assert_eq!(sent(&world), [5, 5, 6], "a request that takes its time does not keep the others away");
    for _ in 0..10 {
        objecter.widen();
    }
    assert!(!objecter.is_holding());
}
