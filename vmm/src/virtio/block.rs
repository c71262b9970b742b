//! The block device (Virtio 1.2, section 5.2) on a file or a block device of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use virtio_queue::{Queue, Reader, Writer};

use crate::error::{Error, Result};
use crate::memory::GuestMemory;
use crate::virtio::{Answer, Chain, RingError, Served, VirtioDevice, serve};

/// The unit of capacities and addresses, whatever the block size.
const SECTOR: u64 = 512;

/// The ring's size, and how many segments a request may have.
const QUEUE_SIZE: u16 = 256;
const SEG_MAX: u32 = 254;

/// How much is copied between file and guest at once.
const CHUNK: usize = 128 << 10;

// Feature bits (5.2.3).
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;

// Request types and status values (5.2.6).
const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;

/// The length of the answer to GET_ID.
const ID_LEN: usize = 20;

/// The head of every request.
struct Request {
    kind: u32,
    sector: u64,
}

impl Request {
    /// struct virtio_blk_req: type, reserved, sector.
    fn read(reader: &mut Reader<'_>) -> io::Result<Request> {
        let mut head = [0; 16];
        reader.read_exact(&mut head)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = head;
        let kind = u32::from_le_bytes([a, b, c, d]);
        Ok(Request { kind, sector: u64::from_le_bytes(sector) })
    }
}

/// A disk.
pub struct Block {
    file: File,
    read_only: bool,
    sectors: u64,
    id: [u8; ID_LEN],
    config: [u8; 16],
    buffer: Vec<u8>,
}

impl Block {
    /// Opens `path`. The disk's serial number, which /dev/disk/by-id in the guest shows, is made from `index`.
    pub fn open(path: &Path, read_only: bool, index: usize) -> Result<Block> {
        let failed = |e: &io::Error| {
            let error = Error::new(format!("cannot open the disk {}: {e}", path.display()));
            match e.kind() {
                io::ErrorKind::NotFound => error.cure(format!(
                    "check the path, or make an empty disk: truncate -s 1G {}",
                    path.display()
                )),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    error.cure("fix the permissions, or append ,ro to use it read-only")
                }
                _ => error,
            }
        };
        let mut file =
            OpenOptions::new().read(true).write(!read_only).open(path).map_err(|e| failed(&e))?;
        // Seeking finds the size of block devices too.
        let size = file.seek(SeekFrom::End(0)).map_err(|e| failed(&e))?;
        if size < SECTOR {
            return Err(Error::new(format!(
                "the disk {} has {size} bytes, less than a sector",
                path.display()
            ))
            .cure("give a disk image or a block device"));
        }
        Ok(Block::new(file, size, read_only, index))
    }

    fn new(file: File, size: u64, read_only: bool, index: usize) -> Block {
        let sectors = size / SECTOR;
        let mut id = [0; ID_LEN];
        for (to, from) in id.iter_mut().zip(format!("hypha-{index}").bytes()) {
            *to = from;
        }
        // struct virtio_blk_config: capacity, size_max (not offered), seg_max.
        let mut config = [0; 16];
        let fields = sectors.to_le_bytes().into_iter().chain([0; 4]).chain(SEG_MAX.to_le_bytes());
        for (to, from) in config.iter_mut().zip(fields) {
            *to = from;
        }
        Block { file, read_only, sectors, id, config, buffer: vec![0; CHUNK] }
    }

    /// Handles one request: how many bytes were written to the chain.
    fn request(&mut self, chain: Chain<'_>) -> u32 {
        let memory = chain.memory();
        let (Ok(mut reader), Ok(mut writer)) =
            (chain.clone().reader(memory), chain.clone().writer(memory))
        else {
            return 0;
        };
        // The last device-writable byte is the status, however the driver cut its descriptors.
        let Some(data_len) = writer.available_bytes().checked_sub(1) else {
            return 0;
        };
        let Ok(mut status_writer) = writer.split_at(data_len) else {
            return 0;
        };
        let status = match Request::read(&mut reader) {
            Ok(request) => self.execute(request, &mut reader, &mut writer),
            Err(_) => S_IOERR,
        };
        if status_writer.write_obj(status).is_err() {
            return 0;
        }
        // The status byte lies behind all data bytes, written or not.
        let written = data_len.saturating_add(1);
        u32::try_from(written).unwrap_or(u32::MAX)
    }

    fn execute(
        &mut self,
        request: Request,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> u8 {
        let sector = request.sector;
        let result = match request.kind {
            T_IN => self.read(sector, writer),
            T_OUT if self.read_only => return S_IOERR,
            T_OUT => self.write(sector, reader),
            T_FLUSH => self.file.sync_data(),
            T_GET_ID => {
                let n = writer.available_bytes().min(ID_LEN);
                writer.write_all(self.id.get(..n).unwrap_or(&[]))
            }
            _ => return S_UNSUPP,
        };
        match result {
            Ok(()) => S_OK,
            Err(_) => S_IOERR,
        }
    }

    /// The byte offset of a transfer that lies within the disk.
    fn offset(&self, sector: u64, len: usize) -> io::Result<u64> {
        let inside = || {
            let len = u64::try_from(len).ok()?;
            let end = sector.checked_add(len / SECTOR)?;
            (len.is_multiple_of(SECTOR) && end <= self.sectors)
                .then_some(sector.checked_mul(SECTOR)?)
        };
        inside().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn read(&mut self, sector: u64, writer: &mut Writer<'_>) -> io::Result<()> {
        let mut left = writer.available_bytes();
        let mut offset = self.offset(sector, left)?;
        while left > 0 {
            let n = left.min(CHUNK);
            let chunk = self.buffer.get_mut(..n).ok_or(io::ErrorKind::InvalidInput)?;
            self.file.read_exact_at(chunk, offset)?;
            writer.write_all(chunk)?;
            left = left.saturating_sub(n);
            offset = offset.saturating_add(u64::try_from(n).unwrap_or(0));
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, reader: &mut Reader<'_>) -> io::Result<()> {
        let mut left = reader.available_bytes();
        let mut offset = self.offset(sector, left)?;
        while left > 0 {
            let n = left.min(CHUNK);
            let chunk = self.buffer.get_mut(..n).ok_or(io::ErrorKind::InvalidInput)?;
            reader.read_exact(chunk)?;
            self.file.write_all_at(chunk, offset)?;
            left = left.saturating_sub(n);
            offset = offset.saturating_add(u64::try_from(n).unwrap_or(0));
        }
        Ok(())
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        2
    }

    fn features(&self) -> u64 {
        F_SEG_MAX | F_FLUSH | if self.read_only { F_RO } else { 0 }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn process(
        &mut self,
        _queue: usize,
        ring: &mut Queue,
        memory: &GuestMemory,
    ) -> std::result::Result<Served, RingError> {
        serve(ring, memory, |chain| Answer::Used(self.request(chain)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::tests::Ring;
    use proptest::prelude::*;
    use vmm_sys_util::tempfile::TempFile;

    const HEAD: u64 = 0x4000;
    const DATA: u64 = 0x8000;
    const STATUS: u64 = 0x2_0000;

    fn disk(read_only: bool) -> Block {
        let file = TempFile::new().unwrap();
        let bytes: Vec<u8> = (0..8 * 512u32).map(|i| (i / 512) as u8 + 1).collect();
        file.as_file().write_all_at(&bytes, 0).unwrap();
        Block::open(file.as_path(), read_only, 3).unwrap()
    }

    /// A driver's request; the status it gets.
    fn ask(disk: &mut Block, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (Ring, u8) {
        let ring = Ring::new();
        prepare(&ring, kind, sector);
        let chain: Vec<_> = [(HEAD, 16, false)]
            .into_iter()
            .chain(data.iter().copied())
            .chain([(STATUS, 1, true)])
            .collect();
        ring.chain(&chain);
        ring.serve(disk, 0).unwrap();
        let status = ring.read(STATUS, 1)[0];
        (ring, status)
    }

    fn prepare(ring: &Ring, kind: u32, sector: u64) {
        ring.write(HEAD, &kind.to_le_bytes());
        ring.write(HEAD + 4, &[0; 4]);
        ring.write(HEAD + 8, &sector.to_le_bytes());
        ring.write(STATUS, &[0xff]);
    }

    #[test]
    fn reads_and_writes() {
        let mut d = disk(false);
        assert_eq!(d.config()[..8], 8u64.to_le_bytes());
        let (ring, status) = ask(&mut d, T_IN, 2, &[(DATA, 512, true), (DATA + 0x1000, 512, true)]);
        assert_eq!(status, S_OK);
        assert_eq!(ring.used(), [1025]);
        assert_eq!(ring.read(DATA, 512), [3; 512]);
        assert_eq!(ring.read(DATA + 0x1000, 512), [4; 512]);
        let (_, status) = ask(&mut d, T_OUT, 7, &[(DATA, 512, false)]);
        assert_eq!(status, S_OK);
        let (ring, _) = ask(&mut d, T_IN, 7, &[(DATA, 512, true)]);
        assert_eq!(ring.read(DATA, 512), [0; 512]);
        assert_eq!(ask(&mut d, T_FLUSH, 0, &[]).1, S_OK);
        let (ring, status) = ask(&mut d, T_GET_ID, 0, &[(DATA, 20, true)]);
        assert_eq!((status, &ring.read(DATA, 7)[..]), (S_OK, &b"hypha-3"[..]));
    }

    #[test]
    fn nothing_outside_the_disk() {
        let mut d = disk(false);
        for sector in [8, 7, u64::MAX, u64::MAX / 512, 1 << 55] {
            let data = [(DATA, 1024, true)];
            assert_eq!(ask(&mut d, T_IN, sector, &data).1, S_IOERR, "{sector}");
            let data = [(DATA, 1024, false)];
            assert_eq!(ask(&mut d, T_OUT, sector, &data).1, S_IOERR, "{sector}");
        }
        assert_eq!(ask(&mut d, T_IN, 0, &[(DATA, 100, true)]).1, S_IOERR);
        assert_eq!(d.file.metadata().unwrap().len(), 4096);
    }

    #[test]
    fn read_only_disks_and_unknown_requests() {
        let mut d = disk(true);
        assert_ne!(d.features() & F_RO, 0);
        assert_eq!(ask(&mut d, T_OUT, 0, &[(DATA, 512, false)]).1, S_IOERR);
        assert_eq!(ask(&mut d, 99, 0, &[]).1, S_UNSUPP);
    }

    #[test]
    fn malformed_chains() {
        let mut d = disk(false);
        let chains: &[&[(u64, u32, bool)]] = &[
            &[(HEAD, 16, false)],                    // no status
            &[(HEAD, 15, false), (STATUS, 1, true)], // short header
            &[(STATUS, 1, true)],                    // no header
            &[(HEAD, 0, false), (STATUS, 0, true)],  // nothing at all
            &[(HEAD, 16, false), (u64::MAX - 3, 512, true), (STATUS, 1, true)],
            &[(HEAD, 16, false), (0xf_ff00, 512, true), (STATUS, 1, true)],
            &[(HEAD, 16, false), (DATA, u32::MAX, true), (STATUS, 1, true)],
        ];
        for chain in chains {
            let ring = Ring::new();
            prepare(&ring, T_IN, 0);
            ring.chain(chain);
            ring.serve(&mut d, 0).unwrap();
            assert_eq!(ring.used().len(), 1, "{chain:x?}");
        }
        // Header and status cut into single bytes are fine.
        let ring = Ring::new();
        prepare(&ring, T_IN, 1);
        ring.chain(&[
            (HEAD, 1, false),
            (HEAD + 1, 15, false),
            (DATA, 511, true),
            (DATA + 511, 2, true),
        ]);
        ring.serve(&mut d, 0).unwrap();
        assert_eq!(ring.read(DATA, 513), [vec![2; 512], vec![S_OK]].concat());
    }

    #[test]
    fn openings_that_fail_say_why() {
        let e = Block::open(Path::new("/nonexistent/disk"), true, 0).err().unwrap().to_string();
        assert!(e.contains("truncate -s"), "{e}");
        let empty = TempFile::new().unwrap();
        let e = Block::open(empty.as_path(), true, 0).err().unwrap().to_string();
        assert!(e.contains("less than a sector"), "{e}");
    }

    proptest! {
        #[test]
        fn survives_any_chain(
            kind in 0u32..12,
            sector in prop_oneof![0u64..10, any::<u64>()],
            parts in prop::collection::vec(
                (prop_oneof![Just(HEAD), Just(DATA), any::<u64>(), 0u64..0x11_0000], prop_oneof![0u32..2048, any::<u32>()], any::<bool>()),
                1..6,
            ),
        ) {
            let mut d = disk(false);
            let ring = Ring::new();
            prepare(&ring, kind, sector);
            ring.chain(&parts);
            let _ = ring.serve(&mut d, 0);
            prop_assert_eq!(d.file.metadata().unwrap().len(), 4096);
        }
    }
}
