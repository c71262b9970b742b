//! The entropy device (Virtio 1.2, section 5.4).

use std::io::Write;

use virtio_queue::Queue;

use crate::memory::GuestMemory;
use crate::random;
use crate::virtio::{Answer, Chain, RingError, Served, VirtioDevice, serve};

/// Most that one request gets; the driver asks again if it wants more.
const MOST: usize = 4096;

/// Hands out the host's entropy.
#[derive(Default)]
pub struct Rng;

fn fill(chain: Chain<'_>) -> u32 {
    let memory = chain.memory();
    let Ok(mut writer) = chain.clone().writer(memory) else {
        return 0;
    };
    let mut bytes = [0; MOST];
    let wanted = writer.available_bytes().min(MOST);
    let Some(bytes) = bytes.get_mut(..wanted) else { return 0 };
    if random::fill(bytes).is_err() || writer.write_all(bytes).is_err() {
        return 0;
    }
    u32::try_from(wanted).unwrap_or(0)
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u32 {
        4
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn process(
        &mut self,
        _queue: usize,
        ring: &mut Queue,
        memory: &GuestMemory,
    ) -> Result<Served, RingError> {
        serve(ring, memory, |chain| Answer::Used(fill(chain)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::tests::Ring;

    #[test]
    fn fills_what_is_writable() {
        let ring = Ring::new();
        ring.chain(&[(0x4000, 16, false), (0x5000, 100, true), (0x6000, 8000, true)]);
        ring.serve(&mut Rng, 0).unwrap();
        assert_eq!(ring.used(), [4096]);
        assert_ne!(ring.read(0x5000, 100), vec![0; 100]);
        assert_eq!(ring.read(0x4000, 16), vec![0; 16]);
    }

    #[test]
    fn hostile_chains_get_nothing() {
        let ring = Ring::new();
        ring.chain(&[(u64::MAX - 8, 16, true)]);
        ring.chain(&[(0x4000, 16, false)]);
        ring.chain(&[(0x4000, u32::MAX, true)]);
        ring.serve(&mut Rng, 0).unwrap();
        assert_eq!(ring.used(), [0, 0, 0]);
    }
}
