//! Clients that all want to write, an OSD, and a network that delays, reorders and loses: at no time may two of
//! them write, and nobody may be forgotten.

use std::time::{Duration, Instant};

use ceph_codec::{EntityAddr, EntityName, GlobalId};
use proptest::prelude::*;
use rados::{Errno, OpError};

use super::super::cls::LockInfo;
use super::super::holder::Holder;
use super::super::machine::{Action, Answer, Event, Machine};
use super::super::{LockError, Predecessors};
use super::{errno, owner, watcher};

/// Something on its way: an action to the cluster, or an event to a client.
enum Message {
    Do(usize, Action),
    Tell(usize, Event),
    /// A request for the lock, and whether all other clients have heard it: asker, round, answer so far.
    Ask {
        asker: usize,
        round: u64,
        heard_by: usize,
        answer: Answer,
    },
}

struct Client {
    machine: Machine,
    open: bool,
    wants: bool,
    writes: u64,
    /// A write that is under way, and whether the lock waits for it.
    writing: bool,
    /// Maintenance is under way.
    working: bool,
    draining: bool,
    watch: Option<u64>,
    /// The client is stopped, as by SIGSTOP: it does nothing and hears nothing.
    frozen: bool,
    /// It was killed, and is stopped for ever. Its watch is still there.
    dead: bool,
    /// It hands the lock over to nobody.
    exclusive: bool,
    /// It knows who is dead.
    informed: bool,
    wake: Option<Instant>,
}

struct World {
    now: Instant,
    clients: Vec<Client>,
    messages: Vec<Message>,
    lock: Option<(usize, u64)>,
    blocklist: Vec<usize>,
    next_watch: u64,
    dice: u64,
    failures: bool,
    /// The failures are over, and so are their consequences.
    settled: bool,
}

fn id(client: usize) -> i64 {
    i64::try_from(client).unwrap() + 1
}

impl World {
    fn new(clients: usize, seed: u64) -> Self {
        let mut world = Self {
            now: Instant::now(),
            clients: Vec::new(),
            messages: Vec::new(),
            lock: None,
            blocklist: Vec::new(),
            next_watch: 100,
            dice: seed,
            failures: true,
            settled: false,
        };
        for _ in 0..clients {
            let watch = world.new_watch();
            world.clients.push(Client {
                machine: Machine::new(Some(watch)),
                open: false,
                wants: false,
                writes: 0,
                writing: false,
                working: false,
                draining: false,
                watch: Some(watch),
                frozen: false,
                dead: false,
                exclusive: false,
                informed: false,
                wake: None,
            });
        }
        world
    }

    fn new_watch(&mut self) -> u64 {
        self.next_watch += 1;
        self.next_watch
    }

    /// A pseudo-random number below `sides` (splitmix64).
    fn roll(&mut self, sides: usize) -> usize {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.dice;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % sides as u64).unwrap()
    }

    fn feed(&mut self, client: usize, event: Event) {
        let now = self.now;
        for action in self.clients[client].machine.handle(now, event) {
            let this = &mut self.clients[client];
            match action {
                Action::OpenGate => {
                    this.open = true;
                    // Those who wait begin before anything else, as in `Shared::feed`.
                    this.writing |= std::mem::take(&mut this.wants);
                }
                Action::ShutGate => this.open = false,
                Action::Fail(reason) => {
                    this.wants = false;
                    let refused = matches!(reason, LockError::Refused { .. });
                    assert!(
                        reason == LockError::Blocklisted || refused || !self.settled,
                        "without failures nobody is turned away: {reason}"
                    );
                    assert!(!refused || self.clients.iter().any(|client| client.exclusive));
                }
                Action::GivenUp | Action::Warn { .. } => {}
                Action::Wake(at) => this.wake = Some(at),
                Action::Drain => this.draining = true,
                action => self.messages.push(Message::Do(client, action)),
            }
        }
    }

    /// One step of whoever is next.
    fn step(&mut self) {
        let others = self.clients.len();
        match self.roll(8) {
            0..=3 if !self.messages.is_empty() => {
                let index = self.roll(self.messages.len());
                let message = self.messages.swap_remove(index);
                self.deliver(message);
            }
            4 => {
                let client = self.roll(others);
                match self.roll(8) {
                    0 => self.work(client),
                    _ => self.write(client),
                }
            }
            5 => self.pass_time(),
            6 if self.failures => {
                let client = self.roll(others);
                self.upset(client);
            }
            _ => {}
        }
    }

    /// The client begins or ends a write.
    fn write(&mut self, client: usize) {
        let lock = self.lock.map(|(holder, _)| holder);
        let barred = self.blocklist.contains(&client);
        let this = &mut self.clients[client];
        if this.frozen {
            return;
        }
        if this.writing {
            this.writing = false;
            if barred {
                return self.messages.push(Message::Tell(client, Event::Blocklisted));
            }
            assert_eq!(lock, Some(client), "a write reaches the OSD only under the lock");
            this.writes += 1;
            if this.draining {
                this.draining = false;
                self.feed(client, Event::Drained);
            }
        } else if this.draining {
            this.draining = false;
            self.feed(client, Event::Drained);
        } else if this.open {
            this.writing = true;
        } else if !this.wants && !this.machine.is_lost() {
            this.wants = true;
            self.feed(client, Event::Wanted);
        }
    }

    /// The client begins or ends maintenance, for itself or another one.
    fn work(&mut self, client: usize) {
        let this = &mut self.clients[client];
        if this.frozen {
            return;
        }
        this.working = !this.working;
        let working = this.working;
        self.feed(client, if working { Event::WorkBegun } else { Event::WorkEnded });
        let done = self.roll(2) == 0;
        for other in (0..self.clients.len()).filter(|other| *other != client) {
            if self.clients[other].watch.is_some() {
                let event = if working { Event::PeerWorks } else { Event::PeerWorked { done } };
                self.messages.push(Message::Tell(other, event));
            }
        }
    }

    fn pass_time(&mut self) {
        self.now += Duration::from_millis(400);
        for client in 0..self.clients.len() {
            if self.clients[client].wake.is_some_and(|at| at <= self.now) && !self.clients[client].frozen {
                self.clients[client].wake = None;
                self.feed(client, Event::Timer);
            }
        }
    }

    /// Something goes wrong.
    fn upset(&mut self, client: usize) {
        match self.roll(6) {
            // The OSD drops the watch; a client that runs hears of it, and watches again.
            0 => {
                self.clients[client].watch = None;
                self.messages.push(Message::Tell(client, Event::Watch(None)));
            }
            1 => self.watch_again(client),
            2 => self.clients[client].frozen = true,
            3 => self.clients[client].frozen = false,
            4 => self.feed(client, Event::GiveUp),
            _ => {
                // An operator calls for the lock through another client, or a notify is lost.
                let index = self.roll(self.messages.len().max(1));
                if matches!(
                    self.messages.get(index),
                    Some(Message::Tell(_, Event::PeerAcquired | Event::PeerReleased))
                ) {
                    self.messages.swap_remove(index);
                }
            }
        }
    }

    fn watch_again(&mut self, client: usize) {
        if self.clients[client].watch.is_none() && !self.blocklist.contains(&client) {
            let watch = self.new_watch();
            self.clients[client].watch = Some(watch);
            self.messages.push(Message::Tell(client, Event::Watch(Some(watch))));
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Tell(client, _) if self.clients[client].dead => {}
            // What it has sent still arrives.
            Message::Do(client, action) if self.clients[client].dead => {
                self.act(client, action);
            }
            Message::Do(client, _) | Message::Tell(client, _) if self.clients[client].frozen => {
                self.messages.push(message);
            }
            // A client hears of its own watch in order.
            Message::Tell(client, Event::Watch(_)) => {
                self.feed(client, Event::Watch(self.clients[client].watch))
            }
            Message::Tell(client, event) => self.feed(client, event),
            Message::Do(client, action) => {
                if let Some(event) = self.act(client, action) {
                    self.messages.push(Message::Tell(client, event));
                }
            }
            Message::Ask { asker, round, heard_by, mut answer } => {
                if heard_by == self.clients.len() {
                    return self.messages.push(Message::Tell(asker, Event::Requested(round, answer)));
                }
                let asked = &self.clients[heard_by];
                if heard_by != asker && !asked.frozen && asked.watch.is_some() && asked.machine.is_owner() {
                    // As `ExclusiveLock::requested`.
                    if asked.exclusive {
                        answer = Answer::Owner(-Errno::EROFS.0);
                    } else {
                        answer = Answer::Owner(0);
                        self.feed(heard_by, Event::PeerWants);
                    }
                }
                self.messages.push(Message::Ask { asker, round, heard_by: heard_by + 1, answer });
            }
        }
    }

    /// The cluster carries out an action.
    fn act(&mut self, client: usize, action: Action) -> Option<Event> {
        let barred = self.blocklist.contains(&client);
        let busy = || Err(errno(Errno::EBUSY));
        let unless_barred =
            |result: Result<(), OpError>| if barred { Err(crate::mem_store::blocklisted()) } else { result };
        Some(match action {
            Action::Lock(watch) => Event::Locked(unless_barred(match self.lock {
                _ if barred => Ok(()),
                None => {
                    self.lock = Some((client, watch));
                    Ok(())
                }
                Some(held) if held == (client, watch) => Err(errno(Errno::EEXIST)),
                Some(_) => busy(),
            })),
            Action::Inspect => {
                let lockers = self.lock.map(|(holder, watch)| owner(id(holder), watch)).into_iter().collect();
                let info = LockInfo { lockers, kind: 1, tag: "internal".into() };
                let watchers: Vec<_> = (0..self.clients.len())
                    .filter_map(|no| self.clients[no].watch.map(|watch| watcher(id(no), watch)))
                    .collect();
                let me = GlobalId(id(client).unsigned_abs());
                let mut holder = Holder::judge(info, &watchers, me, self.clients[client].watch);
                if self.clients[client].informed {
                    holder = holder.unless_ended(&self.dead());
                }
                Event::Inspected(unless_barred(Ok(())).map(|()| holder))
            }
            Action::Request(round) => {
                self.messages.push(Message::Ask {
                    asker: client,
                    round,
                    heard_by: 0,
                    answer: Answer::Nobody,
                });
                return None;
            }
            Action::Blocklist(owner) => {
                let victim = owner.addr.nonce as usize - 1;
                assert_ne!(victim, client, "nobody bars itself");
                let missed =
                    self.clients[victim].watch.is_none_or(|watch| owner.cookie != format!("auto {watch}"));
                assert!(
                    barred || missed || self.clients[victim].dead,
                    "nobody bars who is known to be alive"
                );
                if !barred {
                    self.blocklist.push(victim);
                    self.clients[victim].watch = None;
                }
                Event::OwnerBlocklisted(unless_barred(Ok(())))
            }
            Action::Break(broken) => {
                let held = self.lock.is_some_and(|(holder, watch)| owner(id(holder), watch) == broken);
                if held && !barred {
                    self.lock = None;
                }
                Event::Broken(unless_barred(if held { Ok(()) } else { Err(errno(Errno::ENOENT)) }))
            }
            Action::Prepare if self.failures && self.roll(10) == 0 => {
                Event::Prepared(Err(LockError::Prepare(std::sync::Arc::new(errno(Errno::EIO)))))
            }
            Action::Prepare if barred => Event::Prepared(Err(LockError::Blocklisted)),
            Action::Prepare => Event::Prepared(Ok(())),
            Action::Rebind { old, new } => {
                let held = self.lock == Some((client, old));
                if held && !barred {
                    self.lock = Some((client, new));
                }
                Event::Rebound(unless_barred(if held { Ok(()) } else { busy() }))
            }
            Action::Close => Event::Closed,
            Action::Unlock(watch) => {
                let held = self.lock == Some((client, watch));
                if held && !barred {
                    self.lock = None;
                }
                Event::Unlocked(unless_barred(if held { Ok(()) } else { Err(errno(Errno::ENOENT)) }))
            }
            announcement @ (Action::AnnounceAcquired | Action::AnnounceReleased) => {
                let acquired = announcement == Action::AnnounceAcquired;
                let event = if acquired { Event::PeerAcquired } else { Event::PeerReleased };
                for other in (0..self.clients.len()).filter(|other| *other != client) {
                    if self.clients[other].watch.is_some() {
                        self.messages.push(Message::Tell(other, event.clone()));
                    }
                }
                Event::Announced
            }
            other => panic!("{other:?} is not for the cluster"),
        })
    }

    fn dead(&self) -> Dead {
        Dead((0..self.clients.len()).filter(|no| self.clients[*no].dead).map(id).collect())
    }

    /// Kills a client; its watch stays.
    fn kill(&mut self, client: usize) {
        self.clients[client].frozen = true;
        self.clients[client].dead = true;
    }

    /// Ends all trouble but death, and lets its consequences pass.
    fn settle(&mut self) {
        self.failures = false;
        for client in 0..self.clients.len() {
            self.clients[client].frozen = self.clients[client].dead;
            self.watch_again(client);
        }
        self.run(4000);
        self.settled = true;
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
            self.check();
        }
    }

    fn writes(&self) -> Vec<u64> {
        self.clients.iter().map(|client| client.writes).collect()
    }

    fn check(&self) {
        let writing = (0..self.clients.len())
            .filter(|no| self.clients[*no].writing && !self.blocklist.contains(no))
            .count();
        assert!(writing <= 1, "two clients write");
    }
}

/// Who knows these clients to be dead.
#[derive(Debug)]
struct Dead(Vec<i64>);

impl Predecessors for Dead {
    fn has_ended(&self, client: EntityName, _: EntityAddr) -> bool {
        self.0.contains(&client.num)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn only_one_client_writes_and_all_get_their_turn(clients in 2usize..4, seed: u64, trouble in 0usize..3000) {
        let mut world = World::new(clients, seed);
        world.run(trouble);
        // When the trouble is over, whoever was not blocklisted gets to write, again and again.
        world.settle();
        let before = world.writes();
        world.run(6000);
        for (no, client) in world.clients.iter().enumerate() {
            let barred = world.blocklist.contains(&no);
            prop_assert!(barred || client.writes > before[no] + 3, "client {no} starves: {:?}", client.machine);
            prop_assert!(!barred || client.machine.is_lost() || !client.open, "client {no} is barred");
        }
    }

    #[test]
    fn the_dead_are_succeeded_by_who_knows_of_it_though_their_watch_stays(
        clients in 2usize..4,
        seed: u64,
        trouble in 0usize..3000,
        killed in 0usize..3,
    ) {
        let mut world = World::new(clients, seed);
        let killed = killed % clients;
        for client in &mut world.clients {
            client.informed = true;
        }
        world.run(trouble);
        world.kill(killed);
        world.settle();
        let before = world.writes();
        world.run(6000);
        for (no, client) in world.clients.iter().enumerate().filter(|(_, client)| !client.dead) {
            let barred = world.blocklist.contains(&no);
            prop_assert!(barred || client.writes > before[no] + 3, "client {no} starves: {:?}", client.machine);
        }
    }

    #[test]
    fn who_has_the_lock_exclusively_keeps_it(clients in 2usize..4, seed: u64, trouble in 0usize..3000) {
        let mut world = World::new(clients, seed);
        world.clients[0].exclusive = true;
        world.run(trouble);
        world.settle();
        let barred = world.blocklist.contains(&0);
        // Whoever had it before finishes first.
        let mut waited = 0;
        while !barred && !world.clients[0].machine.is_held() && waited < 10_000 {
            world.run(1);
            waited += 1;
        }
        let before = world.writes();
        world.run(6000);
        for (no, client) in world.clients.iter().enumerate() {
            let wrote = client.writes - before[no];
            if no == 0 {
                prop_assert!(barred || wrote > 3, "the owner starves: {:?}", client.machine);
            } else {
                prop_assert!(barred || wrote == 0, "client {no} wrote {wrote} times");
            }
        }
    }
}
