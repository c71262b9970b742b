// Copies with EL0's rights. x2 always holds what is left, so that a fault at
// any point leaves the right answer for the fix-up.
.section .text.uaccess, "ax"
.global __uaccess_start
__uaccess_start:

// x0 = dst (kernel), x1 = src (user), x2 = len -> x0 = bytes left
.global __copy_from_user
.balign 16
__copy_from_user:
    and     x1, x1, #0xffffffffffff     // EL0's half, in speculation, too
1:  subs    x3, x2, #32
    b.lo    2f
    ldtr    x4, [x1]
    ldtr    x5, [x1, #8]
    ldtr    x6, [x1, #16]
    ldtr    x7, [x1, #24]
    stp     x4, x5, [x0]
    stp     x6, x7, [x0, #16]
    add     x0, x0, #32
    add     x1, x1, #32
    mov     x2, x3
    b       1b
2:  subs    x3, x2, #8
    b.lo    3f
    ldtr    x4, [x1]
    str     x4, [x0], #8
    add     x1, x1, #8
    mov     x2, x3
    b       2b
3:  cbz     x2, 4f
    ldtrb   w4, [x1]
    strb    w4, [x0], #1
    add     x1, x1, #1
    sub     x2, x2, #1
    b       3b
4:  mov     x0, xzr
    ret

// x0 = dst (user), x1 = src (kernel), x2 = len -> x0 = bytes left
.global __copy_to_user
.balign 16
__copy_to_user:
    and     x0, x0, #0xffffffffffff
1:  subs    x3, x2, #32
    b.lo    2f
    ldp     x4, x5, [x1]
    ldp     x6, x7, [x1, #16]
    sttr    x4, [x0]
    sttr    x5, [x0, #8]
    sttr    x6, [x0, #16]
    sttr    x7, [x0, #24]
    add     x0, x0, #32
    add     x1, x1, #32
    mov     x2, x3
    b       1b
2:  subs    x3, x2, #8
    b.lo    3f
    ldr     x4, [x1], #8
    sttr    x4, [x0]
    add     x0, x0, #8
    mov     x2, x3
    b       2b
3:  cbz     x2, 4f
    ldrb    w4, [x1], #1
    sttrb   w4, [x0]
    add     x0, x0, #1
    sub     x2, x2, #1
    b       3b
4:  mov     x0, xzr
    ret

.global __uaccess_end
__uaccess_end:
.global __uaccess_fixup
__uaccess_fixup:
    mov     x0, x2
    ret
