//! What an administrator does.

use std::time::{Duration, Instant};

use crate::common::{Kind, Output, Running, Tool, json};
use crate::content::Content;
use crate::exerciser::Exerciser;
use crate::model::{Image, Snapshot};
use crate::shape::{Features, Layout, choose_size};

/// The longest that a command takes on a loaded machine: ten thousand small objects of a clone are copied up and cut.
const PROMPT: Duration = Duration::from_secs(60);
/// What the program can do as well as `rbd`; each time one of them is taken.
const OURS: [&str; 15] = [
    "clone ",
    "create ",
    "diff ",
    "du ",
    "export ",
    "feature ",
    "flatten ",
    "image-meta ",
    "info ",
    "object-map ",
    "rename ",
    "resize ",
    "rm ",
    "snap ",
    "status ",
];
/// Statuses of `rbd`, which are numbers of errors.
const EROFS: i32 = 30;
const EINVAL: i32 = 22;
const MOST_SNAPSHOTS: usize = 6;
const MOST_ANCESTORS: usize = 4;

/// A command under way.
struct Maintenance {
    command: String,
    began: Instant,
    running: Running,
}

impl Exerciser<'_> {
    /// Runs a command of `rbd`, which has to succeed.
    pub(crate) fn maintain(&mut self, command: &str) -> String {
        let maintenance = self.start_maintenance(command);
        self.finish_maintenance(maintenance).success()
    }

    /// The same, while requests are under way; they stay within the first `limit` bytes. Returns what the image held
    /// before each round of them and after the last.
    fn maintain_under_load(&mut self, command: &str, limit: u64) -> Vec<Content> {
        let maintenance = self.start_maintenance(command);
        let mut contents = vec![self.image.head.clone()];
        for _ in 0..self.rng.range(2..8) {
            self.batch(limit);
            contents.push(self.image.head.clone());
        }
        let output = self.finish_maintenance(maintenance);
        if let Some(code @ (EROFS | EINVAL)) = output.status.code()
            && self.shape.parties.contains(&Kind::Librbd)
        {
            // librbd gives up when it loses the lock amid an operation.
            self.history.note(format!("    failed with {code}, once more"));
            self.maintain(command);
        } else {
            output.success();
        }
        contents
    }

    /// Who does it this time.
    fn choose_tool(&mut self, command: &str) -> Tool {
        let is_ours =
            OURS.iter().any(|name| command.starts_with(name)) && self.shape.parties.contains(&Kind::Ours);
        if is_ours && self.rng.one_in(2) { Tool::Ours } else { Tool::Rbd }
    }

    fn start_maintenance(&mut self, command: &str) -> Maintenance {
        let tool = self.choose_tool(command);
        self.start_maintenance_with(tool, command)
    }

    fn start_maintenance_with(&mut self, tool: Tool, args: &str) -> Maintenance {
        let command = format!("{} {args}", if tool == Tool::Ours { "rbd-nbd-rs" } else { "rbd" });
        self.history.note(&command);
        let running = tool.start(self.cluster, args);
        Maintenance { command, began: Instant::now(), running }
    }

    fn finish_maintenance(&mut self, Maintenance { command, began, running }: Maintenance) -> Output {
        let output = running.finish();
        self.history.note(format!("    done after {:.1?}: {command}", output.took));
        let took = began.elapsed().min(output.took);
        assert!(took < PROMPT, "{command} took {took:?}");
        if took > self.slowest.0 {
            self.slowest = (took, command);
        }
        output
    }

    pub(crate) fn create_snapshot(&mut self) {
        if self.image.snapshots.len() >= MOST_SNAPSHOTS {
            return self.remove_snapshot();
        }
        let name = self.new_name();
        let command = format!("snap create --no-progress {}@{name}", self.image.spec);
        let content = if self.rng.one_in(2) {
            self.maintain(&command);
            self.image.head.clone()
        } else {
            let size = self.image.size();
            let contents = self.maintain_under_load(&command, size);
            self.content_at_one_moment(&name, &contents)
        };
        self.image.snapshots.push(Snapshot { name, content, protected: false, needed: false });
    }

    /// Reads a snapshot that was taken while the image changed from each of `contents` to the next, and holds when it
    /// is of one of these rounds: with all of the rounds before, nothing of those after, and any part of its own.
    fn content_at_one_moment(&self, name: &str, contents: &[Content]) -> Content {
        let spec = format!("{}@{name}", self.image.spec);
        let found = self.export(&spec);
        let mut differences = Vec::new();
        for round in contents.windows(2) {
            let mut mixed = round[0].clone();
            // What was written in this round may be there or not.
            let mut at = 0;
            for piece in found.chunks(512) {
                let range = at..at + piece.len() as u64;
                at = range.end;
                if !round[0].same(&round[1], range.clone()) {
                    let [before, after] = [0, 1].map(|which| round[which].read(range.clone()));
                    let is_either = |n: usize| piece[n] == before[n] || piece[n] == after[n];
                    if (0..piece.len()).all(is_either) {
                        mixed.write(range.start, piece);
                    }
                }
            }
            match mixed.difference(0, &found) {
                None => return mixed,
                Some(difference) => differences.push(difference),
            }
        }
        differences.sort_by_key(|difference| difference.wrong);
        panic!("{spec} is of no moment while it was taken; compared with the likeliest: {}", differences[0]);
    }

    pub(crate) fn remove_snapshot(&mut self) {
        let count = self.image.snapshots.len() as u64;
        if count == 0 {
            return self.write();
        }
        let index = self.rng.range(0..count) as usize;
        if self.image.snapshots[index].needed {
            return self.read();
        }
        let spec = self.image.at(index);
        if self.image.snapshots[index].protected {
            self.maintain(&format!("snap unprotect {spec}"));
        }
        let command = format!("snap rm --no-progress {spec}");
        if self.rng.one_in(2) {
            let size = self.image.size();
            self.maintain_under_load(&command, size);
        } else {
            self.maintain(&command);
        }
        self.image.snapshots.remove(index);
    }

    pub(crate) fn roll_back(&mut self) {
        let count = self.image.snapshots.len() as u64;
        if count == 0 {
            return self.create_snapshot();
        }
        let index = self.rng.range(0..count) as usize;
        // librbd does not ask for a lock that somebody has.
        self.close_parties();
        let command = format!("snap rollback --no-progress {}", self.image.at(index));
        let tool = self.choose_tool(&command);
        let maintenance = self.start_maintenance_with(tool, &command);
        self.finish_maintenance(maintenance).success();
        // librbd takes the snapshot's map as it is: objects that it rolls back are "clean" in it, and are not.
        self.image.maps_are_suspect |= tool == Tool::Rbd;
        self.image.head = self.image.snapshots[index].content.clone();
        let size = self.image.size();
        self.history.note_change(format!("    everything is as in the snapshot, {size:#x} bytes"), 0..size);
        self.open_parties();
    }

    pub(crate) fn resize(&mut self) {
        let before = self.image.size();
        let size = match self.rng.range(0..3) {
            0 => choose_size(&mut self.rng, self.image.layout.object_size),
            // A little, within an object.
            1 => before + 512 * self.rng.range(1..300),
            _ => before - (512 * self.rng.range(1..300)).min(before / 2 / 512 * 512),
        };
        if size == before {
            return self.read();
        }
        let shrink = if size < before { "--allow-shrink " } else { "" };
        let command = format!("resize --no-progress {shrink}--size {size}B {}", self.image.spec);
        if self.rng.one_in(2) {
            self.maintain_under_load(&command, size.min(before));
        } else {
            self.maintain(&command);
        }
        self.image.head.resize(size);
        let changed = size.min(before)..size.max(before);
        self.history.note_change(format!("    from {before:#x} to {size:#x} bytes"), changed);
        self.after_resize();
    }

    /// Some go on with what they know of the size.
    fn after_resize(&mut self) {
        for index in 0..self.parties.len() {
            if self.rng.one_in(2) {
                self.parties[index].reconnect(self.cluster);
                let (known, size) = (self.parties[index].size(), self.image.size());
                assert_eq!(known, size, "{} knows another size", self.parties[index].name);
            }
        }
    }

    /// Makes a clone and goes on with that; the image stays as it is from now on.
    pub(crate) fn clone_and_go_on(&mut self) {
        if self.ancestors.len() >= MOST_ANCESTORS {
            return self.flatten();
        }
        if self.image.snapshots.is_empty() {
            self.create_snapshot();
        }
        let index = self.rng.range(0..self.image.snapshots.len() as u64) as usize;
        let parent = self.image.at(index);
        let snapshot = &mut self.image.snapshots[index];
        let content = snapshot.content.clone();
        let format = self.shape.clone_format;
        if format == 1 {
            let is_protected = std::mem::replace(&mut snapshot.protected, true);
            snapshot.needed = true;
            if !is_protected {
                self.maintain(&format!("snap protect {parent}"));
            }
        }
        let mut spec = self.new_spec();
        // Format 1 knows no other namespace than that of the parent.
        let namespace = |spec: &str| spec.split('/').count();
        while format == 1 && namespace(&spec) != namespace(&parent) {
            spec = self.new_spec();
        }
        let layout = Layout::choose(&mut self.rng);
        let options = layout.options();
        self.maintain(&format!("clone --rbd-default-clone-format {format} {parent} {spec} {options}"));
        self.close_parties();
        let mut clone = Image::new(spec, layout, content.size());
        clone.head = content;
        clone.is_clone = true;
        // Its own parent, if it has one, is not of its size any more.
        let size = clone.size();
        self.history.note_change(format!("    goes on with the clone, {size:#x} bytes"), 0..size);
        self.ancestors.push(std::mem::replace(&mut self.image, clone));
        self.open_parties();
    }

    pub(crate) fn flatten(&mut self) {
        if !self.image.is_clone {
            return self.write();
        }
        let command = format!("flatten --no-progress {}", self.image.spec);
        if self.rng.one_in(3) {
            self.maintain(&command);
        } else {
            let size = self.image.size();
            self.maintain_under_load(&command, size);
        }
        self.image.is_clone = false;
    }

    pub(crate) fn rebuild_object_map(&mut self) {
        if !self.image.features.object_map {
            return self.flush();
        }
        let command = format!("object-map rebuild --no-progress {}", self.image.spec);
        if self.rng.one_in(2) {
            let size = self.image.size();
            self.maintain_under_load(&command, size);
        } else {
            self.maintain(&command);
        }
    }

    pub(crate) fn toggle_feature(&mut self) {
        let Features { exclusive_lock, object_map, fast_diff, deep_flatten } = self.image.features;
        match self.rng.range(0..6) {
            0..3 if exclusive_lock && object_map => {
                self.disable(if fast_diff { "object-map fast-diff" } else { "object-map" })
            }
            0..3 if exclusive_lock => self.enable("object-map fast-diff"),
            3 if fast_diff => self.disable("fast-diff"),
            3 if object_map => self.enable("fast-diff"),
            4 if deep_flatten && self.rng.one_in(3) => self.disable("deep-flatten"),
            5 if exclusive_lock && !object_map => self.disable("exclusive-lock"),
            5 if !exclusive_lock => self.enable("exclusive-lock"),
            _ => self.change_metadata(),
        }
    }

    pub(crate) fn enable(&mut self, names: &str) {
        self.maintain(&format!("feature enable {} {names}", self.image.spec));
        // They may not be true before they were rebuilt.
        self.image.maps_are_suspect |= names != "exclusive-lock";
        self.learn_features();
    }

    fn disable(&mut self, names: &str) {
        self.maintain(&format!("feature disable {} {names}", self.image.spec));
        self.learn_features();
    }

    /// Object map and fast diff come and go together, whichever is asked for.
    fn learn_features(&mut self) {
        let info = json(&self.maintain(&format!("info --format json {}", self.image.spec)));
        let has = |name: &str| info["features"].as_array().is_some_and(|names| names.contains(&name.into()));
        self.image.features = Features {
            exclusive_lock: has("exclusive-lock"),
            object_map: has("object-map"),
            fast_diff: has("fast-diff"),
            deep_flatten: has("deep-flatten"),
        };
    }

    pub(crate) fn sparsify(&mut self) {
        let command = format!("sparsify --no-progress {}", self.image.spec);
        let size = self.image.size();
        self.maintain_under_load(&command, size);
    }

    /// Of the image or a snapshot, none of which changes any data.
    pub(crate) fn change_metadata(&mut self) {
        let spec = self.image.spec.clone();
        let count = self.image.snapshots.len() as u64;
        match self.rng.range(0..4) {
            0 | 1 if count > 0 => {
                let index = self.rng.range(0..count) as usize;
                let old = self.image.at(index);
                if self.rng.one_in(2) {
                    let name = self.new_name();
                    self.maintain(&format!("snap rename {old} {spec}@{name}"));
                    self.image.snapshots[index].name = name;
                } else if !self.image.snapshots[index].needed {
                    let is_protected = self.image.snapshots[index].protected;
                    self.maintain(&format!(
                        "snap {} {old}",
                        if is_protected { "unprotect" } else { "protect" }
                    ));
                    self.image.snapshots[index].protected = !is_protected;
                }
            }
            0..3 => {
                let number = self.history.number;
                self.maintain(&format!("image-meta set {spec} operation {number}"));
                let told = self.maintain(&format!("image-meta get {spec} operation"));
                assert_eq!(told.trim(), number.to_string());
            }
            _ => {
                let told = json(&self.maintain(&format!("info --format json {spec}")));
                assert_eq!(told["size"], self.image.size());
                assert_eq!(told["snapshot_count"], self.image.snapshots.len());
                assert_eq!(told["parent"].is_object(), self.image.is_clone, "{told:#}");
            }
        }
    }
}
