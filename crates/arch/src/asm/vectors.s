// Host exception vectors. ELR, SPSR, ESR and FAR are host registers: `_EL1`
// names, redirected by E2H or patched at boot (see host.rs).

.macro host_mrs reg, el1, el2
661:    mrs     \reg, \el1
.pushsection .hostpatch.e2h0, "a"
    .long   661b - .
    mrs     \reg, \el2
.popsection
.endm

.macro host_msr el1, el2, reg
661:    msr     \el1, \reg
.pushsection .hostpatch.e2h0, "a"
    .long   661b - .
    msr     \el2, \reg
.popsection
.endm

.macro save_frame from_el0
    sub     sp, sp, #288
    save_registers \from_el0
.endm

.macro save_registers from_el0
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    .if \from_el0
    mrs     x1, sp_el0
    .else
    add     x1, sp, #288
    .endif
    stp     x30, x1, [sp, #240]
    host_mrs x1, elr_el1, elr_el2
    host_mrs x2, spsr_el1, spsr_el2
    stp     x1, x2, [sp, #256]
    mov     x3, #-1
    stp     x0, x3, [sp, #272]
.endm

.macro restore_frame to_el0
    ldp     x1, x2, [sp, #256]
    host_msr elr_el1, elr_el2, x1
    host_msr spsr_el1, spsr_el2, x2
    .if \to_el0
    ldp     x30, x1, [sp, #240]
    msr     sp_el0, x1
    .else
    ldr     x30, [sp, #240]
    .endif
    ldp     x0, x1, [sp, #0]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    add     sp, sp, #288
    eret
    // Nothing past it, not by speculation either.
    dsb     nsh
    isb
.endm

// A backtrace through an exception goes on at the interrupted code.
.macro link_frame
    ldr     x1, [sp, #256]
    ldr     x0, [sp, #232]
    stp     x0, x1, [sp, #-16]!
    mov     x29, sp
    add     x0, sp, #16
.endm

.macro vector label
    .balign 0x80
    b       \label
.endm

.macro el0_vector kind, label
    .balign 0x80
    mitigate \kind, tpidr_el1, .hostpatch.el2
    b       \label
.endm

.macro bad_vector which
    .balign 0x80
    save_frame 0
    mov     x3, #\which
    b       __bad_exception
.endm

// kind: what an exception from EL0 begins with, see mitigate.s.
.macro vector_table name, kind
.balign 0x800
.global \name
\name:
    bad_vector 0                    // current EL with SP_EL0
    bad_vector 1
    bad_vector 2
    bad_vector 3
    vector  __el1_sync              // current EL with SP_ELx
    vector  __el1_irq
    bad_vector 6
    bad_vector 7
    el0_vector \kind, __el0_sync   // lower EL, AArch64
    el0_vector \kind, __el0_irq
    bad_vector 10
    bad_vector 11
    bad_vector 12                   // lower EL, AArch32
    bad_vector 13
    bad_vector 14
    bad_vector 15
.endm

.section .text.vectors, "ax"
vector_table __vectors, plain
vector_table __vectors_loop, loop
vector_table __vectors_instruction, instruction
vector_table __vectors_firmware, firmware

__el0_sync:
    save_frame 1
    mov     x0, sp
    host_mrs x1, esr_el1, esr_el2
    host_mrs x2, far_el1, far_el2
    mov     x29, xzr
    mov     x30, xzr
    bl      hypha_el0_sync
    restore_frame 1

__el0_irq:
    save_frame 1
    mov     x0, sp
    mov     x29, xzr
    mov     x30, xzr
    bl      hypha_el0_irq
    restore_frame 1

// x0 = frame, at the top of the kernel stack
.global __return_to_el0
__return_to_el0:
    mov     sp, x0
    restore_frame 1

// Bit 15 tells stacks (set) from the guards below them (kernel/src/stack.rs). It
// is looked at before the stack is used, with no register to spare: sp takes the
// sum of x0 and itself. Whatever else finds a stack used up comes here next, by
// the fault that its first store makes.
__el1_sync:
    sub     sp, sp, #288
    add     sp, sp, x0
    sub     x0, sp, x0              // where the frame goes
    tbz     x0, #15, __el1_overflow
    sub     x0, sp, x0
    sub     sp, sp, x0
    save_registers 0
    link_frame
    host_mrs x1, esr_el1, esr_el2
    host_mrs x2, far_el1, far_el2
    bl      hypha_el1_sync
    add     sp, sp, #16
    restore_frame 0

// Goes on with this CPU's emergency stack, which a word of its data tells. Nothing goes back to EL0 or a guest from here: their registers are free.
__el1_overflow:
    msr     sp_el0, x0
    sub     x0, sp, x0
    msr     tpidrro_el0, x0
661:    mrs     x0, tpidr_el1
.pushsection .hostpatch.el2, "a"
    .long   661b - .
    mrs     x0, tpidr_el2
.popsection
    ldr     x0, [x0, #{EMERGENCY_STACK}]
    mov     sp, x0
    mrs     x0, tpidrro_el0
    save_frame 0
    mrs     x1, sp_el0
    add     x1, x1, #288
    str     x1, [sp, #248]
    link_frame
    host_mrs x1, esr_el1, esr_el2
    host_mrs x2, far_el1, far_el2
    bl      hypha_stack_overflow
    b       .

__el1_irq:
    save_frame 0
    link_frame
    bl      hypha_el1_irq
    add     sp, sp, #16
    restore_frame 0

__bad_exception:
    mov     x19, x3
    link_frame
    host_mrs x1, esr_el1, esr_el2
    host_mrs x2, far_el1, far_el2
    mov     x3, x19
    bl      hypha_bad_exception
    b       .
