//! Failures on request, `hypha.crash=` (docs/modes.md): what tells of a failure
//! can be seen to work. `hyp` is `kvm::init`'s.

use crate::{memory, sched, task, time};

/// With everything but tasks in place, on the boot CPU's own stack.
pub fn boot() {
    match memory::machine().and_then(|machine| machine.arguments.hypha("crash")) {
        Some("idle") => use_up(0),
        Some("stack") => {
            if let Ok(task) = task::Task::new(1, || use_up(0)) {
                sched::start(&task);
            }
        }
        Some("stuck") => {
            if let Ok(task) = task::Task::new(1, keep_cpu) {
                sched::start(&task);
            }
        }
        _ => {}
    }
}

/// Keeps a CPU for half a minute.
fn keep_cpu() {
    let until = time::now().saturating_add(30_000_000_000);
    while time::now() < until {
        core::hint::spin_loop();
    }
    log::warn!("hypha.crash=stuck: over");
}

/// Calls itself until there is no stack left.
#[inline(never)]
#[expect(unconditional_recursion, reason = "that is what is asked for")]
fn use_up(depth: u64) {
    let frame = core::hint::black_box([depth; 32]);
    use_up(depth.wrapping_add(1));
    core::hint::black_box(frame);
}
