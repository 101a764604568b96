//! What is written together, framed for the trees, and split where a payload is too long for one value.

use sled::transaction::TransactionalTree;

use super::{CHUNKS, Tree, TreeKey};
use crate::engine::format::{self, INLINE, SPLIT, SplitHead};

/// Payloads above this lie in chunks of this size. A sled leaf holds up to 17 values and is rewritten
/// as one log message, which must stay below a quarter of the segment.
const MAX_INLINE_BYTES: usize = 24 * 1024;

/// Writes that become visible and durable together.
#[derive(Default)]
pub(in crate::engine) struct Batch {
    operations: Vec<(Tree, Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    pub(in crate::engine) fn put(&mut self, tree: Tree, key: Vec<u8>, payload: Vec<u8>) {
        self.operations.push((tree, key, Some(payload)));
    }

    pub(in crate::engine) fn remove(&mut self, tree: Tree, key: Vec<u8>) {
        self.operations.push((tree, key, None));
    }

    pub(in crate::engine) fn len(&self) -> usize {
        self.operations.len()
    }

    pub(super) fn into_writes(self) -> Vec<Write> {
        self.operations
            .into_iter()
            .map(|(tree, key, payload)| Write::new(tree, key, payload))
            .collect()
    }
}

/// One prepared write: framed, and split where it is too long for one value.
pub(super) struct Write {
    pub(super) tree: u8,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
    chunks: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Write {
    fn new(tree: Tree, key: Vec<u8>, payload: Option<Vec<u8>>) -> Self {
        let tree = tree as u8;
        let mut chunks = Vec::new();
        let value = payload.map(|payload| {
            if payload.len() <= MAX_INLINE_BYTES {
                return format::seal(tree, &key, INLINE, &payload);
            }
            for (index, chunk) in (0_u32..).zip(payload.chunks(MAX_INLINE_BYTES)) {
                let chunk_key = format::chunk_key(tree, &key, index);
                let sealed = format::seal(CHUNKS, &chunk_key, INLINE, chunk);
                chunks.push((chunk_key, sealed));
            }
            let head = SplitHead {
                chunks: u32::try_from(chunks.len()).expect("bodies are bounded far below 4 GiB"),
                hash: *blake3::hash(&payload).as_bytes(),
            };
            format::seal(tree, &key, SPLIT, &head.encode())
        });
        Self {
            tree,
            key,
            value,
            chunks,
        }
    }

    /// Returns in how many chunks the value before lay.
    pub(super) fn apply(
        &self,
        trees: &[TransactionalTree],
    ) -> std::result::Result<u32, sled::transaction::UnabortableTransactionError> {
        let at = |tree: u8| {
            trees
                .get(usize::from(tree))
                .expect("every tree takes part in every transaction")
        };
        let tree = at(self.tree);
        let old = match &self.value {
            Some(value) => tree.insert(self.key.as_slice(), value.as_slice())?,
            None => tree.remove(self.key.as_slice())?,
        };
        let old_chunks = old.as_deref().map_or(0, SplitHead::chunks_behind);
        for (key, value) in self.chunk_changes(old_chunks) {
            match value {
                Some(value) => at(CHUNKS).insert(key, value)?,
                None => at(CHUNKS).remove(key)?,
            };
        }
        Ok(old_chunks)
    }

    /// What it puts and removes among the chunks, where the value before lay in `old_chunks`.
    pub(super) fn chunk_changes(
        &self,
        old_chunks: u32,
    ) -> impl Iterator<Item = (Vec<u8>, Option<&[u8]>)> {
        let new_chunks = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        let left = (new_chunks..old_chunks)
            .map(|index| (format::chunk_key(self.tree, &self.key, index), None));
        let put = self.chunks.iter();
        left.chain(put.map(|(key, value)| (key.clone(), Some(value.as_slice()))))
    }

    /// Every key that this write touched, where the value before lay in `old_chunks` chunks.
    pub(super) fn keys(self, old_chunks: u32) -> impl Iterator<Item = TreeKey> {
        let new_chunks = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        let Self { tree, key, .. } = self;
        let chunk = {
            let key = key.clone();
            move |index| (CHUNKS, format::chunk_key(tree, &key, index))
        };
        let chunks = (0..old_chunks.max(new_chunks)).map(chunk);
        chunks.chain(std::iter::once((tree, key)))
    }
}
