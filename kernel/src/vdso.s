// The vDSO (vdso(7), aarch64): an ELF shared object of one page, laid out by
// hand. It is mapped as it stands here, right above its page of data, whose
// words vdso.rs names: counter at boot, nanoseconds a tick (whole, then the
// fraction in 2^-64), CLOCK_REALTIME at boot.

    .section .rodata.vdso, "a"
    .balign 4096
    .global __vdso_image
__vdso_image:
    // Elf64_Ehdr
    .byte   0x7f, 'E', 'L', 'F', 2, 1, 1, 0
    .quad   0
    .short  3, 183                          // ET_DYN, EM_AARCH64
    .word   1
    .quad   0                               // no entry
    .quad   .Lphdrs - __vdso_image
    .quad   0                               // no sections
    .word   0
    .short  64, 56, 2, 64, 0, 0
.Lphdrs:
    .word   1, 5                            // PT_LOAD, R and X
    .quad   0, 0, 0, 4096, 4096, 4096
    .word   2, 4                            // PT_DYNAMIC, R
    .quad   .Ldynamic - __vdso_image, .Ldynamic - __vdso_image, .Ldynamic - __vdso_image
    .quad   .Ldynamic_end - .Ldynamic, .Ldynamic_end - .Ldynamic, 8

.Ldynamic:
    .quad   14, .Lsoname - .Lstrings        // DT_SONAME
    .quad   4, .Lhash - __vdso_image        // DT_HASH
    .quad   5, .Lstrings - __vdso_image     // DT_STRTAB
    .quad   6, .Lsymbols - __vdso_image     // DT_SYMTAB
    .quad   10, .Lstrings_end - .Lstrings   // DT_STRSZ
    .quad   11, 24                          // DT_SYMENT
    .quad   0x6ffffff0, .Lversym - __vdso_image
    .quad   0x6ffffffc, .Lverdef - __vdso_image
    .quad   0x6ffffffd, 2                   // DT_VERDEFNUM
    .quad   0, 0
.Ldynamic_end:

    // STB_GLOBAL STT_FUNC; any section index but 0 is "defined here".
    .macro  symbol name, start, end
    .word   \name - .Lstrings
    .byte   0x12, 0
    .short  1
    .quad   \start - __vdso_image, \end - \start
    .endm
.Lsymbols:
    .quad   0, 0, 0
    symbol  .Lname1, .Lclock_gettime, .Lgettimeofday
    symbol  .Lname2, .Lgettimeofday, .Lclock_getres
    symbol  .Lname3, .Lclock_getres, .Lcode_end
    symbol  .Lname4, .Lsigreturn, .Lsigreturn_end

    // One bucket, whose chain has them all.
.Lhash:
    .word   1, 5, 1, 0, 2, 3, 4, 0

.Lversym:
    .short  0, 2, 2, 2, 2
    .balign 4
.Lverdef:
    // Elf64_Verdef, each with one Elf64_Verdaux: the object, LINUX_2.6.39.
    .short  1, 1, 1, 1
    .word   0x0deebfa1, 20, 28
    .word   .Lsoname - .Lstrings, 0
    .short  1, 0, 2, 1
    .word   0x075fcb89, 20, 0
    .word   .Lversion - .Lstrings, 0

.Lstrings:
    .byte   0
.Lsoname:
    .asciz  "linux-vdso.so.1"
.Lversion:
    .asciz  "LINUX_2.6.39"
.Lname1:
    .asciz  "__kernel_clock_gettime"
.Lname2:
    .asciz  "__kernel_gettimeofday"
.Lname3:
    .asciz  "__kernel_clock_getres"
.Lname4:
    .asciz  "__kernel_rt_sigreturn"
.Lstrings_end:

    // x9 = x5 + nanoseconds since boot. ISB keeps the counter from being read
    // early (Arm ARM D12.1.2).
    .macro  since_boot
    ldp     x6, x7, [x4]
    ldr     x9, [x4, #16]
    isb
    mrs     x10, cntvct_el0
    sub     x10, x10, x6
    umulh   x9, x10, x9
    madd    x9, x10, x7, x9
    add     x9, x9, x5
    .endm

    // x11, x12 = x9 in seconds and the rest.
    .macro  split
    mov     w10, #0xca00
    movk    w10, #0x3b9a, lsl #16
    udiv    x11, x9, x10
    msub    x12, x11, x10, x9
    .endm

    .balign 16
    // int clock_gettime(clockid_t, struct timespec *)
.Lclock_gettime:
    cmp     w0, #11
    b.hi    2f
    adr     x4, __vdso_image - 4096
    mov     w3, #1
    lsl     w3, w3, w0
    mov     x5, xzr
    mov     w6, #0xd2                       // MONOTONIC, _RAW, _COARSE, BOOTTIME
    tst     w3, w6
    b.ne    1f
    mov     w6, #0x821                      // REALTIME, _COARSE, TAI
    tst     w3, w6
    b.eq    2f
    ldr     x5, [x4, #24]
1:  since_boot
    split
    stp     x11, x12, [x1]
    mov     w0, wzr
    ret
2:  mov     x8, #113
    svc     #0
    ret

    // int gettimeofday(struct timeval *, struct timezone *)
.Lgettimeofday:
    cbnz    x1, 2f
    cbz     x0, 1f
    adr     x4, __vdso_image - 4096
    ldr     x5, [x4, #24]
    since_boot
    split
    mov     w10, #1000
    udiv    x12, x12, x10
    stp     x11, x12, [x0]
1:  mov     w0, wzr
    ret
2:  mov     x8, #169
    svc     #0
    ret

    // int clock_getres(clockid_t, struct timespec *): nobody is in a hurry.
.Lclock_getres:
    mov     x8, #114
    svc     #0
    ret
.Lcode_end:

    // What signal handlers return to, at the very end. Unwinders know these two
    // instructions, and look up the address before the return address.
    .org    __vdso_image + 0xff4
    nop
.Lsigreturn:
    mov     x8, #139
    svc     #0
.Lsigreturn_end:
    .org    __vdso_image + 0x1000
    .text
