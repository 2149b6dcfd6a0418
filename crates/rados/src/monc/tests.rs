use ceph_codec::{Decode, Encode, EntityAddrVec};

use super::*;

type MonClient = super::MonClient<u8, u8>;

const T0: Duration = Duration::from_secs(100);

fn after(seconds: u64) -> Duration {
    T0 + Duration::from_secs(seconds)
}

fn addr(last: u8) -> EntityAddr {
    EntityAddr {
        kind: ceph_codec::AddrType::MSGR2,
        nonce: 0,
        addr: Some(std::net::SocketAddr::from(([10, 0, 0, last], 3300))),
    }
}

fn open(monc: &mut MonClient) -> Vec<u16> {
    monc.session_opened(addr(1), T0);
    kinds(monc)
}

fn kinds(monc: &mut MonClient) -> Vec<u16> {
    std::iter::from_fn(|| monc.poll_message()).map(|m| m.kind).collect()
}

/// What follows from a message.
fn handle(monc: &mut MonClient, message: Message) -> Option<MonEvent<u8, u8>> {
    monc.handle_message(message).unwrap();
    monc.poll_event()
}

fn ack(tid: u64) -> Message {
    let mut front = vec![0; 18];
    0i32.encode(&mut front);
    "done".encode(&mut front);
    Message { kind: kind::MON_COMMAND_ACK, tid: Tid(tid), front: front.into(), ..Message::default() }
}

fn newest_epoch(handle: u64) -> Message {
    let front: Vec<u8> = [handle, 9, 1].iter().flat_map(|n: &u64| n.to_le_bytes()).collect();
    Message { kind: kind::MON_GET_VERSION_REPLY, front: front.into(), ..Message::default() }
}

/// A map with monitors at these addresses.
fn monmap(epoch: u32, mons: &[u8]) -> MonMap {
    let info = |last: &u8| {
        let addrs = EntityAddrVec::from(addr(*last));
        (format!("m{last}"), MonInfo { addrs, priority: 0, weight: 0 })
    };
    MonMap {
        fsid: Uuid([1; 16]),
        epoch: Epoch(epoch),
        mons: mons.iter().map(info).collect(),
        auth_epoch: Epoch(0),
    }
}

/// What a subscription message asks for: topics with the first version wanted.
fn topics(message: &Message) -> BTreeMap<String, u64> {
    let r = &mut ceph_codec::Reader::new(&message.front);
    r.map("topics", |r| Ok((u64::decode(r)?, u8::decode(r)?).0)).unwrap()
}

#[test]
fn what_is_open_is_asked_again_on_every_new_session() {
    let mut monc = MonClient::new("host".into());
    monc.command("{}".into(), Bytes::new(), 7, T0);
    monc.request_newest_epoch(T0);
    assert!(kinds(&mut monc).is_empty(), "nobody to ask yet");
    for _ in 0..2 {
        assert_eq!(open(&mut monc), [kind::MON_SUBSCRIBE, kind::MON_COMMAND, kind::MON_GET_VERSION]);
        monc.session_closed();
    }
    open(&mut monc);
    let event = handle(&mut monc, ack(1));
    assert!(matches!(event, Some(MonEvent::Command { completion: 7, .. })));
    assert!(handle(&mut monc, ack(1)).is_none(), "a second answer concerns nobody");
    monc.session_closed();
    assert_eq!(open(&mut monc), [kind::MON_SUBSCRIBE, kind::MON_GET_VERSION], "answered");
}

#[test]
fn a_question_that_nobody_waits_for_is_not_asked_again() {
    let mut monc = MonClient::new(String::new());
    let tid = monc.command("{}".into(), Bytes::new(), 7, T0);
    monc.cancel(tid);
    assert_eq!(open(&mut monc), [kind::MON_SUBSCRIBE]);
    assert!(handle(&mut monc, ack(tid)).is_none());
}

#[test]
fn an_answer_of_another_kind_answers_nothing() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    let command = monc.command("{}".into(), Bytes::new(), 7, T0);
    let question = monc.request_newest_epoch(T0);
    assert!(handle(&mut monc, newest_epoch(command)).is_none());
    assert!(handle(&mut monc, ack(question)).is_none());
    assert_eq!(monc.requests(T0).len(), 2);
}

#[test]
fn a_new_session_continues_the_maps_where_the_last_one_ended() {
    let mut monc = MonClient::new(String::new());
    monc.have_osdmap(Epoch(41));
    assert_eq!(monc.subscriptions[OSDMAP].start, 42);
    monc.request_full_osdmap();
    assert_eq!(monc.subscriptions[OSDMAP].start, 0, "a full map");
}

#[test]
fn a_full_map_that_is_of_no_use_is_not_asked_for_again_and_again() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    monc.request_full_osdmap();
    monc.request_full_osdmap();
    assert_eq!(kinds(&mut monc), [kind::MON_SUBSCRIBE]);
    monc.have_osdmap(Epoch(3));
    monc.request_full_osdmap();
    assert_eq!(kinds(&mut monc), [kind::MON_SUBSCRIBE], "those were other maps");
}

#[test]
fn an_answer_counts_for_earlier_questions_only() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    let mut ask = || monc.request_newest_epoch(T0);
    let (first, second, third) = (ask(), ask(), ask());
    let event = handle(&mut monc, newest_epoch(second));
    assert!(matches!(event, Some(MonEvent::NewestEpoch { question, .. }) if question == second));
    assert!(handle(&mut monc, newest_epoch(first)).is_none(), "answered already");
    assert!(handle(&mut monc, newest_epoch(third)).is_some());
    assert!(handle(&mut monc, newest_epoch(99)).is_none(), "nobody asked that");
}

#[test]
fn what_is_pending_says_what_it_is_and_how_old() {
    let mut monc = MonClient::new(String::new());
    monc.command(r#"{"prefix": "config-key set", "val": "hush"}"#.into(), Bytes::new(), 1, T0);
    monc.request_newest_epoch(after(3));
    open(&mut monc);
    monc.session_opened(addr(1), after(4));
    monc.renew_tickets(2, &[], after(5));
    let told = |monc: &MonClient| {
        let requests = monc.requests(after(7)).into_iter();
        requests.map(|request| request.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        told(&monc),
        [
            "tid 1: command config-key set (sent 2 times) waits 7 s for the monitor's answer",
            "tid 2: newest OSDMap epoch (sent 2 times) waits 4 s for the monitor's answer",
            "tid 0: new tickets (sent 1 times) waits 2 s for the monitor's answer",
        ]
    );
    monc.session_closed();
    assert!(told(&monc)[0].ends_with("waits 7 s for a session with a monitor"));
}

#[test]
fn a_map_of_monitors_of_another_cluster_is_refused() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    monc.handle_mon_map(monmap(3, &[1])).unwrap();
    let stranger = MonMap { fsid: Uuid([2; 16]), ..monmap(9, &[1, 2]) };
    let refused = monc.handle_mon_map(stranger);
    assert!(matches!(refused, Err(MonSessionError::OtherCluster { found: Uuid(id), .. }) if id == [2; 16]));
    assert_eq!((monc.fsid(), monc.monitors().len()), (Uuid([1; 16]), 1), "nothing of it is believed");
}

#[test]
fn a_session_with_a_monitor_that_was_removed_ends() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    assert!(monc.handle_mon_map(monmap(3, &[1, 2])).is_ok());
    let removed = monc.handle_mon_map(monmap(4, &[2, 3]));
    assert!(matches!(removed, Err(MonSessionError::NotInMap(Epoch(4)))));
    assert_eq!(monc.monitors().keys().collect::<Vec<_>>(), ["m2", "m3"], "the others are known");
}

#[test]
fn an_older_map_of_monitors_changes_nothing() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    monc.handle_mon_map(monmap(4, &[1, 2])).unwrap();
    monc.handle_mon_map(monmap(3, &[3])).unwrap();
    assert_eq!(monc.monitors().len(), 2);
}

#[test]
fn every_session_asks_for_a_map_of_monitors_that_must_come() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    monc.handle_mon_map(monmap(4, &[1])).unwrap();
    monc.session_closed();
    monc.session_opened(addr(1), after(50));
    let subscribe = monc.poll_message().unwrap();
    assert_eq!(topics(&subscribe)[MONMAP], 4, "it has to be sent, though it is known");
    assert_eq!(monc.check_answers(after(60)), Ok(()));
    assert_eq!(monc.check_answers(after(61)), Err(MonSessionError::Mute));
    monc.handle_mon_map(monmap(4, &[1])).unwrap();
    assert_eq!(monc.check_answers(after(600)), Ok(()), "with nothing new to say it may be silent");
}

#[test]
fn a_monitor_that_does_not_answer_easy_questions_is_of_no_use() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    monc.handle_mon_map(monmap(4, &[1])).unwrap();
    monc.command("{}".into(), Bytes::new(), 1, after(0));
    monc.request_newest_epoch(after(20));
    assert_eq!(monc.check_answers(after(30)), Ok(()), "a command may take long");
    assert_eq!(monc.check_answers(after(31)), Err(MonSessionError::Mute));
    monc.session_closed();
    monc.session_opened(addr(2), after(32));
    monc.handle_mon_map(monmap(4, &[1, 2])).unwrap();
    assert_eq!(monc.check_answers(after(42)), Ok(()), "the next one has its own time");
}

#[test]
fn a_monitor_is_probed_with_one_question_at_a_time() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    monc.handle_mon_map(monmap(4, &[1])).unwrap();
    monc.probe(T0);
    monc.probe(T0);
    assert_eq!(kinds(&mut monc), [kind::MON_GET_VERSION]);
    assert_eq!(monc.check_answers(after(11)), Err(MonSessionError::Mute));
    handle(&mut monc, newest_epoch(1));
    monc.probe(T0);
    assert_eq!(kinds(&mut monc), [kind::MON_GET_VERSION]);
    monc.session_closed();
    monc.probe(T0);
    assert_eq!(monc.requests(T0), [], "the next monitor is not in question");
}

#[test]
fn monitors_that_are_all_slow_get_more_time() {
    let mut monc = MonClient::new(String::new());
    let mut patience = || {
        monc.session_opened(addr(1), T0);
        let late = (0..).find(|seconds| monc.check_answers(after(*seconds)).is_err());
        monc.session_closed();
        late.unwrap() - 1
    };
    assert_eq!([(); 5].map(|()| patience()), [10, 20, 40, 80, 80]);
    open(&mut monc);
    monc.handle_mon_map(monmap(4, &[1])).unwrap();
    monc.session_closed();
    open(&mut monc);
    assert_eq!(monc.check_answers(after(11)), Err(MonSessionError::Mute), "they answered in between");
}

#[test]
fn a_monitor_that_gives_no_tickets_is_of_no_use() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    monc.handle_mon_map(monmap(4, &[1])).unwrap();
    monc.renew_tickets(2, &[], after(0));
    assert_eq!(monc.check_answers(after(30)), Ok(()));
    assert_eq!(monc.check_answers(after(31)), Err(MonSessionError::NoTickets(RENEWAL_LIMIT)));
}

#[test]
fn new_keys_of_the_services_make_their_tickets_void() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    let mut revoked = |epoch, auth_epoch| {
        monc.handle_mon_map(MonMap { auth_epoch: Epoch(auth_epoch), ..monmap(epoch, &[1]) }).unwrap();
        std::iter::from_fn(|| monc.poll_event()).any(|event| matches!(event, MonEvent::TicketsRevoked))
    };
    assert!(!revoked(1, 5), "the tickets here are as new");
    assert!(!revoked(2, 5));
    assert!(revoked(3, 6));
}

#[test]
fn a_monitor_that_tells_no_options_has_none() {
    let config = |monc: &mut MonClient| match monc.poll_event() {
        Some(MonEvent::Config(options)) => options.into_values().collect(),
        other => vec![format!("{other:?}")],
    };
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    let front = BTreeMap::from([("rados_osd_op_timeout".to_owned(), "5".to_owned())]).encode_to_vec();
    let message = Message { kind: kind::CONFIG, front: front.into(), ..Message::default() };
    monc.handle_message(message).unwrap();
    assert_eq!(config(&mut monc), ["5"]);
    monc.handle_mon_map(monmap(1, &[1])).unwrap();
    assert!(monc.poll_event().is_none(), "it has told");
    monc.session_closed();
    open(&mut monc);
    monc.handle_mon_map(monmap(1, &[1])).unwrap();
    assert!(config(&mut monc).is_empty(), "removed while nobody listened");
    monc.handle_mon_map(monmap(2, &[1])).unwrap();
    assert!(monc.poll_event().is_none(), "it has told, in its way");
}

fn pool_op_reply(tid: u64) -> Message {
    let mut front = vec![0; 18 + 16];
    0i32.encode(&mut front);
    Epoch(9).encode(&mut front);
    true.encode(&mut front);
    7u64.encode_to_vec().encode(&mut front);
    Message { kind: kind::POOL_OP_REPLY, tid: Tid(tid), front: front.into(), ..Message::default() }
}

#[test]
fn a_change_of_a_pools_snapshots_is_asked_for_until_it_is_answered() {
    let mut monc = MonClient::new(String::new());
    let tid = monc.pool_op(PoolId(3), SnapOp::CreateSelfManaged, 7, T0);
    for _ in 0..2 {
        assert_eq!(open(&mut monc), [kind::MON_SUBSCRIBE, kind::POOL_OP], "on every new session");
        monc.session_closed();
    }
    open(&mut monc);
    assert!(handle(&mut monc, ack(tid)).is_none(), "an answer to something else");
    assert_eq!(monc.requests(after(5))[0].what, "change of the snapshots of pool 3");
    let Some(MonEvent::PoolOp { completion: 7, reply }) = handle(&mut monc, pool_op_reply(tid)) else {
        panic!("the answer");
    };
    assert_eq!((reply.epoch, reply.new_snap()), (Epoch(9), Ok(ceph_codec::SnapId(7))));
    assert!(handle(&mut monc, pool_op_reply(tid)).is_none(), "a second answer");
    let command = monc.command("{}".into(), Bytes::new(), 1, T0);
    assert!(handle(&mut monc, pool_op_reply(command)).is_none(), "nobody asked that");
}

#[test]
fn the_input_of_a_command_travels_beside_it() {
    let mut monc = MonClient::new(String::new());
    open(&mut monc);
    monc.command("{}".into(), Bytes::from("input"), 1, T0);
    let message = monc.poll_message().unwrap();
    assert_eq!((message.kind, message.data.into_bytes()), (kind::MON_COMMAND, Bytes::from("input")));
}
