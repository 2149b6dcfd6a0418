//! OSDs and monitors that lie or repeat themselves.

use super::*;
use crate::objecter::maps::MapError;

#[test]
fn a_full_map_under_another_epochs_name_is_refused() {
    for inner in [20, 70] {
        let mut objecter: Objecter<u32> = Objecter::new(full(60), me(), 1);
        let bytes = std::fs::read(format!("{DATA}/full_{inner}.osdmap"))
            .or_else(|_| std::fs::read(format!("{DATA}/full_20.osdmap")))
            .unwrap();
        let message =
            OsdMaps { full: BTreeMap::from([(Epoch(100), bytes.into())]), ..maps(objecter.map(), []) };
        let refused = objecter.handle_maps(&message);
        assert!(matches!(refused, Err(MapError::OtherEpoch { epoch: Epoch(100), .. })), "{refused:?}");
        assert_eq!(objecter.map().epoch(), Epoch(60));
    }
}

#[test]
fn an_operation_whose_answers_make_no_sense_fails_in_the_end() {
    let (mut objecter, mut world, mut session) = one_in_flight(write());
    let error = DecodeError::Invalid { what: "answer", value: 1 };
    for _ in 0..2 {
        objecter.handle_malformed_reply(session, Tid(1), &error);
        objecter.session_reset(session);
        world.drain(&mut objecter);
        assert_eq!(world.done, [], "it may have been an accident");
        session = *world.connects.last().unwrap();
        objecter.session_opened(session, FEATURES);
    }
    objecter.handle_malformed_reply(session, Tid(1), &error);
    world.drain(&mut objecter);
    assert_eq!(world.done, [(1, Err(OpError::Malformed(error)))]);
}

#[test]
fn an_osd_with_too_many_backoffs_is_hung_up_on() {
    let (mut objecter, mut world, session) = one_in_flight(write());
    let spg = world.sent[0].spg;
    let place = objecter.sessions[&session.osd].ops[&Tid(1)].target.place();
    for id in 0..20_000 {
        let (begin, end) = (place.clone(), place.clone());
        objecter.handle_backoff(
            session,
            OsdBackoff { spg, epoch: Epoch(9), op: backoff_op::BLOCK, id, begin, end },
        );
    }
    world.drain(&mut objecter);
    assert_eq!(world.closed, [session]);
    objecter.session_opened(*world.connects.last().unwrap(), FEATURES);
    world.drain(&mut objecter);
    assert_eq!(world.sent.len(), 2, "sent again on the next connection");
}

#[test]
fn answers_to_nobody_change_nothing() {
    let (mut objecter, mut world, session) = one_in_flight(write());
    let stranger = SessionId { incarnation: session.incarnation + 7, ..session };
    objecter.handle_op_reply(session, Tid(99), ok(0));
    objecter.handle_op_reply(stranger, Tid(1), ok(0));
    objecter.handle_malformed_reply(session, Tid(99), &DecodeError::Invalid { what: "answer", value: 1 });
    objecter.newest_epoch(Epoch(1));
    world.drain(&mut objecter);
    assert_eq!(world.done, []);
}

/// Changes the map as an incremental that says just that would.
fn change(objecter: &mut Objecter<u32>, how: impl FnOnce(&OsdMap, &mut ceph_osdmap::Incremental)) {
    let next = objecter.map().epoch().0 + 1;
    let mut incremental = ceph_osdmap::Incremental::decode(&incrementals()[&next]).unwrap();
    how(objecter.map(), &mut incremental);
    objecter.map.apply(incremental).unwrap();
    objecter.placements.clear();
}

#[test]
fn a_watch_in_a_pool_that_answers_with_errors_fails_at_once() {
    let mut objecter = Objecter::new(full(60), me(), 1);
    let pool = objecter.map().pools().next().unwrap().id;
    change(&mut objecter, |map, incremental| {
        let mut eio = map.pool(pool).unwrap().clone();
        eio.flags = eio.flags | ceph_osdmap::PoolFlags::EIO;
        incremental.new_pools.insert(pool, eio);
    });
    let mut world = World::default();
    objecter.watch(request(pool.0, "object", Operation::new()), 1);
    objecter.notify(request(pool.0, "object", Operation::new()), Bytes::new(), 1, 2);
    world.drain(&mut objecter);
    let eio = || Err(OpError::Errno(Errno::EIO));
    assert_eq!(world.done, [(1, eio()), (2, eio())]);
}

#[test]
fn a_watch_whose_osd_has_no_usable_address_is_not_forgotten() {
    let mut objecter = Objecter::new(full(60), me(), 1);
    let pool = objecter.map().pools().next().unwrap().id;
    change(&mut objecter, |map, incremental| {
        for osd in (0..).map(OsdId).take(map.max_osd()) {
            let Some(addrs) = map.osd_addrs(osd).cloned() else { continue };
            let legacy =
                addrs.0.into_iter().map(|addr| EntityAddr { kind: AddrType::LEGACY, ..addr }).collect();
            incremental.new_up_client.insert(osd, ceph_codec::EntityAddrVec(legacy));
        }
    });
    let mut world = World::default();
    objecter.watch(request(pool.0, "object", Operation::new()), 1);
    world.drain(&mut objecter);
    assert_eq!(world.connects, []);
    let next = objecter.map().epoch().0 + 1;
    let message = maps(objecter.map(), [(next, incrementals()[&next].clone())]);
    objecter.handle_maps(&message).unwrap();
    world.drain(&mut objecter);
    assert_eq!(objecter.requests(Duration::ZERO).len(), 1, "the registration is under way");
}
