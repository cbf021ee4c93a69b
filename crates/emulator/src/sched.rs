//! Running a launch: workgroups over threads, waves within a workgroup, in a seeded order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::check::{GroupClock, LdsShadow, Operation, Segments};
use crate::code::Kernel;
use crate::config::{Config, Quantum};
use crate::counters::Counters;
use crate::env::{Env, Fault, FaultKind};
use crate::fpmode;
use crate::inst::{Class, Inst, Operand};
use crate::memory::{Alloc, Memory};
use crate::strict;
use crate::wave::{State, Wave};

/// Workgroups interleaved on one thread where they may wait for each other.
const RESIDENT: usize = 16;
/// As many as there are compute units: more are taken in while those that run seem to wait.
const MOST_RESIDENT: usize = 256;
/// Rounds without a workgroup's end that look like waiting.
const PATIENCE: u32 = 4096;

/// One kernel launch.
#[derive(Clone)]
pub struct Launch {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// Workgroups.
    pub grid: [u32; 3],
    /// Threads of a workgroup.
    pub block: [u32; 3],
    /// Dynamic LDS bytes.
    pub dynamic_lds: u32,
    /// Argument segment, followed by a dispatch packet at `packet`.
    pub kernarg: Vec<u8>,
    /// Device.
    pub device: usize,
    /// All workgroups must be resident at once.
    pub cooperative: bool,
}

/// Writes the hidden arguments that the metadata lists.
pub fn fill_hidden(kernarg: &mut [u8], kernel: &Kernel, grid: [u32; 3], block: [u32; 3]) {
    for a in kernel.args.iter().filter(|a| a.kind.starts_with("hidden_")) {
        let axis = match a.kind.as_bytes().last() {
            Some(b'y') => 1,
            Some(b'z') => 2,
            _ => 0,
        };
        let value = match a.kind.as_str() {
            k if k.starts_with("hidden_block_count_") => u64::from(grid[axis]),
            k if k.starts_with("hidden_group_size_") => u64::from(block[axis]),
            // Grids are whole workgroups here, so there is no remainder.
            "hidden_grid_dims" => match (grid[1] * block[1], grid[2] * block[2]) {
                (1, 1) => 1,
                (_, 1) => 2,
                _ => 3,
            },
            _ => 0,
        };
        if let Some(to) = kernarg.get_mut(a.offset..a.offset + a.size.min(8)) {
            to.copy_from_slice(&value.to_le_bytes()[..to.len()]);
        }
    }
}

/// A small generator for schedules.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number (SplitMix64).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn shuffle<T>(&mut self, v: &mut [T]) {
        for k in (1..v.len()).rev() {
            v.swap(k, (self.draw() % (k as u64 + 1)) as usize);
        }
    }
}

/// What the groups of one launch share.
struct Shared<'a> {
    launch: &'a Launch,
    memory: &'a Arc<Memory>,
    config: &'a Config,
    args: Arc<Alloc>,
    packet: u64,
    order: Vec<u64>,
    next: AtomicUsize,
    failed: AtomicBool,
    result: Mutex<(Counters, Option<Box<Fault>>)>,
    race: Option<Arc<Operation>>,
    start: Instant,
}

/// Runs a launch to its end. The error is the first one met in this schedule.
pub fn run(
    memory: &Arc<Memory>,
    launch: &Launch,
    config: &Config,
    race: Option<Operation>,
) -> Result<Counters, Box<Fault>> {
    let packet = launch.kernarg.len().next_multiple_of(64);
    let args = match memory.internal(launch.device, packet as u64 + 64) {
        Ok(a) => a,
        Err(_) => return Err(no_memory(launch)),
    };
    write_arguments(&args, launch, packet);
    let groups = launch.grid.iter().map(|g| u64::from(*g)).product::<u64>();
    let mut order: Vec<u64> = (0..groups).collect();
    if config.seed != 0 {
        Rng(config.seed).shuffle(&mut order);
    }
    let serial = config.strict || launch.kernel.atomics || launch.cooperative;
    let threads = if serial { 1 } else { config.threads.min(order.len()).max(1) };
    let counters = Counters::new(config.counters);
    let shared = Shared {
        launch,
        memory,
        config,
        packet: args.base + packet as u64,
        args,
        order,
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        result: Mutex::new((counters, None)),
        race: race.map(Arc::new),
        start: Instant::now(),
    };
    if threads == 1 {
        worker(&shared, serial);
    } else {
        std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(|| worker(&shared, serial));
            }
        });
    }
    let (counters, fault) = shared.result.into_inner().unwrap_or_else(PoisonError::into_inner);
    fault.map_or(Ok(counters), Err)
}

fn no_memory(l: &Launch) -> Box<Fault> {
    Box::new(Fault {
        kind: FaultKind::OutOfBounds,
        kernel: l.kernel.name.clone(),
        line: None,
        inst: String::new(),
        pc: 0,
        group: 0,
        wave: 0,
        lane: None,
        addr: None,
        what: "no memory for the kernel's arguments".into(),
    })
}

fn write_arguments(a: &Alloc, l: &Launch, packet: usize) {
    let mut bytes = l.kernarg.clone();
    bytes.resize(packet + 64, 0);
    let p = &mut bytes[packet..];
    for (k, b) in l.block.iter().enumerate() {
        p[4 + 2 * k..6 + 2 * k].copy_from_slice(&(*b as u16).to_le_bytes());
        let threads = b.saturating_mul(l.grid[k]);
        p[12 + 4 * k..16 + 4 * k].copy_from_slice(&threads.to_le_bytes());
    }
    p[24..28].copy_from_slice(&l.kernel.desc.scratch.to_le_bytes());
    p[28..32].copy_from_slice(&(l.kernel.desc.lds + l.dynamic_lds).to_le_bytes());
    p[40..48].copy_from_slice(&a.base.to_le_bytes());
    // SAFETY: the allocation was made with exactly this size.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), a.at(a.base), bytes.len()) };
}

struct Group {
    waves: Vec<Wave>,
    env: Env,
    rng: Rng,
}

/// Storage of ended workgroups, for new ones.
#[derive(Default)]
struct Spare {
    waves: Vec<Wave>,
    locals: Vec<(Vec<u8>, LdsShadow, Box<crate::exec::mfma::Scratch>)>,
}

/// What is kept between launches at most, of each kind.
const KEPT: usize = 64;

static SPARE: Mutex<Spare> = Mutex::new(Spare { waves: Vec::new(), locals: Vec::new() });

impl Spare {
    /// What earlier launches left.
    fn take() -> Spare {
        std::mem::take(&mut *SPARE.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn give_back(mut self) {
        let mut s = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        s.waves.append(&mut self.waves);
        s.locals.append(&mut self.locals);
        s.waves.truncate(KEPT);
        s.locals.truncate(KEPT);
    }

    fn put(&mut self, g: Group) {
        self.waves.extend(g.waves);
        self.locals.push((g.env.lds, g.env.lds_shadow, g.env.matrix));
    }
}

fn worker(s: &Shared<'_>, serial: bool) {
    let mut limit = match (s.launch.cooperative, serial) {
        (true, _) => s.order.len(),
        (false, true) => RESIDENT,
        (false, false) => 1,
    };
    let mut resident: Vec<Group> = Vec::new();
    let mut spare = Spare::take();
    let mut total = Counters::default();
    let mut rounds = 0; // since a workgroup has ended
    loop {
        while resident.len() < limit && !s.failed.load(Ordering::Relaxed) {
            let k = s.next.fetch_add(1, Ordering::Relaxed);
            let Some(g) = s.order.get(k) else { break };
            resident.push(group(s, *g, &mut spare));
        }
        if resident.is_empty() || s.failed.load(Ordering::Relaxed) {
            break;
        }
        let (mut k, mut asleep, mut slept) = (0, true, false);
        while k < resident.len() {
            let outcome = round(&mut resident[k], s.config);
            let sleeps = matches!(outcome, Ok(Progress::Asleep));
            (asleep, slept) = (asleep && sleeps, slept || sleeps);
            match outcome {
                Ok(Progress::Asleep | Progress::Made) => k += 1,
                Ok(Progress::Ended) => {
                    rounds = 0;
                    let g = resident.swap_remove(k);
                    total.merge(&g.env.counters);
                    spare.put(g);
                }
                Err(f) => return fail(s, f),
            }
        }
        rounds += 1;
        if limit < MOST_RESIDENT && (slept || serial && rounds % PATIENCE == 0) {
            limit += 1; // one that is not there yet may be waited for
        }
        if asleep {
            // They may wait for another device, whose thread needs a core.
            std::thread::yield_now();
        }
        if s.start.elapsed() > Duration::from_secs(s.config.hang_seconds)
            && let Some(g) = resident.first_mut()
        {
            return fail(s, hang(g, s.config.hang_seconds));
        }
    }
    spare.give_back();
    s.result.lock().unwrap_or_else(PoisonError::into_inner).0.merge(&total);
}

fn fail(s: &Shared<'_>, f: Box<Fault>) {
    s.failed.store(true, Ordering::Relaxed);
    s.result.lock().unwrap_or_else(PoisonError::into_inner).1.get_or_insert(f);
}

fn hang(g: &mut Group, seconds: u64) -> Box<Fault> {
    let w = g.waves.iter_mut().find(|w| w.state != State::Done);
    let fallback = |env: &Env| Fault {
        kind: FaultKind::Hang,
        kernel: env.kernel.name.clone(),
        line: None,
        inst: String::new(),
        pc: 0,
        group: env.group,
        wave: 0,
        lane: None,
        addr: None,
        what: String::new(),
    };
    let Some(w) = w else { return Box::new(fallback(&g.env)) };
    let at = (w.pc as usize).min(g.env.kernel.code.insts.len().saturating_sub(1));
    let Some(i) = g.env.kernel.code.insts.get(at).copied() else {
        return Box::new(fallback(&g.env));
    };
    let what = format!("not finished after {seconds} s (EMU_HANG_SECONDS)");
    g.env.fault(w, &i, FaultKind::Hang, None, None, &what);
    w.fault.take().unwrap_or_else(|| Box::new(fallback(&g.env)))
}

/// Sets up a workgroup's waves as the command processor does.
fn group(s: &Shared<'_>, linear: u64, spare: &mut Spare) -> Group {
    let (l, k) = (s.launch, &s.launch.kernel);
    let lds = (k.desc.lds + l.dynamic_lds) as usize;
    let strict = s.config.strict;
    let view = s.memory.view(l.device, Some(Arc::clone(&s.args)));
    let (mut local, mut lds_shadow, matrix) = spare.locals.pop().unwrap_or_default();
    local.clear();
    local.resize(lds, 0xa5);
    if strict {
        lds_shadow.reset(lds);
    }
    let threads = l.block.iter().product::<u32>();
    let number = threads.div_ceil(64);
    let env = Env {
        view,
        kernel: Arc::clone(k),
        lds: local,
        lds_shadow,
        time: GroupClock::default(),
        strict,
        late: s.config.late,
        nan_scale: s.config.nan_scale,
        group: linear,
        segments: s.race.as_ref().map(|r| Segments::new(r, linear as u32, number)),
        counters: Counters::new(s.config.counters),
        matrix,
        clock: 0,
    };
    let (gx, gy) = (u64::from(l.grid[0]), u64::from(l.grid[1]));
    let id = [linear % gx, linear / gx % gy, linear / gx / gy].map(|x| x as u32);
    let rows = k.desc.registers();
    let mut waves = Vec::new();
    for index in 0..number {
        let rows = (rows.0 as usize, rows.1 as usize);
        let mut w = Wave::new(spare.waves.pop(), rows, k.desc.scratch);
        w.index = index;
        w.pc = k.entry;
        w.mode = k.desc.mode();
        scalars(s, &mut w, id);
        lanes(&mut w, l.block, threads);
        waves.push(w);
    }
    let rng = Rng(s.config.seed ^ linear.wrapping_mul(0x1234_5678_9abc_def1));
    Group { waves, env, rng }
}

fn scalars(s: &Shared<'_>, w: &mut Wave, id: [u32; 3]) {
    let d = &s.launch.kernel.desc;
    let mut next = 0usize;
    let mut put = |w: &mut Wave, values: &[u32]| {
        for v in values {
            if next < 102 {
                w.s[next] = *v;
                w.svalid[next] = !0;
                next += 1;
            }
        }
    };
    let pair = |x: u64| [x as u32, (x >> 32) as u32];
    let p = d.properties;
    let preload: Vec<u32> = (0..usize::from(d.preload & 127))
        .map(|k| {
            let at = 4 * (k + usize::from(d.preload >> 7));
            let b = s.launch.kernarg.get(at..at + 4);
            b.map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        })
        .collect();
    let fields: [(bool, Vec<u32>); 7] = [
        (p & 1 != 0, vec![0; 4]),
        (p & 2 != 0, pair(s.packet).to_vec()),
        (p & 4 != 0, vec![0; 2]),
        (p & 8 != 0, pair(s.args.base).to_vec()),
        (p & 16 != 0, vec![0; 2]),
        (p & 32 != 0, vec![0; 2]),
        (p & 64 != 0, vec![d.scratch]),
    ];
    for (on, v) in fields {
        if on {
            put(w, &v);
        }
    }
    put(w, &preload);
    for (k, x) in id.iter().enumerate() {
        if d.rsrc[1] >> (7 + k) & 1 == 1 {
            put(w, &[*x]);
        }
    }
    if d.rsrc[1] >> 10 & 1 == 1 {
        put(w, &[w.index]);
    }
    w.s[102..104].fill(0);
    w.svalid[102..106].fill(!0);
}

fn lanes(w: &mut Wave, block: [u32; 3], threads: u32) {
    let mut exec = 0u64;
    for l in 0..64u32 {
        let t = w.index * 64 + l;
        let (x, y) = (t % block[0], t / block[0] % block[1]);
        let z = t / block[0] / block[1];
        w.v[0].0[l as usize] = x | y << 10 | z << 20;
        exec |= u64::from(t < threads) << l;
    }
    w.vvalid[0] = exec;
    w.set_s64(crate::inst::EXEC, exec);
}

/// What became of a workgroup in one round.
enum Progress {
    Made,
    /// All that could run sleeps.
    Asleep,
    Ended,
}

/// Gives every ready wave a turn.
fn round(g: &mut Group, c: &Config) -> Result<Progress, Box<Fault>> {
    let mut order: Vec<usize> = (0..g.waves.len()).collect();
    if c.seed != 0 {
        g.rng.shuffle(&mut order);
    }
    let (mut worked, mut slept) = (false, false);
    for k in order {
        if g.waves[k].state != State::Ready {
            continue;
        }
        let limit = match c.quantum {
            Quantum::Fixed(n) => n.max(1).into(),
            Quantum::UntilBlocked => u64::MAX,
            Quantum::Random => 1 + g.rng.draw() % 64,
        };
        let (w, env) = (&mut g.waves[k], &mut g.env);
        if c.strict {
            turn::<true>(w, env, limit);
        } else {
            turn::<false>(w, env, limit);
        }
        if let Some(f) = w.fault.take() {
            return Err(f);
        }
        let sleeps = w.stop && w.state == State::Ready;
        (worked, slept) = (worked | !sleeps, slept | sleeps);
    }
    Ok(match barrier(g)? {
        true => Progress::Ended,
        false if slept && !worked => Progress::Asleep,
        false => Progress::Made,
    })
}

/// Releases a barrier that every wave has reached; true once all have ended.
fn barrier(g: &mut Group) -> Result<bool, Box<Fault>> {
    let count = |s: State| g.waves.iter().filter(|w| w.state == s).count();
    let (waiting, ended) = (count(State::Barrier), count(State::Done));
    if ended == g.waves.len() {
        return Ok(true);
    }
    if waiting == 0 || waiting + ended < g.waves.len() {
        return Ok(false);
    }
    if ended > 0 && g.env.strict {
        let gone = g.waves.iter().find(|w| w.state == State::Done).map_or(0, |w| w.index);
        let w = g.waves.iter_mut().find(|w| w.state == State::Barrier);
        if let Some(w) = w
            && let Some(i) = g.env.kernel.code.insts.get(w.pc as usize - 1).copied()
        {
            let what = format!("waits at a barrier, but wave {gone} has ended");
            g.env.fault(w, &i, FaultKind::BarrierDivergence, None, None, &what);
            if let Some(f) = w.fault.take() {
                return Err(f);
            }
        }
    }
    if g.env.time.barrier() {
        g.env.lds_shadow.forget();
        if let Some(s) = &mut g.env.segments {
            s.renew();
        }
    }
    g.waves.iter_mut().filter(|w| w.state == State::Barrier).for_each(|w| w.state = State::Ready);
    Ok(false)
}

/// Runs one wave until it blocks or its turn ends.
fn turn<const STRICT: bool>(w: &mut Wave, env: &mut Env, limit: u64) {
    let code = Arc::clone(&env.kernel.code);
    let start = w.issued;
    loop {
        let Some(i) = code.insts.get(w.pc as usize) else {
            let last = code.insts.last().copied();
            if let Some(i) = last {
                env.fault(w, &i, FaultKind::Illegal, None, None, "ran past the end of the code");
            }
            return;
        };
        w.pc += 1;
        w.issued += 1;
        w.stop = false;
        if env.counters.on {
            env.counters.instruction(i.class);
        }
        if w.gpr_idx_mode != 0 && i.class == Class::Valu {
            let j = indexed(w, i);
            step::<STRICT>(w, &j, env);
        } else {
            step::<STRICT>(w, i, env);
        }
        let used = w.issued - start;
        if w.stop {
            let sleeps = w.state == State::Ready && w.fault.is_none();
            if !sleeps || limit == u64::MAX {
                return;
            }
        }
        if used >= limit {
            return;
        }
    }
}

#[inline(always)]
fn step<const STRICT: bool>(w: &mut Wave, i: &Inst, env: &mut Env) {
    if STRICT && let Some(s) = &i.simple {
        if !w.vm.is_empty() || !w.lgkm.is_empty() {
            strict::before(env, w, i);
            if w.fault.is_some() {
                return;
            }
        }
        let (exec, lanes) = (w.exec(), strict::lanes(w, s));
        execute(w, i, env);
        let valid = &mut w.vvalid[usize::from(s.dst)];
        *valid = (lanes & exec) | (*valid & !exec);
    } else if STRICT {
        strict::before(env, w, i);
        if w.fault.is_some() {
            return;
        }
        let b = strict::gather(w, i);
        execute(w, i, env);
        strict::after(w, i, &b);
    } else {
        execute(w, i, env);
    }
}

#[inline(always)]
fn execute(w: &mut Wave, i: &Inst, env: &mut Env) {
    // Round to nearest with denormals kept is the host's own mode.
    if w.mode & 0xff != 0xf0 && i.class == Class::Valu && !fpmode::is_default(w.mode, i.wide_float)
    {
        return fpmode::with(w.mode, i.wide_float, || {
            // SAFETY: as below.
            unsafe { (i.exec)(w, i, env) }
        });
    }
    // SAFETY: the decoder chose the variant for this CPU and bounded every register.
    unsafe { (i.exec)(w, i, env) }
}

/// Adds the index register to the vector operands that `s_set_gpr_idx` enables.
fn indexed(w: &Wave, i: &Inst) -> Inst {
    let mut j = *i;
    let shift = |o: Operand, on: bool| match o {
        Operand::V { r, n } if on => {
            let last = if r < 256 { 256 } else { 512 } - u16::from(n);
            Operand::V { r: (r + u16::from(w.gpr_idx)).min(last), n }
        }
        o => o,
    };
    for k in 0..3 {
        j.src[k] = shift(j.src[k], w.gpr_idx_mode >> k & 1 == 1);
    }
    j.dst = shift(j.dst, w.gpr_idx_mode >> 3 & 1 == 1);
    j.simple = None;
    j
}
