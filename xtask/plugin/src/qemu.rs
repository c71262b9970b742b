//! QEMU's plugin interface (version 4: QEMU 10), as far as it is used here.
//! <https://www.qemu.org/docs/master/devel/tcg-plugins.html>

use std::ffi::{c_char, c_int, c_uint, c_void};

/// Handles that mean something to QEMU only.
#[repr(C)]
pub struct Tb(());
#[repr(C)]
pub struct Insn(());
#[repr(C)]
pub struct Register(());

#[repr(C)]
pub struct RegDescriptor {
    pub handle: *mut Register,
    pub name: *const c_char,
    pub feature: *const c_char,
}

/// GLib's GArray and GByteArray: their public part.
#[repr(C)]
pub struct GArray<T> {
    pub data: *mut T,
    pub len: c_uint,
}

pub const CB_NO_REGS: c_int = 0;
pub const CB_R_REGS: c_int = 1;

pub type Id = u64;
pub type Simple = extern "C" fn(Id, c_uint);
pub type Translate = extern "C" fn(Id, *mut Tb);
pub type Exec = extern "C" fn(c_uint, *mut c_void);
pub type AtExit = extern "C" fn(Id, *mut c_void);

unsafe extern "C" {
    pub fn qemu_plugin_register_vcpu_init_cb(id: Id, f: Simple);
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, f: Translate);
    pub fn qemu_plugin_register_atexit_cb(id: Id, f: AtExit, data: *mut c_void);
    pub fn qemu_plugin_tb_n_insns(tb: *const Tb) -> usize;
    pub fn qemu_plugin_tb_vaddr(tb: *const Tb) -> u64;
    pub fn qemu_plugin_tb_get_insn(tb: *const Tb, i: usize) -> *mut Insn;
    pub fn qemu_plugin_insn_data(insn: *const Insn, to: *mut c_void, len: usize) -> usize;
    pub fn qemu_plugin_register_vcpu_tb_exec_cb(
        tb: *mut Tb,
        f: Exec,
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut Insn,
        f: Exec,
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_get_registers() -> *mut GArray<RegDescriptor>;
    pub fn qemu_plugin_read_register(register: *mut Register, to: *mut GArray<u8>) -> c_int;
    pub fn g_byte_array_new() -> *mut GArray<u8>;
    pub fn g_byte_array_set_size(array: *mut GArray<u8>, len: c_uint) -> *mut GArray<u8>;
}
