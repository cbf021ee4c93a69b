//! The runtime behind the C functions: devices, streams on worker threads, events, graphs.

pub(crate) mod capture;
pub(crate) mod collective;
pub(crate) mod copy;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod graph;
pub(crate) mod kernels;
pub(crate) mod stream;
pub(crate) mod value;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::check::{Order, Races, join};
use crate::config::Config;
use crate::memory::Memory;
use error::{Error, HipResult};
use event::Event;
use graph::{Executable, Graph};
use kernels::{Function, LoadedModule};
use stream::Stream;

/// An object behind a handle.
#[derive(Clone)]
pub(crate) enum Object {
    Stream(Arc<Stream>),
    Event(Arc<Event>),
    Module(Arc<LoadedModule>),
    Function(Arc<Function>),
    Graph(Arc<Mutex<Graph>>),
    Executable(Arc<Executable>),
    /// A node of a graph.
    Node(Arc<Mutex<Graph>>, usize),
    Comm(Arc<collective::Comm>),
}

/// State of one device.
#[derive(Default)]
pub(crate) struct Device {
    /// The first error of asynchronous work; it stays until the process ends, as on hardware.
    pub(crate) sticky: AtomicI32,
    /// Streams, weakly held so that a destroyed stream's thread can end.
    pub(crate) streams: Mutex<Vec<Arc<Stream>>>,
    pub(crate) null: OnceLock<Arc<Stream>>,
}

/// Everything of one process.
pub(crate) struct Runtime {
    pub(crate) config: Config,
    pub(crate) memory: Arc<Memory>,
    pub(crate) races: Arc<Races>,
    pub(crate) devices: Vec<Device>,
    objects: Mutex<HashMap<u64, Object>>,
    next: AtomicU64,
    /// What the host has waited for.
    host: Mutex<Order>,
    /// Words that streams wrote for others to wait for.
    pub(crate) written: value::Written,
    pub(crate) captures: Mutex<Vec<Arc<capture::Session>>>,
}

thread_local! {
    static DEVICE: Cell<usize> = const { Cell::new(0) };
    static LAST: Cell<i32> = const { Cell::new(0) };
}

/// Locks without caring about a panic elsewhere.
pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process's runtime.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let config = Config::from_env();
        let devices = (0..config.devices).map(|_| Device::default()).collect();
        Runtime {
            memory: Arc::new(Memory::new(config.memory, config.strict)),
            races: Arc::default(),
            devices,
            objects: Mutex::default(),
            next: AtomicU64::new(1),
            host: Mutex::default(),
            written: value::Written::default(),
            captures: Mutex::default(),
            config,
        }
    })
}

/// The calling thread's device.
pub(crate) fn current_device() -> usize {
    DEVICE.get()
}

/// Sets the calling thread's device.
pub(crate) fn set_device(d: i32) -> HipResult<()> {
    let d = runtime().device_index(d)?;
    DEVICE.set(d);
    Ok(())
}

/// Remembers an error for `hipGetLastError`, as HIP 7 does: until it is asked for.
pub(crate) fn note_error(code: i32) {
    if code != 0 && code != error::NOT_READY {
        LAST.set(code);
    }
}

/// The remembered error, cleared if `take`.
pub(crate) fn last_error(take: bool) -> i32 {
    let e = LAST.get();
    if take {
        LAST.set(0);
    }
    e
}

impl Runtime {
    /// Checks a device ordinal.
    pub(crate) fn device_index(&self, d: i32) -> HipResult<usize> {
        let d = usize::try_from(d).ok().filter(|d| *d < self.devices.len());
        d.ok_or_else(|| Error::new(error::INVALID_DEVICE, "no such device"))
    }

    /// Stores an object; the handle is a number that is never a readable address.
    pub(crate) fn insert(&self, o: Object) -> u64 {
        let kind = match o {
            Object::Stream(_) => 1,
            Object::Event(_) => 2,
            Object::Module(_) => 3,
            Object::Function(_) => 4,
            Object::Graph(_) => 5,
            Object::Executable(_) => 6,
            Object::Node(..) => 7,
            Object::Comm(_) => 8,
        };
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        // Non-canonical on x86-64, so a dereference faults.
        let handle = 0x0e00_0000_0000_0000 | kind << 48 | n << 4;
        lock(&self.objects).insert(handle, o);
        handle
    }

    pub(crate) fn get(&self, handle: u64) -> HipResult<Object> {
        lock(&self.objects).get(&handle).cloned().ok_or_else(|| {
            let what = format!("{handle:#x} is not a live handle (destroyed, or never created)");
            Error::new(error::INVALID_HANDLE, &what)
        })
    }

    pub(crate) fn remove(&self, handle: u64) -> HipResult<Object> {
        lock(&self.objects).remove(&handle).ok_or_else(|| {
            let what = format!("{handle:#x} is not a live handle (destroyed twice?)");
            Error::new(error::INVALID_HANDLE, &what)
        })
    }

    /// The stream of a handle; null is the calling thread's device's default stream.
    pub(crate) fn stream(&self, handle: u64) -> HipResult<Arc<Stream>> {
        match handle {
            0 | 1 => Ok(self.null_stream(current_device())),
            // hipStreamPerThread: treated as the default stream.
            2 => Ok(self.null_stream(current_device())),
            h => match self.get(h)? {
                Object::Stream(s) => Ok(s),
                _ => Err(wrong("stream")),
            },
        }
    }

    pub(crate) fn event(&self, handle: u64) -> HipResult<Arc<Event>> {
        match self.get(handle)? {
            Object::Event(e) => Ok(e),
            _ => Err(wrong("event")),
        }
    }

    pub(crate) fn graph(&self, handle: u64) -> HipResult<Arc<Mutex<Graph>>> {
        match self.get(handle)? {
            Object::Graph(g) => Ok(g),
            _ => Err(wrong("graph")),
        }
    }

    pub(crate) fn node(&self, handle: u64) -> HipResult<(Arc<Mutex<Graph>>, usize)> {
        match self.get(handle)? {
            Object::Node(g, k) => Ok((g, k)),
            _ => Err(wrong("graph node")),
        }
    }

    /// The default stream of a device.
    pub(crate) fn null_stream(&self, device: usize) -> Arc<Stream> {
        let d = &self.devices[device];
        Arc::clone(d.null.get_or_init(|| Stream::new(device, true, 0)))
    }

    /// Creates a stream.
    pub(crate) fn create_stream(&self, device: usize, flags: u32) -> u64 {
        let s = Stream::new(device, false, flags);
        lock(&self.devices[device].streams).push(Arc::clone(&s));
        self.insert(Object::Stream(s))
    }

    /// Drops a destroyed stream from its device.
    pub(crate) fn forget(&self, s: &Arc<Stream>) {
        lock(&self.devices[s.device].streams).retain(|x| !Arc::ptr_eq(x, s));
    }

    /// All streams of a device, its default stream first.
    pub(crate) fn streams(&self, device: usize) -> Vec<Arc<Stream>> {
        let mut all = vec![self.null_stream(device)];
        all.extend(lock(&self.devices[device].streams).iter().cloned());
        all
    }

    /// The device's sticky error, if any.
    pub(crate) fn check(&self, device: usize) -> HipResult<()> {
        match self.devices[device].sticky.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(Error::quiet(code)),
        }
    }

    /// Reports an error of asynchronous work and makes it stick.
    pub(crate) fn fail(&self, device: usize, code: i32, what: &str) {
        let sticky = &self.devices[device].sticky;
        if sticky.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            let c = &self.config;
            eprintln!(
                "emulator: device {device}: {what}\nemulator: reproduce with EMU_SEED={} \
                 EMU_QUANTUM={} EMU_LATE={}",
                c.seed,
                match c.quantum {
                    crate::config::Quantum::Fixed(n) => n.to_string(),
                    crate::config::Quantum::UntilBlocked => "block".into(),
                    crate::config::Quantum::Random => "random".into(),
                },
                i32::from(c.late)
            );
        }
    }

    /// What the host has waited for so far.
    pub(crate) fn host_order(&self) -> Order {
        if self.config.strict { lock(&self.host).clone() } else { Order::new() }
    }

    /// The host has waited for this.
    pub(crate) fn host_waited(&self, o: &Order) {
        if self.config.strict {
            join(&mut lock(&self.host), o);
        }
    }

    /// Waits for everything on a device.
    pub(crate) fn synchronize(&self, device: usize) -> HipResult<()> {
        for s in self.streams(device) {
            s.synchronize();
        }
        self.check(device)
    }
}

fn wrong(kind: &str) -> Error {
    Error::new(error::INVALID_HANDLE, &format!("handle is not a {kind}"))
}
