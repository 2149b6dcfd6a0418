use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use proptest::prelude::*;

use super::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A connection with requests to make, which does as its task would: it tries again when it was woken, or when one of its
/// own requests is finished.
struct Client {
    share: Share,
    todo: VecDeque<usize>,
    in_flight: Vec<usize>,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Client {
    fn new(budget: &Budget) -> Self {
        let share = budget.connect().expect("a share");
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        Self { share, todo: VecDeque::new(), in_flight: Vec::new(), woken }
    }

    /// Begins what can begin; whether anything did.
    fn run(&mut self) -> bool {
        self.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.woken));
        let before = self.in_flight.len();
        while let Some(&bytes) = self.todo.front()
            && self.share.poll_take(&Context::from_waker(&waker), bytes).is_ready()
        {
            self.in_flight.push(bytes);
            self.todo.pop_front();
        }
        self.in_flight.len() > before
    }

    /// Asks for one more; whether it begins at once.
    fn begin(&mut self, bytes: usize) -> bool {
        self.todo.push_back(bytes);
        self.run()
    }

    /// Finishes a request, and goes on.
    fn finish(&mut self, which: usize) {
        let bytes = self.in_flight.swap_remove(which);
        self.share.give_back(bytes);
        self.share.settle();
        self.run();
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> usize {
        self.in_flight.iter().sum()
    }
}

fn budget(requests: usize, bytes: usize) -> Budget {
    Budget::new(Limits { connections: 100, requests, bytes })
}

fn free(budget: &Budget) -> Amount {
    budget.0.pool.lock().free
}

/// Lets all go on that were woken, until nobody is.
fn run_woken(clients: &mut [Client]) {
    while let Some(client) = clients.iter_mut().find(|client| client.is_woken()) {
        client.run();
    }
}

#[test]
fn a_connection_may_have_its_own_allowance_whatever_the_others_do() {
    let budget = budget(0, 0);
    let mut client = Client::new(&budget);
    for _ in 0..OWN_REQUESTS {
        assert!(client.begin(OWN_BYTES / OWN_REQUESTS));
    }
    assert!(!client.begin(0), "one request too many");
    client.finish(0);
    assert_eq!(client.in_flight.len(), OWN_REQUESTS);
}

#[test]
fn a_request_without_payload_waits_for_no_bytes() {
    let budget = budget(1000, MIB);
    let (mut writer, mut flusher) = (Client::new(&budget), Client::new(&budget));
    assert!(writer.begin(MIB + OWN_BYTES));
    assert!(flusher.begin(OWN_BYTES));
    assert_eq!(free(&budget).bytes, 0);
    assert!((0..50).all(|_| flusher.begin(0)));
    assert!((0..50).all(|_| writer.begin(0)));
    assert!(!flusher.begin(1));
}

#[test]
fn no_connection_has_more_than_its_limits() {
    let budget = Budget::default();
    let mut client = Client::new(&budget);
    assert!(client.begin(MAX_BYTES_IN_FLIGHT));
    assert!(!client.begin(1));
    client.finish(0);
    assert_eq!(client.in_flight, [1], "its own end lets it go on");
    client.todo.extend([0; MAX_REQUESTS_IN_FLIGHT]);
    client.run();
    assert_eq!(client.in_flight.len(), MAX_REQUESTS_IN_FLIGHT);
}

#[test]
fn who_waits_is_served_in_turn() {
    let budget = budget(1000, 4 * MIB);
    let mut hogs = [Client::new(&budget), Client::new(&budget)];
    assert!(hogs[0].begin(2 * MIB));
    assert!(hogs[1].begin(2 * MIB));
    let (mut large, mut small) = (Client::new(&budget), Client::new(&budget));
    assert!(!large.begin(3 * MIB));
    assert!(!small.begin(MIB), "there would be room, but another one came first");
    hogs[0].finish(0);
    assert!(!large.is_woken() && !small.is_woken());
    hogs[1].finish(0);
    assert!(large.is_woken() && small.is_woken());
    assert!(large.run() && small.run());
}

#[test]
fn a_large_request_does_not_starve_among_small_ones() {
    let budget = budget(1000, 8 * MIB);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::new(&budget)).collect();
    for client in &mut clients {
        client.todo.extend([512 * KIB; 10_000]);
        client.run();
    }
    let mut large = Client::new(&budget);
    assert!(!large.begin(7 * MIB));
    let mut finished = 0;
    while !large.is_woken() {
        let busy = clients.iter_mut().max_by_key(|client| client.in_flight.len()).unwrap();
        busy.finish(0);
        run_woken(&mut clients);
        finished += 1;
        assert!(finished < 100, "not served after {finished} others");
    }
    assert!(large.run());
}

#[test]
fn those_who_get_no_answers_leave_room_for_others() {
    let budget = Budget::default();
    let mut stuck: Vec<Client> = (0..8).map(|_| Client::new(&budget)).collect();
    for client in &mut stuck {
        client.todo.extend([MIB; 1000]);
        client.run();
    }
    assert!(free(&budget).bytes > 32 * MIB, "{budget:?}");
    let mut other = Client::new(&budget);
    for _ in 0..1000 {
        assert!(other.begin(4 * MIB) && other.begin(4 * MIB));
        other.finish(0);
        other.finish(0);
    }
}

#[test]
fn one_that_has_its_part_of_what_is_left_goes_on_when_more_is_left() {
    let budget = budget(1000, 20 * MIB);
    let (mut stuck, mut other) = (Client::new(&budget), Client::new(&budget));
    assert!(other.begin(12 * MIB));
    stuck.todo.extend([MIB; 10]);
    stuck.run();
    assert_eq!(stuck.bytes(), 2 * MIB);
    other.finish(0);
    assert!(stuck.is_woken(), "though nothing of its own is finished");
    assert!(stuck.run());
}

#[test]
fn more_than_the_pool_is_served_once_nobody_else_has_any() {
    let budget = budget(100, MIB);
    let (mut large, mut small) = (Client::new(&budget), Client::new(&budget));
    assert!(small.begin(OWN_BYTES + 1));
    assert!(!large.begin(32 * MIB));
    small.finish(0);
    assert!(large.is_woken() && large.run());
    assert!(!small.begin(OWN_BYTES + 1));
    large.finish(0);
    assert!(small.is_woken() && small.run());
}

#[test]
fn one_that_goes_away_is_not_waited_for() {
    let budget = budget(100, 4 * MIB);
    let (mut hog, mut waiting, mut small) =
        (Client::new(&budget), Client::new(&budget), Client::new(&budget));
    assert!(hog.begin(2 * MIB));
    assert!(!waiting.begin(4 * MIB));
    assert!(!small.begin(MIB));
    waiting.share.stop_waiting();
    assert!(small.is_woken() && small.run());
    assert!(!waiting.run(), "it may ask again");
    drop(waiting);
    drop(hog);
    drop(small);
    assert_eq!(free(&budget), Amount { requests: 100, bytes: 4 * MIB });
}

#[test]
fn what_was_given_to_one_that_goes_away_is_not_lost() {
    let budget = budget(100, 4 * MIB);
    let (mut hog, mut served) = (Client::new(&budget), Client::new(&budget));
    assert!(hog.begin(4 * MIB));
    assert!(!served.begin(4 * MIB));
    hog.finish(0);
    assert!(served.is_woken());
    drop(served);
    assert!(hog.begin(4 * MIB));
}

#[test]
fn as_many_connections_as_may_be_are_open() {
    let budget = Budget::new(Limits { connections: 2, ..Limits::default() });
    let (first, _second) = (budget.connect().expect("a share"), budget.connect().expect("a share"));
    assert!(budget.connect().is_none());
    drop(first);
    assert!(budget.connect().is_some());
}

#[derive(Debug, Clone)]
enum Step {
    Begin { client: usize, bytes: usize },
    Finish { client: usize, which: usize },
    Reconnect { client: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![Just(0), 1..64 * KIB, 1..MIB, 1..20 * MIB];
    prop_oneof![
        10 => (any::<usize>(), bytes).prop_map(|(client, bytes)| Step::Begin { client, bytes }),
        8 => any::<(usize, usize)>().prop_map(|(client, which)| Step::Finish { client, which }),
        1 => any::<usize>().prop_map(|client| Step::Reconnect { client }),
    ]
}

/// Nothing is lost, nothing is there twice, and nobody has more than was paid for.
fn check(budget: &Budget, clients: &[Client]) {
    let Limits { requests, bytes, .. } = budget.limits();
    let mut total = free(budget);
    for client in clients {
        let share = &client.share;
        total = total.plus(share.held);
        if client.is_woken() && share.place_in(&budget.0.pool.lock()).is_none() {
            total = total.plus(share.asked);
        }
        assert_eq!((share.used.requests, share.used.bytes), (client.in_flight.len(), client.bytes()));
        assert!(share.used.requests <= MAX_REQUESTS_IN_FLIGHT);
        let is_paid = share.used.fits(OWN.plus(share.held));
        assert!(is_paid || share.held.bytes == bytes, "{share:?}");
    }
    assert_eq!(total, Amount { requests, bytes });
}

proptest! {
    #[test]
    fn nothing_exceeds_the_budget_and_everything_comes_to_its_end(
        connections in 1usize..20,
        requests in 0usize..200,
        bytes in prop_oneof![0..MIB, MIB..40 * MIB],
        steps in proptest::collection::vec(any_step(), 0..400),
    ) {
        let budget = budget(requests, bytes);
        let mut clients: Vec<Client> = (0..connections).map(|_| Client::new(&budget)).collect();
        for step in steps {
            match step {
                Step::Begin { client, bytes } => {
                    let client = &mut clients[client % connections];
                    let waits = !client.todo.is_empty();
                    client.todo.push_back(bytes);
                    if !waits {
                        client.run();
                    }
                }
                Step::Finish { client, which } => {
                    let client = &mut clients[client % connections];
                    if !client.in_flight.is_empty() {
                        client.finish(which % client.in_flight.len());
                    }
                }
                Step::Reconnect { client } => clients[client % connections] = Client::new(&budget),
            }
            check(&budget, &clients);
            run_woken(&mut clients);
            check(&budget, &clients);
        }
        while let Some(client) = clients.iter_mut().find(|client| !client.in_flight.is_empty()) {
            client.finish(0);
            run_woken(&mut clients);
            check(&budget, &clients);
        }
        prop_assert!(clients.iter().all(|client| client.todo.is_empty()), "{budget:?}");
        prop_assert_eq!(free(&budget), Amount { requests, bytes });
    }
}
