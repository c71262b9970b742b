//! sysfs: what busybox, libc and VMMs look up in `/sys`.

use crate::device::DeviceRegistry;
use crate::inode::{Clock, FileSystem};
use crate::synth::{Dir, SynthFs, look};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// SYSFS_MAGIC.
const MAGIC: u64 = 0x6265_6572;

/// What the kernel knows about its CPUs.
pub trait SysSource: Send + Sync + 'static {
    /// How many there could be.
    fn possible_cpus(&self) -> u32;
    /// Which are online, in order.
    fn online_cpus(&self) -> Vec<u32>;
    /// A CPU's MIDR_EL1 and MPIDR_EL1.
    fn cpu_identity(&self, cpu: u32) -> (u64, u64);
    /// The files of `devices/system/cpu/vulnerabilities`, and what they say.
    fn vulnerabilities(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }
    /// The terminal that /dev/console is, if there is one.
    fn console(&self) -> Option<&'static str> {
        None
    }
}

/// `0-3,5`: a list of numbers in order as ranges.
pub fn ranges(numbers: &[u32]) -> String {
    let mut text = String::new();
    let mut rest = numbers.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while let Some(next) = rest.next_if(|next| *next == last.saturating_add(1)) {
            last = next;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&if first == last { format!("{first}") } else { format!("{first}-{last}") });
    }
    text
}

/// A bit mask of CPUs as Linux prints it: 32 bits to a group.
pub fn mask(numbers: &[u32], of: u32) -> String {
    let groups = of.div_ceil(32).max(1);
    let mut text = String::new();
    for group in (0..groups).rev() {
        let bits = numbers
            .iter()
            .filter(|n| **n / 32 == group)
            .fold(0u32, |bits, n| bits | 1u32.wrapping_shl(*n));
        let width =
            if group.saturating_add(1) == groups { (of % 32).div_ceil(4) as usize } else { 8 };
        let width = if width == 0 { 8 } else { width };
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&format!("{bits:0width$x}"));
    }
    text
}

/// Builds the tree.
pub fn new(
    source: Arc<dyn SysSource>,
    devices: &DeviceRegistry,
    clock: &dyn Clock,
) -> Arc<dyn FileSystem> {
    let look = look(4096, clock.realtime());
    let root = Dir::root(look);
    for dir in [
        "block",
        "bus",
        "class",
        "dev/block",
        "dev/char",
        "devices",
        "firmware",
        "fs",
        "kernel",
        "module",
        "power",
    ] {
        root.dir(dir);
    }
    cpus(&root, &source);
    if let Some(console) = source.console() {
        root.fixed("devices/virtual/tty/console/active", format!("{console}\n"));
    }
    for (dev, name, mode) in devices.list() {
        let class = match dev.major {
            1 => "mem",
            4 | 5 | 204 => "tty",
            10 => "misc",
            _ => continue,
        };
        let path = format!("devices/virtual/{class}/{name}");
        let (major, minor) = (dev.major, dev.minor);
        root.fixed(&format!("{path}/dev"), format!("{major}:{minor}\n"));
        let uevent = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\nDEVMODE={mode:04o}\n");
        root.fixed(&format!("{path}/uevent"), uevent);
        let to = format!("../../devices/virtual/{class}/{name}");
        root.link(&format!("class/{class}/{name}"), move |_| Ok(to.clone().into_bytes()));
        let up = format!("../../../../class/{class}");
        root.link(&format!("{path}/subsystem"), move |_| Ok(up.clone().into_bytes()));
        let to = format!("../../devices/virtual/{class}/{name}");
        root.link(&format!("dev/char/{major}:{minor}"), move |_| Ok(to.clone().into_bytes()));
    }
    SynthFs::new("sysfs", MAGIC, look, root)
}

fn cpus(root: &Arc<Dir>, source: &Arc<dyn SysSource>) {
    const CPU: &str = "devices/system/cpu";
    let count = source.possible_cpus().max(1);
    let all: Vec<u32> = (0..count).collect();
    let all_text = format!("{}\n", ranges(&all));
    root.fixed(&format!("{CPU}/possible"), all_text.clone());
    root.fixed(&format!("{CPU}/present"), all_text);
    root.fixed(&format!("{CPU}/kernel_max"), format!("{}\n", count.saturating_sub(1)));
    let online = source.clone();
    root.file(&format!("{CPU}/online"), move |_| {
        Ok(format!("{}\n", ranges(&online.online_cpus())).into_bytes())
    });
    let online = source.clone();
    root.file(&format!("{CPU}/offline"), move |_| {
        let up = online.online_cpus();
        let down: Vec<u32> = (0..count).filter(|cpu| !up.contains(cpu)).collect();
        Ok(format!("{}\n", ranges(&down)).into_bytes())
    });
    root.fixed(&format!("{CPU}/isolated"), "\n");
    for (name, _) in source.vulnerabilities() {
        let source = source.clone();
        root.file(&format!("{CPU}/vulnerabilities/{name}"), move |_| {
            let all = source.vulnerabilities();
            let text = all.iter().find(|(of, _)| *of == name).map_or("", |(_, text)| *text);
            Ok(format!("{text}\n").into_bytes())
        });
    }
    for cpu in all {
        let path = format!("{CPU}/cpu{cpu}");
        let online = source.clone();
        root.file(&format!("{path}/online"), move |_| {
            Ok(if online.online_cpus().contains(&cpu) { b"1\n".to_vec() } else { b"0\n".to_vec() })
        });
        let (midr, _) = source.cpu_identity(cpu);
        root.fixed(&format!("{path}/regs/identification/midr_el1"), format!("0x{midr:016x}\n"));
        root.fixed(&format!("{path}/topology/core_id"), format!("{cpu}\n"));
        root.fixed(&format!("{path}/topology/physical_package_id"), "0\n");
        let (own, whole): (Vec<u32>, Vec<u32>) = (Vec::from([cpu]), (0..count).collect());
        for (name, set) in [
            ("thread_siblings", &own),
            ("core_cpus", &own),
            ("core_siblings", &whole),
            ("package_cpus", &whole),
        ] {
            root.fixed(&format!("{path}/topology/{name}"), format!("{}\n", mask(set, count)));
            root.fixed(&format!("{path}/topology/{name}_list"), format!("{}\n", ranges(set)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks() {
        assert_eq!(ranges(&[0, 1, 2, 4, 6, 7]), "0-2,4,6-7");
        assert_eq!(ranges(&[]), "");
        assert_eq!(mask(&[0, 1], 4), "3");
        assert_eq!(mask(&[0, 33], 64), "00000002,00000001");
        assert_eq!(mask(&[1], 12), "002");
    }
}
