//! Which vectors a CPU gets: those that clear what others taught its branch
//! predictor, by one way or the other, or the plain ones, which cost nothing.

/// What the vectors read, at the place that the CPU's TPIDR points to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PerCpu {
    /// Taken branches that fill the branch history.
    pub loops: u64,
    /// Function identifier of firmware's call; bit 63: by HVC instead of SMC.
    pub function: u64,
}

/// How vectors begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// At once.
    #[default]
    Plain,
    /// [`PerCpu::loops`] taken branches.
    Loop,
    /// CLRBHB.
    Instruction,
    /// Firmware's [`PerCpu::function`], then [`PerCpu::loops`].
    Firmware,
}

/// In [`PerCpu::function`]: the conduit is HVC.
pub const BY_HVC: u64 = 1 << 63;
