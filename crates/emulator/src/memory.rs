//! Device memory: allocations at addresses that are never reused, with red zones between them.
//!
//! A device address is a number in a range reserved without access rights, so a host that
//! dereferences one faults at once, as on a card without a host mapping. The bytes live elsewhere.
//! Pinned host memory has the host's own address on every device.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::check::Shadow;

/// Bytes of address space that follow every allocation and belong to nothing.
const RED_ZONE: u64 = 64 << 10;
/// Address space reserved for device addresses.
const RESERVED: u64 = 16 << 40;
/// Freed ranges remembered for diagnosis.
const FREED_KEPT: usize = 65_536;

/// Where an allocation lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// Memory of the device with this index.
    Device(usize),
    /// Pinned host memory, reachable from every device.
    Host,
}

/// One allocation and its shadows.
#[derive(Debug)]
pub struct Alloc {
    /// First device address.
    pub base: u64,
    /// Size in bytes.
    pub size: u64,
    /// Owner.
    pub home: Home,
    /// The emulator's own (code, arguments): always initialised, not freed by the user.
    pub internal: bool,
    /// Allocation flags of `hipHostMalloc` or `hipExtMallocWithFlags`.
    pub flags: u32,
    host: *mut u8,
    mapped: usize,
    init: *mut u8,
    race: *mut Shadow,
}

// SAFETY: the pointers are to mappings owned by this value until it drops; all access through them
// is by atomics or by the caller's own ordering, as on the device modelled.
unsafe impl Send for Alloc {}
// SAFETY: as above.
unsafe impl Sync for Alloc {}

impl Drop for Alloc {
    fn drop(&mut self) {
        unmap(self.host, self.mapped);
        unmap(self.init, self.size as usize);
        unmap(self.race.cast(), race_bytes(self.size));
    }
}

fn race_bytes(size: u64) -> usize {
    (size as usize).div_ceil(4) * size_of::<Shadow>()
}

fn unmap(p: *mut u8, len: usize) {
    if !p.is_null() && len > 0 {
        // SAFETY: `p` and `len` are exactly what `map` returned and was asked for.
        unsafe { libc::munmap(p.cast(), len) };
    }
}

fn map(len: usize, prot: i32) -> Option<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len.max(1), prot, flags, -1, 0) };
    (p != libc::MAP_FAILED).then_some(p.cast())
}

impl Alloc {
    /// Pointer to the byte at device address `addr`, which must lie inside.
    pub fn at(&self, addr: u64) -> *mut u8 {
        debug_assert!(addr >= self.base && addr <= self.base + self.size);
        self.host.wrapping_add((addr - self.base) as usize)
    }

    /// Whether `len` bytes at `addr` lie inside.
    pub fn contains(&self, addr: u64, len: u64) -> bool {
        addr >= self.base
            && addr.wrapping_sub(self.base) <= self.size
            && len <= self.size - (addr - self.base)
    }

    /// Whether all of `len` bytes at `addr` were written; true where nothing is tracked.
    #[inline]
    pub fn initialised(&self, addr: u64, len: usize) -> bool {
        const ALL: u64 = 0x0101_0101_0101_0101;
        if self.init.is_null() {
            return true;
        }
        let (mut o, end) = ((addr - self.base) as usize, (addr - self.base) as usize + len);
        while o < end {
            if o.is_multiple_of(8) && o + 8 <= end {
                if self.init_word(o).load(Ordering::Relaxed) != ALL {
                    return false;
                }
                o += 8;
            } else {
                if self.init_byte(o).load(Ordering::Relaxed) == 0 {
                    return false;
                }
                o += 1;
            }
        }
        true
    }

    /// Marks `len` bytes at `addr` as written or (for a copy of unwritten bytes) as never written.
    #[inline]
    pub fn mark(&self, addr: u64, len: usize, written: bool) {
        if self.init.is_null() {
            return;
        }
        let (mut o, end) = ((addr - self.base) as usize, (addr - self.base) as usize + len);
        while o < end {
            if o.is_multiple_of(8) && o + 8 <= end {
                let all = u64::from(written) * 0x0101_0101_0101_0101;
                self.init_word(o).store(all, Ordering::Relaxed);
                o += 8;
            } else {
                self.init_byte(o).store(written.into(), Ordering::Relaxed);
                o += 1;
            }
        }
    }

    fn init_byte(&self, off: usize) -> &AtomicU8 {
        // SAFETY: `off` is inside the allocation (callers checked), and the shadow has its size.
        unsafe { AtomicU8::from_ptr(self.init.add(off)) }
    }

    fn init_word(&self, off: usize) -> &AtomicU64 {
        // SAFETY: as above for eight bytes; the shadow starts at a page, `off` is a multiple of 8.
        unsafe { AtomicU64::from_ptr(self.init.add(off).cast()) }
    }

    /// The race shadow of the dwords (counted from the allocation's start) that hold `len` ≥ 1
    /// bytes at `addr`, and which bytes of the first and of the last are meant.
    #[inline]
    pub fn race(&self, addr: u64, len: usize) -> Option<(&[Shadow], (u32, u32))> {
        if self.race.is_null() {
            return None;
        }
        let off = (addr - self.base) as usize;
        let (first, last) = (off / 4, (off + len - 1) / 4);
        let masks = (15 << (off % 4) & 15, 15 >> (3 - (off + len - 1) % 4));
        // SAFETY: the bytes are inside the allocation, and the shadow has an entry for each dword.
        let s = unsafe { std::slice::from_raw_parts(self.race.add(first), last - first + 1) };
        Some((s, masks))
    }

    /// Reads `len` ≤ 16 bytes: by aligned 8 bytes, which are one access to other threads, by dwords
    /// or by bytes.
    ///
    /// # Safety
    /// `[addr, addr + len)` must lie inside.
    pub unsafe fn load(&self, addr: u64, len: usize) -> [u32; 4] {
        let p = self.at(addr);
        let mut out = [0u32; 4];
        // SAFETY: the range is inside the mapping; atomics allow other waves to write meanwhile.
        unsafe {
            if len.is_multiple_of(8) && addr.is_multiple_of(8) {
                for (k, w) in out.chunks_exact_mut(2).enumerate().take(len / 8) {
                    let x = AtomicU64::from_ptr(p.add(8 * k).cast()).load(Ordering::Relaxed);
                    w.copy_from_slice(&[x as u32, (x >> 32) as u32]);
                }
            } else if len >= 4 && addr.is_multiple_of(4) {
                for (k, w) in out.iter_mut().enumerate().take(len / 4) {
                    *w = AtomicU32::from_ptr(p.add(4 * k).cast()).load(Ordering::Relaxed);
                }
            } else {
                for k in 0..len {
                    let b = AtomicU8::from_ptr(p.add(k)).load(Ordering::Relaxed);
                    out[k / 4] |= u32::from(b) << (8 * (k % 4));
                }
            }
        }
        out
    }

    /// Writes `len` ≤ 16 bytes, in the pieces of `load`.
    ///
    /// # Safety
    /// `[addr, addr + len)` must lie inside.
    pub unsafe fn store(&self, addr: u64, len: usize, data: [u32; 4]) {
        let p = self.at(addr);
        // SAFETY: as for `load`.
        unsafe {
            if len.is_multiple_of(8) && addr.is_multiple_of(8) {
                for (k, w) in data.chunks_exact(2).enumerate().take(len / 8) {
                    let x = u64::from(w[0]) | u64::from(w[1]) << 32;
                    AtomicU64::from_ptr(p.add(8 * k).cast()).store(x, Ordering::Relaxed);
                }
            } else if len >= 4 && addr.is_multiple_of(4) {
                for (k, w) in data.iter().enumerate().take(len / 4) {
                    AtomicU32::from_ptr(p.add(4 * k).cast()).store(*w, Ordering::Relaxed);
                }
            } else {
                for k in 0..len {
                    let b = (data[k / 4] >> (8 * (k % 4))) as u8;
                    AtomicU8::from_ptr(p.add(k)).store(b, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Why an address is not accessible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// Inside an allocation that was freed.
    Freed {
        /// Its first address.
        base: u64,
        /// Its size.
        size: u64,
    },
    /// Past the end (or before the start) of the nearest allocation.
    Near {
        /// Its first address.
        base: u64,
        /// Its size.
        size: u64,
    },
    /// Memory of another device without peer access.
    Peer(usize),
    /// Near nothing.
    Wild,
}

impl std::fmt::Display for Miss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Miss::Freed { base, size } => write!(f, "freed allocation {base:#x} of {size} bytes"),
            Miss::Near { base, size } => {
                write!(f, "outside the nearest allocation {base:#x} of {size} bytes")
            }
            Miss::Peer(d) => write!(f, "memory of device {d}, whose peer access is not enabled"),
            Miss::Wild => write!(f, "not in any allocation"),
        }
    }
}

struct Space {
    start: u64,
    next: u64,
    end: u64,
    live: BTreeMap<u64, Arc<Alloc>>,
    freed: BTreeMap<u64, u64>,
}

impl Drop for Space {
    fn drop(&mut self) {
        unmap(self.start as *mut u8, (self.end - self.start) as usize);
    }
}

/// All memory of all devices.
pub struct Memory {
    space: RwLock<Space>,
    version: AtomicU64,
    sorted: Mutex<Arc<Table>>,
    used: [AtomicU64; crate::MAX_DEVICES],
    peers: [AtomicU32; crate::MAX_DEVICES],
    shadow: bool,
    limit: u64,
    grow: Mutex<()>,
}

/// Reasons an allocation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocError {
    /// The device's memory, the host's memory or the address range is used up.
    OutOfMemory,
}

impl Memory {
    /// Memory whose devices have `limit` bytes each, with shadows if `shadow`.
    pub fn new(limit: u64, shadow: bool) -> Self {
        // A process with a limit on its address space gets less.
        let sizes = [RESERVED, RESERVED / 4, RESERVED / 64];
        let got = sizes.iter().find_map(|n| Some((map(*n as usize, libc::PROT_NONE)?, *n)));
        let (start, size) = got.map_or((0, 0), |(p, n)| (p as u64, n));
        let next = start.next_multiple_of(2 << 20);
        let end = start + size;
        let (live, freed) = (BTreeMap::new(), BTreeMap::new());
        let space = Space { start, next, end, live, freed };
        Memory {
            space: RwLock::new(space),
            version: AtomicU64::new(1),
            sorted: Mutex::default(),
            used: Default::default(),
            peers: Default::default(),
            shadow,
            limit,
            grow: Mutex::new(()),
        }
    }

    /// Bytes in use and in total on `device`.
    pub fn usage(&self, device: usize) -> (u64, u64) {
        (self.used[device].load(Ordering::Relaxed), self.limit)
    }

    /// Takes the next range of addresses, never handed out before.
    fn addresses(&self, size: u64) -> Option<u64> {
        let mut s = self.space.write().unwrap_or_else(PoisonError::into_inner);
        let base = s.next.next_multiple_of(if size >= 2 << 20 { 2 << 20 } else { 4096 });
        let next = base.checked_add(size)?.checked_add(RED_ZONE)?.next_multiple_of(4096);
        if next > s.end {
            return None;
        }
        s.next = next;
        Some(base)
    }

    /// Allocates device memory.
    pub fn alloc(&self, device: usize, size: u64, flags: u32) -> Result<Arc<Alloc>, AllocError> {
        {
            let _one = self.grow.lock().unwrap_or_else(PoisonError::into_inner);
            let used = self.used[device].load(Ordering::Relaxed);
            if size > self.limit.saturating_sub(used) {
                return Err(AllocError::OutOfMemory);
            }
            self.used[device].fetch_add(size, Ordering::Relaxed);
        }
        let made = self.make(Home::Device(device), size, flags, false);
        match made {
            Some(a) => Ok(self.insert(a)),
            None => {
                self.used[device].fetch_sub(size, Ordering::Relaxed);
                Err(AllocError::OutOfMemory)
            }
        }
    }

    /// Memory of the emulator itself, visible to `device`'s kernels; freed by dropping it.
    pub fn internal(&self, device: usize, size: u64) -> Result<Arc<Alloc>, AllocError> {
        self.make(Home::Device(device), size, 0, true).map(Arc::new).ok_or(AllocError::OutOfMemory)
    }

    /// Makes an internal allocation visible to every launch (module segments).
    pub fn publish(&self, a: &Arc<Alloc>) {
        let mut s = self.space.write().unwrap_or_else(PoisonError::into_inner);
        s.live.insert(a.base, Arc::clone(a));
        self.version.fetch_add(1, Ordering::Release);
    }

    fn make(&self, home: Home, size: u64, flags: u32, internal: bool) -> Option<Alloc> {
        let base = self.addresses(size)?;
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let host = map(size as usize, rw)?;
        let null = std::ptr::null_mut();
        let track = self.shadow && !internal;
        let init = if track { map(size as usize, rw)? } else { null };
        let race = if track { map(race_bytes(size), rw)?.cast() } else { std::ptr::null_mut() };
        let mapped = (size as usize).max(1);
        Some(Alloc { base, size, home, internal, flags, host, mapped, init, race })
    }

    fn insert(&self, a: Alloc) -> Arc<Alloc> {
        let a = Arc::new(a);
        self.publish(&a);
        a
    }

    /// Allocates pinned host memory; its device address is the host pointer.
    pub fn alloc_host(&self, size: u64, flags: u32) -> Result<Arc<Alloc>, AllocError> {
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let host = map(size as usize, rw).ok_or(AllocError::OutOfMemory)?;
        Ok(self.insert(self.host_alloc(host, size, flags, (size as usize).max(1))))
    }

    /// Registers the caller's own memory as pinned.
    pub fn register_host(&self, host: *mut u8, size: u64, flags: u32) -> Arc<Alloc> {
        self.insert(self.host_alloc(host, size, flags, 0))
    }

    fn host_alloc(&self, host: *mut u8, size: u64, flags: u32, mapped: usize) -> Alloc {
        // What the host writes cannot be seen, so every byte counts as written.
        let init = std::ptr::null_mut();
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let race = if self.shadow { map(race_bytes(size), rw) } else { None };
        let race = race.map_or(std::ptr::null_mut(), |p| p.cast());
        let (base, internal) = (host as u64, false);
        Alloc { base, size, home: Home::Host, internal, flags, host, mapped, init, race }
    }

    /// Removes the allocation that starts at `base`.
    pub fn free(&self, base: u64) -> Option<Arc<Alloc>> {
        let mut s = self.space.write().unwrap_or_else(PoisonError::into_inner);
        let a = s.live.remove(&base)?;
        self.version.fetch_add(1, Ordering::Release);
        if let Home::Device(d) = a.home {
            s.freed.insert(base, a.size);
            if s.freed.len() > FREED_KEPT {
                s.freed.pop_first();
            }
            if !a.internal {
                self.used[d].fetch_sub(a.size, Ordering::Relaxed);
            }
        }
        Some(a)
    }

    /// The allocation that contains all of `[addr, addr + len)`.
    pub fn find(&self, addr: u64, len: u64) -> Option<Arc<Alloc>> {
        let s = self.space.read().unwrap_or_else(PoisonError::into_inner);
        let (_, a) = s.live.range(..=addr).next_back()?;
        a.contains(addr, len).then(|| Arc::clone(a))
    }

    /// Whether `addr` is in the range that device addresses come from.
    pub fn reserved(&self, addr: u64) -> bool {
        let s = self.space.read().unwrap_or_else(PoisonError::into_inner);
        addr >= s.start && addr < s.end
    }

    /// Says why `addr` cannot be accessed.
    pub fn explain(&self, addr: u64) -> Miss {
        let s = self.space.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((&base, &size)) = s.freed.range(..=addr).next_back()
            && addr - base < size.max(1)
        {
            return Miss::Freed { base, size };
        }
        let below = s.live.range(..=addr).next_back().map(|(_, a)| a);
        let above = s.live.range(addr..).next().map(|(_, a)| a);
        let gap = |a: &Arc<Alloc>| {
            if addr < a.base { a.base - addr } else { (addr - a.base).saturating_sub(a.size) }
        };
        match below.into_iter().chain(above).min_by_key(|a| gap(a)) {
            Some(a) if gap(a) < 1 << 40 => Miss::Near { base: a.base, size: a.size },
            _ => Miss::Wild,
        }
    }

    /// Whether kernels of `from` may touch memory at home in `home`.
    pub fn may_access(&self, from: usize, home: Home) -> bool {
        match home {
            Home::Host => true,
            Home::Device(d) => d == from || self.peers[from].load(Ordering::Acquire) >> d & 1 == 1,
        }
    }

    /// Turns peer access of `from` to `to` on or off; false if it already was so.
    pub fn set_peer(&self, from: usize, to: usize, on: bool) -> bool {
        let bit = 1 << to;
        let old = if on {
            self.peers[from].fetch_or(bit, Ordering::AcqRel)
        } else {
            self.peers[from].fetch_and(!bit, Ordering::AcqRel)
        };
        (old & bit != 0) != on
    }

    /// A view for one workgroup on `device`, with the launch's `own` allocation added.
    pub fn view(self: &Arc<Self>, device: usize, own: Option<Arc<Alloc>>) -> View {
        let table = self.table();
        View { memory: Arc::clone(self), device, own, table, last: 0 }
    }

    /// All allocations by address, as of now.
    fn table(&self) -> Arc<Table> {
        let version = self.version.load(Ordering::Acquire);
        let mut kept = self.sorted.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.version != version {
            let s = self.space.read().unwrap_or_else(PoisonError::into_inner);
            let version = self.version.load(Ordering::Acquire);
            *kept = Arc::new(Table { version, allocs: s.live.values().cloned().collect() });
        }
        Arc::clone(&kept)
    }
}

/// The allocations at one time, by address.
#[derive(Default)]
struct Table {
    version: u64,
    allocs: Vec<Arc<Alloc>>,
}

/// One workgroup's view of memory: the allocation table, with a one-entry cache.
pub struct View {
    memory: Arc<Memory>,
    device: usize,
    own: Option<Arc<Alloc>>,
    table: Arc<Table>,
    last: usize,
}

impl View {
    /// The allocation containing `[addr, addr + len)`, if this device may touch it.
    #[inline]
    pub fn find(&mut self, addr: u64, len: u64) -> Result<&Arc<Alloc>, Miss> {
        let hit = self.table.allocs.get(self.last).is_some_and(|a| a.contains(addr, len));
        if hit {
            return Ok(&self.table.allocs[self.last]);
        }
        match &self.own {
            Some(a) if a.contains(addr, len) => Ok(a),
            _ => {
                self.last = Self::search(&self.memory, &mut self.table, self.device, (addr, len))?;
                Ok(&self.table.allocs[self.last])
            }
        }
    }

    fn search(
        memory: &Memory,
        table: &mut Arc<Table>,
        device: usize,
        (addr, len): (u64, u64),
    ) -> Result<usize, Miss> {
        loop {
            let n = table.allocs.partition_point(|a| a.base <= addr);
            if let Some(a) = n.checked_sub(1).and_then(|k| table.allocs.get(k))
                && a.contains(addr, len)
            {
                if !memory.may_access(device, a.home) {
                    let Home::Device(d) = a.home else { return Err(Miss::Wild) };
                    return Err(Miss::Peer(d));
                }
                return Ok(n - 1);
            }
            let now = memory.table();
            if now.version == table.version {
                return Err(memory.explain(addr));
            }
            *table = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_never_reused_and_misses_are_explained() {
        let m = Arc::new(Memory::new(1 << 20, true));
        let a = m.alloc(0, 100, 0).unwrap();
        let b = m.alloc(0, 100, 0).unwrap();
        assert!(b.base >= a.base + 100 + RED_ZONE);
        assert_eq!(m.alloc(0, 1 << 20, 0).unwrap_err(), AllocError::OutOfMemory);
        assert_eq!(m.explain(a.base + 100), Miss::Near { base: a.base, size: 100 });
        m.free(a.base).unwrap();
        assert!(m.free(a.base).is_none());
        assert_eq!(m.explain(a.base + 5), Miss::Freed { base: a.base, size: 100 });
        let c = m.alloc(0, 100, 0).unwrap();
        assert!(c.base > b.base);
        let mut v = m.view(1, None);
        assert_eq!(v.find(c.base, 4).err(), Some(Miss::Peer(0)));
        assert!(m.set_peer(1, 0, true) && !m.set_peer(1, 0, true));
        assert!(v.find(c.base + 96, 4).is_ok());
        assert!(v.find(c.base + 97, 4).is_err());
        assert!(!c.initialised(c.base, 4));
        c.mark(c.base, 4, true);
        assert!(c.initialised(c.base, 4));
    }

    /// What one workgroup writes as 8 bytes, one on another device reads as 8 bytes.
    #[test]
    fn eight_aligned_bytes_are_one_access() {
        let m = Memory::new(1 << 20, true);
        let a = m.alloc(0, 32, 0).unwrap();
        let done = AtomicU32::new(0);
        let (a, done) = (&a, &done);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for k in 0..100_000_000 {
                    // SAFETY: the bytes are inside.
                    unsafe { a.store(a.base + 8, 16, [k, k, !k, !k]) };
                }
                done.store(1, Ordering::Relaxed);
            });
            scope.spawn(move || {
                while done.load(Ordering::Relaxed) == 0 {
                    // SAFETY: the bytes are inside.
                    let x = unsafe { a.load(a.base + 8, 16) };
                    assert!(x[0] == x[1] && x[2] == x[3], "{x:?}");
                }
            });
        });
    }
}
