//! A disk in use: reads and writes, each of which is checked and timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::nbd::{self, Failure};
use super::process::wait_until;
use super::server::Server;

const BLOCK: usize = 4096;
const CLIENTS: u64 = 4;
const BLOCKS_EACH: u64 = 512;
/// Between two requests of a client: the machine has other things to do, too.
const PAUSE: Duration = Duration::from_millis(5);
/// For what waits when it is looked at.
const LIMIT: Duration = Duration::from_secs(120);

/// Clients at work on the first 8 MiB of an export. A request that fails, or reads what was not written, fails the test.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<(Arc<Meter>, JoinHandle<()>)>,
}

#[derive(Debug, Default)]
struct Meter {
    requests: AtomicU64,
    /// In microseconds.
    longest: AtomicU64,
}

impl Load {
    pub(crate) fn start(server: &Server, export: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS).map(|number| {
            let meter = Arc::new(Meter::default());
            let mut client = Client::connect(server, export, number, Arc::clone(&meter));
            let stop = Arc::clone(&stop);
            (meter, thread::spawn(move || client.work(&stop)))
        });
        Self { clients: clients.collect(), stop }
    }

    /// The longest time that a request took since the last look; those under way are waited for.
    pub(crate) fn longest_wait(&self) -> Duration {
        for (meter, thread) in &self.clients {
            let before = meter.requests.load(Ordering::Acquire);
            wait_until("a request ends", LIMIT, || {
                assert!(!thread.is_finished(), "a client failed");
                (meter.requests.load(Ordering::Acquire) > before).then_some(())
            });
        }
        let longest = self.clients.iter().map(|(meter, _)| meter.longest.swap(0, Ordering::Relaxed)).max();
        Duration::from_micros(longest.unwrap_or_default())
    }

    /// Ends it, and reads all that was written.
    pub(crate) fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_, client) in self.clients.drain(..) {
            if let Err(panic) = client.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One connection. It has blocks of its own, so it knows what is in them.
struct Client {
    disk: nbd::Client,
    first_block: u64,
    /// What was written to each block last; 0 before.
    written: Vec<u64>,
    meter: Arc<Meter>,
    random: u64,
}

impl Client {
    fn connect(server: &Server, export: &str, number: u64, meter: Arc<Meter>) -> Self {
        Self {
            disk: nbd::Client::connect(server.socket(), export).expect("the export is there"),
            first_block: number * BLOCKS_EACH,
            written: vec![0; usize::try_from(BLOCKS_EACH).expect("small")],
            meter,
            random: number + 1,
        }
    }

    fn work(&mut self, stop: &AtomicBool) {
        let mut sequence = 0;
        while !stop.load(Ordering::Relaxed) {
            let index = usize::try_from(self.next_random() % BLOCKS_EACH).expect("small");
            if self.next_random().is_multiple_of(3) {
                self.check(index);
            } else {
                sequence += 1;
                self.write(index, sequence);
            }
            thread::sleep(PAUSE);
        }
        for index in 0..self.written.len() {
            self.check(index);
        }
    }

    fn write(&mut self, index: usize, sequence: u64) {
        let block = self.block(index);
        let data = stamped(block, sequence);
        self.timed(block, |disk, offset| disk.write(offset, &data));
        self.written[index] = sequence;
    }

    fn check(&mut self, index: usize) {
        let block = self.block(index);
        let data = self.timed(block, |disk, offset| disk.read(offset, BLOCK as u64));
        let expected = stamped(block, self.written[index]);
        assert!(
            data == expected,
            "block {block} begins with {:?}, not with {:?} (number, sequence)",
            &data[..16],
            &expected[..16]
        );
    }

    fn block(&self, index: usize) -> u64 {
        self.first_block + index as u64
    }

    fn timed<T>(
        &mut self,
        block: u64,
        request: impl FnOnce(&mut nbd::Client, u64) -> Result<T, Failure>,
    ) -> T {
        let began = Instant::now();
        let done = request(&mut self.disk, block * BLOCK as u64);
        let took = began.elapsed();
        let done = done.unwrap_or_else(|failure| panic!("block {block}, after {took:.1?}: {failure}"));
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.meter.longest.fetch_max(took, Ordering::Relaxed);
        self.meter.requests.fetch_add(1, Ordering::Release);
        done
    }

    /// xorshift64
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// What a block holds after it was written with this sequence number; all zeroes before the first.
fn stamped(block: u64, sequence: u64) -> Vec<u8> {
    if sequence == 0 {
        return vec![0; BLOCK];
    }
    [block, sequence].iter().flat_map(|number| number.to_le_bytes()).cycle().take(BLOCK).collect()
}
