//! Exports and imports of images in memory.

use std::io;

use bytes::Bytes;
use futures::stream::{self, Stream};

use super::*;
use crate::{Features, MemStore, NewImage, SnapshotFlags};

const OBJECT: u64 = 64 << 10;

/// What was exported.
#[derive(Default)]
struct Memory(Vec<u8>);

impl Output for Memory {
    async fn write(&mut self, segment: Segment) -> io::Result<()> {
        match segment {
            Segment::Data(data) => self.0.extend_from_slice(&data),
            Segment::Hole(len) => self.0.resize(self.0.len() + usize::try_from(len).unwrap(), 0),
        }
        Ok(())
    }
}

async fn image(store: &MemStore, name: &str, size: u64) -> Image<MemStore> {
    let image =
        NewImage { name: name.into(), size, order: 16, features: Features(61), ..NewImage::default() };
    store.create_image(&image).unwrap();
    Image::open(store.clone(), OpenOptions::image(name)).await.unwrap()
}

async fn exported(image: &Image<MemStore>) -> Vec<u8> {
    let mut memory = Memory::default();
    image.export(&mut memory, &()).await.unwrap();
    memory.0
}

async fn exported_all(image: &Image<MemStore>) -> Vec<u8> {
    let mut memory = Memory::default();
    image.export_all(&mut memory, &()).await.unwrap();
    memory.0
}

fn input(bytes: &[u8], size: usize) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + use<> {
    let pieces: Vec<_> = bytes.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces)
}

fn data_objects(store: &MemStore, image: &Image<MemStore>) -> usize {
    let prefix = format!("rbd_data.{}", image.id());
    store.objects().iter().filter(|name| name.starts_with(&prefix)).count()
}

fn runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
}

#[test]
fn an_image_comes_back_with_its_holes() {
    runtime(async {
        let store = MemStore::new();
        let source = image(&store, "source", 9 * OBJECT + 512).await;
        source.write(OBJECT + 512, Bytes::from(vec![1; 70_000])).await.unwrap();
        source.write(9 * OBJECT, Bytes::from(vec![2; 512])).await.unwrap();
        let bytes = exported(&source).await;
        assert_eq!(bytes.len() as u64, source.size());

        for len in [Some(bytes.len() as u64), None] {
            let name = format!("copy{len:?}");
            let copy = image(&store, &name, len.unwrap_or(0)).await;
            copy.import(input(&bytes, 10_000), len, ImportOptions::default(), &()).await.unwrap();
            assert_eq!(copy.size(), source.size(), "{len:?}");
            assert!(exported(&copy).await == bytes, "{len:?}");
            assert_eq!(data_objects(&store, &copy), 3);
        }
        let copy = image(&store, "copy", source.size()).await;
        source.copy_to(&copy, ImportOptions::default(), &()).await.unwrap();
        assert!(exported(&copy).await == bytes);
        assert_eq!(data_objects(&store, &copy), 3);
    });
}

#[test]
fn an_image_comes_back_with_its_snapshots_and_metadata() {
    runtime(async {
        let store = MemStore::new();
        let source = image(&store, "source", 4 * OBJECT).await;
        source.set_metadata("owner", "me").await.unwrap();
        source.write(0, Bytes::from(vec![1; 8192])).await.unwrap();
        source.create_snapshot("a", SnapshotFlags::default(), &()).await.unwrap();
        source.write(4096, Bytes::from(vec![0; 4096])).await.unwrap();
        source.write(OBJECT, Bytes::from(vec![3; 100])).await.unwrap();
        source.resize(6 * OBJECT, false, &()).await.unwrap();
        source.create_snapshot("b", SnapshotFlags::default(), &()).await.unwrap();
        source.discard(0, OBJECT).await.unwrap();
        let stream = exported_all(&source).await;

        let copy = image(&store, "copy", 0).await;
        let mut import = ImportStream::image(input(&stream, 777));
        let properties = import.properties().await.unwrap();
        assert_eq!(properties[0], Property::Order(16));
        assert_eq!(properties[4], Property::Metadata { key: "owner".into(), value: b"me".to_vec() });
        copy.import_all(&mut import, ImportOptions::default(), &()).await.unwrap();
        for snapshot in [Some("a"), Some("b"), None] {
            let name = snapshot.map(str::to_owned);
            let (ours, theirs) = (copy.at(name.clone()).await.unwrap(), source.at(name).await.unwrap());
            assert!(exported(&ours).await == exported(&theirs).await, "{snapshot:?}");
        }
    });
}

#[test]
fn a_diff_fits_only_between_its_snapshots() {
    runtime(async {
        let store = MemStore::new();
        let source = image(&store, "source", 4 * OBJECT).await;
        source.create_snapshot("a", SnapshotFlags::default(), &()).await.unwrap();
        source.write(4096, Bytes::from(vec![7; 4096])).await.unwrap();
        source.create_snapshot("b", SnapshotFlags::default(), &()).await.unwrap();
        let end = OpenOptions::image("source").snapshot(SnapshotRef::Name("b".into()));
        let end = Image::open(store.clone(), end).await.unwrap();
        let mut diff = Memory::default();
        let options = DiffOptions { from_snapshot: Some("a".into()), ..DiffOptions::default() };
        end.export_diff(&options, &mut diff, &()).await.unwrap();

        let copy = image(&store, "copy", 4 * OBJECT).await;
        let import = async || {
            let mut stream = ImportStream::diff(input(&diff.0, 100));
            copy.import_diff(&mut stream, None, ImportOptions::default(), &()).await
        };
        let error = import().await.unwrap_err();
        assert!(matches!(error, OperationError::NoStartSnapshot { .. }), "{error}");
        copy.create_snapshot("a", SnapshotFlags::default(), &()).await.unwrap();
        import().await.unwrap();
        assert!(exported(&copy).await == exported(&source).await);
        assert!(copy.snapshots().iter().any(|snapshot| snapshot.name == "b"));
        let error = import().await.unwrap_err();
        assert_eq!(error.errno(), rados::Errno::EEXIST, "{error}");
    });
}

#[test]
fn a_diff_that_ends_early_makes_no_snapshot() {
    runtime(async {
        let store = MemStore::new();
        let copy = image(&store, "copy", OBJECT).await;
        let header = [Record::ToSnapshot("end".into()), Record::Size(OBJECT)];
        let stream = format::diff_header(&header, Version::One);
        let mut import = ImportStream::diff(input(&stream, 100));
        let error = copy.import_diff(&mut import, None, ImportOptions::default(), &()).await.unwrap_err();
        assert!(matches!(error, OperationError::Format(FormatError::Truncated { .. })), "{error}");
        assert!(copy.snapshots().is_empty());
    });
}

#[test]
fn the_protection_of_a_snapshot_is_as_long_as_the_rbd_of_the_clusters_release_says() {
    runtime(async {
        let store = MemStore::new();
        let image = image(&store, "protected", OBJECT).await;
        image.create_snapshot("s", SnapshotFlags::default(), &()).await.unwrap();
        let record = |len: u64| [b"p".as_slice(), &len.to_le_bytes(), &[0]].concat();
        let has = |stream: &[u8], record: &[u8]| stream.windows(record.len()).any(|part| part == record);
        for (release, len, other) in
            [(Release::PACIFIC, 8, 1), (Release::QUINCY, 8, 1), (Release::REEF, 1, 8)]
        {
            store.set_release(release);
            let stream = exported_all(&image).await;
            assert!(has(&stream, &record(len)) && !has(&stream, &record(other)), "{release:?}");
        }
        image.close().await;
    });
}
