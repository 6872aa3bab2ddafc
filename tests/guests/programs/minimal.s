# minimal: does nothing but halt, which is all a virtual CPU must be able to do.
.include "common.inc"
    image
halt:
    hlt
    jmp halt
