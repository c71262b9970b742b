//! Random numbers: ChaCha20, seeded from what there is.

use crate::{memory, time};
use base::{Lock, rank};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Taken anywhere, takes nothing.
static GENERATOR: Lock<Option<ChaCha20Rng>> = Lock::new(rank::LOG - 1, None);

/// Fills `out` with random bytes.
pub fn fill(out: &mut [u8]) {
    let mut generator = GENERATOR.lock();
    let generator = generator.get_or_insert_with(|| ChaCha20Rng::from_seed(seed()));
    generator.fill_bytes(out);
    // Backtracking resistance: what was given out can't be computed from what
    // is left.
    let mut next = [0; 32];
    generator.fill_bytes(&mut next);
    *generator = ChaCha20Rng::from_seed(next);
}

/// A random word.
pub fn word() -> u64 {
    u64::from_le_bytes(array())
}

/// Random bytes.
pub fn array<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// The boot loader's rng-seed, the CPU's random numbers, and the counter.
fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    let boot = memory::machine().map(|machine| machine.rng_seed.as_slice()).unwrap_or_default();
    for (at, byte) in boot.iter().enumerate() {
        if let Some(place) = seed.get_mut(at % 32) {
            *place ^= byte;
        }
    }
    for part in seed.chunks_mut(8) {
        let word = arch::cpu::random().unwrap_or_default();
        part.iter_mut().zip(word.to_le_bytes()).for_each(|(place, byte)| *place ^= byte);
    }
    for (place, byte) in seed.iter_mut().zip(time::now().to_le_bytes()) {
        *place ^= byte;
    }
    seed
}
