mod driver;
mod simulation;

use std::time::{Duration, Instant};

use ceph_codec::{AddrType, Decode, EntityAddr, EntityName, EntityType, GlobalId};
use hex_literal::hex;
use rados::{Errno, ObjectWatcher, OpError};

use super::LockError;
use super::cls::{LockInfo, LockOwner};
use super::holder::Holder;
use super::machine::{Action, Answer, Event, Machine};

fn owner(client: i64, watch: u64) -> LockOwner {
    LockOwner {
        name: EntityName { kind: EntityType::CLIENT, num: client },
        cookie: format!("auto {watch}"),
        addr: EntityAddr {
            kind: AddrType::LEGACY,
            nonce: u32::try_from(client).unwrap(),
            addr: Some("127.0.0.1:0".parse().unwrap()),
        },
    }
}

fn watcher(client: i64, cookie: u64) -> ObjectWatcher {
    let addr = EntityAddr { kind: AddrType::ANY, ..owner(client, 0).addr };
    ObjectWatcher { name: owner(client, 0).name, cookie, timeout_secs: 30, addr }
}

fn errno(errno: Errno) -> OpError {
    OpError::Errno(errno)
}

/// `rados getxattr rbd_header.ID lock.rbd_lock` while `qemu-nbd` of Ceph 16.2.15 had the lock. What an OSD keeps
/// has the fields of what it answers.
#[test]
fn lock_info_matches_ceph_pacific() {
    let wire = hex!(
        "0101 6d000000 01000000"
        "0101 21000000 08 2210000000000000 14000000 6175746f20313339383130343436353133333132"
        "0101 2f000000 0000000000000000 01 0101 1c000000 01000000 942a33c8 10000000 0200 0000 7f000001 0000000000000000 00000000"
        "01 08000000 696e7465726e616c"
    );
    let info = LockInfo::decode_from(&wire).unwrap();
    assert_eq!((info.kind, info.tag.as_str()), (1, "internal"));
    assert_eq!(
        info.lockers[0].to_string(),
        "client.4130 at 127.0.0.1:0/3358796436 (lock \"auto 139810446513312\")",
    );
}

#[test]
fn an_owner_lives_as_long_as_the_watch_named_in_its_lock() {
    let held = |owner: &LockOwner| LockInfo { lockers: vec![owner.clone()], kind: 1, tag: "internal".into() };
    let (me, my_watch) = (GlobalId(1), Some(10));
    let judge = |info, watchers: &[ObjectWatcher]| Holder::judge(info, watchers, me, my_watch);
    let other = owner(2, 20);
    assert_eq!(judge(held(&other), &[watcher(1, 10), watcher(2, 20)]), Holder::Alive(other.clone()));
    assert_eq!(judge(held(&other), &[watcher(1, 10), watcher(3, 20)]), Holder::Dead(other.clone()));
    assert_eq!(judge(held(&other), &[watcher(2, 21)]), Holder::Rewatching(other.clone(), false));
    let mine = owner(1, 9);
    assert_eq!(judge(held(&mine), &[watcher(1, 10)]), Holder::Own(mine.clone()));
    assert_eq!(judge(held(&mine), &[watcher(1, 10), watcher(1, 11)]), Holder::Rewatching(mine, true));
}

#[test]
fn locks_taken_by_hand_are_not_judged() {
    let judge = |info| Holder::judge(info, &[], GlobalId(1), None);
    let by_hand = LockOwner { cookie: "mine".into(), ..owner(2, 20) };
    let auto = owner(2, 20);
    for (owner, kind, tag) in [(by_hand, 1, "internal"), (auto.clone(), 2, "internal"), (auto, 1, "")] {
        let info = LockInfo { lockers: vec![owner.clone()], kind, tag: tag.into() };
        assert_eq!(judge(info), Holder::Foreign(owner));
    }
    assert_eq!(judge(LockInfo { lockers: vec![], kind: 0, tag: String::new() }), Holder::Nobody);
}

/// A machine with a clock, and what it wants done.
struct Script {
    machine: Machine,
    now: Instant,
}

impl Script {
    fn new() -> Self {
        Self { machine: Machine::new(Some(7)), now: Instant::now() }
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        self.machine.handle(self.now, event)
    }

    fn after(&mut self, delay: Duration) -> &mut Self {
        self.now += delay;
        self
    }

    /// Lets another client have the lock for a moment.
    fn have_the_lock_back(&mut self) {
        self.on(Event::Drained);
        self.on(Event::Closed);
        self.on(Event::Unlocked(Ok(())));
        self.on(Event::PeerReleased);
        self.on(Event::Wanted);
        self.on(Event::Locked(Ok(())));
        self.on(Event::Prepared(Ok(())));
        assert!(self.machine.is_held());
    }

    /// Up to having the lock.
    fn held() -> Self {
        let mut script = Self::new();
        assert_eq!(script.on(Event::Wanted), [Action::Lock(7)]);
        assert_eq!(script.on(Event::Locked(Ok(()))), [Action::Prepare]);
        assert_eq!(script.on(Event::Prepared(Ok(()))), [Action::AnnounceAcquired, Action::OpenGate]);
        script
    }
}

#[test]
fn the_lock_is_taken_when_it_is_wanted_and_given_up_in_order() {
    let mut script = Script::held();
    assert_eq!(script.on(Event::GiveUp), [Action::ShutGate, Action::Drain]);
    assert_eq!(script.on(Event::Drained), [Action::Close]);
    assert_eq!(script.on(Event::Closed), [Action::Unlock(7)]);
    assert_eq!(script.on(Event::Unlocked(Ok(()))), [Action::AnnounceReleased]);
    assert_eq!(script.on(Event::Announced), [Action::GivenUp]);
}

#[test]
fn without_a_watch_the_lock_has_to_wait() {
    let mut script = Script { machine: Machine::new(None), ..Script::new() };
    assert_eq!(script.on(Event::Wanted), []);
    assert_eq!(script.on(Event::Watch(Some(8))), [Action::Lock(8)]);
}

#[test]
fn a_living_owner_is_asked_until_it_has_released() {
    let mut script = Script::new();
    script.on(Event::Wanted);
    assert_eq!(script.on(Event::Locked(Err(errno(Errno::EBUSY)))), [Action::Inspect]);
    assert_eq!(script.on(Event::Inspected(Ok(Holder::Alive(owner(2, 20))))), [Action::Request(1)]);
    let agreed = script.on(Event::Requested(1, Answer::Owner(0)));
    assert_eq!(agreed, [Action::Wake(script.now + Duration::from_secs(10))]);
    assert_eq!(script.on(Event::Timer), [], "not yet");
    assert_eq!(script.on(Event::PeerReleased), [Action::Lock(7)]);
}

#[test]
fn a_release_need_not_wait_for_the_answer_to_the_request() {
    let mut script = Script::new();
    script.on(Event::Wanted);
    script.on(Event::Locked(Err(errno(Errno::EBUSY))));
    script.on(Event::Inspected(Ok(Holder::Alive(owner(2, 20)))));
    assert_eq!(script.on(Event::PeerReleased), [Action::Lock(7)]);
    assert_eq!(script.on(Event::Requested(1, Answer::Nobody)), [], "stale");
}

#[test]
fn a_dead_owner_is_blocklisted_before_its_lock_is_broken() {
    let mut script = Script::new();
    script.on(Event::Wanted);
    script.on(Event::Locked(Err(errno(Errno::EBUSY))));
    let dead = owner(2, 20);
    assert_eq!(
        script.on(Event::Inspected(Ok(Holder::Dead(dead.clone())))),
        [Action::Blocklist(dead.clone())]
    );
    assert_eq!(script.on(Event::OwnerBlocklisted(Ok(()))), [Action::Break(dead)]);
    assert_eq!(script.on(Event::Broken(Err(errno(Errno::ENOENT)))), [Action::Lock(7)], "broken by another");
}

#[test]
fn whoever_may_not_blocklist_is_told_what_is_missing() {
    let mut script = Script::new();
    script.on(Event::Wanted);
    script.on(Event::Locked(Err(errno(Errno::EBUSY))));
    script.on(Event::Inspected(Ok(Holder::Dead(owner(2, 20)))));
    let actions = script.on(Event::OwnerBlocklisted(Err(errno(Errno::EACCES))));
    let [Action::Fail(reason)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(
        reason.to_string(),
        "client.2 at 127.0.0.1:0/2 (lock \"auto 20\") is dead but holds the exclusive lock, and this user may not \
         blocklist it: it needs the capability mon 'profile rbd'",
    );
}

#[test]
fn an_owner_between_two_watches_has_time_to_correct_its_lock() {
    let mut script = Script::new();
    let between = || Event::Inspected(Ok(Holder::Rewatching(owner(2, 20), false)));
    script.on(Event::Wanted);
    for _ in 0..3 {
        script.on(Event::Locked(Err(errno(Errno::EBUSY))));
        let actions = script.on(between());
        assert!(matches!(actions.as_slice(), [Action::Wake(_)]), "{actions:?}");
        assert_eq!(script.after(Duration::from_secs(1)).on(Event::Timer), [Action::Lock(7)]);
    }
    script.on(Event::Locked(Err(errno(Errno::EBUSY))));
    assert_eq!(script.on(between()), [Action::Blocklist(owner(2, 20))]);
}

#[test]
fn a_lock_by_hand_and_a_refusal_fail_those_who_wait() {
    for (event, reason) in [
        (
            Event::Inspected(Ok(Holder::Foreign(owner(2, 20)))),
            LockError::LockedByHand { owner: owner(2, 20) },
        ),
        (Event::Requested(1, Answer::Owner(-30)), LockError::Refused { owner: owner(2, 20) }),
    ] {
        let mut script = Script::new();
        script.on(Event::Wanted);
        script.on(Event::Locked(Err(errno(Errno::EBUSY))));
        if matches!(event, Event::Requested(..)) {
            script.on(Event::Inspected(Ok(Holder::Alive(owner(2, 20)))));
        }
        assert_eq!(script.on(event), [Action::Fail(reason)]);
        assert_eq!(script.on(Event::Wanted), [Action::Lock(7)], "the next attempt starts anew");
    }
}

#[test]
fn a_long_wait_is_logged_with_the_owner() {
    let mut script = Script::new();
    script.on(Event::Wanted);
    let mut warned = 0;
    for _ in 0..30 {
        script.on(Event::Locked(Err(errno(Errno::EBUSY))));
        let actions = script.on(Event::Inspected(Ok(Holder::Alive(owner(2, 20)))));
        warned += actions.iter().filter(|action| matches!(action, Action::Warn { .. })).count();
        let Some(Action::Request(round)) = actions.last().cloned() else { panic!("{actions:?}") };
        script.on(Event::Requested(round, Answer::Failed(OpError::TimedOut)));
        script.after(Duration::from_secs(1)).on(Event::Timer);
    }
    assert_eq!(warned, 2);
}

#[test]
fn who_asked_for_the_lock_goes_first() {
    let mut script = Script::held();
    assert_eq!(script.on(Event::PeerWants), [Action::ShutGate, Action::Drain]);
    script.on(Event::Wanted);
    script.on(Event::Drained);
    script.on(Event::Closed);
    let until = script.now + Duration::from_millis(500);
    assert_eq!(script.on(Event::Unlocked(Ok(()))), [Action::AnnounceReleased, Action::Wake(until)]);
    assert_eq!(script.on(Event::PeerReleased), [Action::Lock(7)]);
}

#[test]
fn the_lock_is_asked_for_again_soon_after_it_has_changed_hands() {
    let mut script = Script::held();
    script.on(Event::PeerWants);
    script.on(Event::Drained);
    script.on(Event::Closed);
    script.on(Event::Unlocked(Ok(())));
    script.on(Event::PeerAcquired);
    let until = script.now + Duration::from_millis(10);
    assert_eq!(script.on(Event::Wanted), [Action::Wake(until)]);
    script.now = until;
    assert_eq!(script.on(Event::Timer), [Action::Lock(7)]);
}

#[test]
fn who_changes_the_image_gets_twice_the_time_after_each_interruption() {
    let mut script = Script::held();
    let mut times = Vec::new();
    for _ in 0..5 {
        script.on(Event::PeerWorks);
        script.on(Event::PeerWants);
        script.on(Event::Drained);
        script.on(Event::Closed);
        script.on(Event::Unlocked(Ok(())));
        script.after(Duration::from_millis(100)).on(Event::PeerAcquired);
        let acquired = script.now;
        let actions = script.on(Event::Wanted);
        let [Action::Wake(until)] = actions.as_slice() else { panic!("{actions:?}") };
        times.push(until.duration_since(acquired).as_millis());
        script.now = *until;
        assert_eq!(script.on(Event::Timer), [Action::Lock(7)]);
        script.on(Event::Locked(Ok(())));
        script.on(Event::Prepared(Ok(())));
    }
    assert_eq!(times, [2000, 4000, 8000, 16000, 16000]);

    script.on(Event::PeerWants);
    script.on(Event::Drained);
    script.on(Event::Closed);
    script.on(Event::Unlocked(Ok(())));
    script.on(Event::PeerAcquired);
    assert_eq!(script.on(Event::PeerReleased), [], "nothing is wanted");
    assert_eq!(script.on(Event::Wanted), [Action::Lock(7)], "it is done");
}

#[test]
fn who_wants_the_lock_waits_for_maintenance_to_end() {
    let mut script = Script::held();
    script.on(Event::WorkBegun);
    let until = script.now + Duration::from_secs(2);
    assert_eq!(script.on(Event::PeerWants), [Action::Wake(until)]);
    assert!(script.machine.is_held(), "changes go on");
    script.after(Duration::from_secs(1));
    assert_eq!(script.on(Event::PeerWants), [Action::Wake(until)], "not longer for asking twice");
    script.on(Event::WorkBegun);
    assert_eq!(script.on(Event::WorkEnded), []);
    assert_eq!(script.on(Event::WorkEnded), [Action::ShutGate, Action::Drain]);
}

#[test]
fn maintenance_that_was_interrupted_has_twice_the_time_until_it_is_done() {
    let mut script = Script::held();
    let mut times = Vec::new();
    for _ in 0..5 {
        script.on(Event::WorkBegun);
        let began = script.now;
        let actions = script.on(Event::PeerWants);
        let [Action::Wake(until)] = actions.as_slice() else { panic!("{actions:?}") };
        times.push(until.duration_since(began).as_secs());
        script.now = *until;
        assert_eq!(script.on(Event::Timer), [Action::ShutGate, Action::Drain]);
        // Whoever asked for it has to ask again.
        assert_eq!(script.on(Event::WorkEnded), []);
        script.have_the_lock_back();
    }
    assert_eq!(times, [2, 4, 8, 16, 16]);

    script.on(Event::WorkBegun);
    script.on(Event::WorkEnded);
    script.on(Event::WorkBegun);
    let until = script.now + Duration::from_secs(2);
    assert_eq!(script.on(Event::PeerWants), [Action::Wake(until)], "the next is not the same");
}

#[test]
fn maintenance_that_goes_on_in_the_next_tenure_keeps_the_lock_again() {
    let mut script = Script::held();
    script.on(Event::WorkBegun);
    script.on(Event::PeerWants);
    script.after(Duration::from_secs(2)).on(Event::Timer);
    script.on(Event::Drained);
    script.on(Event::Closed);
    script.on(Event::Unlocked(Ok(())));
    script.on(Event::PeerReleased);
    script.on(Event::Wanted);
    script.on(Event::Locked(Ok(())));
    assert_eq!(script.on(Event::PeerWants), []);
    let until = script.now + Duration::from_secs(4);
    assert_eq!(
        script.on(Event::Prepared(Ok(()))),
        [Action::AnnounceAcquired, Action::OpenGate, Action::Wake(until)],
    );
}

#[test]
fn closing_does_not_wait_for_maintenance() {
    let mut script = Script::held();
    script.on(Event::WorkBegun);
    assert_eq!(script.on(Event::GiveUp), [Action::ShutGate, Action::Drain]);
}

#[test]
fn an_owner_that_works_for_others_is_left_alone_until_it_is_done() {
    let mut script = Script::new();
    script.on(Event::PeerWorks);
    let until = script.now + Duration::from_secs(2);
    assert_eq!(script.on(Event::Wanted), [Action::Wake(until)]);
    let soon = script.after(Duration::from_secs(1)).now + Duration::from_millis(10);
    assert_eq!(script.on(Event::PeerWorked { done: true }), [Action::Wake(soon)]);
    script.now = soon;
    assert_eq!(script.on(Event::Timer), [Action::Lock(7)]);
}

#[test]
fn those_who_waited_go_before_the_lock_is_given_up_again() {
    let mut script = Script::new();
    script.on(Event::Wanted);
    script.on(Event::Locked(Ok(())));
    assert_eq!(script.on(Event::PeerWants), []);
    assert_eq!(
        script.on(Event::Prepared(Ok(()))),
        [Action::AnnounceAcquired, Action::OpenGate, Action::ShutGate, Action::Drain],
    );
}

#[test]
fn the_lock_follows_a_new_watch() {
    let mut script = Script::held();
    assert_eq!(script.on(Event::Watch(None)), []);
    assert_eq!(script.on(Event::Watch(Some(9))), [Action::Rebind { old: 7, new: 9 }]);
    assert_eq!(script.on(Event::Rebound(Ok(()))), [Action::AnnounceAcquired]);
    script.on(Event::GiveUp);
    script.on(Event::Drained);
    assert_eq!(script.on(Event::Closed), [Action::Unlock(9)]);
}

#[test]
fn a_lock_that_cannot_follow_is_taken_anew() {
    let mut script = Script::held();
    script.on(Event::Watch(Some(9)));
    assert_eq!(script.on(Event::Rebound(Err(errno(Errno::EBUSY)))), [Action::ShutGate, Action::Drain]);
    script.on(Event::Drained);
    assert_eq!(script.on(Event::Closed), [Action::Unlock(7)]);
    assert_eq!(
        script.on(Event::Unlocked(Err(errno(Errno::ENOENT)))),
        [Action::AnnounceReleased, Action::Lock(9)],
    );
}

#[test]
fn the_lock_is_not_given_up_under_two_cookies_at_once() {
    let mut script = Script::held();
    script.on(Event::Watch(Some(9)));
    script.on(Event::GiveUp);
    script.on(Event::Drained);
    assert_eq!(script.on(Event::Closed), [], "which cookie it has is not known yet");
    assert_eq!(script.on(Event::Rebound(Ok(()))), [Action::Unlock(9)]);
}

#[test]
fn a_watch_that_changed_while_the_lock_was_taken_is_followed_at_once() {
    let mut script = Script::new();
    script.on(Event::Wanted);
    script.on(Event::Watch(Some(9)));
    assert_eq!(script.on(Event::Locked(Ok(()))), [Action::Prepare, Action::Rebind { old: 7, new: 9 }]);
}

#[test]
fn a_blocklisted_client_never_gets_the_lock_again() {
    let mut script = Script::held();
    let lost = [Action::ShutGate, Action::Fail(LockError::Blocklisted)];
    assert_eq!(script.on(Event::Blocklisted), lost);
    assert!(script.machine.is_lost() && !script.machine.is_owner());
    assert_eq!(script.on(Event::Watch(Some(9))), []);
    assert_eq!(script.on(Event::Wanted), [Action::Fail(LockError::Blocklisted)]);
    assert_eq!(script.on(Event::GiveUp), [Action::GivenUp]);

    let mut script = Script::new();
    script.on(Event::Wanted);
    assert_eq!(script.on(Event::Locked(Err(crate::mem_store::blocklisted()))), lost);
}

#[test]
fn an_image_that_cannot_be_prepared_does_not_keep_the_lock() {
    let mut script = Script::new();
    script.on(Event::Wanted);
    script.on(Event::Locked(Ok(())));
    let reason = LockError::Prepare(std::sync::Arc::new(errno(Errno::EIO)));
    assert_eq!(script.on(Event::Prepared(Err(reason.clone()))), [Action::Unlock(7)]);
    assert_eq!(script.on(Event::Unlocked(Ok(()))), [Action::AnnounceReleased, Action::Fail(reason)]);
}

#[test]
fn a_lock_of_this_client_may_be_that_of_another_opening_which_gets_time_to_watch_again() {
    let mut script = Script::new();
    let own = owner(1, 6);
    let busy = || Event::Locked(Err(errno(Errno::EBUSY)));
    script.on(Event::Wanted);
    script.on(busy());
    let inspected = script.on(Event::Inspected(Ok(Holder::Own(own.clone()))));
    assert!(matches!(inspected.last(), Some(Action::Wake(_))), "{inspected:?}");
    script.after(Duration::from_secs(4));
    script.on(Event::Timer);
    script.on(busy());
    assert_eq!(script.on(Event::Inspected(Ok(Holder::Own(own.clone())))), [Action::Break(own)]);
}

#[test]
fn closing_does_not_wait_for_somebody_elses_lock() {
    let mut script = Script::new();
    script.on(Event::Wanted);
    script.on(Event::Locked(Err(errno(Errno::EBUSY))));
    script.on(Event::Inspected(Ok(Holder::Alive(owner(2, 20)))));
    assert_eq!(script.on(Event::GiveUp), [Action::Fail(LockError::GivenUp), Action::GivenUp]);
}
