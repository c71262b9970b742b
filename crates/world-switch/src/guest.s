// Into the guest and out of it: one text for both arrangements. The vectors here
// are in force only while a guest is (VHE: between World::enter and
// World::leave; nVHE: between enter and leave).

// Saves the guest's registers; x0 = context, x20 = 0 afterwards.
.macro save_guest
    stp     x0, x1, [sp, #-16]!
    ldr     x0, [sp, #112]              // 16 + 96
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    ldp     x2, x3, [sp], #16
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    mrs     x4, elr_el2
    mrs     x5, spsr_el2
    mrs     x6, esr_el2
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    stp     x30, x4, [x0, #{PC_X30}]
    stp     x5, x6, [x0, #{PSTATE}]
    stp     x2, x3, [x0]
.endm

// Under TGE=0 an exception leaves PSTATE.PAN as the guest had it. At E2H=0 it
// means nothing at EL2, and the CPU may not have it.
.macro mask_pan e2h0
    .if \e2h0 == 0
    .inst   0xd500419f                  // msr pan, #1
    .endif
.endm

// Calls the handler that is kept on the stack: 0 goes back to the guest.
.macro answer prefix, handler
    ldr     x4, [sp, #\handler]
    ldr     x1, [sp, #112]
    mov     x29, sp
    blr     x4
    cbnz    x0, __\prefix\()_leave
    ldr     x0, [sp, #96]
    b       __\prefix\()_resume
.endm

.macro guest_vector kind, label
    .balign 0x80
    mitigate \kind, tpidr_el2, none
    b       \label
.endm

// Faults of the kernel's own while in the guest's world are as fatal as they
// are in its own: to the host's handlers.
.macro host_vector vectors, offset
    .balign 0x80
    b       \vectors + \offset
.endm

// prefix: of the symbols; e2h0: 0 under VHE, 1 at E2H=0; split: 1 where the host is
// at EL1; vectors: what faults of the hypervisor's own go to.
.macro guest_switch prefix, e2h0, split, vectors
// x0 = context, x1 = handler of synchronous exits, x2 = its argument -> x0 = why
// it ended. Unless split x3 = handler of interrupts, with the same argument.
.section .text.guest_\prefix, "ax"
.global __\prefix\()_run
.balign 16
__\prefix\()_run:
    stp     x29, x30, [sp, #-128]!
    mov     x29, sp
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    stp     x0, x1, [sp, #96]
    stp     x2, x3, [sp, #112]
__\prefix\()_resume:
    ldp     x30, x1, [x0, #{PC_X30}]
    ldr     x2, [x0, #{PSTATE}]
    msr     elr_el2, x1
    msr     spsr_el2, x2
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldp     x0, x1, [x0]
    eret
    // Nothing past it, not by speculation either.
    dsb     nsh
    isb

__\prefix\()_sync:
    save_guest
    mask_pan \e2h0
    answer  \prefix, 104

__\prefix\()_irq:
    save_guest
    mask_pan \e2h0
    .if \split == 0
    answer  \prefix, 120
    .else
    mov     x0, #(1 << 32)
    b       __\prefix\()_leave
    .endif

__\prefix\()_serror:
    save_guest
    mask_pan \e2h0
    mov     x0, #(2 << 32)

__\prefix\()_leave:
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #128
    ret

.section .text.guest_vectors_\prefix, "ax"
guest_table \prefix, \vectors, __\prefix\()_vectors, plain
guest_table \prefix, \vectors, __\prefix\()_vectors_loop, loop
guest_table \prefix, \vectors, __\prefix\()_vectors_instruction, instruction
guest_table \prefix, \vectors, __\prefix\()_vectors_firmware, firmware
.endm

// kind: what each exit begins with, see arch's mitigate.s.
.macro guest_table prefix, vectors, name, kind
.balign 0x800
.global \name
\name:
    host_vector \vectors, 0x000
    host_vector \vectors, 0x080
    host_vector \vectors, 0x100
    host_vector \vectors, 0x180
    host_vector \vectors, 0x200
    host_vector \vectors, 0x280
    host_vector \vectors, 0x300
    host_vector \vectors, 0x380
    guest_vector \kind, __\prefix\()_sync
    guest_vector \kind, __\prefix\()_irq
    guest_vector \kind, __\prefix\()_irq
    guest_vector \kind, __\prefix\()_serror
    // AArch32 at EL1 is never on offer (HCR_EL2.RW), at EL0 it may be.
    guest_vector \kind, __\prefix\()_sync
    guest_vector \kind, __\prefix\()_irq
    guest_vector \kind, __\prefix\()_irq
    guest_vector \kind, __\prefix\()_serror
.endm
