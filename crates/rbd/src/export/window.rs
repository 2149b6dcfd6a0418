//! Changes of an image under way, of which there are only so many at a time.

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use crate::ImageError;

pub(super) struct Window<'a> {
    under_way: FuturesUnordered<BoxFuture<'a, Result<(), ImageError>>>,
    most: usize,
}

impl<'a> Window<'a> {
    pub(super) fn new(most: usize) -> Self {
        Self { under_way: FuturesUnordered::new(), most }
    }

    /// Begins a change, after waiting for room.
    ///
    /// # Errors
    /// Those of an earlier change.
    pub(super) async fn push(
        &mut self,
        change: impl Future<Output = Result<(), ImageError>> + Send + 'a,
    ) -> Result<(), ImageError> {
        while self.under_way.len() >= self.most {
            if let Some(done) = self.under_way.next().await {
                done?;
            }
        }
        self.under_way.push(Box::pin(change));
        Ok(())
    }

    /// Waits for all.
    ///
    /// # Errors
    /// The first one.
    pub(super) async fn finish(&mut self) -> Result<(), ImageError> {
        let mut result = Ok(());
        while let Some(done) = self.under_way.next().await {
            result = result.and(done);
        }
        result
    }
}
