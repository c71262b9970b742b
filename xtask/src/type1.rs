//! Machines whose VMs stand in the device tree (Xen's dom0less bindings): QEMU's
//! own tree, with `/chosen` nodes for the VMs, and their kernels and ramdisks in
//! memory where a boot loader would have put them.

use crate::fdt::Node;
use crate::machine::Machine;
use crate::run::{self, Mode};
use crate::{build, paths, proc, ui};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// QEMU's `virt` has its RAM here.
const RAM: u64 = 0x4000_0000;
const BLOCK: u64 = 2 << 20;

/// The bare-metal guest that wants to be woken every millisecond.
pub const REALTIME: &str = "guest-realtime";

/// A VM to be.
#[derive(Clone, Debug)]
pub struct Vm {
    pub name: String,
    pub cpus: u32,
    /// MiB.
    pub memory: u32,
    pub kernel: PathBuf,
    pub ramdisk: Option<PathBuf>,
    pub bootargs: String,
    /// More properties of its node.
    pub more: Node,
}

impl Vm {
    /// Debian's kernel with the guest's initramfs.
    pub fn debian(name: &str, args: &run::Args, built: &build::Built) -> Vm {
        Vm {
            name: name.into(),
            cpus: args.guest_cpus,
            memory: args.guest_mem,
            kernel: args.kernel.as_ref().unwrap_or(&built.guest_image).clone(),
            ramdisk: Some(args.initrd.as_ref().unwrap_or(&built.guest_initramfs).clone()),
            bootargs: "console=ttyAMA0 panic=-1".into(),
            more: Node::default(),
        }
    }

    /// The real-time guest, alone on its CPU.
    pub fn realtime() -> Result<Vm> {
        Ok(Vm::bare("rt", REALTIME, "")?.alone())
    }

    /// A guest without an operating system.
    pub fn bare(name: &str, package: &str, bootargs: &str) -> Result<Vm> {
        Ok(Vm {
            name: name.into(),
            cpus: 1,
            memory: 16,
            kernel: build::bare_guest(package)?,
            ramdisk: None,
            bootargs: bootargs.into(),
            more: Node::default(),
        })
    }

    /// Each of its CPUs to itself.
    pub fn alone(mut self) -> Vm {
        self.more = self.more.text("hypha,placement", "exclusive").cells("hypha,priority", &[50]);
        self
    }

    fn node(&self, modules: &Modules) -> Result<Node> {
        let mut node = Node::new(&self.name)
            .text("compatible", "xen,domain")
            .cells("#address-cells", &[2])
            .cells("#size-cells", &[1])
            .wide("memory", &[u64::from(self.memory) << 10])
            .cells("cpus", &[self.cpus])
            .flag("vpl011");
        for (name, value) in &self.more.properties {
            node.set(name, value.clone());
        }
        let module = |kind: &str, file: &Path| -> Result<Node> {
            let (at, size) = modules.find(file)?;
            Ok(Node::new(format!("module@{at:x}"))
                .texts("compatible", &[kind, "multiboot,module"])
                .cells("reg", &[(at >> 32) as u32, at as u32, u32::try_from(size)?]))
        };
        node =
            node.child(module("multiboot,kernel", &self.kernel)?.text("bootargs", &self.bootargs));
        if let Some(ramdisk) = &self.ramdisk {
            node = node.child(module("multiboot,ramdisk", ramdisk)?);
        }
        node.children.extend(self.more.children.iter().cloned());
        Ok(node)
    }
}

/// Files in the machine's memory: each once, at the end of RAM.
struct Modules {
    files: Vec<(PathBuf, u64, u64)>,
}

impl Modules {
    fn place(vms: &[Vm], mem: u32) -> Result<Modules> {
        let mut modules = Modules { files: Vec::new() };
        let mut end = RAM + (u64::from(mem) << 20);
        for file in vms.iter().flat_map(|vm| [Some(&vm.kernel), vm.ramdisk.as_ref()]).flatten() {
            if modules.find(file).is_ok() {
                continue;
            }
            let meta = file.metadata().with_context(|| format!("no {}", file.display()))?;
            // Down to a block of 2 MiB: Xen maps modules by these.
            end = end.saturating_sub(meta.len()) / BLOCK * BLOCK;
            if end < RAM + (192 << 20) {
                bail!("{mem} MiB of memory have no room for the VMs' kernels: --mem takes more");
            }
            modules.files.push((file.clone(), end, meta.len()));
        }
        Ok(modules)
    }

    fn find(&self, file: &Path) -> Result<(u64, u64)> {
        let found = self.files.iter().find(|(other, _, _)| other == file);
        found.map(|(_, at, size)| (*at, *size)).context("a module without a place")
    }

    /// QEMU's arguments that put them there.
    fn arguments(&self) -> impl Iterator<Item = String> + '_ {
        self.files.iter().flat_map(|(file, at, _)| {
            let device = format!("loader,file={},addr={at:#x},force-raw=on", file.display());
            ["-device".to_string(), device]
        })
    }
}

/// The VMs of `./x run --mode type1`.
fn vms(args: &run::Args, built: &build::Built) -> Result<Vec<Vm>> {
    let mut vms: Vec<Vm> =
        (1..=args.guests).map(|n| Vm::debian(&format!("domU{n}"), args, built)).collect();
    vms.push(Vm::realtime()?);
    let wanted: u32 = vms.iter().map(|vm| vm.memory).sum();
    if args.mem < wanted + 128 {
        bail!("the VMs have {wanted} MiB in all, and the machine {}: --mem takes more", args.mem);
    }
    if args.smp < 2 {
        bail!("the real-time guest takes a CPU of its own: --smp takes more");
    }
    Ok(vms)
}

/// The machine of `args` with these VMs. `kernel` is what QEMU starts: Hypha, or Xen.
pub fn machine(args: &run::Args, kernel: &Path, vms: &[Vm], file: &Path) -> Result<Machine> {
    let mut words = vec!["console=ttyAMA0".to_string(), "panic=-1".into()];
    words.extend((!args.append.is_empty()).then(|| args.append.clone()));
    let mut machine = Machine {
        cpu: args.cpu.clone(),
        gic: args.gic,
        smp: args.smp,
        mem: args.mem,
        el2: true,
        gdb: args.gdb,
        kernel: kernel.into(),
        initrd: None,
        append: words.join(" "),
        extra: Vec::new(),
    };
    add(&mut machine, vms, "console=dtuart dtuart=/pl011@9000000 sync_console", file)?;
    Ok(machine)
}

/// Puts VMs into a machine, and its device tree to `file`. `xen` is Xen's command
/// line: what stands in bootargs is for a dom0, of which there is none.
pub fn add(machine: &mut Machine, vms: &[Vm], xen: &str, file: &Path) -> Result<()> {
    let modules = Modules::place(vms, machine.mem)?;
    let mut tree = own_tree(machine, file)?;
    let chosen = tree.find("chosen").context("QEMU's device tree has no /chosen")?;
    chosen.set("#address-cells", 2u32.to_be_bytes().into());
    chosen.set("#size-cells", 2u32.to_be_bytes().into());
    chosen.set("xen,xen-bootargs", [xen.as_bytes(), b"\0"].concat());
    for vm in vms {
        chosen.children.push(vm.node(&modules)?);
    }
    machine.extra.extend(modules.arguments());
    use_tree(machine, &tree, file)
}

/// The machine boots with this device tree, written to `file`.
pub fn use_tree(machine: &mut Machine, tree: &Node, file: &Path) -> Result<()> {
    proc::write_whole(file, &tree.write()?)?;
    machine.extra.extend(["-dtb".into(), file.display().to_string()]);
    Ok(())
}

/// What QEMU would hand its kernel; a file beside `near` is written on the way.
pub fn own_tree(machine: &Machine, near: &Path) -> Result<Node> {
    let file = near.with_extension("qemu.dtb");
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let _ = std::fs::remove_file(&file);
    let mut command = machine.dump_tree(&file);
    let out = command.output().with_context(|| format!("cannot run {}", proc::show(&command)))?;
    let tree = std::fs::read(&file).with_context(|| {
        format!("QEMU left no device tree: {}", String::from_utf8_lossy(&out.stderr))
    })?;
    Node::parse(&tree)
}

/// `./x run --mode type1`: the machine, and the lines that say that all VMs are up.
pub fn prepare(args: &run::Args, built: &build::Built) -> Result<(Machine, Vec<String>)> {
    if args.host_shell || args.el1 || args.image.is_some() {
        bail!("mode type1 has no host user space: --host-shell, --el1 and --image don't apply");
    }
    let kernel = built.image.as_deref().context("this tree has no kernel yet")?;
    let vms = vms(args, built)?;
    let file = match &args.dtb_out {
        Some(file) => file.clone(),
        None => paths::hypha().join("run/type1.dtb"),
    };
    let args = run::Args {
        append: format!("{} {}", Mode::Type1.parameter().unwrap_or_default(), args.append),
        ..args.clone()
    };
    let machine = machine(&args, kernel, &vms, &file)?;
    ui::note(format!("device tree: {}", file.display()));
    Ok((machine, goals(&vms, args.initrd.is_none())))
}

/// What each prints once it is up, behind its name. An initramfs that isn't ours
/// prints what it likes.
pub fn goals(vms: &[Vm], ours: bool) -> Vec<String> {
    vms.iter()
        .filter(|vm| ours || vm.ramdisk.is_none())
        .map(|vm| match vm.ramdisk {
            Some(_) => format!("[{}] hypha-guest: ready", vm.name),
            None => format!("[{}] rt: ", vm.name),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_lie_at_the_end_each_once() {
        let here = paths::root().join("Cargo.toml");
        let vm = Vm {
            name: "domU1".into(),
            cpus: 1,
            memory: 64,
            kernel: here.clone(),
            ramdisk: None,
            bootargs: "quiet".into(),
            more: Node::default().flag("direct-map"),
        };
        let modules = Modules::place(&[vm.clone(), vm.clone()], 1024).unwrap();
        assert_eq!(modules.files.len(), 1);
        assert_eq!(modules.find(&here).unwrap().0, RAM + (1022 << 20));
        assert!(Modules::place(std::slice::from_ref(&vm), 128).is_err());
        let node = vm.node(&modules).unwrap();
        assert!(node.properties.iter().any(|(name, _)| name == "direct-map"));
        assert_eq!(node.children[0].properties.last().unwrap().1, b"quiet\0");
    }
}
