//! Chooses what happens next.

use std::time::{Duration, Instant};

use crate::common::random::Rng;
use crate::common::{Cluster, KIB, Kind, MIB, wait_until};
use crate::history::History;
use crate::model::Image;
use crate::party::Party;
use crate::shape::{PLACES, Shape};

/// So often everything is compared, in operations.
const VERIFY_EVERY: u64 = 500;

pub(crate) struct Exerciser<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) rng: Rng,
    pub(crate) shape: Shape,
    seed: u64,
    pub(crate) image: Image,
    /// Images that others were cloned from, the oldest first. Nobody changes them any more.
    pub(crate) ancestors: Vec<Image>,
    pub(crate) parties: Vec<Party>,
    pub(crate) history: History,
    made: u64,
    /// Servers that were killed and may have been shut out of the cluster.
    pub(crate) kills: usize,
    /// Clients that had been shut out before.
    pub(crate) shut_out_before: usize,
    /// Maintenance that took longest.
    pub(crate) slowest: (Duration, String),
}

impl<'a> Exerciser<'a> {
    /// An image of the seed's, open by `parties`, or those the seed chooses.
    pub(crate) fn new(cluster: &'a Cluster, seed: u64, parties: Option<Vec<Kind>>) -> Self {
        let mut rng = Rng::new(seed);
        let shape = Shape::choose(&mut rng, parties);
        let mut layout = shape.first.clone();
        if shape.map_begins_invalid {
            (layout.features.object_map, layout.features.fast_diff) = (false, false);
        }
        let image = Image::new(String::new(), layout, shape.size);
        let mut exerciser = Self {
            cluster,
            rng,
            seed,
            image,
            ancestors: Vec::new(),
            parties: Vec::new(),
            history: History::new(seed, shape.to_string()),
            made: 0,
            kills: 0,
            shut_out_before: cluster.run("ceph osd blocklist ls 2>/dev/null").lines().count(),
            slowest: (Duration::ZERO, String::new()),
            shape,
        };
        exerciser.image.spec = exerciser.new_spec();
        let command = format!(
            "create {} --size {}B {}",
            exerciser.image.spec,
            exerciser.image.size(),
            exerciser.image.layout.options()
        );
        exerciser.maintain(&command);
        exerciser.open_parties();
        if exerciser.shape.map_begins_invalid {
            exerciser.some_io(40);
            let names =
                if exerciser.shape.first.features.fast_diff { "object-map fast-diff" } else { "object-map" };
            exerciser.enable(names);
        }
        exerciser
    }

    pub(crate) fn new_spec(&mut self) -> String {
        self.made += 1;
        let place = self.rng.pick(&PLACES);
        format!("{place}/x{}-{}.{}", self.seed, self.made, std::process::id())
    }

    pub(crate) fn new_name(&mut self) -> String {
        self.made += 1;
        format!("s{}", self.made)
    }

    pub(crate) fn open_parties(&mut self) {
        assert!(self.parties.is_empty());
        for (number, kind) in self.shape.parties.clone().into_iter().enumerate() {
            self.parties.push(Party::open(self.cluster, kind, number, &self.image.spec));
        }
    }

    /// Closes the image, and holds when nothing of that is left.
    pub(crate) fn close_parties(&mut self) {
        self.history.note("all close");
        self.parties.drain(..).for_each(|mut party| party.close());
        let spec = &self.image.spec;
        // A clean end takes the watch away at once.
        wait_until("no watcher and no lock is left", Duration::from_secs(5), || {
            let status = self
                .cluster
                .run(&format!("rbd status --format json {spec}; rbd lock ls --format json {spec}"));
            (status.contains("\"watchers\":[]") && status.trim_end().ends_with("[]")).then_some(())
        });
    }

    /// Does so many operations, and compares everything at the end.
    pub(crate) fn run(&mut self, operations: u64) {
        let began = Instant::now();
        for number in 1..=operations {
            self.history.number = number;
            self.step();
            if number % VERIFY_EVERY == 0 {
                self.verify();
                eprintln!("seed {}: {number} operations after {:.0?}", self.seed, began.elapsed());
            }
        }
        self.finish();
        let (took, command) = &self.slowest;
        eprintln!(
            "seed {}: {operations} operations in {:.0?} ({}); slowest: {took:.1?} for {command}",
            self.seed,
            began.elapsed(),
            self.shape
        );
    }

    pub(crate) fn step(&mut self) {
        match self.rng.range(0..1000) {
            0..270 => self.read(),
            270..570 => self.write(),
            570..640 => self.trim(),
            640..710 => self.write_zeroes(),
            710..730 => self.flush(),
            730..755 => self.block_status(),
            755..890 => self.many_at_once(),
            890..905 => self.reopen_one(),
            905..910 => self.kill_one(),
            910..940 => self.create_snapshot(),
            940..955 => self.remove_snapshot(),
            955..961 => self.roll_back(),
            961..976 => self.resize(),
            976..980 => self.clone_and_go_on(),
            980..984 => self.flatten(),
            984..988 => self.rebuild_object_map(),
            988..993 => self.toggle_feature(),
            993..995 => self.sparsify(),
            _ => self.change_metadata(),
        }
    }

    /// Only what goes through NBD.
    fn some_io(&mut self, operations: u64) {
        for _ in 0..operations {
            if self.rng.one_in(3) { self.read() } else { self.write() }
        }
    }

    /// Where a request goes: offset and length, in bytes. Often near a boundary of objects.
    pub(crate) fn choose_range(&mut self, limit: u64) -> (u64, u64) {
        let rng = &mut self.rng;
        let boundary = self.image.layout.boundary();
        let most = match rng.range(0..20) {
            0..8 => 8 * KIB,
            8..16 => 64 * KIB,
            16..19 => boundary.clamp(64 * KIB, 4 * MIB) * 2,
            _ => 6 * MIB,
        };
        let mut length = rng.range(1..most.min(limit) + 1);
        let mut offset = rng.range(0..limit);
        match rng.range(0..6) {
            // Whole objects, or stripe units.
            0 => {
                offset = offset / boundary * boundary;
                length = (length / boundary).max(1) * boundary;
            }
            // Around the end of one.
            1 | 2 => {
                let end = (offset / boundary + 1) * boundary;
                offset = end.saturating_sub(rng.range(0..length + 1));
            }
            // As file systems do.
            3 => {
                offset = offset / 4096 * 4096;
                length = length.next_multiple_of(4096);
            }
            // To the end of the image.
            4 if rng.one_in(3) => offset = limit - length,
            _ => {}
        }
        let offset = offset.min(limit - 1);
        (offset, length.clamp(1, limit - offset).min(8 * MIB))
    }

    /// One of those who have the image open, and how much of it that one may use.
    pub(crate) fn choose_party(&mut self) -> (usize, u64) {
        let index = self.rng.range(0..self.parties.len() as u64) as usize;
        (index, self.parties[index].size().min(self.image.size()))
    }
}
