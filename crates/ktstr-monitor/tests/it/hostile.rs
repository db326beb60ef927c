//! Torn and hostile memory: never a panic, never without end, every stop named.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ktstr_monitor::invariants::{self, Stop};
use ktstr_monitor::phys::Vmcore;
use ktstr_monitor::{
    Attach, DumpOptions, FailureDumpReport, Gpa, Kernel, PhysMem, Range, Result, Sampler,
    VcpuRegisters,
};

use crate::lab::lab;

/// How a read is spoilt.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// One bit of some reads.
    Flip,
    /// All bytes of some reads are random.
    Noise,
    /// Some pointers lead where another pointer led: lists become cyclic, trees become nets.
    Replay,
    /// Some reads give the largest numbers.
    Ones,
    /// Some memory is missing.
    Missing,
}

/// A dump of which one read in `rate` is spoilt.
#[derive(Debug)]
struct Spoilt {
    core: Vmcore,
    damage: Damage,
    rate: u64,
    state: AtomicU64,
    last: AtomicU64,
}

impl Spoilt {
    fn new(damage: Damage, rate: u64, seed: u64) -> Self {
        Self {
            core: Vmcore::open(&lab().vmcore).unwrap(),
            damage,
            rate,
            state: AtomicU64::new(seed),
            last: AtomicU64::new(0),
        }
    }

    /// splitmix64.
    fn random(&self) -> u64 {
        let state = self
            .state
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl PhysMem for Spoilt {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()> {
        self.core.read(gpa, buffer)?;
        if let Ok(word) = <[u8; 8]>::try_from(&*buffer) {
            let now = u64::from_le_bytes(word);
            if self.random().is_multiple_of(7) {
                self.last.store(now, Ordering::Relaxed);
            }
        }
        // While rate is 0 memory is whole: the kernel is to be found first.
        if self.rate == 0 || !self.random().is_multiple_of(self.rate) || buffer.is_empty() {
            return Ok(());
        }
        let random = self.random();
        match self.damage {
            Damage::Flip => {
                let at = usize::try_from(random >> 8).unwrap() % buffer.len();
                buffer[at] ^= 1 << (random & 7);
            }
            Damage::Noise => buffer.fill_with(|| self.random().to_le_bytes()[0]),
            Damage::Replay => {
                let old = self.last.load(Ordering::Relaxed).to_le_bytes();
                let len = buffer.len().min(8);
                buffer[..len].copy_from_slice(&old[..len]);
            }
            Damage::Ones => buffer.fill(0xff),
            Damage::Missing => {
                let len = buffer.len();
                return Err(ktstr_monitor::Error::NoMemory { gpa, len });
            }
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range> {
        self.core.ranges()
    }
}

/// One kernel for all: whole while it is looked for, spoilt in a new way for each capture.
#[derive(Debug)]
struct Victim {
    whole: Vmcore,
    spoilt: RwLock<Option<Spoilt>>,
}

impl PhysMem for Victim {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()> {
        match &*self.spoilt.read().unwrap() {
            Some(spoilt) => spoilt.read(gpa, buffer),
            None => self.whole.read(gpa, buffer),
        }
    }

    fn ranges(&self) -> Vec<Range> {
        self.whole.ranges()
    }
}

struct Victims {
    memory: Arc<Victim>,
    kernel: Arc<Kernel>,
    sampler: Sampler,
}

fn victim() -> MutexGuard<'static, Victims> {
    static VICTIM: OnceLock<Mutex<Victims>> = OnceLock::new();
    let victim = VICTIM.get_or_init(|| {
        let memory = Arc::new(Victim {
            whole: Vmcore::open(&lab().vmcore).unwrap(),
            spoilt: RwLock::new(None),
        });
        let kernel = Arc::new(Attach::new(Arc::clone(&memory) as _).attach().unwrap());
        let sampler = Sampler::new(Arc::clone(&kernel)).unwrap();
        Mutex::new(Victims {
            memory,
            kernel,
            sampler,
        })
    });
    victim.lock().unwrap_or_else(PoisonError::into_inner)
}

const LIMIT: Duration = Duration::from_secs(20);

/// What this thread computed so far: how long that took by the clock is up to who else computes.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let ns = text.split(' ').next().unwrap();
    Duration::from_nanos(ns.parse().unwrap())
}

/// Captures everything from spoilt memory; every section may be wrong, none may hang or panic.
fn capture(damage: Damage, rate: u64, seed: u64) -> FailureDumpReport {
    let mut victim = victim();
    *victim.memory.spoilt.write().unwrap() = Some(Spoilt::new(damage, rate, seed));
    for elapsed in 0..50 {
        if let Ok(sample) = victim.sampler.sample(elapsed, &[]) {
            let _ = sample.is_plausible();
        }
    }
    let start = cpu_time();
    let options = DumpOptions {
        deadline: Some(Instant::now() + LIMIT),
        ..DumpOptions::default()
    };
    let registers = [VcpuRegisters {
        rip: victim.kernel.text().0 + 5,
        ..VcpuRegisters::default()
    }];
    let report = FailureDumpReport::capture(&victim.kernel, &registers, &options);
    // Whatever it finds broken, it ends.
    let examined = invariants::examine(&victim.kernel, &Stop::default());
    serde_json::to_string(&examined).unwrap();
    // One section may be under way when time is up.
    let took = cpu_time() - start;
    assert!(
        took < 3 * LIMIT,
        "{damage:?} 1/{rate} seed {seed}: {took:?}"
    );
    serde_json::to_string(&report).unwrap();
    report
}

#[track_caller]
fn check(damage: Damage) {
    for (rate, seeds) in [(1000, 3), (50, 3), (3, 2)] {
        for seed in 0..seeds {
            let report = capture(damage, rate, seed);
            // What is that often wrong must be noticed somewhere.
            let noticed = !report.problems.is_empty() || !report.truncated.is_empty();
            assert!(noticed || rate == 1000, "{damage:?} 1/{rate} seed {seed}");
        }
    }
}

#[test]
fn flipped_bits_are_survived() {
    check(Damage::Flip);
}

#[test]
fn random_bytes_are_survived() {
    check(Damage::Noise);
}

#[test]
fn pointers_that_lead_back_are_survived() {
    check(Damage::Replay);
}

#[test]
fn absurd_numbers_are_survived() {
    check(Damage::Ones);
}

#[test]
fn missing_memory_is_survived() {
    check(Damage::Missing);
}

/// The search for the kernel itself, in memory that lies.
#[test]
fn the_search_survives_lies() {
    for (damage, rate, seed) in [
        (Damage::Flip, 3, 0),
        (Damage::Noise, 20, 1),
        (Damage::Missing, 5, 2),
        (Damage::Ones, 10, 3),
    ] {
        let start = cpu_time();
        let found = Attach::new(Arc::new(Spoilt::new(damage, rate, seed))).attach();
        if let Err(error) = found {
            assert!(!error.to_string().is_empty());
        }
        let took = cpu_time() - start;
        assert!(
            took < 3 * LIMIT,
            "{damage:?} 1/{rate} seed {seed}: {took:?}"
        );
    }
}

/// A guest whose memory is nothing but noise has no kernel, and says so.
#[test]
fn noise_has_no_kernel() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let noise = Spoilt::new(Damage::Noise, 1, 7);
    let bytes: Vec<u8> = (0..1 << 20)
        .map(|_| noise.random().to_le_bytes()[3])
        .collect();
    std::fs::write(file.path(), bytes).unwrap();
    let memory = Arc::new(ktstr_monitor::phys::open_raw(file.path()).unwrap());
    for cr3 in [0, 0x1000, 0x12_3000] {
        let error = Attach::new(Arc::clone(&memory) as _)
            .cr3(cr3)
            .attach()
            .unwrap_err();
        assert!(
            error.to_string().contains("no Linux kernel found"),
            "{error}"
        );
    }
}
