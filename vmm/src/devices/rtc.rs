//! The PL031 real-time clock, from vm-superio.

use std::sync::Mutex;

use vm_superio::Rtc;
use vm_superio::rtc_pl031::NoEvents;

use crate::bus::MmioDevice;
use crate::sync::lock;

/// A PL031 on the bus.
#[derive(Default)]
pub struct RtcDevice(Mutex<Rtc<NoEvents>>);

impl MmioDevice for RtcDevice {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // The registers are words.
        if let (Ok(data), Ok(offset)) = (<&mut [u8; 4]>::try_from(data), u16::try_from(offset)) {
            lock(&self.0).read(offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (Ok(data), Ok(offset)) = (<&[u8; 4]>::try_from(data), u16::try_from(offset)) {
            lock(&self.0).write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_time_and_who_it_is() {
        let rtc = RtcDevice::default();
        let mut word = [0; 4];
        rtc.read(0, &mut word);
        assert!(u32::from_le_bytes(word) > 1_700_000_000);
        rtc.read(0xfe0, &mut word);
        assert_eq!(word, [0x31, 0, 0, 0]);
        // Other widths and odd offsets are harmless.
        rtc.read(0, &mut [0; 8]);
        rtc.read(0xfff, &mut word);
        rtc.write(0x8, &[1]);
        rtc.write(0x8, &[0xff; 4]);
    }
}
