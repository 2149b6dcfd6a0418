//! One object, for one thing at a time.

mod attributes;

use bytes::Bytes;
use ceph_codec::SnapId;

use crate::error::OpError;
use crate::ioctx::IoCtx;
use crate::op::{
    Errno, ObjectStat, ObjectWatcher, OpOutcome, OpReply, Operation, SnapContext, SnapSet, SparseExtents,
};

/// An object of a pool: everyday operations, one op each. Made by [`IoCtx::object`].
///
/// ```no_run
/// # async fn example(pool: rados::IoCtx) -> Result<(), rados::OpError> {
/// let greeting = pool.object("greeting");
/// greeting.write_full("hello").await?;
/// greeting.append(", world").await?;
/// assert_eq!(greeting.read(7, 5).await?, "world");
/// greeting.set_xattr("language", "en").await?;
/// # Ok(())
/// # }
/// ```
///
/// Several ops at once, all or nothing: [`IoCtx::write`] and [`IoCtx::read`].
///
/// # Errors
///
/// Where nothing else is said, the futures resolve to [`OpError`]: an errno of the OSD, such as `ENOENT`
/// where what is read does not exist, or that the pool or this client has come to its end. Methods that write
/// return the object's new version.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    ioctx: &'a IoCtx,
    name: &'a str,
    snap: SnapId,
    snapc: SnapContext,
}

impl<'a> Object<'a> {
    pub(crate) fn new(ioctx: &'a IoCtx, name: &'a str) -> Self {
        Self { ioctx, name, snap: SnapId::HEAD, snapc: SnapContext::default() }
    }

    /// The object as it was at a snapshot, for methods that read.
    #[must_use]
    pub fn at(self, snap: SnapId) -> Self {
        Self { snap, ..self }
    }

    /// The object, written so that these snapshots keep what they see. For pools whose users manage their
    /// snapshots; in others the OSDs know.
    #[must_use]
    pub fn with_snap_context(self, snapc: SnapContext) -> Self {
        Self { snapc, ..self }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name
    }

    /// Reads up to `len` bytes at `offset`, up to the end if `len` is 0; fewer where the object ends.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn read(&self, offset: u64, len: u64) -> Result<Bytes, OpError> {
        Ok(self.get(Operation::new().read(offset, len)).await?.data)
    }

    /// Reads what is allocated of `len` bytes at `offset`.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn read_sparse(&self, offset: u64, len: u64) -> Result<SparseExtents, OpError> {
        Ok(self.get(Operation::new().sparse_read(offset, len)).await?.sparse()?)
    }

    /// Size in bytes and modification time.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn stat(&self) -> Result<ObjectStat, OpError> {
        Ok(self.get(Operation::new().stat()).await?.stat()?)
    }

    /// Whether there is such an object.
    ///
    /// # Errors
    /// [`OpError`]
    pub async fn exists(&self) -> Result<bool, OpError> {
        match self.stat().await {
            Ok(_) => Ok(true),
            Err(error) if error.refusal() == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Compares the bytes at `offset` with `data`: `None` if they are the same, else where they begin to
    /// differ, in bytes from `offset`.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn compare(&self, offset: u64, data: impl Into<Bytes>) -> Result<Option<u64>, OpError> {
        match self.get(Operation::new().compare_extent(offset, data)).await {
            Ok(_) => Ok(None),
            Err(error) => error.mismatch().map(Some).ok_or(error),
        }
    }

    /// Creates it.
    ///
    /// # Errors
    /// `EEXIST` if it exists and `exclusive` is set.
    pub async fn create(&self, exclusive: bool) -> Result<u64, OpError> {
        self.set(Operation::new().create(exclusive)).await
    }

    /// Writes `data` at `offset`, growing the object as needed.
    ///
    /// # Errors
    /// `EOPNOTSUPP` in an erasure-coded pool without overwrites.
    pub async fn write(&self, offset: u64, data: impl Into<Bytes>) -> Result<u64, OpError> {
        self.set(Operation::new().write(offset, data)).await
    }

    /// Makes `data` the whole contents.
    ///
    /// # Errors
    /// [`OpError`]
    pub async fn write_full(&self, data: impl Into<Bytes>) -> Result<u64, OpError> {
        self.set(Operation::new().write_full(data)).await
    }

    /// Writes `pattern` at `offset`, again and again, until `len` bytes are written.
    ///
    /// # Errors
    /// `EINVAL` unless `len` is a multiple of the pattern's length.
    pub async fn write_same(&self, offset: u64, len: u64, pattern: impl Into<Bytes>) -> Result<u64, OpError> {
        self.set(Operation::new().write_same(offset, len, pattern)).await
    }

    /// Writes `data` at the end of the object.
    ///
    /// # Errors
    /// `EOPNOTSUPP` in an erasure-coded pool without overwrites, if the end is not aligned
    /// ([`IoCtx::required_alignment`]).
    pub async fn append(&self, data: impl Into<Bytes>) -> Result<u64, OpError> {
        self.set(Operation::new().append(data)).await
    }

    /// Zeroes a range; never creates or grows the object.
    ///
    /// # Errors
    /// `EOPNOTSUPP` in an erasure-coded pool without overwrites.
    pub async fn zero(&self, offset: u64, len: u64) -> Result<u64, OpError> {
        self.set(Operation::new().zero(offset, len)).await
    }

    /// Cuts or grows the object to `size` bytes.
    ///
    /// # Errors
    /// `EOPNOTSUPP` in an erasure-coded pool without overwrites.
    pub async fn truncate(&self, size: u64) -> Result<u64, OpError> {
        self.set(Operation::new().truncate(size)).await
    }

    /// Removes it.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn remove(&self) -> Result<u64, OpError> {
        self.set(Operation::new().delete()).await
    }

    /// Gives it the contents that it had at `snap`; removes it if it did not exist then.
    ///
    /// # Errors
    /// `EBUSY` if it would be removed and has watchers.
    pub async fn rollback(&self, snap: SnapId) -> Result<u64, OpError> {
        self.set(Operation::new().rollback(snap)).await
    }

    /// What is kept of it for snapshots.
    ///
    /// # Errors
    /// `ENOENT` if there is neither an object nor a clone.
    pub async fn snap_set(&self) -> Result<SnapSet, OpError> {
        let dir = Self { snap: SnapId::DIR, ..self.clone() };
        Ok(dir.get(Operation::new().list_snaps()).await?.snap_set()?)
    }

    /// Who watches it.
    ///
    /// # Errors
    /// `ENOENT` if there is no object.
    pub async fn watchers(&self) -> Result<Vec<ObjectWatcher>, OpError> {
        Ok(self.get(Operation::new().list_watchers()).await?.watchers()?)
    }

    /// Calls a `method` of object class `class` that only reads, and returns its output.
    ///
    /// # Errors
    /// `EPERM` if the OSD may not load such a class (`osd_class_load_list`), `EOPNOTSUPP` if the class has no
    /// such method; whatever the method fails with.
    pub async fn call(
        &self,
        class: &'static str,
        method: &'static str,
        input: impl Into<Bytes>,
    ) -> Result<Bytes, OpError> {
        Ok(self.get(Operation::new().call(class, method, input)).await?.data)
    }

    /// Calls a `method` of object class `class` that may write.
    ///
    /// # Errors
    /// `EPERM` if the OSD may not load such a class (`osd_class_load_list`), `EOPNOTSUPP` if the class has no
    /// such method; whatever the method fails with.
    pub async fn call_mut(
        &self,
        class: &'static str,
        method: &'static str,
        input: impl Into<Bytes>,
    ) -> Result<u64, OpError> {
        self.set(Operation::new().call_mut(class, method, input)).await
    }

    /// The outcome of an operation of one op that reads.
    async fn get(&self, operation: Operation) -> Result<OpOutcome, OpError> {
        let OpReply { mut outcomes, .. } = self.ioctx.read(self.name, operation, self.snap).await?;
        Ok(outcomes.pop().expect("an answer has as many outcomes as the operation has ops"))
    }

    /// The version after an operation that writes.
    async fn set(&self, operation: Operation) -> Result<u64, OpError> {
        Ok(self.ioctx.write(self.name, operation, &self.snapc).await?.version)
    }
}
