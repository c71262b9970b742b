//! The PL011's registers.

use crate::queue::Queue;

/// Offsets and bits, by the technical reference manual's names (chapter 3).
pub mod register {
    #![allow(missing_docs, reason = "the manual's names")]

    pub const DR: u64 = 0x00;
    pub const RSR: u64 = 0x04;
    pub const FR: u64 = 0x18;
    pub const ILPR: u64 = 0x20;
    pub const IBRD: u64 = 0x24;
    pub const FBRD: u64 = 0x28;
    pub const LCR_H: u64 = 0x2c;
    pub const CR: u64 = 0x30;
    pub const IFLS: u64 = 0x34;
    pub const IMSC: u64 = 0x38;
    pub const RIS: u64 = 0x3c;
    pub const MIS: u64 = 0x40;
    pub const ICR: u64 = 0x44;
    pub const DMACR: u64 = 0x48;
    pub const PERIPH_ID0: u64 = 0xfe0;

    pub const DR_OE: u32 = 1 << 11;
    pub const RSR_OE: u32 = 1 << 3;
    pub const FR_CTS: u32 = 1 << 0;
    pub const FR_DSR: u32 = 1 << 1;
    pub const FR_DCD: u32 = 1 << 2;
    pub const FR_RXFE: u32 = 1 << 4;
    pub const FR_RXFF: u32 = 1 << 6;
    pub const FR_TXFE: u32 = 1 << 7;
    pub const LCR_H_FEN: u32 = 1 << 4;
    pub const CR_LBE: u32 = 1 << 7;
    pub const RX: u32 = 1 << 4;
    pub const TX: u32 = 1 << 5;
    pub const RT: u32 = 1 << 6;
    pub const OE: u32 = 1 << 10;
}

use register::*;

/// How many bytes the FIFO of this revision (r1p5) has.
const FIFO: usize = 32;
/// How many bytes wait for the guest, those that its FIFO shows included: what is
/// typed ahead isn't lost at once.
const WAITING: usize = 256;
/// PeriphID0 to 3 (r1p5) and PCellID0 to 3.
const IDS: [u32; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// A PL011. What it transmits is gone at once: its transmit FIFO is always empty.
///
/// It transmits and receives whatever UARTCR says, since the driver of an SBSA
/// generic UART, which is this one with fewer registers, has no UARTCR.
#[derive(Clone, Debug)]
pub struct Vpl011 {
    received: Queue<WAITING>,
    /// Bytes were lost since the guest last looked.
    overrun: bool,
    rsr: u32,
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr_h: u32,
    cr: u32,
    ifls: u32,
    imsc: u32,
    ris: u32,
    dmacr: u32,
}

impl Default for Vpl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Vpl011 {
    /// As it is after reset (table 3-1).
    pub const fn new() -> Vpl011 {
        Vpl011 {
            received: Queue::new(),
            overrun: false,
            rsr: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: 0x300,
            ifls: 0x12,
            imsc: 0,
            ris: 0,
            dmacr: 0,
        }
    }

    /// Back to that, for a guest that starts anew.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// UARTINTR: whether the interrupt's line is up. Look after each call.
    #[inline]
    pub fn line(&self) -> bool {
        self.ris & self.imsc != 0
    }

    /// A byte arrives. False: there is no room, and the guest will see an overrun.
    pub fn receive(&mut self, byte: u8) -> bool {
        if !self.received.push(byte) {
            self.overrun = true;
            self.rsr |= RSR_OE;
            self.ris |= OE;
            return false;
        }
        if self.received.len() >= self.trigger() {
            self.ris |= RX;
        }
        // Nobody here waits for the receive time-out: 32 bits go by fast.
        self.ris |= RT;
        true
    }

    /// The guest reads a register, whatever the width.
    #[inline]
    pub fn read(&mut self, offset: u64) -> u32 {
        match offset & 0xffc {
            FR => self.flags(),
            DR => self.read_data(),
            RSR => self.rsr,
            ILPR => self.ilpr,
            IBRD => self.ibrd,
            FBRD => self.fbrd,
            LCR_H => self.lcr_h,
            CR => self.cr,
            IFLS => self.ifls,
            IMSC => self.imsc,
            RIS => self.ris,
            MIS => self.ris & self.imsc,
            DMACR => self.dmacr,
            at @ PERIPH_ID0.. => {
                let index = usize::try_from(at.wrapping_sub(PERIPH_ID0) >> 2).unwrap_or(usize::MAX);
                IDS.get(index).copied().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// The guest writes a register; gives what it transmits.
    pub fn write(&mut self, offset: u64, value: u32) -> Option<u8> {
        match offset & 0xffc {
            DR => return self.transmit(value as u8),
            RSR => self.rsr = 0,
            ILPR => self.ilpr = value & 0xff,
            IBRD => self.ibrd = value & 0xffff,
            FBRD => self.fbrd = value & 0x3f,
            LCR_H => {
                self.lcr_h = value & 0xff;
                self.retrigger();
            }
            CR => self.cr = value & 0xff87,
            IFLS => {
                self.ifls = value & 0x3f;
                self.retrigger();
            }
            IMSC => self.imsc = value & 0x7ff,
            ICR => self.ris &= !value,
            DMACR => self.dmacr = value & 7,
            _ => {}
        }
        None
    }

    fn transmit(&mut self, byte: u8) -> Option<u8> {
        // The FIFO was filled, and is at its trigger level again.
        self.ris |= TX;
        if self.cr & CR_LBE != 0 {
            self.receive(byte);
            return None;
        }
        Some(byte)
    }

    fn read_data(&mut self) -> u32 {
        let mut data = u32::from(self.received.pop().unwrap_or(0));
        if core::mem::take(&mut self.overrun) {
            data |= DR_OE;
        }
        if self.received.len() < self.trigger() {
            self.ris &= !RX;
        }
        if self.received.is_empty() {
            self.ris &= !RT;
        }
        data
    }

    fn flags(&self) -> u32 {
        // The other end of the cable is there, and ready.
        let mut flags = FR_TXFE | FR_CTS | FR_DSR | FR_DCD;
        if self.received.is_empty() {
            flags |= FR_RXFE;
        }
        if self.received.len() >= self.depth() {
            flags |= FR_RXFF;
        }
        flags
    }

    /// With the FIFOs off there's one byte.
    fn depth(&self) -> usize {
        if self.lcr_h & LCR_H_FEN != 0 { FIFO } else { 1 }
    }

    /// How full the receive FIFO is when it interrupts (UARTIFLS.RXIFLSEL).
    fn trigger(&self) -> usize {
        if self.lcr_h & LCR_H_FEN == 0 {
            return 1;
        }
        match self.ifls >> 3 & 7 {
            0 => FIFO / 8,
            1 => FIFO / 4,
            2 => FIFO / 2,
            3 => FIFO / 4 * 3,
            _ => FIFO / 8 * 7,
        }
    }

    /// The trigger level has changed.
    fn retrigger(&mut self) {
        if self.received.len() >= self.trigger() {
            self.ris |= RX;
        } else {
            self.ris &= !RX;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn linux_finds_an_amba_device_of_revision_3() {
        let mut uart = Vpl011::new();
        let id = |uart: &mut Vpl011, at| {
            (0..4u32).fold(0, |id, i| id | (uart.read(at + u64::from(4 * i)) & 0xff) << (8 * i))
        };
        let peripheral = id(&mut uart, 0xfe0);
        // amba-pl011's table: id 0x00041011, mask 0x000fffff; FIFO of 32 from revision 3.
        assert_eq!(peripheral & 0xfffff, 0x41011);
        assert_eq!(peripheral >> 20 & 0xf, 3);
        assert_eq!(id(&mut uart, 0xff0), 0xb105_f00d);
    }

    #[test]
    fn linux_prints() {
        let mut uart = Vpl011::new();
        let out: Vec<u8> = b"hi\r\n"
            .iter()
            .filter_map(|byte| {
                // pl011_console_putchar.
                assert_eq!(uart.read(FR) & (1 << 5), 0);
                uart.write(DR, u32::from(*byte))
            })
            .collect();
        assert_eq!(out, b"hi\r\n");
        assert_eq!(uart.read(FR) & 1 << 3, 0, "not busy");
        assert!(!uart.line());
        uart.write(IMSC, TX);
        assert!(uart.line());
        uart.write(ICR, TX);
        assert!(!uart.line());
    }

    #[test]
    fn a_typed_byte_interrupts_until_it_is_read() {
        let mut uart = Vpl011::new();
        uart.write(LCR_H, LCR_H_FEN | 0x60);
        uart.write(IMSC, RX | RT);
        assert!(uart.receive(b'x'));
        assert!(uart.line());
        assert_eq!(uart.read(MIS), RT);
        assert_eq!(uart.read(FR) & FR_RXFE, 0);
        assert_eq!(uart.read(DR), u32::from(b'x'));
        assert!(!uart.line());
        assert_ne!(uart.read(FR) & FR_RXFE, 0);
    }

    #[test]
    fn the_trigger_level_is_followed() {
        let mut uart = Vpl011::new();
        uart.write(LCR_H, LCR_H_FEN);
        uart.write(IFLS, 2 << 3);
        for i in 0..15 {
            uart.receive(i);
        }
        assert_eq!(uart.read(RIS) & RX, 0);
        uart.receive(15);
        assert_eq!(uart.read(RIS) & RX, RX);
        uart.read(DR);
        assert_eq!(uart.read(RIS) & (RX | RT), RT);
        uart.write(IFLS, 0);
        assert_eq!(uart.read(RIS) & RX, RX);
    }

    #[test]
    fn what_is_lost_is_said() {
        let mut uart = Vpl011::new();
        for _ in 0..WAITING {
            assert!(uart.receive(b'a'));
        }
        assert!(!uart.receive(b'b'));
        assert_eq!(uart.read(RSR), RSR_OE);
        assert_eq!(uart.read(DR), DR_OE | u32::from(b'a'));
        assert_eq!(uart.read(DR), u32::from(b'a'));
        uart.write(RSR, 0);
        assert_eq!(uart.read(RSR), 0);
    }

    #[test]
    fn loopback_stays_inside() {
        let mut uart = Vpl011::new();
        uart.write(CR, 0x381);
        assert_eq!(uart.write(DR, 0x55), None);
        assert_eq!(uart.read(DR), 0x55);
    }

    proptest! {
        #[test]
        fn no_access_breaks_it(
            steps in proptest::collection::vec((0u8..3, any::<u64>(), any::<u32>()), 0..200)
        ) {
            let mut uart = Vpl011::new();
            for (what, at, value) in steps {
                match what {
                    0 => { uart.read(at); }
                    1 => { uart.write(at, value); }
                    _ => { uart.receive(value as u8); }
                }
                prop_assert_eq!(uart.line(), uart.read(MIS) != 0);
                prop_assert_eq!(uart.read(FR) & FR_RXFE != 0, uart.received.is_empty());
                // Whoever waits for the time-out learns of each byte.
                prop_assert_eq!(uart.read(FR) & 1 << 5, 0);
            }
            while uart.read(FR) & FR_RXFE == 0 {
                uart.read(DR);
            }
            prop_assert_eq!(uart.read(RIS) & (RX | RT), 0);
        }
    }
}
