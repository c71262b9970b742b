// Entry by the arm64 boot protocol at EL1, entry of secondary CPUs, vectors.

.section .head.text, "ax"
.global _head
_head:
    b       start                       // code0
    nop                                 // code1
    .quad   0                           // text_offset
    .quad   __image_end                 // image_size: linked at 0
    .quad   0xa                         // little-endian, 4 KiB pages, anywhere
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

start:
    mov     x19, x0                     // the device tree
    adr     x20, _head                  // where we are
    // R_AARCH64_RELATIVE relocations.
    adrp    x1, __rela_start
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
1:  cmp     x1, x2
    b.hs    2f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     w4, #0x403
    b.ne    1b
    add     x5, x5, x20
    str     x5, [x20, x3]
    b       1b
2:  adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __image_end
    add     x2, x2, :lo12:__image_end
3:  cmp     x1, x2                      // .bss, table and stack
    b.hs    4f
    stp     xzr, xzr, [x1], #16
    b       3b
    // The translation table: 1 GiB blocks, one to one. The first is devices, the rest memory.
4:  adrp    x1, __table
    mov     x2, #0x0401                 // block, AF, attribute 0
    movk    x2, #0x0060, lsl #48        // never executed
    str     x2, [x1]
    mov     x3, #1
    mov     x4, #0x0705                 // block, AF, inner shareable, attribute 1
5:  add     x5, x4, x3, lsl #30
    str     x5, [x1, x3, lsl #3]
    add     x3, x3, #1
    cmp     x3, #512
    b.ne    5b
    // What was written with the MMU off must not meet stale lines.
    dsb     sy
    adrp    x1, __data_start
    adrp    x2, __image_end
6:  dc      ivac, x1
    add     x1, x1, #64
    cmp     x1, x2
    b.lo    6b
    dsb     sy
    adrp    x1, __boot_stack
    mov     sp, x1
    bl      regime
    mov     x0, x19
    mov     x1, x20
    mov     x29, xzr
    bl      guest_rt_start
7:  wfi
    b       7b

// A secondary CPU: x0 points to its stack's top, its function and its argument.
.global guest_rt_secondary
guest_rt_secondary:
    mov     x19, x0
    bl      regime
    ldp     x1, x2, [x19]
    ldr     x0, [x19, #16]
    mov     sp, x1
    mov     x29, xzr
    blr     x2
8:  wfi
    b       8b

regime:
    mov     x1, #0xff00                 // 0: Device-nGnRnE, 1: normal, write-back
    msr     mair_el1, x1
    ldr     x1, =0x280803519            // T0SZ 25, WBWA, inner shareable, 4 KiB, EPD1, 40 bits
    msr     tcr_el1, x1
    adrp    x1, __table
    msr     ttbr0_el1, x1
    adrp    x1, guest_rt_vectors
    add     x1, x1, :lo12:guest_rt_vectors
    msr     vbar_el1, x1
    mov     x1, #(3 << 20)
    msr     cpacr_el1, x1
    tlbi    vmalle1
    ic      iallu
    dsb     sy
    isb
    ldr     x1, =0x30d01805             // RES1 bits, I, C, M
    msr     sctlr_el1, x1
    isb
    ret
.ltorg

// x0 to x30, then ELR, SPSR, ESR, FAR and the counter at entry.
.macro entry kind
    .balign 128
    sub     sp, sp, #304
    stp     x0, x1, [sp]
    mrs     x0, cntvct_el0
    mov     x1, #\kind
    b       enter
.endm

.section .vectors, "ax"
.balign 2048
.global guest_rt_vectors
guest_rt_vectors:
    entry 0
    entry 1
    entry 2
    entry 3
    entry 4
    entry 5
    entry 6
    entry 7
    entry 8
    entry 9
    entry 10
    entry 11
    entry 12
    entry 13
    entry 14
    entry 15

enter:
    movz    xzr, #0x6804                // mark::STAMP
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
    mrs     x2, elr_el1
    stp     x30, x2, [sp, #240]
    mrs     x3, spsr_el1
    mrs     x4, esr_el1
    stp     x3, x4, [sp, #256]
    mrs     x5, far_el1
    stp     x5, x0, [sp, #272]
    mov     x0, sp
    bl      guest_rt_exception
    ldr     x30, [sp, #240]
    ldp     x2, x3, [sp, #248]
    msr     elr_el1, x2
    msr     spsr_el1, x3
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
    ldp     x0, x1, [sp]
    add     sp, sp, #304
    eret
