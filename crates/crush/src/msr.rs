//! Multi-step retry rules: a descent that ends at a device that is out starts again at the top.
//!
//! ```text
//! SetMsr* ; ( take ROOT ; choosemsr 4 host ; choosemsr 2 osd ; emit ) ...
//!
//! positions     0   1 | 2   3 | 4   5 | 6   7        4 strides of 2: no host serves two strides,
//! hosts           a   |   b   |   c   |   d          one stride may use two hosts if devices are out
//! ```
//! Ceph: `crush_msr_do_rule` in `src/crush/mapper.c` of Ceph 20.

use crate::ITEM_NONE;
use crate::bucket::Bucket;
use crate::map::{Rule, RuleKind, Step};
use crate::mapper::{ITEM_UNDEF, Mapper, WorkLimit};

/// Executes a multi-step retry rule. A malformed rule gives nothing.
pub(crate) fn run(mapper: &mut Mapper<'_>, rule: &Rule, replicas: usize) -> Result<Vec<i32>, WorkLimit> {
    let mut steps = rule.steps.as_slice();
    let mut descents = mapper.map.tunables.msr_descents;
    let mut collision_tries = mapper.map.tunables.msr_collision_tries;
    while let [first, rest @ ..] = steps {
        match *first {
            Step::SetMsrDescents(n) => descents = n.cast_unsigned(),
            Step::SetMsrCollisionTries(n) => collision_tries = n.cast_unsigned(),
            _ => break,
        }
        steps = rest;
    }

    let mut msr = Msr {
        mapper,
        kind: rule.kind,
        replicas,
        collision_tries,
        out: vec![ITEM_NONE; replicas],
        returned: 0,
    };
    let mut start = 0;
    while !steps.is_empty() {
        let Some((block, rest)) = Block::parse(steps, replicas) else { return Ok(Vec::new()) };
        steps = rest;
        if block.root >= 0 {
            if !block.choices.is_empty() {
                return Ok(Vec::new());
            }
            if start < replicas {
                msr.emit(start, block.root);
            }
            continue;
        }
        let end = start.saturating_add(block.width).min(replicas);
        msr.fill(&block, start, end, descents)?;
        start = end;
    }

    let Msr { mut out, returned, .. } = msr;
    if rule.kind == RuleKind::MSR_FIRSTN {
        out.truncate(returned);
    }
    Ok(out)
}

/// One `take`, its choices and their `emit`.
struct Block {
    root: i32,
    choices: Vec<Choice>,
    /// Positions that the choices fill if all succeed.
    width: usize,
}

#[derive(Clone, Copy)]
struct Choice {
    strides: usize,
    level: i32,
}

impl Block {
    /// Deeper hierarchies than any cluster has; bounds the recursion.
    const MAX_CHOICES: usize = 32;

    /// Splits the first block off.
    ///
    /// Ceph: `crush_msr_scan_next` in `src/crush/mapper.c`.
    fn parse(steps: &[Step], replicas: usize) -> Option<(Self, &[Step])> {
        let (&Step::Take(root), mut steps) = steps.split_first()? else { return None };
        let mut block = Self { root, choices: Vec::new(), width: 1 };
        loop {
            let (step, rest) = steps.split_first()?;
            steps = rest;
            match *step {
                Step::Emit => return Some((block, steps)),
                Step::ChooseMsr { count, level } => {
                    let strides = if count == 0 { replicas } else { usize::try_from(count).ok()? };
                    block.width = block.width.checked_mul(strides)?;
                    block.choices.push(Choice { strides, level });
                    if strides == 0 || block.choices.len() > Self::MAX_CHOICES {
                        return None;
                    }
                }
                _ => return None,
            }
        }
    }
}

/// One mapping by a multi-step retry rule in progress.
struct Msr<'m, 'a> {
    mapper: &'m mut Mapper<'a>,
    kind: RuleKind,
    replicas: usize,
    collision_tries: u32,
    out: Vec<i32>,
    returned: usize,
}

/// Where in a block an attempt is: which descent, and what each choice has chosen for each position.
struct Attempt<'b> {
    choices: &'b [Choice],
    used: Vec<Vec<i32>>,
    descent: u32,
}

impl<'a> Msr<'_, 'a> {
    fn fill(&mut self, block: &Block, start: usize, end: usize, descents: u32) -> Result<(), WorkLimit> {
        let (Some(root), false) = (self.mapper.map.bucket(block.root), block.choices.is_empty()) else {
            return Ok(());
        };
        let used = vec![vec![ITEM_UNDEF; self.replicas]; block.choices.len()];
        let mut attempt = Attempt { choices: &block.choices, used, descent: 0 };
        let enough = self.returned + (end - start);
        while attempt.descent < descents && self.returned < enough {
            self.mapper.charge(1)?;
            self.choose(root, &mut attempt, 0, block.width, start, end)?;
            attempt.descent += 1;
        }
        Ok(())
    }

    /// Fills what it can of the positions from `start` to `end` below `bucket`, and returns how many that were.
    /// `width` is the number of positions that the choices from `depth` on could fill.
    ///
    /// Ceph: `crush_msr_choose` in `src/crush/mapper.c`.
    fn choose(
        &mut self,
        bucket: &'a Bucket,
        attempt: &mut Attempt<'_>,
        depth: usize,
        width: usize,
        start: usize,
        end: usize,
    ) -> Result<usize, WorkLimit> {
        let choice = attempt.choices[depth];
        let last = depth + 1 == attempt.choices.len();
        let stride_len = width / choice.strides;
        let mut mapped = 0;
        // Items that served no position stay taken until all strides had their turn, so that a device that is
        // out disturbs its neighbours less.
        let mut unused = Vec::new();

        for (stride, from) in (start..end).step_by(stride_len).enumerate() {
            let to = end.min(from + stride_len);
            let leaves = &attempt.used[attempt.choices.len() - 1];
            if leaves[from..to].iter().all(|&leaf| leaf != ITEM_UNDEF) {
                continue;
            }
            let Some(item) = self.candidate(bucket, attempt, depth, stride, start..end, from..to)? else {
                continue;
            };
            if choice.level == 0 {
                if stride_len == 1 && last && !self.mapper.is_out(item) {
                    attempt.take(depth, from..to, item);
                    self.emit(from, item);
                    mapped += 1;
                }
            } else if !last && let Some(below) = self.mapper.map.bucket(item) {
                let mapped_below = self.choose(below, attempt, depth + 1, stride_len, from, to)?;
                if attempt.take(depth, from..to, item) && mapped_below == 0 {
                    unused.push(from..to);
                } else {
                    mapped += mapped_below;
                }
            }
        }

        for stride in unused {
            attempt.give_back(depth, stride);
        }
        Ok(mapped)
    }

    /// An item that no other stride uses.
    fn candidate(
        &mut self,
        bucket: &'a Bucket,
        attempt: &Attempt<'_>,
        depth: usize,
        stride: usize,
        all: std::ops::Range<usize>,
        own: std::ops::Range<usize>,
    ) -> Result<Option<i32>, WorkLimit> {
        let level = attempt.choices[depth].level;
        for collisions in 0..self.collision_tries {
            let r = wrap(self.replicas).wrapping_mul(attempt.descent).wrapping_add(wrap(stride));
            let r = (r << 16).wrapping_add(collisions);
            let Some(item) = self.descend(bucket, level, r, stride)? else { return Ok(None) };
            let used = &attempt.used[depth];
            match all.clone().find(|&i| used[i] == item) {
                Some(i) if !own.contains(&i) => {}
                _ => return Ok(Some(item)),
            }
        }
        Ok(None)
    }

    /// Descends to a device or to a bucket of that level.
    fn descend(
        &mut self,
        mut bucket: &'a Bucket,
        level: i32,
        r: u32,
        position: usize,
    ) -> Result<Option<i32>, WorkLimit> {
        loop {
            let Some(item) = self.mapper.draw(bucket, r, position)? else { return Ok(None) };
            if item >= 0 {
                return Ok(Some(item));
            }
            let Some(below) = self.mapper.map.bucket(item) else { return Ok(None) };
            if i32::from(below.level) == level {
                return Ok(Some(item));
            }
            bucket = below;
        }
    }

    fn emit(&mut self, position: usize, item: i32) {
        let place = if self.kind == RuleKind::MSR_FIRSTN { self.returned } else { position };
        if let Some(out) = self.out.get_mut(place) {
            *out = item;
            self.returned += 1;
        }
    }
}

impl Attempt<'_> {
    /// Notes that a stride uses `item`; false if it did already.
    fn take(&mut self, depth: usize, stride: std::ops::Range<usize>, item: i32) -> bool {
        let slot = self.used[depth][stride].iter_mut().find(|used| **used == item || **used == ITEM_UNDEF);
        match slot {
            Some(slot) if *slot == ITEM_UNDEF => {
                *slot = item;
                true
            }
            _ => false,
        }
    }

    /// Undoes the last [`take`](Self::take) of a stride.
    fn give_back(&mut self, depth: usize, stride: std::ops::Range<usize>) {
        let last = self.used[depth][stride].iter_mut().rev().find(|used| **used != ITEM_UNDEF);
        if let Some(last) = last {
            *last = ITEM_UNDEF;
        }
    }
}

/// Retry numbers are 32 bits wide and wrap.
fn wrap(n: usize) -> u32 {
    u32::try_from(n & 0xffff_ffff).expect("masked to 32 bits")
}
