//! Executing a rule: from an input number to a list of devices.
//!
//! What Ceph leaves to the good sense of those who make maps is bounded here: descents end at missing buckets,
//! and a mapping that takes more work than any sane map can cause (say, because buckets contain each other) is
//! given up.

use std::collections::BTreeMap;
use std::mem;

use crate::bucket::{Algorithm, Bucket, ChooseArg, Permutation};
use crate::map::{CrushMap, Mode, Rule, RuleKind, Step, Tunables};
use crate::{ITEM_NONE, hash, msr};

/// A position that is still to be filled.
pub(crate) const ITEM_UNDEF: i32 = ITEM_NONE - 1;

impl CrushMap {
    /// Maps the input `x` to `replicas` devices, fewer if the rule finds no more.
    ///
    /// `weights` are those of the devices by number, 16.16 fixed point: 0 is out, 0x10000 fully in; devices
    /// without a weight are out. `choose_args` names the pool whose replacement weights to use; pools without
    /// any share those of -1; `None` is for the plain weights. Positions that an indep rule could not fill are
    /// [`ITEM_NONE`].
    ///
    /// The result is empty if there is no such rule, or if the map is so ill-formed that following the rule
    /// would take for ever.
    ///
    /// Ceph: `CrushWrapper::do_rule` in `src/crush/CrushWrapper.h`, `crush_do_rule` in `src/crush/mapper.c`.
    #[must_use]
    pub fn map(
        &self,
        rule: u32,
        x: u32,
        replicas: usize,
        weights: &[u32],
        choose_args: Option<i64>,
    ) -> Vec<i32> {
        let Some(rule) = self.rule(rule) else { return Vec::new() };
        let choose_args =
            choose_args.and_then(|pool| self.choose_args.get(&pool).or_else(|| self.choose_args.get(&-1)));
        let mut mapper = Mapper {
            map: self,
            x,
            weights,
            choose_args,
            permutations: Vec::new(),
            work_left: work_limit(self),
        };
        let result = match rule.kind {
            RuleKind::MSR_FIRSTN | RuleKind::MSR_INDEP => msr::run(&mut mapper, rule, replicas),
            _ => mapper.run(rule, replicas),
        };
        result.unwrap_or_default()
    }
}

/// The map asks for more work than any sane map does.
pub(crate) struct WorkLimit;

/// Item draws that one mapping may cost. The most expensive sane mappings (20 shards, 100 tries, none of which
/// succeeds) look at each item a few thousand times.
fn work_limit(map: &CrushMap) -> usize {
    let items: usize = map.buckets.iter().flatten().map(|b| b.items.len()).sum();
    items.saturating_mul(1 << 14).clamp(1 << 20, 1 << 26)
}

/// One mapping in progress.
pub(crate) struct Mapper<'a> {
    pub(crate) map: &'a CrushMap,
    pub(crate) x: u32,
    weights: &'a [u32],
    choose_args: Option<&'a BTreeMap<u32, ChooseArg>>,
    permutations: Vec<(i32, Permutation)>,
    work_left: usize,
}

/// The tunables in effect at a step.
struct Tries {
    descents: u32,
    leaf: Option<u32>,
    local: u32,
    local_fallback: u32,
    vary_r: u32,
    stable: bool,
}

impl Tries {
    fn new(tunables: &Tunables) -> Self {
        Self {
            // The map counts retries.
            descents: tunables.choose_total_tries.wrapping_add(1),
            leaf: None,
            local: tunables.choose_local_tries,
            local_fallback: tunables.choose_local_fallback_tries,
            vary_r: tunables.chooseleaf_vary_r.into(),
            stable: tunables.chooseleaf_stable != 0,
        }
    }
}

/// What one step, or the descent to a leaf inside it, looks for.
struct Wanted<'t> {
    /// Level of the items.
    level: i32,
    /// The positions that the whole step fills.
    count: u32,
    tries: u32,
    /// Tries of the descent from each item to a leaf; `None` if the items are the result.
    leaf_tries: Option<u32>,
    /// The attempt of the outer descent, as far as it shall influence this one.
    parent_r: u32,
    tunables: &'t Tries,
}

/// An item, and the device below it if one was asked for.
struct Pick {
    item: i32,
    leaf: i32,
}

impl<'a> Mapper<'a> {
    fn run(&mut self, rule: &Rule, replicas: usize) -> Result<Vec<i32>, WorkLimit> {
        let mut tries = Tries::new(&self.map.tunables);
        let mut result = Vec::with_capacity(replicas.min(64));
        let mut working: Vec<i32> = Vec::new();
        for step in &rule.steps {
            match *step {
                Step::Take(item) => {
                    if (0..self.map.max_devices).contains(&item) || self.map.bucket(item).is_some() {
                        working.clear();
                        working.push(item);
                    }
                }
                Step::Choose { count, level, mode, leaf } => {
                    if !working.is_empty() {
                        let choice = Choice { count, level, mode, leaf };
                        working = self.choose(&working, &choice, &tries, replicas)?;
                    }
                }
                Step::Emit => {
                    let room = replicas - result.len();
                    result.extend(mem::take(&mut working).into_iter().take(room));
                }
                Step::SetChooseTries(n) => tries.descents = positive(n).unwrap_or(tries.descents),
                Step::SetChooseleafTries(n) => tries.leaf = positive(n).or(tries.leaf),
                Step::SetChooseLocalTries(n) => tries.local = u32::try_from(n).unwrap_or(tries.local),
                Step::SetChooseLocalFallbackTries(n) => {
                    tries.local_fallback = u32::try_from(n).unwrap_or(tries.local_fallback);
                }
                Step::SetChooseleafVaryR(n) => tries.vary_r = u32::try_from(n).unwrap_or(tries.vary_r),
                Step::SetChooseleafStable(n) => {
                    tries.stable = u32::try_from(n).map_or(tries.stable, |n| n != 0)
                }
                Step::SetMsrDescents(_)
                | Step::SetMsrCollisionTries(_)
                | Step::ChooseMsr { .. }
                | Step::Other(_) => {}
            }
        }
        Ok(result)
    }

    /// Replaces each item by those that a step chooses below it.
    fn choose(
        &mut self,
        from: &[i32],
        choice: &Choice,
        tries: &Tries,
        replicas: usize,
    ) -> Result<Vec<i32>, WorkLimit> {
        let limit = i32::try_from(replicas).unwrap_or(i32::MAX);
        let count = if choice.count > 0 { choice.count } else { choice.count.saturating_add(limit) };
        let Some(count) = positive(count) else { return Ok(Vec::new()) };
        let leaf_tries = match (tries.leaf, choice.mode) {
            (Some(tries), _) => tries,
            (None, Mode::Firstn) if !self.map.tunables.chooseleaf_descend_once => tries.descents,
            (None, _) => 1,
        };
        let wanted = Wanted {
            level: choice.level,
            count,
            tries: tries.descents,
            leaf_tries: choice.leaf.then_some(leaf_tries),
            parent_r: 0,
            tunables: tries,
        };

        let mut items = Vec::new();
        let mut leaves = Vec::new();
        for &item in from {
            // Holes of an earlier step have no bucket.
            let Some(bucket) = self.map.bucket(item) else { continue };
            let done = items.len();
            match choice.mode {
                Mode::Firstn => {
                    for rep in 0..count {
                        if items.len() == replicas {
                            break;
                        }
                        let pick = self.firstn(bucket, &wanted, rep, &items[done..], &leaves[done..])?;
                        if let Some(pick) = pick {
                            items.push(pick.item);
                            leaves.push(pick.leaf);
                        }
                    }
                }
                Mode::Indep => {
                    let len = replicas.min(done + count as usize);
                    items.resize(len, ITEM_UNDEF);
                    leaves.resize(len, ITEM_UNDEF);
                    self.indep(bucket, &wanted, 0, &mut items[done..], Some(&mut leaves[done..]))?;
                }
            }
        }
        Ok(if choice.leaf { leaves } else { items })
    }

    /// Finds one item that is neither taken nor out, for position `rep`.
    ///
    /// Ceph: one round of `crush_choose_firstn` in `src/crush/mapper.c`.
    fn firstn(
        &mut self,
        root: &'a Bucket,
        wanted: &Wanted<'_>,
        rep: u32,
        taken: &[i32],
        leaves: &[i32],
    ) -> Result<Option<Pick>, WorkLimit> {
        let Tries { local, local_fallback, .. } = *wanted.tunables;
        let mut failures = 0;
        loop {
            let mut bucket = root;
            let mut local_failures = 0;
            loop {
                let r = rep.wrapping_add(wanted.parent_r).wrapping_add(failures);
                let size = bucket.len_u32();
                let mut collides = false;
                if size == 0 {
                    self.charge(1)?;
                } else {
                    let exhaustive =
                        local_fallback > 0 && local_failures >= size / 2 && local_failures > local_fallback;
                    let item = if exhaustive {
                        self.draw_permuted(bucket, r)?
                    } else {
                        self.draw(bucket, r, taken.len())?
                    };
                    let Some((item, below)) = item.and_then(|item| self.look_up(item)) else {
                        return Ok(None);
                    };
                    if below.map_or(0, |b| i32::from(b.level)) != wanted.level {
                        let Some(below) = below else { return Ok(None) };
                        bucket = below;
                        continue;
                    }
                    collides = taken.contains(&item);
                    if !collides && let Some(leaf) = self.firstn_leaf(item, below, wanted, r, leaves)? {
                        return Ok(Some(Pick { item, leaf }));
                    }
                }

                failures += 1;
                local_failures += 1;
                let retry_here = collides && local_failures <= local
                    || local_fallback > 0 && local_failures <= size.saturating_add(local_fallback);
                if !retry_here {
                    break;
                }
            }
            if failures >= wanted.tries {
                return Ok(None);
            }
        }
    }

    /// The device below an item that [`firstn`](Self::firstn) likes: itself if it is one, anything if none was
    /// asked for. `None` if there is none, or if the item is out.
    fn firstn_leaf(
        &mut self,
        item: i32,
        below: Option<&'a Bucket>,
        wanted: &Wanted<'_>,
        r: u32,
        leaves: &[i32],
    ) -> Result<Option<i32>, WorkLimit> {
        let Some(below) = below else {
            return Ok((!self.is_out(item)).then_some(item));
        };
        let Some(tries) = wanted.leaf_tries else { return Ok(Some(item)) };
        let tunables = wanted.tunables;
        let parent_r = match tunables.vary_r {
            0 => 0,
            shift => r.wrapping_shr(shift - 1),
        };
        let leaf = Wanted { level: 0, count: 1, tries, leaf_tries: None, parent_r, tunables };
        let rep = if tunables.stable { 0 } else { position_u32(leaves.len()) };
        Ok(self.firstn(below, &leaf, rep, leaves, &[])?.map(|pick| pick.item))
    }

    /// Fills `out`, whose first entry is position `first`, breadth first: a retry at one position leaves the
    /// others as they are. What stays unfilled is a hole.
    ///
    /// Ceph: `crush_choose_indep` in `src/crush/mapper.c`.
    fn indep(
        &mut self,
        root: &'a Bucket,
        wanted: &Wanted<'_>,
        first: usize,
        out: &mut [i32],
        mut leaves: Option<&mut [i32]>,
    ) -> Result<(), WorkLimit> {
        out.fill(ITEM_UNDEF);
        let mut left = out.len();
        for failures in 0..wanted.tries {
            if left == 0 {
                break;
            }
            for i in 0..out.len() {
                if out[i] != ITEM_UNDEF {
                    continue;
                }
                let mut no_leaf = ITEM_UNDEF;
                let leaf = leaves.as_mut().map_or(&mut no_leaf, |leaves| &mut leaves[i]);
                out[i] = self.indep_attempt(root, wanted, failures, first, i, out, leaf)?;
                if out[i] != ITEM_UNDEF {
                    left -= 1;
                }
            }
        }
        for item in out.iter_mut().chain(leaves.into_iter().flatten()) {
            if *item == ITEM_UNDEF {
                *item = ITEM_NONE;
            }
        }
        Ok(())
    }

    /// One attempt at one position: the item, [`ITEM_NONE`] if there never will be one, [`ITEM_UNDEF`] to try
    /// again. `leaf` may be set without success: Ceph lets the last candidate stand there.
    #[expect(clippy::too_many_arguments, reason = "the loop body of indep, apart for length only")]
    fn indep_attempt(
        &mut self,
        root: &'a Bucket,
        wanted: &Wanted<'_>,
        failures: u32,
        first: usize,
        i: usize,
        out: &[i32],
        leaf: &mut i32,
    ) -> Result<i32, WorkLimit> {
        let rep = position_u32(first + i);
        let mut bucket = root;
        loop {
            let size = bucket.len_u32();
            if size == 0 {
                self.charge(1)?;
                return Ok(ITEM_UNDEF);
            }
            // With as many items as positions, steps of that length would only ever visit one item.
            let uniform = bucket.alg == Algorithm::Uniform;
            let stride = wanted.count + u32::from(uniform && size.is_multiple_of(wanted.count));
            let r = rep.wrapping_add(wanted.parent_r).wrapping_add(stride.wrapping_mul(failures));

            let item = self.draw(bucket, r, first)?;
            let Some((item, below)) = item.and_then(|item| self.look_up(item)) else {
                *leaf = ITEM_NONE;
                return Ok(ITEM_NONE);
            };
            if below.map_or(0, |b| i32::from(b.level)) != wanted.level {
                let Some(below) = below else {
                    *leaf = ITEM_NONE;
                    return Ok(ITEM_NONE);
                };
                bucket = below;
                continue;
            }
            if out.contains(&item) {
                return Ok(ITEM_UNDEF);
            }
            match (wanted.leaf_tries, below) {
                (_, None) => {
                    *leaf = item;
                    return Ok(if self.is_out(item) { ITEM_UNDEF } else { item });
                }
                (None, Some(_)) => return Ok(item),
                (Some(tries), Some(below)) => {
                    let inner = Wanted { level: 0, tries, leaf_tries: None, parent_r: r, ..*wanted };
                    self.indep(below, &inner, first + i, std::slice::from_mut(leaf), None)?;
                    return Ok(if *leaf == ITEM_NONE { ITEM_UNDEF } else { item });
                }
            }
        }
    }

    /// The item, and its bucket if it is one; `None` if it is neither a possible device nor a bucket.
    pub(crate) fn look_up(&self, item: i32) -> Option<(i32, Option<&'a Bucket>)> {
        if item >= 0 {
            return (item < self.map.max_devices).then_some((item, None));
        }
        self.map.bucket(item).map(|bucket| (item, Some(bucket)))
    }

    /// One choice in a bucket.
    pub(crate) fn draw(
        &mut self,
        bucket: &Bucket,
        r: u32,
        position: usize,
    ) -> Result<Option<i32>, WorkLimit> {
        if bucket.alg == Algorithm::Uniform {
            return self.draw_permuted(bucket, r);
        }
        self.charge(bucket.items.len())?;
        // Bucket -1 - i is at index i, which is what inverting all bits computes.
        let arg = self.choose_args.and_then(|args| args.get(&(!bucket.id).cast_unsigned()));
        Ok(bucket.choose(self.x, r, arg, position))
    }

    /// One choice in a permutation of the bucket's items.
    fn draw_permuted(&mut self, bucket: &Bucket, r: u32) -> Result<Option<i32>, WorkLimit> {
        let known = self.permutations.iter().position(|(id, _)| *id == bucket.id);
        let index = match known {
            Some(index) => index,
            None => {
                self.charge(bucket.items.len())?;
                self.permutations.push((bucket.id, Permutation::new(bucket)));
                self.permutations.len() - 1
            }
        };
        self.charge(1 + index)?;
        Ok(self.permutations[index].1.choose(bucket, self.x, r))
    }

    /// Whether a device is out, or is to be passed over for this input because it is partly out.
    pub(crate) fn is_out(&self, device: i32) -> bool {
        let weight = usize::try_from(device).ok().and_then(|device| self.weights.get(device)).copied();
        match weight {
            None | Some(0) => true,
            Some(0x1_0000..) => false,
            Some(weight) => hash::hash2(self.x, device.cast_unsigned()) & 0xffff >= weight,
        }
    }

    /// Accounts for work that looks at `items` items.
    pub(crate) fn charge(&mut self, items: usize) -> Result<(), WorkLimit> {
        self.work_left = self.work_left.checked_sub(items.max(1)).ok_or(WorkLimit)?;
        Ok(())
    }
}

/// The fields of [`Step::Choose`].
struct Choice {
    count: i32,
    level: i32,
    mode: Mode,
    leaf: bool,
}

fn positive(n: i32) -> Option<u32> {
    u32::try_from(n).ok().filter(|&n| n > 0)
}

fn position_u32(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
