//! Records of jobs: they lie in the store, and what is in them is not known here.

use super::Engine;
use super::store::{Batch, Tree, named};
use crate::error::Result;

impl Engine {
    /// Keeps a job's record; durable when this returns.
    ///
    /// # Errors
    /// `Unavailable` or `StorageFault`.
    pub fn put_job(&self, id: &str, payload: Vec<u8>) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(Tree::Jobs, id.as_bytes().to_vec(), payload);
        let sequence = self.inner.commit(batch)?;
        self.inner.store.wait_synced(sequence)
    }

    /// Forgets a job's record.
    ///
    /// # Errors
    /// `Unavailable` or `StorageFault`.
    pub fn remove_job(&self, id: &str) -> Result<()> {
        let mut batch = Batch::default();
        batch.remove(Tree::Jobs, id.as_bytes().to_vec());
        self.inner.commit(batch).map(|_| ())
    }

    /// A job's record; `None` when there is none.
    ///
    /// # Errors
    /// `StorageFault` when it is damaged or cannot be read.
    pub fn job(&self, id: &str) -> Result<Option<Vec<u8>>> {
        let payload = self.inner.store.get(Tree::Jobs, id.as_bytes())?;
        Ok(payload.map(|payload| payload.to_vec()))
    }

    /// Shows all jobs' records, by id; one that is damaged is an error in its place.
    ///
    /// # Errors
    /// `StorageFault` when the store itself cannot be read.
    pub fn each_job(&self, mut show: impl FnMut(String, Result<Vec<u8>>)) -> Result<()> {
        for entry in self.inner.store.scan(Tree::Jobs, vec![0], vec![u8::MAX]) {
            let (key, payload) = named(entry)?;
            let id = String::from_utf8_lossy(&key).into_owned();
            show(id, payload.map(|value| value.to_vec()));
        }
        Ok(())
    }
}
