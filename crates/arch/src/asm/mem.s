// memcpy, memmove, memset, memcmp with general-purpose registers only. All
// memory is Normal and SCTLR.A is 0 once the MMU is on, so unaligned accesses
// are fine; boot code with the MMU off must not come here with unaligned
// pointers.
.section .text.mem, "ax"

.global memmove
.balign 16
memmove:
    sub     x3, x0, x1
    cmp     x3, x2
    b.lo    .Lbackward          // dst in (src, src + len)
.global memcpy
memcpy:
    mov     x3, x0
    subs    x2, x2, #64
    b.lo    2f
1:  ldp     x4, x5, [x1]
    ldp     x6, x7, [x1, #16]
    ldp     x8, x9, [x1, #32]
    ldp     x10, x11, [x1, #48]
    add     x1, x1, #64
    subs    x2, x2, #64
    stp     x4, x5, [x3]
    stp     x6, x7, [x3, #16]
    stp     x8, x9, [x3, #32]
    stp     x10, x11, [x3, #48]
    add     x3, x3, #64
    b.hs    1b
2:  tbz     x2, #5, 3f
    ldp     x4, x5, [x1]
    ldp     x6, x7, [x1, #16]
    stp     x4, x5, [x3]
    stp     x6, x7, [x3, #16]
    add     x1, x1, #32
    add     x3, x3, #32
3:  tbz     x2, #4, 4f
    ldp     x4, x5, [x1], #16
    stp     x4, x5, [x3], #16
4:  tbz     x2, #3, 5f
    ldr     x4, [x1], #8
    str     x4, [x3], #8
5:  tbz     x2, #2, 6f
    ldr     w4, [x1], #4
    str     w4, [x3], #4
6:  tbz     x2, #1, 7f
    ldrh    w4, [x1], #2
    strh    w4, [x3], #2
7:  tbz     x2, #0, 8f
    ldrb    w4, [x1]
    strb    w4, [x3]
8:  ret

.Lbackward:
    cbz     x2, 8b
    add     x1, x1, x2
    add     x3, x0, x2
1:  subs    x2, x2, #8
    b.lo    2f
    ldr     x4, [x1, #-8]!
    str     x4, [x3, #-8]!
    b       1b
2:  adds    x2, x2, #8
    b.eq    8b
3:  ldrb    w4, [x1, #-1]!
    strb    w4, [x3, #-1]!
    subs    x2, x2, #1
    b.ne    3b
    ret

.global memset
.balign 16
memset:
    mov     x3, x0
    and     x1, x1, #0xff
    mov     x4, #0x0101010101010101
    mul     x1, x1, x4
    cmp     x2, #512
    b.hs    .Lbig
.Lset:
    subs    x2, x2, #32
    b.lo    2f
1:  stp     x1, x1, [x3]
    stp     x1, x1, [x3, #16]
    add     x3, x3, #32
    subs    x2, x2, #32
    b.hs    1b
2:  tbz     x2, #4, 3f
    stp     x1, x1, [x3], #16
3:  tbz     x2, #3, 4f
    str     x1, [x3], #8
4:  tbz     x2, #2, 5f
    str     w1, [x3], #4
5:  tbz     x2, #1, 6f
    strh    w1, [x3], #2
6:  tbz     x2, #0, 7f
    strb    w1, [x3]
7:  ret
.Lbig:
    cbnz    x1, .Lset
    mrs     x4, dczid_el0
    tbnz    x4, #4, .Lset       // DC ZVA prohibited
    and     x4, x4, #15
    mov     x5, #4
    lsl     x4, x5, x4          // block size in bytes
    add     x6, x4, x4
    cmp     x2, x6
    b.lo    .Lset
    sub     x5, x4, #1
1:  tst     x3, x5              // up to the first whole block
    b.eq    2f
    strb    wzr, [x3], #1
    sub     x2, x2, #1
    b       1b
2:  subs    x2, x2, x4, lsl #3  // eight blocks at a time
    b.lo    4f
3:
.rept 8
    dc      zva, x3
    add     x3, x3, x4
.endr
    subs    x2, x2, x4, lsl #3
    b.hs    3b
4:  add     x2, x2, x4, lsl #3
5:  subs    x6, x2, x4          // what is left of them
    b.lo    .Lset
    dc      zva, x3
    add     x3, x3, x4
    mov     x2, x6
    b       5b

.global bcmp
.global memcmp
.balign 16
bcmp:
memcmp:
1:  subs    x2, x2, #8
    b.lo    2f
    ldr     x3, [x0], #8
    ldr     x4, [x1], #8
    cmp     x3, x4
    b.eq    1b
    rev     x3, x3
    rev     x4, x4
    cmp     x3, x4
    cset    w0, hi
    csinv   w0, w0, wzr, hs
    ret
2:  adds    x2, x2, #8
    b.eq    4f
3:  ldrb    w3, [x0], #1
    ldrb    w4, [x1], #1
    subs    w3, w3, w4
    b.ne    5f
    subs    x2, x2, #1
    b.ne    3b
4:  mov     w3, wzr
5:  mov     w0, w3
    ret
