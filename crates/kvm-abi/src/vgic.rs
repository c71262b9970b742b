//! The interrupt controller's groups of attributes (devices/arm-vgic-v3.rst).

pub const GRP_ADDR: u32 = 0;
pub const GRP_DIST_REGS: u32 = 1;
pub const GRP_CPU_REGS: u32 = 2;
pub const GRP_NR_IRQS: u32 = 3;
pub const GRP_CTRL: u32 = 4;
pub const GRP_REDIST_REGS: u32 = 5;
pub const GRP_CPU_SYSREGS: u32 = 6;
pub const GRP_LEVEL_INFO: u32 = 7;
pub const GRP_ITS_REGS: u32 = 8;

pub const CTRL_INIT: u64 = 0;
pub const CTRL_SAVE_PENDING_TABLES: u64 = 3;

pub const V2_ADDR_TYPE_DIST: u64 = 0;
pub const V2_ADDR_TYPE_CPU: u64 = 1;
pub const V3_ADDR_TYPE_DIST: u64 = 2;
pub const V3_ADDR_TYPE_REDIST: u64 = 3;
pub const ITS_ADDR_TYPE: u64 = 4;
pub const V3_ADDR_TYPE_REDIST_REGION: u64 = 5;
