//! What is known of an image.

use crate::content::Content;
use crate::shape::{Features, Layout};

#[derive(Debug)]
pub(crate) struct Image {
    /// `POOL[/NAMESPACE]/NAME`
    pub(crate) spec: String,
    pub(crate) layout: Layout,
    /// Those of now.
    pub(crate) features: Features,
    pub(crate) head: Content,
    /// The oldest first.
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) is_clone: bool,
    /// Object maps may be marked invalid, for a good reason.
    pub(crate) maps_are_suspect: bool,
}

#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    pub(crate) content: Content,
    pub(crate) protected: bool,
    /// An image of format 1 was cloned from it, and not flattened since.
    pub(crate) needed: bool,
}

impl Image {
    pub(crate) fn new(spec: String, layout: Layout, size: u64) -> Self {
        Self {
            spec,
            features: layout.features,
            layout,
            head: Content::new(size),
            snapshots: Vec::new(),
            is_clone: false,
            maps_are_suspect: false,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.head.size()
    }

    pub(crate) fn at(&self, snapshot: usize) -> String {
        format!("{}@{}", self.spec, self.snapshots[snapshot].name)
    }

    /// The image and its snapshots, by their specs.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (String, &Content)> {
        let snapshots = self
            .snapshots
            .iter()
            .map(|snapshot| (format!("{}@{}", self.spec, snapshot.name), &snapshot.content));
        [(self.spec.clone(), &self.head)].into_iter().chain(snapshots)
    }
}
