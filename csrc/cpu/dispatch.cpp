// Picks the kernel table when the engine is first used.
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#if defined(FASTSPADE_X86)
#include <cpuid.h>
#elif defined(FASTSPADE_NEON)
#include <sys/auxv.h>
#endif

#include "cpu/kernels.hpp"

namespace fastspade::cpu {

const Kernels &generic_kernels(), &generic_integer_kernels(), &avx2_kernels(), &avx512_kernels(), &avx512_vnni_kernels(),
    &avx2_vnni_kernels(), &neon_kernels(), &neon_dot_kernels();

const Kernels* kernels_named(const char* name) {
    auto is = [&](const char* set) { return !std::strcmp(name, set); };
#if defined(FASTSPADE_X86)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (is("avx2") && avx2) return &avx2_kernels();
#if defined(FASTSPADE_AVX2_VNNI)
    unsigned a = 0, b, c, d;  // older compilers' __builtin_cpu_supports does not know this one
    if (is("avx2_vnni") && avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1) return &avx2_vnni_kernels();
#endif
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    if (is("avx512") && avx512) return &avx512_kernels();
    if (is("avx512_vnni") && avx512 && __builtin_cpu_supports("avx512vnni")) return &avx512_vnni_kernels();
#elif defined(FASTSPADE_NEON)
    if (is("neon")) return &neon_kernels();
    if (is("neon_dot") && getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return &neon_dot_kernels();
#endif
    return is("generic") ? &generic_kernels() : is("generic_integer") ? &generic_integer_kernels() : nullptr;
}

const Kernels& kernels() {
    static const Kernels* const chosen = [] {
        const char* const wanted = std::getenv("FASTSPADE_SIMD");
        for (const char* name : {wanted ? wanted : "", "avx512_vnni", "avx512", "avx2_vnni", "avx2", "neon_dot", "neon"})
            if (const Kernels* table = kernels_named(name)) return table;
        return kernels_named("generic");
    }();
    return *chosen;
}

}  // namespace fastspade::cpu
