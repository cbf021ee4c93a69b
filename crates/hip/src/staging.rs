//! The way of weights to the device: pieces are put into the kernels' order straight into pinned
//! memory, by all cores, while the copy of the pieces before them runs.

use rayon::prelude::*;

use crate::device::{Device, Memory, Pinned};
use crate::stream::{Event, Stream};
use crate::{Error, kernels};

/// Two halves of pinned memory: one is filled while the other is copied.
pub struct Staging {
    halves: [Half; 2],
    /// The half that is filled next.
    next: usize,
}

struct Half {
    memory: Pinned,
    /// When what it held last has been copied.
    copied: Event,
}

impl Staging {
    /// Two halves of `bytes` each.
    ///
    /// # Errors
    /// Too little memory.
    pub fn new(device: &Device, bytes: usize) -> Result<Staging, Error> {
        let half = || -> Result<Half, Error> {
            Ok(Half { memory: device.allocate_pinned(bytes)?, copied: Event::new(device)? })
        };
        Ok(Staging { halves: [half()?, half()?], next: 0 })
    }

    /// Queues the upload of `count` pieces of `size` bytes to `to`, from byte `offset` on.
    /// `fill(i, piece)` writes piece `i`, all of it, on any thread. On return all pieces have been
    /// written, but not all copied.
    ///
    /// # Panics
    /// If they do not fit into `to`.
    ///
    /// # Errors
    /// A piece that is larger than half the staging memory, or the runtime's failure.
    pub fn upload(
        &mut self,
        stream: &Stream,
        to: &Memory,
        offset: usize,
        count: usize,
        size: usize,
        fill: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Result<(), Error> {
        let room = self.halves[0].memory.as_slice().len();
        kernels::check_shape("upload", size <= room, "a row of tiles exceeds the staging memory")?;
        if count * size == 0 {
            return Ok(());
        }
        let at_once = room / size;
        for first in (0..count).step_by(at_once) {
            let bytes = at_once.min(count - first) * size;
            let half = &mut self.halves[self.next];
            self.next = 1 - self.next;
            half.copied.wait()?;
            let pieces = half.memory.as_mut_slice()[..bytes].par_chunks_exact_mut(size);
            pieces.enumerate().for_each(|(i, piece)| fill(first + i, piece));
            // SAFETY: nobody touches the half before `copied` has been waited for, above or in
            // `drop`.
            unsafe { stream.send(&half.memory, to, offset + first * size, bytes)? };
            half.copied.record(stream)?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for half in &self.halves {
            // A device that has failed copies no more.
            let _ = half.copied.wait();
        }
    }
}
