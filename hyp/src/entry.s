// Ways into hyp: with the MMU off, from the host, and from its own mistakes.

// hyp_abi::Header.
.section .head, "a"
    .quad   {MAGIC}, {VERSION}
    .quad   __idmap_start, __idmap_end, __text_end, __rodata_end, __data_end, __end

// Runs at its physical address, which is mapped to itself once the MMU is on.
.section .idmap, "ax"
.balign 0x800
.global __idmap_vectors
__idmap_vectors:
.rept 8
    .balign 0x80
    b       .
.endr
    .balign 0x80
    b       __idmap_call
.rept 7
    .balign 0x80
    b       .
.endr

// The host's first call: x0 = Call::Init, x1 = Init. Until then the stub's
// call that sets the vectors goes back to where they were.
.balign 0x80
__idmap_call:
    cbz     x0, 2f
    ldr     x2, ={CALL_INIT}
    cmp     x0, x2
    b.ne    3f
    ldr     x2, [x1, #{INIT_VERSION}]
    mov     x0, #-2                     // INVALID
    cmp     x2, #{VERSION}
    b.ne    1f
    ldp     x2, x3, [x1]                // MAIR, TCR
    ldp     x4, x5, [x1, #16]           // TTBR0, SCTLR
    ldr     x6, [x1, #{INIT_STACK}]
    msr     mair_el2, x2
    msr     tcr_el2, x3
    msr     ttbr0_el2, x4
    isb
    tlbi    alle2
    dsb     nsh
    isb
    ic      iallu
    dsb     nsh
    isb
    msr     sctlr_el2, x5
    isb
    mov     sp, x6
    ldr     x2, =__hyp_vectors
    msr     vbar_el2, x2
    mov     x29, x29
    mov     x0, x1
    adr     x1, __idmap_vectors
    ldr     x2, =hyp_init
    blr     x2
    cbz     x0, 1f
    adr     x1, __idmap_vectors         // refused: as if it had not been called
    msr     vbar_el2, x1
1:  eret
    // Nothing past it, not by speculation either.
    dsb     nsh
    isb
2:  msr     vbar_el2, x1
    eret
    dsb     nsh
    isb
3:  mov     x0, #-1                     // NOT_SUPPORTED
    eret
    dsb     nsh
    isb
.ltorg

.macro mmu_off
    mrs     x0, sctlr_el2
    bic     x0, x0, #1                  // M
    bic     x0, x0, #(1 << 2)           // C
    bic     x0, x0, #(1 << 12)          // I
    msr     sctlr_el2, x0
    isb
    mrs     x0, tpidr_el2               // the stub's vectors
    msr     vbar_el2, x0
.endm

__idmap_reset:
    mmu_off
    mov     x0, xzr
    eret
    dsb     nsh
    isb

__idmap_restart:
    mmu_off
    mov     x0, x2
    mov     x2, x4
    mov     x4, x1
    mov     x1, x3
    isb
    br      x4

// While the host runs. Between its calls nothing is on the stack.
.section .text.hyp_vectors, "ax"

// Everything goes to Failure, and nothing to the stack, which may be the
// mistake. TPIDRRO_EL0 is free: the host won't go back to EL0.
.macro failure which
    .balign 0x80
    msr     tpidrro_el0, x0
    mrs     x0, tpidr_el2
    ldr     x0, [x0, #{CPU_FAILURE}]
    stp     x1, x2, [x0, #8]
    mov     x1, #\which
    b       __failed
.endm

.balign 0x800
.global __hyp_vectors
__hyp_vectors:
    failure 0
    failure 1
    failure 2
    failure 3
    failure 4
    failure 5
    failure 6
    failure 7
    .balign 0x80
    // The stub's calls leave all registers but x0 alone.
    cmp     x0, #{RESET_VECTORS}
    b.ls    __stub_call
    mrs     x16, esr_el2
    lsr     x16, x16, #26
    cmp     x16, #0x16                  // HVC64
    b.ne    __not_a_call
    bl      hyp_host_call
    eret
    dsb     nsh
    isb
    failure 9
    failure 10
    failure 11
    failure 12
    failure 13
    failure 14
    failure 15

__not_a_call:
    failure 8

__stub_call:
    stp     x1, x2, [sp, #-16]!
    mrs     x2, esr_el2
    lsr     x2, x2, #26
    cmp     x2, #0x16
    b.ne    2f
    cmp     x0, #{SOFT_RESTART}
    b.lo    1f
    mrs     x2, tpidr_el2
    ldp     x1, x2, [x2, #{CPU_STUB}]   // the stub's vectors; __idmap_vectors
    msr     tpidr_el2, x1
    mov     x1, #(__idmap_reset - __idmap_vectors)
    b.hi    3f
    mov     x1, #(__idmap_restart - __idmap_vectors)
3:  add     x0, x2, x1
    ldp     x1, x2, [sp], #16
    br      x0
1:  ldp     x1, x2, [sp], #16           // SET_VECTORS: not while these are in force
    ldr     x0, ={STUB_ERROR}
    eret
    dsb     nsh
    isb
2:  ldp     x1, x2, [sp], #16
    b       __not_a_call
.ltorg

// x0 = Failure, x1 = vector; x1, x2 are saved.
__failed:
    stp     x3, x4, [x0, #24]
    stp     x5, x6, [x0, #40]
    stp     x7, x8, [x0, #56]
    stp     x9, x10, [x0, #72]
    stp     x11, x12, [x0, #88]
    stp     x13, x14, [x0, #104]
    stp     x15, x16, [x0, #120]
    stp     x17, x18, [x0, #136]
    stp     x19, x20, [x0, #152]
    stp     x21, x22, [x0, #168]
    stp     x23, x24, [x0, #184]
    stp     x25, x26, [x0, #200]
    stp     x27, x28, [x0, #216]
    stp     x29, x30, [x0, #232]
    mrs     x2, tpidrro_el0
    str     x2, [x0]
    mov     x2, sp
    mrs     x3, elr_el2
    mrs     x4, spsr_el2
    mrs     x5, esr_el2
    mrs     x6, far_el2
    mrs     x7, hpfar_el2
    add     x8, x0, #248
    stp     x2, x3, [x8]
    stp     x4, x5, [x8, #16]
    stp     x6, x7, [x8, #32]
    str     x1, [x8, #48]
    mrs     x0, tpidr_el2
    ldr     x1, [x0, #{CPU_STACK}]
    mov     sp, x1
    mov     x29, xzr
    bl      hyp_failed
    msr     elr_el2, x0
    mov     x1, #0x3c5                  // EL1h, all masked
    msr     spsr_el2, x1
    eret
    dsb     nsh
    isb
