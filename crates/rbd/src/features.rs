//! Feature bits, operation feature bits and flags of an image.
//!
//! Ceph: `src/include/rbd/features.h`, `RBD_FLAG_*` in `src/include/rbd/librbd.h`.

use std::fmt;

macro_rules! bits {
    ($(#[$doc:meta])* $type:ident: $($(#[$bit_doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $type(pub u64);

        impl $type {
            $($(#[$bit_doc])* pub const $name: Self = Self(1 << $bit);)*

            /// All bits known here.
            pub const KNOWN: Self = Self($(1 << $bit)|*);

            const NAMES: &'static [(u64, &'static str)] = &[$((1 << $bit, $text)),*];

            /// Whether all bits of `other` are set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether any bit of `other` is set.
            #[must_use]
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// These bits and those of `other`.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// These bits without those of `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// Those of these bits that `other` has, too.
            #[must_use]
            pub const fn common(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// Whether no bit is set.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// The bit of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::NAMES.iter().find(|(_, known)| *known == name).map(|(bit, _)| Self(*bit))
            }

            /// Names of the known bits that are set, as `rbd info` prints them and in its order.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().filter(move |(bit, _)| self.0 & bit != 0).map(|(_, name)| *name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut separator = "";
                for name in self.names() {
                    write!(f, "{separator}{name}")?;
                    separator = ", ";
                }
                let unknown = self.without(Self::KNOWN);
                if !unknown.is_empty() {
                    write!(f, "{separator}{:#x}", unknown.0)?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($type))
            }
        }
    };
}

bits! {
    /// Features of an image. Unknown bits are kept.
    Features:
    /// May be a clone, may have clones.
    LAYERING = 0, "layering";
    /// Stripe unit and count may differ from the object size and 1.
    STRIPING_V2 = 1, "striping";
    /// One writer at a time, coordinated by a lock.
    EXCLUSIVE_LOCK = 2, "exclusive-lock";
    /// The image keeps a map of which objects exist.
    OBJECT_MAP = 3, "object-map";
    /// The object map also tells what changed since the last snapshot.
    FAST_DIFF = 4, "fast-diff";
    /// Flattening a clone also flattens its snapshots.
    DEEP_FLATTEN = 5, "deep-flatten";
    /// Every write goes to a journal first.
    JOURNALING = 6, "journaling";
    /// Data objects are in another pool.
    DATA_POOL = 7, "data-pool";
    /// Maintenance that older clients must know of; see [`OpFeatures`].
    OPERATIONS = 8, "operations";
    /// Is being migrated.
    MIGRATING = 9, "migrating";
    /// Is the target of mirroring.
    NON_PRIMARY = 10, "non-primary";
    /// A client-side write-back cache holds data that the cluster does not have.
    DIRTY_CACHE = 11, "dirty-cache";
}

bits! {
    /// Operation features of an image. They tell what maintenance has to look at; reading and writing do not.
    OpFeatures:
    /// Has clones that refer to it.
    CLONE_PARENT = 0, "clone-parent";
    /// Is a clone that its parent knows of.
    CLONE_CHILD = 1, "clone-child";
    /// Is in a group.
    GROUP = 2, "group";
    /// Has snapshots in the trash.
    SNAP_TRASH = 3, "snap-trash";
}

bits! {
    /// Flags of an image or of one of its snapshots.
    Flags:
    /// The object map must not be trusted.
    OBJECT_MAP_INVALID = 0, "object map invalid";
    /// What the object map says about changes must not be trusted.
    FAST_DIFF_INVALID = 1, "fast diff invalid";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_rbd_info() {
        let names: Vec<_> = Features(61).names().collect();
        assert_eq!(names, ["layering", "exclusive-lock", "object-map", "fast-diff", "deep-flatten"]);
        assert_eq!(Flags(3).to_string(), "object map invalid, fast diff invalid");
    }

    #[test]
    fn unknown_bits_are_kept_and_shown() {
        assert_eq!(Features(1 | 1 << 40).to_string(), "layering, 0x10000000000");
    }
}
