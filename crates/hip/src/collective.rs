//! Membership of a rank in a tensor-parallel group, over RCCL.

use std::sync::Arc;

use crate::device::{Device, Runtime};
use crate::peers::{Exchange, Peers};
use crate::stream::Stream;
use crate::sys::{Collectives, Handle, NCCL_F32, NCCL_SUM, UniqueId};
use crate::{Error, Memory};

/// What the ranks of one group share before they meet.
#[derive(Clone)]
pub struct Meeting {
    library: Arc<Collectives>,
    id: UniqueId,
    ranks: usize,
    exchange: Arc<Exchange>,
}

impl Meeting {
    /// Prepares a group of `ranks`.
    ///
    /// # Errors
    /// No library, or its failure.
    pub fn new(runtime: &Arc<Runtime>, ranks: usize) -> Result<Meeting, Error> {
        let library = Arc::new(runtime.collectives()?);
        let mut id = UniqueId([0; 128]);
        // SAFETY: `id` outlives the call.
        check("preparing a group", unsafe { (library.unique_id)(&mut id) })?;
        Ok(Meeting { library, id, ranks, exchange: Arc::new(Exchange::new(ranks)) })
    }

    /// Joins as `rank`, on the thread that has made its device current. Returns when all have.
    ///
    /// # Errors
    /// The library's failure.
    pub fn join(&self, rank: usize, device: &Device) -> Result<Communicator, Error> {
        device.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` outlives the call; every rank joins once, each on a thread of its own.
        let code = unsafe {
            (self.library.init_rank)(&mut handle, self.ranks as i32, self.id, rank as i32)
        };
        check("joining the group", code)?;
        let (library, exchange) = (Arc::clone(&self.library), Arc::clone(&self.exchange));
        Ok(Communicator { library, handle, ranks: self.ranks, rank, exchange })
    }
}

fn check(call: &str, code: i32) -> Result<(), Error> {
    match code {
        0 => Ok(()),
        code => Err(Error::Call {
            call: call.to_owned(),
            name: "the collectives' library failed".to_owned(),
            code,
        }),
    }
}

/// A rank's membership.
pub struct Communicator {
    library: Arc<Collectives>,
    /// Null once it is aborted.
    handle: Handle,
    ranks: usize,
    rank: usize,
    exchange: Arc<Exchange>,
}

impl Communicator {
    /// Ranks in the group.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Meets the other ranks, which do the same at this time, for kernels that reach their memory;
    /// once.
    ///
    /// # Errors
    /// A device that cannot reach another's memory, or a rank that does not come.
    pub fn meet(&self, stream: &Stream) -> Result<Peers, Error> {
        Peers::meet(stream, Arc::clone(&self.exchange), self.rank)
    }

    /// Queues the gathering of `count` f32 of every rank, in rank order, into `to`.
    ///
    /// # Panics
    /// If the buffers are too small.
    ///
    /// # Errors
    /// The library's failure.
    pub fn all_gather(
        &self,
        stream: &Stream,
        from: &Memory,
        to: &Memory,
        count: usize,
    ) -> Result<(), Error> {
        assert!(count * 4 <= from.bytes() && count * 4 * self.ranks <= to.bytes());
        // SAFETY: both buffers have room; all ranks call this alike.
        let code = unsafe {
            (self.library.all_gather)(
                from.ptr(),
                to.ptr(),
                count,
                NCCL_F32,
                self.handle,
                stream.handle(),
            )
        };
        check("gathering", code)
    }

    /// Queues the sum of `count` f32 over all ranks, in the library's own order, in place.
    ///
    /// # Panics
    /// If the buffer is too small.
    ///
    /// # Errors
    /// The library's failure.
    pub fn all_reduce(&self, stream: &Stream, x: &Memory, count: usize) -> Result<(), Error> {
        assert!(count * 4 <= x.bytes());
        // SAFETY: the buffer has room; all ranks call this alike.
        let code = unsafe {
            (self.library.all_reduce)(
                x.ptr(),
                x.ptr(),
                count,
                NCCL_F32,
                NCCL_SUM,
                self.handle,
                stream.handle(),
            )
        };
        check("summing over ranks", code)
    }

    /// What has gone wrong since the last call, if anything.
    ///
    /// # Errors
    /// A rank that failed.
    pub fn check(&self) -> Result<(), Error> {
        if self.handle.is_null() {
            return Err(Error::Unfit("the group's collectives were aborted".to_owned()));
        }
        let mut state = 0;
        // SAFETY: `state` outlives the call.
        let code = unsafe { (self.library.async_error)(self.handle, &mut state) };
        check("asking for the group's state", code)?;
        check("a collective of another rank", state)
    }

    /// Ends collectives that hang, so that the stream can end. No other may be queued after it.
    pub fn abort(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: the library allows it at any time, once; the handle is not used again.
            unsafe { (self.library.abort)(self.handle) };
            self.handle = std::ptr::null_mut();
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: destroyed once, after the work that used it.
            unsafe { (self.library.destroy)(self.handle) };
        }
    }
}
