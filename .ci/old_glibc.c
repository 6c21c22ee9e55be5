// What the compiler of a newer system takes for granted, for a module that is linked against glibc 2.28
// (.ci/wheels): the library of C++ is linked into it, and that one asks for these.
#include <stdint.h>
#include <stdlib.h>
#include <sys/random.h>

#define HIDDEN __attribute__((visibility("hidden")))

// glibc 2.32: whether the process has one thread. "No" is always right, and costs an atomic increment.
HIDDEN char __libc_single_threaded = 0;

// glibc 2.36: what std::random_device reads.
HIDDEN uint32_t arc4random(void) {
  uint32_t bits;
  if (getentropy(&bits, sizeof bits) != 0) abort();
  return bits;
}
