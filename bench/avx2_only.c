/* Loaded before a program (LD_PRELOAD), this hides from it whatever its processor has beyond AVX2: engines ask the processor by
 * CPUID, which Linux can make fault (arch_prctl(2), ARCH_SET_CPUID; needs `cpuid_fault` in /proc/cpuinfo), and the fault is
 * answered here. The program then runs the very instructions of an AVX2 processor without VNNI, at this processor's speed.
 * Threads and forks inherit it; what is executed anew loads this library anew.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { EXTENDED_FEATURES = 7, UNSUPPORTED = 70 };

#define BIT(number) (1u << (number))

/* Of leaf 7, subleaf 0 (Intel's manual, volume 2A, CPUID): AVX-512 in all its parts, VNNI, GFNI, VAES and AMX. */
static const uint32_t HIDDEN_EBX = BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31);
static const uint32_t HIDDEN_ECX = BIT(1) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14);
static const uint32_t HIDDEN_EDX = BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25);

static long allow_cpuid(unsigned long allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

static int is_cpuid(const uint8_t *code) { return code[0] == 0x0f && code[1] == 0xa2; }

static void on_fault(int number, siginfo_t *what, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    int sent = what->si_code <= 0; /* by a process */
    if (sent || !is_cpuid((const uint8_t *)registers[REG_RIP])) {
        sigaction(SIGSEGV, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        if (sent) raise(number); /* a fault comes again by itself */
        return;
    }
    uint32_t leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a, b, c, d;
    allow_cpuid(1);
    __cpuid_count(leaf, subleaf, a, b, c, d);
    allow_cpuid(0);
    if (leaf == EXTENDED_FEATURES && subleaf == 0)
        b &= ~HIDDEN_EBX, c &= ~HIDDEN_ECX, d &= ~HIDDEN_EDX;
    else if (leaf == EXTENDED_FEATURES) /* AVX-VNNI and its kin */
        a = b = c = d = 0;
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    sigaction(SIGSEGV, &(struct sigaction){.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER}, NULL);
    if (allow_cpuid(0)) {
        fputs("This processor or kernel cannot hide what it has beyond AVX2: no cpuid_fault.\n", stderr);
        _exit(UNSUPPORTED);
    }
}
