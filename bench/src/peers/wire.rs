//! What the stream protocols have in common, as the loop sees it: requests go out under a tag, and what comes back are headers,
//! each with data of one read behind it.

/// A protocol's codec of one connection that is ready for reads.
pub trait Wire {
    /// Bytes of the header before each piece of data.
    const HEADER: usize;

    /// Appends a request for `bytes` at `offset` to `out`. The answer will bear `tag`.
    fn ask(&mut self, tag: u32, offset: u64, bytes: u32, out: &mut Vec<u8>);

    /// Reads a header of [`Wire::HEADER`] bytes.
    ///
    /// # Errors
    /// What is no answer to a read, or an answer that says that the read failed.
    fn head(&mut self, header: &[u8]) -> anyhow::Result<Head>;
}

/// What a header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The read's tag.
    pub tag: u32,
    /// Where in the read the data belongs.
    pub at: usize,
    /// Bytes of data; none: all of the read.
    pub bytes: Option<usize>,
    /// Bytes behind the data that mean nothing.
    pub padding: usize,
    /// The read is over with this data.
    pub done: bool,
}
