// From power-on to Rust: the Linux arm64 boot protocol
// (Documentation/arch/arm64/booting.rst), x0 = device tree, MMU off.
.section .head.text, "ax"
.global _head
_head:
    nop                             // room for "MZ" (PE/COFF)
    b       __primary_entry
    .quad   0                       // text_offset
    .quad   __image_size
    .quad   0xa                     // little endian, 4 KiB pages, anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0                       // room for the PE header's offset

// Layout of BootPlan (early.rs).
.equ PLAN_REGIME, 0
.equ PLAN_MAIR, 8
.equ PLAN_TCR, 16
.equ PLAN_SCTLR, 24
.equ PLAN_TTBR0, 32
.equ PLAN_TTBR1, 40
.equ PLAN_OFFSET, 48

.section .text.head, "ax"
__primary_entry:
    mov     x21, x0                 // device tree
    msr     daifset, #15
    msr     spsel, #1
    adrp    x0, __bss_start
    adrp    x1, __bss_end
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    1b
    adrp    x0, __boot_stack_top
    mov     sp, x0
    mov     x29, xzr
    adrp    x20, _head              // where we were loaded; linked at 0
    mov     x0, x20
    bl      __relocate
    mov     x0, x21
    mov     x1, x20
    bl      hypha_early
    mov     x19, x0                 // BootPlan
    ldr     x0, [x19, #PLAN_REGIME]
    bl      __el2_setup
    mov     x0, x19
    bl      __enable_mmu
    ldr     x22, [x19, #PLAN_OFFSET]
    add     x0, x20, x22
    bl      __relocate
    adrp    x0, __boot_stack_top
    add     x0, x0, x22
    mov     sp, x0
    add     x0, x19, x22
    mov     x1, x21
    adr     x2, __kernel_main
    add     x2, x2, x22
    br      x2
__kernel_main:
    bl      hypha_main
    b       .

// A CPU that PSCI CPU_ON brought up. x0 = SecondaryBoot: plan, stack, index.
.global __secondary_entry
__secondary_entry:
    msr     daifset, #15
    msr     spsel, #1
    mov     x21, x0
    ldr     x19, [x21]
    ldr     x0, [x19, #PLAN_REGIME]
    bl      __el2_setup
    mov     x0, x19
    bl      __enable_mmu
    ldr     x22, [x19, #PLAN_OFFSET]
    ldp     x1, x0, [x21, #8]
    mov     sp, x1
    mov     x29, xzr
    adr     x2, __secondary_main
    add     x2, x2, x22
    br      x2
__secondary_main:
    bl      hypha_secondary_main
    b       .

// Applies the R_AARCH64_RELATIVE relocations for base x0; x20 = _head, as it
// can be reached now.
__relocate:
    adrp    x1, __rela_start
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
1:  cmp     x1, x2
    b.hs    2f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     w4, #1027               // R_AARCH64_RELATIVE
    b.ne    1b
    add     x5, x5, x0
    str     x5, [x20, x3]
    b       1b
2:  dsb     sy
    ret

// Sets EL2 up for regime x0 and goes to the exception level that it needs.
// Reset values of EL2's registers are UNKNOWN: each is written. Entered at
// EL1: nothing to do.
__el2_setup:
    mrs     x1, CurrentEL
    cmp     x1, #8
    b.ne    9f
    // HCR_EL2. RW; VHE: E2H, TGE; EL2 with E2H=0: interrupts come to EL2.
    // API, APK: EL0's PACGA would trap to EL2 (RES0 without FEAT_PAuth).
    mov     x2, #(1 << 31)
    orr     x2, x2, #(3 << 40)
    cmp     x0, #1
    b.lo    2f
    b.hi    1f
    orr     x2, x2, #(1 << 34)
    orr     x2, x2, #(1 << 27)
1:  orr     x2, x2, #0x38           // AMO, IMO, FMO
2:  msr     hcr_el2, x2
    isb
    msr     vttbr_el2, xzr
    msr     cntvoff_el2, xzr
    msr     hstr_el2, xzr
    mrs     x3, midr_el1
    msr     vpidr_el2, x3
    mrs     x3, mpidr_el1
    msr     vmpidr_el2, x3
    // MDCR_EL2: nothing trapped, all event counters the host's.
    mrs     x3, id_aa64dfr0_el1
    ubfx    x3, x3, #8, #4
    mov     x4, xzr
    cbz     x3, 3f
    cmp     x3, #15
    b.eq    3f
    mrs     x4, pmcr_el0
    ubfx    x4, x4, #11, #5
3:  msr     mdcr_el2, x4
    // What AMU counts is EL0's business only if somebody lets it.
    mrs     x5, id_aa64pfr0_el1
    ubfx    x5, x5, #44, #4
    cbz     x5, 3f
    msr     S3_3_C13_C2_3, xzr      // AMUSERENR_EL0
    // Nobody here uses FEAT_MPAM: neither do guests.
3:  mrs     x3, id_aa64pfr0_el1
    ubfx    x3, x3, #40, #4
    mrs     x4, id_aa64pfr1_el1
    ubfx    x4, x4, #16, #4         // MPAM_frac
    orr     x3, x3, x4
    cbz     x3, 3f
    mov     x4, #(3 << 48)          // TRAPMPAM0EL1, TRAPMPAM1EL1
    msr     S3_4_C10_C5_0, x4       // MPAM2_EL2
    isb
    mrs     x3, S3_0_C10_C4_4       // MPAMIDR_EL1
    tbz     x3, #17, 3f             // HAS_HCR
    msr     S3_4_C10_C4_0, xzr      // MPAMHCR_EL2
    // FEAT_TRF: no trace of EL2, or of EL1's by EL2's time.
3:  mrs     x3, id_aa64dfr0_el1
    ubfx    x3, x3, #40, #4
    cbz     x3, 3f
    msr     S3_4_C1_C2_1, xzr       // TRFCR_EL2
    // FEAT_FGT, FEAT_HCX: no fine-grained traps, but those of bits that trap at
    // zero: what is new to us stays away from EL1 and EL0.
3:  mrs     x3, id_aa64mmfr0_el1
    ubfx    x3, x3, #56, #4
    cbz     x3, 4f
    cbz     x5, 3f
    msr     S3_4_C3_C1_6, xzr       // HAFGRTR_EL2
3:  cmp     x3, #2
    b.lo    3f
    msr     S3_4_C3_C1_0, xzr       // HDFGRTR2_EL2
    msr     S3_4_C3_C1_1, xzr       // HDFGWTR2_EL2
    msr     S3_4_C3_C1_2, xzr       // HFGRTR2_EL2
    msr     S3_4_C3_C1_3, xzr       // HFGWTR2_EL2
    msr     S3_4_C3_C1_7, xzr       // HFGITR2_EL2
3:
    msr     S3_4_C1_C1_4, xzr       // HFGRTR_EL2
    msr     S3_4_C1_C1_5, xzr       // HFGWTR_EL2
    msr     S3_4_C1_C1_6, xzr       // HFGITR_EL2
    msr     S3_4_C3_C1_4, xzr       // HDFGRTR_EL2
    msr     S3_4_C3_C1_5, xzr       // HDFGWTR_EL2
4:  mrs     x3, id_aa64mmfr1_el1
    // VTCR_EL2.VS: without it TLBIs see 8 bits of the VMID, on CPUs where no
    // guest has been yet, too.
    ubfx    x4, x3, #4, #4          // VMIDBits
    cmp     x4, #2
    cset    x4, eq
    lsl     x4, x4, #19
    orr     x4, x4, #(1 << 31)      // RES1
    msr     vtcr_el2, x4
    ubfx    x3, x3, #40, #4
    cbz     x3, 5f
    msr     S3_4_C1_C2_2, xzr       // HCRX_EL2
    // GICv3: system registers at EL2 and EL1, no list registers in use.
5:  mrs     x3, id_aa64pfr0_el1
    ubfx    x3, x3, #24, #4
    cbz     x3, 6f
    mrs     x3, S3_4_C12_C9_5       // ICC_SRE_EL2
    mov     x4, #9                  // Enable, SRE
    orr     x3, x3, x4
    msr     S3_4_C12_C9_5, x3
    isb
    // Firmware that keeps to a GICv2 has SRE=0, and these registers don't exist.
    mrs     x3, S3_4_C12_C9_5
    tbz     x3, #0, 6f
    msr     S3_4_C12_C11_0, xzr     // ICH_HCR_EL2
6:  cmp     x0, #1
    b.ne    7f
    // E2H=1: CPTR_EL2 is CPACR's layout, CNTHCTL_EL2 has EL1's bits at 10.
    mov     x3, #(1 << 20)          // FPEN: trap EL0's FP; lazily allowed
    msr     cptr_el2, x3
    mov     x3, #(1 << 10) | 2      // EL1PCTEN; EL0VCTEN
    msr     cnthctl_el2, x3
    isb
9:  ret
7:  mov     x3, #0x33ff             // RES1; SVE and SME trapped, FP not
    mov     x4, #3                  // EL1PCTEN, EL1PCEN
    mrs     x2, hcr_el2
    tbz     x2, #34, 8f
    // E2H is RES1: other layouts. FPEN; EL1PTEN, EL1PCTEN.
    mov     x3, #(3 << 20)
    mov     x4, #(3 << 10)
8:  msr     cptr_el2, x3
    msr     cnthctl_el2, x4
    isb
    cbnz    x0, 9b
    // The host's place is EL1.
    ldr     x3, =0x30d00800         // SCTLR_EL1: RES1 bits, MMU off
    mrs     x2, hcr_el2
    tbnz    x2, #34, 1f
    msr     sctlr_el1, x3
    b       2f
1:  msr     S3_5_C1_C0_0, x3        // SCTLR_EL12
2:
    adrp    x3, __stub_vectors
    add     x3, x3, :lo12:__stub_vectors
    msr     vbar_el2, x3
    mov     x3, #0x3c5              // EL1h, all masked
    msr     spsr_el2, x3
    msr     elr_el2, x30
    eret
.ltorg

// Turns the MMU on as BootPlan x0 says; the identity map covers this code.
__enable_mmu:
    ldr     x1, [x0, #PLAN_REGIME]
    ldp     x2, x3, [x0, #PLAN_MAIR]        // and TCR
    ldp     x4, x5, [x0, #PLAN_SCTLR]       // and TTBR0
    ldr     x6, [x0, #PLAN_TTBR1]
    cmp     x1, #2
    b.eq    1f
    msr     mair_el1, x2
    msr     tcr_el1, x3
    msr     ttbr0_el1, x5
    msr     ttbr1_el1, x6
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    ic      iallu
    dsb     nsh
    msr     sctlr_el1, x4
    isb
    ret
1:  msr     mair_el2, x2
    msr     tcr_el2, x3
    msr     ttbr0_el2, x5
    isb
    tlbi    alle2
    dsb     nsh
    isb
    ic      iallu
    dsb     nsh
    msr     sctlr_el2, x4
    isb
    ret

// Puts the tables at x1 in the place of the kernel's map: regime x0, x2 from
// physical to kernel addresses. The maps differ in block sizes where this code
// runs, and a TLB may hold no two translations of one address (Arm ARM
// D8.16.1, break before make): the MMU is off between them, in the identity
// map. No data is touched meanwhile.
.global __replace_map
__replace_map:
    dsb     ish                     // the new tables, before they are walked
    adr     x3, 1f
    sub     x3, x3, x2
    br      x3
1:  cmp     x0, #2
    b.eq    2f
    mrs     x4, sctlr_el1
    bic     x5, x4, #1
    msr     sctlr_el1, x5
    isb
    msr     ttbr1_el1, x1
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    msr     sctlr_el1, x4
    isb
    ret
2:  mrs     x4, sctlr_el2
    bic     x5, x4, #1
    msr     sctlr_el2, x5
    isb
    msr     ttbr0_el2, x1
    isb
    tlbi    alle2
    dsb     nsh
    isb
    msr     sctlr_el2, x4
    isb
    ret

// What stays at EL2 while the host is at EL1 without a hypervisor, MMU off:
// Linux's stub (Documentation/virt/kvm/arm/hyp-abi.rst), so that hyp can come,
// and after a soft restart the next kernel's. x0: 0 = SET_VECTORS to x1,
// 1 = SOFT_RESTART at x1 with x2 to x4, 2 = RESET_VECTORS, which these are.
.balign 0x800
.global __stub_vectors
__stub_vectors:
.rept 8
    .balign 0x80
    b       .
.endr
    .balign 0x80
    b       __stub_call
.rept 7
    .balign 0x80
    b       .
.endr
__stub_call:
    msr     tpidr_el2, x1           // nobody's while these vectors are in force
    mrs     x1, esr_el2
    lsr     x1, x1, #26
    cmp     x1, #0x16               // HVC64: nothing else is a call
    mrs     x1, tpidr_el2
    b.ne    .
    cmp     x0, #2
    b.hi    2f
    b.eq    1f
    cbnz    x0, 3f
    msr     vbar_el2, x1
1:  mov     x0, xzr
    eret
2:  ldr     x0, =0xbadca11          // HVC_STUB_ERR
    eret
3:  mov     x0, x2
    mov     x2, x4
    mov     x4, x1
    mov     x1, x3
    br      x4

// Where `hypha.restart=el2` soft-restarts to, in place of a next kernel: at EL2
// with the MMU and the caches off and x0 to x2 as given. Goes back to the caller,
// x0 = their sum if all that is so, and 0 if not.
.global __next_kernel
__next_kernel:
    add     x0, x0, x1
    add     x0, x0, x2
    mrs     x1, CurrentEL
    mrs     x2, sctlr_el2
    mov     x3, #5                  // M and C
    and     x2, x2, x3
    orr     x1, x1, x2
    cmp     x1, #8
    csel    x0, x0, xzr, eq
    eret
.ltorg

// The boot CPU's stacks, laid out as stack.rs has it: bit 15 of an address is set
// on the stack and clear in the guard below it, which has no mapping once the
// kernel's own map is made.
.section .bss.stack, "aw", @nobits
.balign 65536
    .space  8192
.global __boot_emergency_top
__boot_emergency_top:
    .space  24576
.global __boot_stack
__boot_stack:
    .space  32768
.global __boot_stack_top
__boot_stack_top:
