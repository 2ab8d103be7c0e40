// Loops in common code that are worth compiling for several instruction sets; the loader picks the best at start-up.
// Sanitizers are not ready yet when it does, and Clang refuses vectors that a clone hands to a function which is none.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define FASTSPADE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FASTSPADE_CLONES
#endif
