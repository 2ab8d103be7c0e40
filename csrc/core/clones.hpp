// Loops in common code that are worth compiling for several instruction sets; the loader picks the best at start-up.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define FASTSPADE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FASTSPADE_CLONES
#endif
