// On entry from whom isn't trusted: what keeps them from steering the branch
// predictor where this code goes next (Spectre-BHB, Spectre variant 2). These
// stand at the start of vectors, of which each CPU gets those that it needs;
// all registers are kept. `percpu` names the register that points to the CPU's
// `arch::mitigation::PerCpu`, and `table` where boot patches it to another.

.macro mitigate_percpu reg, percpu, table
661:    mrs     \reg, \percpu
.ifnc \table, none
.pushsection \table, "a"
    .long   661b - .
    mrs     \reg, tpidr_el2
.popsection
.endif
.endm

// Taken branches that leave no room for others; no speculation past them.
.macro mitigate_loop reg
771:    b       772f
772:    subs    \reg, \reg, #1
    b.ne    771b
    dsb     nsh
    isb
.endm

.macro mitigate kind, percpu, table
.ifc \kind, loop
    // NZCV is in SPSR by now.
    str     x0, [sp, #-16]!
    mitigate_percpu x0, \percpu, \table
    ldr     x0, [x0]
    mitigate_loop x0
    ldr     x0, [sp], #16
.endif
.ifc \kind, instruction
    hint    #22                         // CLRBHB
    isb
.endif
.ifc \kind, firmware
    stp     x0, x1, [sp, #-32]!
    stp     x2, x3, [sp, #16]
    mitigate_percpu x1, \percpu, \table
    ldr     x0, [x1, #8]
    tbnz    x0, #63, 781f
    smc     #0
    b       782f
781:    hvc     #0
782:    mitigate_percpu x1, \percpu, \table
    ldr     x0, [x1]
    cbz     x0, 783f
    mitigate_loop x0
783:    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp], #32
.endif
.endm
