//! Open images on a [`MemStore`].

#![allow(clippy::cast_possible_truncation, reason = "test")]

mod clones;
mod copyup;
mod integrity;
mod life;
mod metadata;
mod requests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::watcher::NotifyMessage;
use crate::{MemStore, NewImage, names};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// 64 KiB objects make small tests.
fn small(features: u64) -> NewImage {
    NewImage { name: "img".into(), size: MIB, order: 16, features: Features(features), ..NewImage::default() }
}

fn new_store(image: &NewImage) -> (MemStore, String) {
    let store = MemStore::new();
    let id = store.create_image(image).unwrap();
    (store, id)
}

async fn open(store: &MemStore) -> Image<MemStore> {
    Image::open(store.clone(), OpenOptions::image("img")).await.unwrap()
}

/// Tells all clients that the header has changed, as those do that change it.
async fn announce(store: &MemStore, id: &str) {
    let header = names::header_object(id);
    let payload = NotifyMessage::HeaderUpdate.encode();
    let reply = store.notify(&header, payload, Duration::from_secs(5)).await.unwrap();
    assert_eq!(reply.timeouts, []);
}

/// Counts the operations that the client makes from now on.
fn count_operations(store: &MemStore) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    store.set_fault(move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        None
    });
    count
}

fn bytes(len: u64, seed: u8) -> Bytes {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

async fn read(image: &Image<MemStore>, offset: u64, len: u64) -> Vec<u8> {
    image.read(offset, len).await.unwrap().to_vec()
}

fn data_objects(store: &MemStore) -> usize {
    store.objects().iter().filter(|name| name.starts_with("rbd_data.")).count()
}

/// The object map must not miss an object; with `exact` it must not know of others either.
fn check_map(store: &MemStore, id: &str, exact: bool) {
    let map = store.object_map(id).unwrap();
    let objects = store.objects();
    for (number, state) in map.iter().enumerate() {
        let exists = objects.contains(&names::data_object(&format!("rbd_data.{id}"), number as u64));
        assert!(!exists || *state != 0, "object {number} exists but the map says it does not");
        assert!(!exact || exists == (*state != 0), "object {number}: exists {exists}, map says {state}");
    }
}
