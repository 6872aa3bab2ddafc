# The probe: boots where the core boots, by PVH or Multiboot2, and says on COM1 what the machine is.
# It is the control of every core scenario: when it fails, look at the lab before you look at the core.
#
# It runs in 32-bit protected mode without paging, as both ways to boot enter it. Words on its command
# line choose extras: `spin` times 200 million instructions, `exit=N` ends with the digit N.

.intel_syntax noprefix

.equ COM1,            0x3f8
.equ DEBUG_EXIT,      0xf4
.equ PVH_MAGIC,       0x336ec578  # first word at EBX (Xen start_info.h)
.equ APIC_SPURIOUS,   0xfee000f0
.equ APIC_ICR,        0xfee00300
.equ INIT_OTHERS,     0x000c4500  # SDM 3A 11.6.1
.equ SIPI_OTHERS,     0x000c4608  # startup at page 8
.equ TRAMPOLINE,      0x8000
.equ AWAKE,           0x9000      # counted up by each other processor
.equ HAS_VMX,         0x9004      # not zero: the others read IA32_FEATURE_CONTROL, too
.equ CONTROL,         0x9008      # what the last of them read

# XEN_ELFNOTE_PHYS32_ENTRY (Xen elfnote.h).
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long _start

    .text
    .code32
    .balign 8
header:
    .long 0xe85250d6, 0, header_end - header, -(0xe85250d6 + header_end - header)
    .word 6, 0
    .long 8
    .word 0, 0
    .long 8
header_end:

    .globl _start
_start:
    cli
    cld
    lea esp, [stack_top]
    mov ebp, ebx
    mov dx, COM1 + 1
    xor eax, eax
    out dx, al                  # no interrupts
    mov dx, COM1 + 3
    mov al, 0x80
    out dx, al
    mov dx, COM1
    mov al, 1
    out dx, al                  # 115200 baud
    mov dx, COM1 + 1
    xor eax, eax
    out dx, al
    mov dx, COM1 + 3
    mov al, 3
    out dx, al                  # 8 bits, no parity

    mov eax, dword ptr [ebp]
    cmp eax, PVH_MAGIC
    je by_pvh

by_multiboot2:
    lea esi, [says_multiboot2]
    call print
    lea edi, [ebp + 8]
1:  mov eax, dword ptr [edi]
    test eax, eax
    jz booted
    cmp eax, 1                  # command line (Multiboot2 3.6.3)
    jne 2f
    lea ecx, [edi + 8]
    mov dword ptr [command_line], ecx
2:  cmp eax, 3                  # module (Multiboot2 3.6.6)
    jne 3f
    mov ecx, dword ptr [edi + 8]
    mov dword ptr [module], ecx
    mov eax, dword ptr [edi + 12]
    sub eax, ecx
    mov dword ptr [module_size], eax
3:  mov eax, dword ptr [edi + 4]
    add eax, 7
    and eax, -8
    add edi, eax
    jmp 1b

by_pvh:
    lea esi, [says_pvh]
    call print
    mov eax, dword ptr [ebp + 24]
    test eax, eax
    jz 1f
    mov dword ptr [command_line], eax
1:  cmp dword ptr [ebp + 12], 0
    je booted
    mov edi, dword ptr [ebp + 16]
    mov eax, dword ptr [edi]
    mov dword ptr [module], eax
    mov eax, dword ptr [edi + 8]
    mov dword ptr [module_size], eax

booted:
    lea esi, [says_command_line]
    call print
    mov esi, dword ptr [command_line]
    call print
    call newline
    cmp dword ptr [module], 0
    je 1f
    lea esi, [says_module]
    call print
    mov eax, dword ptr [module_size]
    call hex
    lea esi, [says_begins]
    call print
    mov eax, dword ptr [module]
    mov eax, dword ptr [eax]
    call hex
    call newline
1:
    call processor
    call others
    mov al, 's'
    mov ah, 'p'
    call word_given
    jne 1f
    lea esi, [says_spin]
    call print
    mov ecx, 100000000
0:  dec ecx
    jnz 0b
    lea esi, [says_spun]
    call print
1:  xor ebx, ebx
    mov al, 'e'
    mov ah, 'x'
    call word_given
    jne 1f
    mov bl, byte ptr [esi + 5]
    sub bl, '0'
1:  lea esi, [says_end]
    call print
    lea eax, [ebx + '0']
    call put
    call newline
    mov al, bl
    mov dx, DEBUG_EXIT
    out dx, al
0:  hlt
    jmp 0b

# Sets ZF and ESI when a word of the command line begins with AL, AH.
word_given:
    mov esi, dword ptr [command_line]
    dec esi
0:  inc esi
    cmp byte ptr [esi], 0
    je 1f
    cmp word ptr [esi], ax
    jne 0b
    ret
1:  or al, al                   # AL is a letter: clears ZF
    ret

processor:
    lea esi, [says_vendor]
    call print
    xor eax, eax
    cpuid
    mov dword ptr [text], ebx
    mov dword ptr [text + 4], edx
    mov dword ptr [text + 8], ecx
    lea esi, [text]
    call print
    call newline
    mov eax, 1
    cpuid
    mov dword ptr [features], ecx
    lea esi, [says_x2apic]
    call print
    bt dword ptr [features], 21
    call yes_or_no
    bt dword ptr [features], 21
    jnc 1f
    mov ecx, 0x1b               # IA32_APIC_BASE: EXTD (SDM 3A 11.12.1)
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x802
    rdmsr
    push eax
    lea esi, [says_x2apic_id]
    call print
    pop eax
    call hex
    call newline
1:  mov eax, 0x80000001         # SVM (APM 3 E.4.2)
    cpuid
    mov dword ptr [text], ecx
    lea esi, [says_svm]
    call print
    bt dword ptr [text], 2
    call yes_or_no
    lea esi, [says_vmx]
    call print
    bt dword ptr [features], 5
    call yes_or_no
    bt dword ptr [features], 5
    jnc 9f
    mov ecx, 0x3a               # IA32_FEATURE_CONTROL
    lea esi, [says_feature_control]
    call register
    mov ecx, 0x480              # IA32_VMX_BASIC (SDM 3D A.1)
    lea esi, [says_basic]
    call register
    mov ecx, 0x481
    lea esi, [says_pin]
    call register
    mov ecx, 0x482
    lea esi, [says_primary]
    call register
    mov ecx, 0x48b              # allowed-1 settings lie in the upper half (SDM 3D A.3.3)
    lea esi, [says_secondary]
    call register
    mov ecx, 0x48b
    rdmsr
    mov dword ptr [text], edx
    lea esi, [says_ept]
    call print
    bt dword ptr [text], 1
    call yes_or_no
    lea esi, [says_vpid]
    call print
    bt dword ptr [text], 5
    call yes_or_no
    lea esi, [says_unrestricted]
    call print
    bt dword ptr [text], 7
    call yes_or_no
    bt dword ptr [text], 1
    jnc 9f
    mov ecx, 0x48c              # IA32_VMX_EPT_VPID_CAP (SDM 3D A.10)
    lea esi, [says_ept_vpid]
    call register
9:  ret

# Prints ESI and the MSR in ECX.
register:
    push ecx
    call print
    pop ecx
    rdmsr
    push eax
    mov eax, edx
    call hex
    pop eax
    call hex
    call newline
    ret

# Prints `yes` when CF is set.
yes_or_no:
    lea esi, [says_no]
    jnc 1f
    lea esi, [says_yes]
1:  call print
    ret

# Wakes the other processors with INIT and SIPI; says how many came.
others:
    lea esi, [trampoline]
    mov edi, TRAMPOLINE
    mov ecx, offset trampoline_end - trampoline
    rep movsb
    mov dword ptr [AWAKE], 0
    mov dword ptr [CONTROL], 0
    mov eax, dword ptr [features]
    and eax, 1 << 5
    mov dword ptr [HAS_VMX], eax
    bt dword ptr [features], 21
    jc 1f
    or dword ptr [APIC_SPURIOUS], 0x100
    mov dword ptr [APIC_ICR + 16], 0
    mov dword ptr [APIC_ICR], INIT_OTHERS
    call wait
    mov dword ptr [APIC_ICR], SIPI_OTHERS
    jmp 2f
1:  mov ecx, 0x80f
    rdmsr
    or eax, 0x100
    wrmsr
    xor edx, edx
    mov ecx, 0x830
    mov eax, INIT_OTHERS
    wrmsr
    call wait
    xor edx, edx
    mov ecx, 0x830
    mov eax, SIPI_OTHERS
    wrmsr
2:  call wait
    call wait
    lea esi, [says_processors]
    call print
    mov eax, dword ptr [AWAKE]
    inc eax
    call hex
    call newline
    cmp dword ptr [HAS_VMX], 0
    je 9f
    cmp dword ptr [AWAKE], 0
    je 9f
    lea esi, [says_control]
    call print
    mov eax, dword ptr [CONTROL]
    call hex
    call newline
9:  ret

# A hundredth of a second and more: each read of port 0x80 takes about a microsecond.
wait:
    mov ecx, 20000
0:  in al, 0x80
    loop 0b
    ret

print:
    lodsb
    test al, al
    jz 9f
    call put
    jmp print
9:  ret

newline:
    mov al, 10
put:
    push edx
    push eax
    mov dx, COM1 + 5
0:  in al, dx
    test al, 0x20               # transmitter empty
    jz 0b
    pop eax
    mov dx, COM1
    out dx, al
    pop edx
    ret

# Prints EAX as eight digits.
hex:
    push ecx
    push edx
    mov edx, eax
    mov ecx, 8
0:  rol edx, 4
    mov eax, edx
    and eax, 15
    mov al, byte ptr [digits + eax]
    call put
    loop 0b
    pop edx
    pop ecx
    ret

# Where the other processors start: real mode at page 8.
    .code16
trampoline:
    cli
    xor ax, ax
    mov ds, ax
    cmp dword ptr ds:[HAS_VMX], 0
    je 1f
    mov ecx, 0x3a
    rdmsr
    mov dword ptr ds:[CONTROL], eax
1:  lock inc dword ptr ds:[AWAKE]
0:  hlt
    jmp 0b
trampoline_end:

digits:              .ascii "0123456789abcdef"
says_pvh:            .asciz "probe: booted by PVH\n"
says_multiboot2:     .asciz "probe: booted by Multiboot2\n"
says_command_line:   .asciz "probe: command line: "
says_module:         .asciz "probe: module of 0x"
says_begins:         .asciz " bytes begins with 0x"
says_vendor:         .asciz "probe: vendor "
says_x2apic:         .asciz "probe: x2APIC "
says_x2apic_id:      .asciz "probe: x2APIC id 0x"
says_svm:            .asciz "probe: SVM "
says_vmx:            .asciz "probe: VMX "
says_feature_control: .asciz "probe: IA32_FEATURE_CONTROL 0x"
says_basic:          .asciz "probe: IA32_VMX_BASIC 0x"
says_pin:            .asciz "probe: IA32_VMX_PINBASED_CTLS 0x"
says_primary:        .asciz "probe: IA32_VMX_PROCBASED_CTLS 0x"
says_secondary:      .asciz "probe: IA32_VMX_PROCBASED_CTLS2 0x"
says_ept_vpid:       .asciz "probe: IA32_VMX_EPT_VPID_CAP 0x"
says_ept:            .asciz "probe: EPT "
says_vpid:           .asciz "probe: VPID "
says_unrestricted:   .asciz "probe: unrestricted guest "
says_processors:     .asciz "probe: processors 0x"
says_control:        .asciz "probe: IA32_FEATURE_CONTROL of another processor 0x"
says_yes:            .asciz "yes\n"
says_no:             .asciz "no\n"
says_spin:           .asciz "probe: 200 million instructions\n"
says_spun:           .asciz "probe: done\n"
says_end:            .asciz "machine: exit "

    .data
    .balign 4
command_line:        .long nothing
module:              .long 0
module_size:         .long 0
features:            .long 0
text:                .fill 16
nothing:             .asciz ""

    .bss
    .balign 16
    .skip 4096
stack_top:
