//! Random numbers: ChaCha20, seeded from what there is.

use crate::memory;
use base::{Lock, rank};
use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Taken anywhere, takes nothing.
static GENERATOR: Lock<Option<ChaCha20Rng>> = Lock::new(rank::LOG - 1, None);
/// Whether nobody can guess what it was seeded with.
static SEEDED: AtomicBool = AtomicBool::new(false);

/// Seeds the generator, and says from what if that is little.
pub fn init() {
    let (boot, cpu) = (boot_seed().len() >= KEY, arch::cpu::random().is_some());
    word();
    match (boot || cpu, is_seeded()) {
        (true, _) => {}
        (false, true) => log::warn!("Random: neither rng-seed nor FEAT_RNG: seeded from the counter's jitter"),
        (false, false) => log::warn!("Random: no rng-seed, no FEAT_RNG, no jitter: numbers can be guessed"),
    }
}

/// Whether what [`fill`] gives can't be guessed.
pub fn is_seeded() -> bool {
    SEEDED.load(Relaxed)
}

/// Fills `out` with random bytes.
pub fn fill(out: &mut [u8]) {
    let mut generator = GENERATOR.lock();
    let generator = generator.get_or_insert_with(first);
    // When somebody asks is not known to all.
    stir(generator, &arch::timer::counter().to_le_bytes());
    generator.fill_bytes(out);
    // Backtracking resistance: what was given out can't be computed from what
    // is left.
    stir(generator, &[]);
}

/// Mixes in what may be secret, as /dev/urandom takes it: it can only help.
pub fn mix(data: &[u8]) {
    let mut generator = GENERATOR.lock();
    let generator = generator.get_or_insert_with(first);
    stir(generator, &arch::timer::counter().to_le_bytes());
    stir(generator, data);
}

/// A random word.
pub fn word() -> u64 {
    u64::from_le_bytes(array())
}

/// Three of them.
pub fn words() -> [u64; 3] {
    core::array::from_fn(|_| word())
}

/// Random bytes.
pub fn array<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// ChaCha20's key.
const KEY: usize = 32;

/// The next key is the generator's next bytes, with each block of `data`: who
/// knows one of the two knows nothing of the next.
fn stir(generator: &mut ChaCha20Rng, data: &[u8]) {
    let mut blocks = data.chunks(KEY);
    loop {
        let block = blocks.next();
        let mut key = [0; KEY];
        generator.fill_bytes(&mut key);
        for (place, byte) in key.iter_mut().zip(block.unwrap_or_default()) {
            *place ^= byte;
        }
        *generator = ChaCha20Rng::from_seed(key);
        if block.is_none() {
            return;
        }
    }
}

fn boot_seed() -> &'static [u8] {
    memory::machine().map(|machine| machine.rng_seed.as_slice()).unwrap_or_default()
}

/// The boot loader's rng-seed, the CPU's random numbers, the counter and its
/// jitter.
fn first() -> ChaCha20Rng {
    let mut generator = ChaCha20Rng::from_seed([0; KEY]);
    stir(&mut generator, boot_seed());
    let mut words = 0usize;
    for _ in 0..KEY / 8 {
        if let Some(word) = arch::cpu::random() {
            stir(&mut generator, &word.to_le_bytes());
            words = words.saturating_add(1);
        }
    }
    let known = boot_seed().len() >= KEY || words == KEY / 8;
    // What is known to be good needs little more.
    let credit = jitter(&mut generator, if known { 32 } else { ROUNDS });
    SEEDED.store(known || credit >= BITS, Relaxed);
    generator
}

/// What a seed needs.
const BITS: u32 = 256;
/// How often jitter is looked at, at most.
const ROUNDS: u32 = 1 << 16;
/// So many changes of the pace are taken for one bit.
const CHANGES: u32 = 16;

/// Mixes in how long small pieces of work take: caches, refreshes and other
/// masters decide that. How many bits it may be worth: as Linux's
/// random_get_entropy jitter, what goes on at the same pace is worth nothing.
fn jitter(generator: &mut ChaCha20Rng, rounds: u32) -> u32 {
    let mut work = [0u64; 64];
    let (mut last, mut pace, mut bend) = (arch::timer::counter(), 0u64, 0u64);
    let mut changes = 0u32;
    for round in 0..rounds {
        for (at, word) in work.iter_mut().enumerate() {
            *word = word.rotate_left(7).wrapping_add(last ^ at as u64);
        }
        let now = arch::timer::counter();
        let took = now.wrapping_sub(last);
        let new_bend = took.wrapping_sub(pace);
        changes = changes.saturating_add(u32::from(took != 0 && new_bend != 0 && new_bend != bend));
        (last, pace, bend) = (now, took, new_bend);
        if round % 16 == 15 {
            let [first, ..] = core::hint::black_box(work);
            stir(generator, &(now ^ first.rotate_left(32)).to_le_bytes());
        }
        if changes / CHANGES >= BITS {
            break;
        }
    }
    changes / CHANGES
}
