//! What is made of an OSD's answer, and requests that are about a placement group.

use std::time::Duration;

use super::*;
use crate::op::OpKind;

fn failing(result: i32, rvals: &[i32]) -> OsdOpReply {
    let outcomes = rvals.iter().map(|rval| OpOutcome { rval: *rval, data: Bytes::new() }).collect();
    OsdOpReply { result, outcomes, ..ok(0) }
}

/// What becomes of `operation` when this is the answer.
fn answered(operation: Operation, answer: OsdOpReply) -> Result<(), OpError> {
    let (mut objecter, mut world, session) = one_in_flight(operation);
    objecter.handle_op_reply(session, Tid(1), answer);
    world.drain(&mut objecter);
    world.done.pop().unwrap().1
}

#[test]
fn an_error_names_the_op_that_failed() {
    let operation = Operation::new().remove_xattr("a").fail_ok().assert_version(7).write(0, "x");
    let range = -Errno::ERANGE.0;
    let error = answered(operation.clone(), failing(range, &[range, range, 0])).unwrap_err();
    assert!(matches!(&error, OpError::Op { errno: Errno::ERANGE, index: 1, .. }), "{error:?}");
    assert_eq!((error.errno(), error.refusal()), (Errno::ERANGE, Some(Errno::ERANGE)));
    // Refused before any op ran.
    let error = answered(operation.clone(), failing(-Errno::EPERM.0, &[0, 0, 0]));
    assert_eq!(error, Err(OpError::Errno(Errno::EPERM)));
    // An answer that does not fit the request names nothing.
    let error = answered(operation, failing(range, &[range]));
    assert_eq!(error, Err(OpError::Errno(Errno::ERANGE)));
}

#[test]
fn an_op_that_may_fail_does_not_fail_the_operation() {
    let operation = Operation::new().remove_xattr("a").fail_ok().write(0, "x");
    assert_eq!(answered(operation, failing(0, &[-Errno::ENODATA.0, 0])), Ok(()));
}

#[test]
fn a_comparison_that_fails_tells_where() {
    let compare = || Operation::new().compare_extent(0, "xyz");
    let mismatch = |result| answered(compare(), failing(result, &[result])).unwrap_err().mismatch();
    assert_eq!(mismatch(-4095), Some(0));
    assert_eq!(mismatch(-4097), Some(2));
    assert_eq!(mismatch(-Errno::ENOENT.0), None);
    assert_eq!(mismatch(i32::MIN), Some(i32::MAX as u64 - 4095));
}

#[test]
fn a_listing_goes_to_the_placement_group_of_its_hash() {
    let mut objecter = Objecter::new(full(60), me(), 1);
    let pool = objecter.map().pools().find(|pool| pool.pg_num > 1).unwrap().clone();
    for hash in [0u32, 1, 0x8000_0000, u32::MAX] {
        let from = HObject { hash, pool: pool.id, ..HObject::MIN };
        let kind = OpKind::ListObjects { max: 1, epoch: Epoch(60), from };
        let mut listing = request(pool.id.0, "", Operation::new().push(kind));
        let locator = ObjectLocator { hash: Some(hash.into()), ..(*listing.locator).clone() };
        listing.locator = Arc::new(locator);
        let mut world = World::default();
        objecter.submit(listing, Now::default(), hash);
        world.drain(&mut objecter);
        for session in world.connects.clone() {
            objecter.session_opened(session, FEATURES);
        }
        world.drain(&mut objecter);
        assert_eq!(world.sent[0].spg.pg, pool.raw_to_pg(hash));
        assert_ne!(world.sent[0].flags & flag::IGNORE_OVERLAY, 0);
    }
}

#[test]
fn a_watch_is_confirmed_since_the_last_question_that_was_answered_with_yes() {
    let at = |secs| Now { wall: Utime::default(), monotonic: Duration::from_secs(secs) };
    let mut objecter = Objecter::new(full(60), me(), 1);
    let mut world = World::default();
    let pool = objecter.map().pools().next().unwrap().id.0;
    objecter.tick(at(10));
    let cookie = objecter.watch(request(pool, "header", Operation::new()), 1);
    world.drain(&mut objecter);
    let session = world.connects[0];
    objecter.session_opened(session, FEATURES);
    assert_eq!(objecter.watch_confirmed(cookie), None, "not registered yet");
    objecter.tick(at(12));
    objecter.handle_op_reply(session, Tid(1), ok(0));
    assert_eq!(objecter.watch_confirmed(cookie), Some(Duration::from_secs(10)));
    objecter.tick(at(15));
    assert_eq!(objecter.watch_confirmed(cookie), Some(Duration::from_secs(10)), "not answered");
    objecter.handle_op_reply(session, Tid(2), ok(0));
    assert_eq!(objecter.watch_confirmed(cookie), Some(Duration::from_secs(15)));
    objecter.tick(at(20));
    objecter.handle_op_reply(session, Tid(3), failing(-Errno::ENOTCONN.0, &[-Errno::ENOTCONN.0]));
    assert_eq!(objecter.watch_confirmed(cookie), None, "lost");
    assert_eq!(objecter.watch_confirmed(cookie + 1), None, "never there");
}
