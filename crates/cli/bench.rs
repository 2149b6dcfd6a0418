//! `bench`: how fast an image is.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ceph_conf::Overrides;
use clap::{Args as ClapArgs, ValueEnum};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rados::IoCtx;
use rbd::{Image, ImageError};

use crate::cluster::Cluster;
use crate::output;
use crate::report::Error;
use crate::spec::ImageOrSnapArgs;
use crate::{size, text};

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    image: ImageOrSnapArgs,
    /// What to do
    #[arg(long, value_name = "read|write|readwrite")]
    io_type: IoType,
    /// Bytes of a request
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = size::bytes)]
    io_size: u64,
    /// Requests under way
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(1..))]
    io_threads: u32,
    /// Bytes of all requests
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size::bytes)]
    io_total: u64,
    /// Where to: at random, along one stripe for each thread, or along the image
    #[arg(long, value_name = "rand|seq|full-seq", default_value = "seq")]
    io_pattern: Pattern,
    /// With readwrite: percentage of reads
    #[arg(long, value_name = "PERCENT", default_value = "50", value_parser = clap::value_parser!(u64).range(..=100))]
    rw_mix_read: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IoType {
    Read,
    Write,
    #[value(alias = "rw")]
    Readwrite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pattern {
    Rand,
    Seq,
    FullSeq,
}

/// Seconds whose average is shown.
const WINDOW: usize = 5;

pub(crate) async fn run(args: &BenchArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    if args.io_size == 0 || args.io_size > u32::MAX.into() {
        return Err(Error::IoSize { io_size: args.io_size });
    }
    let cluster = Cluster::connect(&target.overrides).await?;
    let read_only = args.io_type == IoType::Read;
    let image = cluster.open(&target, target.open_options(read_only)).await?;
    let size = image.size();
    let measured = if args.io_size > size {
        Err(Error::IoLargerThanImage { io_size: args.io_size, size })
    } else {
        let measured = bench(args, &image, size).await;
        measured.map_err(|source| cluster.failed("measure", &target.spec, source))
    };
    image.close().await;
    measured
}

/// Ceph: `do_bench` in `src/tools/rbd/action/Bench.cc`.
async fn bench(args: &BenchArgs, image: &Image<IoCtx>, size: u64) -> Result<(), ImageError> {
    let mut random = Random::new();
    let percentage = match args.io_type {
        IoType::Read => 100,
        IoType::Write => 0,
        IoType::Readwrite => args.rw_mix_read,
    };
    print(&heading(args, percentage));
    let io_size = args.io_size;
    let pattern = u8::try_from(random.below(256)).unwrap_or(1);
    let data = Bytes::from(vec![pattern; usize::try_from(io_size).expect("less than 4 GiB")]);
    let mut places = Places::new(args, size, &mut random);
    let mut under_way = FuturesUnordered::<BoxFuture<'_, Result<(), ImageError>>>::new();
    let (mut reads, mut writes, mut offset) = (0u64, 0u64, 0u64);
    let mut stopped = Box::pin(tokio::signal::ctrl_c());
    let mut seconds = Seconds::new();
    let mut interrupted = false;
    while offset < args.io_total && !interrupted {
        for thread in 0..args.io_threads {
            if offset >= args.io_total {
                break;
            }
            while under_way.len() >= args.io_threads as usize && !interrupted {
                tokio::select! {
                    Some(done) = under_way.next() => done?,
                    _ = &mut stopped => interrupted = true,
                }
            }
            if interrupted {
                break;
            }
            let place = places.of_thread(thread);
            if random.below(100) < percentage {
                reads += 1;
                under_way.push(Box::pin(async move { image.read(place, io_size).await.map(drop) }));
            } else {
                writes += 1;
                under_way.push(Box::pin(image.write(place, data.clone())));
            }
            offset += io_size;
            seconds.count(io_size);
        }
        places.advance(offset, &mut random);
        if let Some(line) = seconds.line((reads + writes).saturating_sub(args.io_threads.into())) {
            print(&line);
        }
    }
    while let Some(done) = under_way.next().await {
        done?;
    }
    image.flush().await;
    let elapsed = seconds.began.elapsed();
    let mut text = format!("elapsed: {}   {}", elapsed.as_secs(), rates("", reads + writes, offset, elapsed));
    if args.io_type == IoType::Readwrite {
        text += &rates("read_", reads, reads * io_size, elapsed);
        text += &rates("write_", writes, writes * io_size, elapsed);
    }
    print(&text);
    Ok(())
}

fn heading(args: &BenchArgs, percentage: u64) -> String {
    let kind = match args.io_type {
        IoType::Read => "read".to_owned(),
        IoType::Write => "write".to_owned(),
        IoType::Readwrite => format!("readwrite read:write={percentage}:{}", 100 - percentage),
    };
    let pattern = match args.io_pattern {
        Pattern::Rand => "random",
        Pattern::Seq => "sequential",
        Pattern::FullSeq => "full sequential",
    };
    format!(
        "bench  type {kind} io_size {} io_threads {} bytes {} pattern {pattern}\n  SEC       OPS   OPS/SEC   BYTES/SEC\n",
        args.io_size, args.io_threads, args.io_total
    )
}

fn rates(what: &str, ops: u64, bytes: u64, elapsed: Duration) -> String {
    let elapsed = elapsed.as_secs_f64().max(1e-9);
    format!(
        "{what}ops: {ops}   {what}ops/sec: {}   {what}bytes/sec: {}/s\n",
        number(float(ops) / elapsed),
        text::bytes(whole(float(bytes) / elapsed))
    )
}

/// Somebody may not read it to its end.
fn print(line: &str) {
    let _ = output::write(line);
}

#[expect(clippy::cast_precision_loss, reason = "six digits are shown")]
fn float(number: u64) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are positive and far smaller"
)]
fn whole(number: f64) -> u64 {
    number as u64
}

/// As a C++ stream prints it: six digits.
fn number(value: f64) -> String {
    if value >= 1e6 {
        let exponent = value.log10().floor();
        let mantissa = trimmed(&format!("{:.5}", value / 10f64.powf(exponent)));
        return format!("{mantissa}e+{exponent:02}");
    }
    let before_point = whole(value).checked_ilog10().unwrap_or(0) as usize;
    trimmed(&format!("{value:.*}", 5usize.saturating_sub(before_point)))
}

fn trimmed(text: &str) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text.to_owned()
    }
}

/// Where each thread goes next.
struct Places {
    pattern: Pattern,
    size: u64,
    io_size: u64,
    threads: u64,
    /// Bytes that each thread has for itself.
    chunk: u64,
    places: Vec<u64>,
}

impl Places {
    fn new(args: &BenchArgs, size: u64, random: &mut Random) -> Self {
        let (io_size, threads) = (args.io_size, u64::from(args.io_threads));
        let chunk = size / io_size / threads * io_size;
        let start = |thread: u64| match args.io_pattern {
            Pattern::Rand => random.below(size / io_size) * io_size,
            Pattern::Seq => chunk * thread,
            // Not past the end of a small image.
            Pattern::FullSeq => thread * io_size % (size / io_size * io_size),
        };
        let places = (0..threads).map(start).collect();
        Self { pattern: args.io_pattern, size, io_size, threads, chunk, places }
    }

    fn of_thread(&self, thread: u32) -> u64 {
        self.places[thread as usize]
    }

    /// All threads have made a request, so that `offset` bytes are asked for.
    fn advance(&mut self, offset: u64, random: &mut Random) {
        let Self { pattern, size, io_size, threads, chunk, .. } = *self;
        for (thread, place) in (0..).zip(&mut self.places) {
            *place = match pattern {
                Pattern::Rand => random.below(size / io_size) * io_size,
                Pattern::Seq if offset < chunk * threads => *place + io_size,
                Pattern::Seq => offset + thread * io_size,
                Pattern::FullSeq => *place + io_size * threads,
            };
            if *place + io_size > size {
                *place = match pattern {
                    Pattern::Seq => chunk * thread,
                    _ => thread * io_size % (size / io_size * io_size),
                };
            }
        }
    }
}

/// What was done in the last seconds.
struct Seconds {
    began: Instant,
    last: Instant,
    ops: u64,
    bytes: u64,
    window: std::collections::VecDeque<(f64, u64, u64)>,
}

impl Seconds {
    fn new() -> Self {
        let now = Instant::now();
        Self { began: now, last: now, ops: 0, bytes: 0, window: std::collections::VecDeque::new() }
    }

    fn count(&mut self, bytes: u64) {
        self.ops += 1;
        self.bytes += bytes;
    }

    /// A line, if it is another second than before.
    fn line(&mut self, ops: u64) -> Option<String> {
        let now = Instant::now();
        let second = now.duration_since(self.began).as_secs();
        if second == self.last.duration_since(self.began).as_secs() {
            return None;
        }
        self.window.push_back((now.duration_since(self.last).as_secs_f64(), self.ops, self.bytes));
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        (self.last, self.ops, self.bytes) = (now, 0, 0);
        let sum = |part: fn(&(f64, u64, u64)) -> f64| self.window.iter().map(part).sum::<f64>();
        let time = sum(|(time, ..)| *time).max(1e-9);
        let (rate, bytes) = (sum(|(_, ops, _)| float(*ops)) / time, sum(|(.., bytes)| float(*bytes)) / time);
        Some(format!("{second:>5}{ops:>10}{:>10}{:>10}/s\n", number(rate), text::bytes(whole(bytes))))
    }
}

/// Any will do. From Numerical Recipes.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let since_1970 =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(u64::from(since_1970.subsec_nanos()) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_by_a_stream_of_cpp() {
        for (value, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (1.0, "1"),
            (12.345_678, "12.3457"),
            (48_123.456, "48123.5"),
            (999_999.0, "999999"),
            (1_234_567.0, "1.23457e+06"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    fn visited(pattern: Pattern, size: u64, rounds: u64) -> Vec<u64> {
        let args = BenchArgs {
            image: ImageOrSnapArgs::default(),
            io_type: IoType::Read,
            io_size: 10,
            io_threads: 2,
            io_total: 1000,
            io_pattern: pattern,
            rw_mix_read: 50,
        };
        let mut random = Random(1);
        let mut places = Places::new(&args, size, &mut random);
        let mut visited = Vec::new();
        for round in 1..=rounds {
            visited.extend([places.of_thread(0), places.of_thread(1)]);
            places.advance(round * 20, &mut random);
        }
        visited
    }

    #[test]
    fn no_request_goes_past_the_end() {
        for pattern in [Pattern::Rand, Pattern::Seq, Pattern::FullSeq] {
            for size in [10, 25, 40, 1005] {
                assert!(
                    visited(pattern, size, 200).iter().all(|place| place + 10 <= size),
                    "{pattern:?} {size}"
                );
            }
        }
        assert_eq!(visited(Pattern::Seq, 60, 4), [0, 30, 10, 40, 20, 50, 0, 30]);
        assert_eq!(visited(Pattern::FullSeq, 60, 4), [0, 10, 20, 30, 40, 50, 0, 10]);
    }
}
