//! CRC-32 as gzip uses it (RFC 1952, section 8), eight bytes a step.

const TABLES: [[u32; 256]; 8] = tables();

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "runs at compile time only"
)]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1));
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        let mut level = 1;
        while level < 8 {
            let before = tables[level - 1][byte];
            tables[level][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            level += 1;
        }
        byte += 1;
    }
    tables
}

/// A CRC-32 in the making.
pub struct Crc32(u32);

impl Crc32 {
    pub const fn new() -> Self {
        Crc32(!0)
    }

    pub fn update(&mut self, bytes: &[u8]) {
        let mut crc = self.0;
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            let word = u64::from_le_bytes(*chunk) ^ u64::from(crc);
            let [b0, b1, b2, b3, b4, b5, b6, b7] = word.to_le_bytes();
            crc = look(7, b0)
                ^ look(6, b1)
                ^ look(5, b2)
                ^ look(4, b3)
                ^ look(3, b4)
                ^ look(2, b5)
                ^ look(1, b6)
                ^ look(0, b7);
        }
        for &byte in rest {
            crc = (crc >> 8) ^ look(0, (crc as u8) ^ byte);
        }
        self.0 = crc;
    }

    pub const fn value(&self) -> u32 {
        !self.0
    }
}

#[inline(always)]
#[allow(
    clippy::indexing_slicing,
    reason = "a u8 cannot pass the end of 256 entries; LEVEL is a constant below 8"
)]
fn look(level: usize, byte: u8) -> u32 {
    TABLES[level][byte as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value() {
        let mut crc = Crc32::new();
        crc.update(b"1234");
        crc.update(b"56789");
        assert_eq!(crc.value(), 0xcbf4_3926);
        let mut long = Crc32::new();
        long.update(b"The quick brown fox jumps over the lazy dog");
        assert_eq!(long.value(), 0x414f_a339);
    }
}
