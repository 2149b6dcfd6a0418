//! Which objects are being changed while their states are looked up: what was found of them may be outdated.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bitvec::vec::BitVec;
use parking_lot::Mutex;

/// Marks objects for all who want to know. Looked at by every change, so it costs nothing when nobody does.
#[derive(Debug, Default)]
pub(super) struct Marker {
    wanted: AtomicBool,
    listeners: Mutex<Vec<Arc<Mutex<BitVec>>>>,
}

impl Marker {
    pub(super) fn mark(&self, objects: &Range<u64>) {
        if !self.wanted.load(Ordering::Acquire) {
            return;
        }
        for listener in self.listeners.lock().iter() {
            let mut touched = listener.lock();
            let clip = |object: u64| usize::try_from(object).unwrap_or(usize::MAX).min(touched.len());
            let (start, end) = (clip(objects.start), clip(objects.end));
            touched[start..end.max(start)].fill(true);
        }
    }

    /// Starts to note which of the first `objects` objects are changed.
    pub(super) fn listen(self: &Arc<Self>, objects: u64) -> Touched {
        let objects = usize::try_from(objects).expect("object maps have at most 256 million objects");
        let touched = Arc::new(Mutex::new(BitVec::repeat(false, objects)));
        let mut listeners = self.listeners.lock();
        listeners.push(touched.clone());
        self.wanted.store(true, Ordering::Release);
        Touched { marker: self.clone(), touched }
    }
}

/// The objects that have been changed, or may have been, as long as it lives.
#[derive(Debug)]
pub(crate) struct Touched {
    marker: Arc<Marker>,
    touched: Arc<Mutex<BitVec>>,
}

impl Touched {
    /// Whether an object was changed. Those that there was no room for count as changed.
    pub(crate) fn contains(&self, object: u64) -> bool {
        let touched = self.touched.lock();
        usize::try_from(object)
            .ok()
            .and_then(|object| touched.get(object).as_deref().copied())
            .unwrap_or(true)
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        let mut listeners = self.marker.listeners.lock();
        listeners.retain(|listener| !Arc::ptr_eq(listener, &self.touched));
        self.marker.wanted.store(!listeners.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_while_somebody_listens_is_noted() {
        let marker = Arc::new(Marker::default());
        marker.mark(&(0..9));
        let first = marker.listen(10);
        marker.mark(&(3..5));
        let second = marker.listen(10);
        marker.mark(&(8..1000));
        let touched = |touched: &Touched| (0..12).filter(|o| touched.contains(*o)).collect::<Vec<_>>();
        assert_eq!(touched(&first), [3, 4, 8, 9, 10, 11]);
        assert_eq!(touched(&second), [8, 9, 10, 11]);
        drop(first);
        marker.mark(&(0..1));
        assert!(second.contains(0));
        drop(second);
        assert!(!marker.wanted.load(Ordering::Acquire));
    }
}
