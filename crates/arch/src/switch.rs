//! Switching between kernel stacks.

core::arch::global_asm!(include_str!("asm/switch.s"));

/// What a suspended task keeps of the CPU: the callee-saved registers of the
/// procedure call standard, and its stack.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Context {
    x19_x29: [u64; 11],
    lr: u64,
    sp: u64,
}

unsafe extern "C" {
    fn __switch_to(previous: *mut Context, next: *const Context);
    fn __task_start();
}

impl Context {
    /// A task that starts in `entry(argument)` on the stack that ends at
    /// `stack_top`. `entry` must never return.
    pub fn new(stack_top: u64, entry: extern "C" fn(u64) -> !, argument: u64) -> Self {
        let mut context = Context {
            lr: __task_start as *const () as u64,
            sp: stack_top & !15,
            ..Default::default()
        };
        let [x19, x20, ..] = &mut context.x19_x29;
        *x19 = argument;
        *x20 = entry as usize as u64;
        context
    }

    /// Frame pointer and program counter of the suspended task, for backtraces.
    pub fn frame(&self) -> (u64, u64) {
        let [.., x29] = self.x19_x29;
        (x29, self.lr)
    }
}

/// Suspends the current task into `previous` and resumes `next`. Returns when
/// somebody switches back.
///
/// # Safety
/// `next` was written by this function or [`Context::new`] and has not been
/// resumed since; its stack is mapped and nobody runs on it. Both stay valid
/// until the switch is over: `previous` until it is resumed.
pub unsafe fn switch_to(previous: *mut Context, next: *const Context) {
    // SAFETY: the caller's promise is what the routine needs.
    unsafe { __switch_to(previous, next) }
}
