//! A stream of work on a device, events, and graphs recorded from it.

use std::cell::Cell;
use std::ffi::{c_int, c_void};

use crate::device::{Device, Memory, Pinned};
use crate::recording::{Launching, Recording};
use crate::sys::{BEGINS_EARLY, Handle, LaunchAttribute, LaunchConfig, Special};
use crate::{Error, Kernel};

/// `hipStreamNonBlocking`, `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;
/// `hipStreamCaptureModeThreadLocal`: other threads may go on with their own streams.
const CAPTURE_THREAD_LOCAL: c_int = 1;

/// `hipErrorNotReady`, `CUDA_ERROR_NOT_READY`.
const NOT_READY: c_int = 600;

/// An in-order queue of work on one device. Used by one thread.
pub struct Stream {
    device: Device,
    handle: Handle,
    /// While its work is recorded.
    recording: Cell<Option<Recording>>,
}

impl Stream {
    /// A new stream.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn new(device: &Device) -> Result<Stream, Error> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` outlives the call.
        let code = unsafe { (device.runtime.driver.stream_create)(&mut handle, NON_BLOCKING) };
        device.check("making a stream", code)?;
        Ok(Stream { device: device.clone(), handle, recording: Cell::new(None) })
    }

    /// The stream's device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }

    /// Waits until all work has ended, and reports its failures.
    ///
    /// # Errors
    /// A kernel or copy that failed.
    pub fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: the stream is alive.
        let code = unsafe { (self.device.runtime.driver.stream_synchronize)(self.handle) };
        self.device.check("waiting for the stream", code)
    }

    /// Whether all work has ended.
    ///
    /// # Errors
    /// A kernel or copy that failed.
    pub fn is_idle(&self) -> Result<bool, Error> {
        // SAFETY: the stream is alive.
        match unsafe { (self.device.runtime.driver.stream_query)(self.handle) } {
            NOT_READY => Ok(false),
            code => self.device.check("asking for the stream's state", code).map(|()| true),
        }
    }

    /// Queues a kernel of `grid` workgroups of `threads`; `args` is its one parameter. On CUDA they
    /// may begin before the kernel before it has ended, also in a recorded graph (see `begin` in
    /// `kernels/device.h`); copies and events wait for all before them, and are waited for.
    ///
    /// # Safety
    /// `T` is the kernel's parameter as declared, its pointers lead to memory that is large enough
    /// for what the kernel documents, and that memory outlives the work.
    ///
    /// # Errors
    /// A launch beyond the device's limits.
    pub unsafe fn launch<T: Copy>(
        &self,
        kernel: Kernel,
        grid: [u32; 3],
        threads: u32,
        args: &T,
    ) -> Result<(), Error> {
        // SAFETY: the caller's.
        unsafe { self.launch_clusters(kernel, grid, 1, threads, args) }
    }

    /// As [`Stream::launch`]; on CUDA each `cluster` neighbours along x, of which there are a
    /// multiple, run at once and reach one another's LDS.
    ///
    /// # Safety
    /// [`Stream::launch`]'s.
    ///
    /// # Errors
    /// [`Stream::launch`]'s.
    pub(crate) unsafe fn launch_clusters<T: Copy>(
        &self,
        kernel: Kernel,
        grid: [u32; 3],
        cluster: u32,
        threads: u32,
        args: &T,
    ) -> Result<(), Error> {
        if grid.contains(&0) {
            return Ok(());
        }
        let mut parameters = [std::ptr::from_ref(args).cast_mut().cast::<c_void>()];
        let (parameters, extra) = (parameters.as_mut_ptr(), std::ptr::null_mut());
        let Kernel { handle, lds, .. } = kernel;
        let (stream, [x, y, z]) = (self.handle, grid);
        // SAFETY: the caller vouches for the arguments; the runtime copies them, and what else it
        // is given, before it returns. Kernels that begin early wait (`begin` in kernels/device.h).
        let code = unsafe {
            match self.device.runtime.special {
                Special::Hip { launch, .. } => {
                    launch(handle, x, y, z, threads, 1, 1, lds, stream, parameters, extra)
                }
                Special::Cuda { launch, .. } => {
                    let attributes = [BEGINS_EARLY, LaunchAttribute::cluster(cluster)];
                    let config = LaunchConfig {
                        grid,
                        block: [threads, 1, 1],
                        lds,
                        stream,
                        attributes: attributes.as_ptr(),
                        attribute_count: if cluster == 1 { 1 } else { 2 },
                    };
                    launch(&config, handle, parameters, extra)
                }
            }
        };
        self.device.check(&format!("launching {}", kernel.name), code)
    }

    /// Copies bytes to the device and waits until they are there.
    ///
    /// # Panics
    /// If they do not fit at `offset`.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn upload(&self, bytes: &[u8], to: &Memory, offset: usize) -> Result<(), Error> {
        assert!(offset + bytes.len() <= to.bytes(), "an upload beyond its buffer");
        if bytes.is_empty() {
            return Ok(());
        }
        let (driver, to) = (&self.device.runtime.driver, to.ptr() + offset as u64);
        // SAFETY: the target has room; the source outlives the wait below.
        let code =
            unsafe { (driver.copy_to_device)(to, bytes.as_ptr().cast(), bytes.len(), self.handle) };
        self.device.check("copying to the device", code)?;
        self.synchronize()
    }

    /// Copies bytes from the device and waits for them.
    ///
    /// # Panics
    /// If so many are not there at `offset`.
    ///
    /// # Errors
    /// The runtime's failure, or that of work before it.
    pub fn download(&self, from: &Memory, offset: usize, out: &mut [u8]) -> Result<(), Error> {
        assert!(offset + out.len() <= from.bytes(), "a download beyond its buffer");
        if out.is_empty() {
            return Ok(());
        }
        let (driver, from) = (&self.device.runtime.driver, from.ptr() + offset as u64);
        // SAFETY: the source has that many bytes; the target outlives the wait below.
        let code =
            unsafe { (driver.copy_to_host)(out.as_mut_ptr().cast(), from, out.len(), self.handle) };
        self.device.check("copying from the device", code)?;
        self.synchronize()
    }

    /// Queues a copy of the first `bytes` of pinned memory to the device, to `offset`.
    ///
    /// # Safety
    /// `from` is neither written nor dropped before the copy has ended.
    ///
    /// # Panics
    /// If they are not there or do not fit.
    ///
    /// # Errors
    /// The runtime's failure.
    pub unsafe fn send(
        &self,
        from: &Pinned,
        to: &Memory,
        offset: usize,
        bytes: usize,
    ) -> Result<(), Error> {
        assert!(offset + bytes <= to.bytes() && bytes <= from.as_slice().len());
        let (driver, to) = (&self.device.runtime.driver, to.ptr() + offset as u64);
        let source = from.as_slice().as_ptr().cast();
        // SAFETY: both sides have so many bytes, and the caller keeps the source.
        let code = unsafe { (driver.copy_to_device)(to, source, bytes, self.handle) };
        self.device.check("copying to the device", code)
    }

    /// Queues a copy of the first `bytes` of device memory to pinned memory.
    ///
    /// # Safety
    /// `to` is neither read nor dropped before the copy has ended.
    ///
    /// # Panics
    /// If they are not there or do not fit.
    ///
    /// # Errors
    /// The runtime's failure.
    pub unsafe fn fetch(&self, from: &Memory, to: &mut Pinned, bytes: usize) -> Result<(), Error> {
        assert!(bytes <= from.bytes() && bytes <= to.as_slice().len());
        let driver = &self.device.runtime.driver;
        let target = to.as_mut_slice().as_mut_ptr().cast();
        // SAFETY: both sides have so many bytes, and the caller keeps the target.
        let code = unsafe { (driver.copy_to_host)(target, from.ptr(), bytes, self.handle) };
        self.device.check("copying from the device", code)
    }

    /// Queues a copy of all of `from` to the start of `to`, on the device.
    ///
    /// # Panics
    /// If it does not fit.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn copy(&self, from: &Memory, to: &Memory) -> Result<(), Error> {
        assert!(from.bytes() <= to.bytes(), "a copy beyond its buffer");
        let driver = &self.device.runtime.driver;
        // SAFETY: both sides have so many bytes.
        let code =
            unsafe { (driver.copy_on_device)(to.ptr(), from.ptr(), from.bytes(), self.handle) };
        self.device.check("copying on the device", code)
    }

    /// Queues the setting of all words of `memory` to `word`. Its length must be a multiple of 4.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn fill(&self, memory: &Memory, word: u32) -> Result<(), Error> {
        let driver = &self.device.runtime.driver;
        let words = memory.bytes() / 4;
        // SAFETY: the memory has so many words.
        let code =
            unsafe { (driver.set_words)(memory.ptr(), word.cast_signed(), words, self.handle) };
        self.device.check("filling memory", code)
    }

    /// Begins to record work instead of running it, until [`Stream::end_capture`]. Other threads'
    /// streams may record meanwhile; who would launch a graph waits until none does, so this thread
    /// must not.
    ///
    /// # Errors
    /// A stream that records already.
    pub fn begin_capture(&self) -> Result<(), Error> {
        let driver = &self.device.runtime.driver;
        let recording = Recording::begin();
        // SAFETY: the stream is alive.
        let code = unsafe { (driver.begin_capture)(self.handle, CAPTURE_THREAD_LOCAL) };
        self.device.check("beginning to record a graph", code)?;
        self.recording.set(Some(recording));
        Ok(())
    }

    /// The work recorded since [`Stream::begin_capture`], ready to be run again and again.
    ///
    /// # Errors
    /// Something was called in between that cannot be recorded.
    pub fn end_capture(&self) -> Result<Graph, Error> {
        let driver = &self.device.runtime.driver;
        let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: `graph` outlives the call.
        let code = unsafe { (driver.end_capture)(self.handle, &mut graph) };
        drop(self.recording.take());
        self.device.check("recording a graph", code)?;
        let _launching = Launching::begin();
        // SAFETY: the graph was just made; it is destroyed once, the instance stays.
        let (code, destroyed) = unsafe {
            ((driver.graph_instantiate)(&mut exec, graph, 0), (driver.graph_destroy)(graph))
        };
        self.device.check("instantiating a graph", code)?;
        self.device.check("destroying a graph", destroyed)?;
        Ok(Graph { device: self.device.clone(), exec })
    }

    /// Queues a recorded graph.
    ///
    /// # Safety
    /// All memory that the graph's work uses is still there.
    ///
    /// # Errors
    /// The runtime's failure.
    pub unsafe fn run(&self, graph: &Graph) -> Result<(), Error> {
        let _launching = Launching::begin();
        // SAFETY: the graph is alive; the caller vouches for its memory.
        let code = unsafe { (self.device.runtime.driver.graph_launch)(graph.exec, self.handle) };
        self.device.check("running a graph", code)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let driver = &self.device.runtime.driver;
        // SAFETY: the stream is alive and not used after this. Failures were reported where the
        // results were awaited.
        unsafe {
            (driver.stream_synchronize)(self.handle);
            (driver.stream_destroy)(self.handle);
        }
    }
}

/// Recorded work.
pub struct Graph {
    device: Device,
    exec: Handle,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the instance is destroyed once; the runtime waits for its runs.
        unsafe { (self.device.runtime.driver.graph_exec_destroy)(self.exec) };
    }
}

/// A moment on a stream, for measuring.
pub struct Event {
    device: Device,
    handle: Handle,
}

impl Event {
    /// A moment that is not yet set.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn new(device: &Device) -> Result<Event, Error> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` outlives the call.
        let code = unsafe { (device.runtime.driver.event_create)(&mut handle, 0) };
        device.check("making an event", code)?;
        Ok(Event { device: device.clone(), handle })
    }

    /// Sets it to when the stream's work so far ends.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn record(&self, stream: &Stream) -> Result<(), Error> {
        // SAFETY: both are alive.
        let code = unsafe { (self.device.runtime.driver.event_record)(self.handle, stream.handle) };
        self.device.check("recording an event", code)
    }

    /// Whether the work before it has ended. Failures are the stream's to tell.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn is_past(&self) -> Result<bool, Error> {
        // SAFETY: the event is alive.
        match unsafe { (self.device.runtime.driver.event_query)(self.handle) } {
            NOT_READY => Ok(false),
            code => self.device.check("asking for an event", code).map(|()| true),
        }
    }

    /// Waits for it; not at all if it was never recorded.
    ///
    /// # Errors
    /// Failed work before it.
    pub fn wait(&self) -> Result<(), Error> {
        // SAFETY: the event is alive.
        let code = unsafe { (self.device.runtime.driver.event_synchronize)(self.handle) };
        self.device.check("waiting for an event", code)
    }

    /// Milliseconds from `start` to this event; waits for it.
    ///
    /// # Errors
    /// Events that were not recorded, or failed work before them.
    pub fn milliseconds_since(&self, start: &Event) -> Result<f32, Error> {
        self.wait()?;
        let driver = &self.device.runtime.driver;
        let mut time = 0.0;
        // SAFETY: both are alive, `time` outlives the call.
        let code = unsafe { (driver.event_elapsed)(&mut time, start.handle, self.handle) };
        self.device.check("measuring between events", code)?;
        Ok(time)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: destroyed once.
        unsafe { (self.device.runtime.driver.event_destroy)(self.handle) };
    }
}
