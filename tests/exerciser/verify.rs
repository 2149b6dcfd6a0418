//! Compares all there is with the model.

use std::fs;

use crate::common::nbd::Client;
use crate::common::{Kind, Server, Tool, json};
use crate::content::Content;
use crate::exerciser::Exerciser;
use crate::model::Image;

/// So many pairs of snapshots are compared at a time.
const DIFFS: usize = 3;

impl Exerciser<'_> {
    /// Compares everything in the image and its snapshots, in use as it is.
    pub(crate) fn verify(&mut self) {
        self.history.note("everything is compared");
        self.check_object_maps();
        self.check_contents(&self.image);
        self.check_diffs();
        self.check_usage();
        let status = json(&self.maintain(&format!("status --format json {}", self.image.spec)));
        assert_eq!(status["watchers"].as_array().map(Vec::len), Some(self.parties.len()), "{status:#}");
    }

    /// Closes everything, compares everything, and removes it.
    pub(crate) fn finish(&mut self) {
        self.verify();
        self.close_parties();
        self.check_object_maps();
        self.check_contents(&self.image);
        self.history.note("compares the images that were cloned");
        self.ancestors.iter().for_each(|image| self.check_contents(image));
        // Servers that were killed were shut out, and nobody else.
        let blocklist = self.cluster.run("ceph osd blocklist ls 2>/dev/null");
        let shut_out = blocklist.lines().count() - self.shut_out_before;
        let others = self.cluster.is_lent();
        assert!(others || shut_out <= self.kills, "{} kills, but {shut_out} more in {blocklist}", self.kills);
        self.remove_all();
    }

    fn check_object_maps(&mut self) {
        if !self.image.features.object_map {
            return;
        }
        let mut specs: Vec<_> = self.image.contents().map(|(spec, _)| spec).collect();
        if std::mem::take(&mut self.image.maps_are_suspect) {
            for spec in &specs {
                self.maintain(&format!("object-map rebuild --no-progress {spec}"));
            }
        }
        // Each snapshot's on its own, the head's last.
        specs.reverse();
        for spec in specs {
            self.history.note(format!("object-map check {spec}"));
            self.cluster.assert_object_map_is_correct(&spec);
        }
    }

    /// Compares the image and each of its snapshots, as `rbd` exports it, and as a server of ours serves it.
    fn check_contents(&self, image: &Image) {
        for (spec, expected) in image.contents() {
            let exported = self.export(&spec);
            assert_eq!(exported.len() as u64, expected.size(), "size of {spec}");
            self.history.compare(&format!("rbd export {spec}"), expected, 0, &exported);
        }
        if !self.shape.parties.contains(&Kind::Ours) {
            return;
        }
        for (spec, expected) in image.contents() {
            let exported = self.export_with(Tool::Ours, &spec);
            assert_eq!(exported.len() as u64, expected.size(), "size of {spec}");
            self.history.compare(&format!("our export of {spec}"), expected, 0, &exported);
        }
        let contents: Vec<_> = image.contents().skip(1).collect();
        let specs: Vec<_> = contents.iter().map(|(spec, _)| spec.as_str()).collect();
        if specs.is_empty() {
            return;
        }
        let server = Server::serve(self.cluster, &specs);
        for (spec, expected) in &contents {
            let mut client = Client::connect(server.socket(), spec).expect("the server answers");
            let served = client.read_all().unwrap_or_else(|failure| panic!("{spec}: {failure}"));
            assert_eq!(served.len() as u64, expected.size(), "size of {spec}");
            self.history.compare(&format!("our server reads {spec}"), expected, 0, &served);
            client.disconnect();
        }
        server.stop();
    }

    /// What is in an image, or snapshot, as librbd reads it.
    pub(crate) fn export(&self, spec: &str) -> Vec<u8> {
        self.export_with(Tool::Rbd, spec)
    }

    fn export_with(&self, tool: Tool, spec: &str) -> Vec<u8> {
        let file = self.cluster.file(&format!("exported.{}", std::process::id()));
        tool.run(self.cluster, &format!("export --no-progress {spec} {file}"));
        let data = fs::read(&file).expect("rbd has written it");
        fs::remove_file(&file).expect("it is ours");
        data
    }

    fn check_diffs(&mut self) {
        for _ in 0..DIFFS {
            let count = self.image.snapshots.len() as u64;
            // The last one stands for the image itself.
            let to = self.rng.range(0..count + 1) as usize;
            let from = (to > 0 && !self.rng.one_in(3)).then(|| self.rng.range(0..to as u64) as usize);
            for options in ["", "--whole-object "] {
                self.check_diff(from, to, options);
            }
        }
    }

    /// What `rbd` answers; the program has to answer the same, if it takes part.
    fn ask_both(&mut self, command: &str) -> String {
        self.history.note(format!("both {command}"));
        let answer = Tool::Rbd.run(self.cluster, command);
        if self.shape.parties.contains(&Kind::Ours) {
            let ours = Tool::Ours.run(self.cluster, command);
            assert_eq!(json(&ours), json(&answer), "{command}");
        }
        answer
    }

    /// What differs between two snapshots, or from nothing, has to be in the diff, and what is said to be nothing is zero.
    fn check_diff(&mut self, from: Option<usize>, to: usize, options: &str) {
        let snapshots = &self.image.snapshots;
        let spec = if to < snapshots.len() { self.image.at(to) } else { self.image.spec.clone() };
        let since = from.map_or_else(String::new, |from| format!("--from-snap {} ", snapshots[from].name));
        let printed = self.ask_both(&format!("diff --format json {options}{since}{spec}"));
        let after = self.image.snapshots.get(to).map_or(&self.image.head, |snapshot| &snapshot.content);
        let nothing = Content::new(after.size());
        let before = from.map_or(&nothing, |from| &self.image.snapshots[from].content);
        let mut at = 0;
        for extent in json(&printed).as_array().expect("a list") {
            let [offset, length] = ["offset", "length"].map(|name| extent[name].as_u64().expect("a number"));
            assert!(offset >= at, "{options}{since}{spec}: {extent} comes after {at:#x}");
            assert!(
                before.same(after, at..offset),
                "{options}{since}{spec}: {at:#x}..{offset:#x} has changed"
            );
            at = offset + length;
            if extent["exists"] != "true" {
                let end = at.min(after.size());
                assert!(
                    offset >= end || after.is_zero(offset..end),
                    "{options}{since}{spec}: {extent} is not zero"
                );
            }
        }
        let end = after.size().max(at);
        assert!(before.same(after, at..end), "{options}{since}{spec}: {at:#x}..{end:#x} has changed");
    }

    /// What is used is at least what differs from the snapshot before, and not more than there is.
    fn check_usage(&mut self) {
        let printed = self.ask_both(&format!("du --exact --format json {}", self.image.spec));
        let usage = json(&printed);
        let images = usage["images"].as_array().expect("a list");
        assert_eq!(images.len(), self.image.snapshots.len() + 1, "{usage:#}");
        let nothing = Content::new(0);
        let mut before = &nothing;
        let contents =
            self.image.snapshots.iter().map(|snapshot| &snapshot.content).chain([&self.image.head]);
        for (content, image) in contents.zip(images) {
            assert_eq!(image["provisioned_size"], content.size(), "{image:#}");
            let changed = (0..content.size())
                .step_by(512)
                .filter(|at| !before.same(content, *at..at + 512) && !content.is_zero(*at..at + 512))
                .count();
            let used = image["used_size"].as_u64().expect("a number");
            assert!(used <= content.size() + 2 * self.image.layout.object_size, "{image:#}");
            assert!(
                self.image.is_clone || used + 512 > changed as u64,
                "{changed} sectors have changed: {image:#}"
            );
            before = content;
        }
    }

    /// Removes the images, the youngest first, and holds when nothing of them is left.
    fn remove_all(&mut self) {
        let placeholder = Image::new(String::new(), self.shape.first.clone(), 0);
        let mut images = std::mem::take(&mut self.ancestors);
        images.push(std::mem::replace(&mut self.image, placeholder));
        while let Some(image) = images.pop() {
            let info = json(&self.maintain(&format!("info --format json {}", image.spec)));
            for index in 0..image.snapshots.len() {
                if image.snapshots[index].protected {
                    self.maintain(&format!("snap unprotect {}", image.at(index)));
                }
            }
            self.maintain(&format!("snap purge --no-progress {}", image.spec));
            self.maintain(&format!("rm --no-progress {}", image.spec));
            let left = self.objects(info["id"].as_str().expect("an id"));
            assert!(left.is_empty(), "{} left {left:?} behind", image.spec);
        }
    }

    /// All objects with an id in their names. Those that were removed and whose snapshots are about to be are not
    /// counted: `rados ls` lists them for a while.
    fn objects(&self, id: &str) -> Vec<String> {
        let mut objects = Vec::new();
        for pool in ["rbdpool", "rbdother", "rbddata"] {
            let listed = self.cluster.run(&format!("rados -p {pool} ls --all"));
            for line in listed.lines().filter(|line| line.contains(id)) {
                let (namespace, name) = line.split_once('\t').unwrap_or(("", line));
                let stat = format!("rados -p {pool} --namespace '{namespace}' stat {name}");
                if self.cluster.try_run(&stat).status.success() {
                    objects.push(format!("{pool}/{namespace}/{name}"));
                }
            }
        }
        objects
    }
}
