# hello: prints one string and ends with status 0.
.include "common.inc"
    image
    puts16 greeting
    exit 0
greeting:
    .asciz "Hello from a tiny guest.\n"
