// Counts the instructions of one thread that meet a subnormal operand or result, between start() and stop(): each
// traps, is counted, and is run by itself with its trap masked. x86-64 and Linux. What flushes subnormals does not count.
#include <csignal>
#include <ucontext.h>
#include <xmmintrin.h>

namespace {

constexpr unsigned kTraps = 1 << 8 | 1 << 11, kFlags = 0x3f, kFlush = 1 << 15;  // of MXCSR
constexpr long long kSingleStep = 1 << 8;                                       // of EFLAGS
long met_so_far = 0;

mcontext_t& machine(void* context) { return static_cast<ucontext_t*>(context)->uc_mcontext; }

void on_subnormal(int, siginfo_t*, void* context) {
  auto& control = machine(context).fpregs->mxcsr;
  met_so_far += !(control & kFlush);
  control = (control | kTraps) & ~kFlags;
  machine(context).gregs[REG_EFL] |= kSingleStep;
}

void on_step(int, siginfo_t*, void* context) {
  machine(context).fpregs->mxcsr &= ~(kTraps | kFlags);
  machine(context).gregs[REG_EFL] &= ~kSingleStep;
}

}  // namespace

extern "C" void start() {
  struct sigaction action = {};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = on_subnormal, sigaction(SIGFPE, &action, nullptr);
  action.sa_sigaction = on_step, sigaction(SIGTRAP, &action, nullptr);
  _mm_setcsr(_mm_getcsr() & ~(kTraps | kFlags));
}

extern "C" void stop() { _mm_setcsr((_mm_getcsr() | kTraps) & ~kFlags); }

extern "C" long met() { return met_so_far; }
