// Picks the kernel table when the engine is first used.
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "cpu/kernels.hpp"

namespace fastspade::cpu {

const Kernels &generic_kernels(), &generic_integer_kernels(), &avx2_kernels(), &avx512_kernels(), &avx512_vnni_kernels(),
    &neon_kernels();

const Kernels* kernels_named(const char* name) {
    auto is = [&](const char* set) { return !std::strcmp(name, set); };
#if defined(FASTSPADE_X86)
    if (is("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2_kernels();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    if (is("avx512") && avx512) return &avx512_kernels();
    if (is("avx512_vnni") && avx512 && __builtin_cpu_supports("avx512vnni")) return &avx512_vnni_kernels();
#elif defined(FASTSPADE_NEON)
    if (is("neon")) return &neon_kernels();
#endif
    return is("generic") ? &generic_kernels() : is("generic_integer") ? &generic_integer_kernels() : nullptr;
}

const Kernels& kernels() {
    static const Kernels* const chosen = [] {
        const char* const wanted = std::getenv("FASTSPADE_SIMD");
        for (const char* name : {wanted ? wanted : "", "avx512_vnni", "avx512", "avx2", "neon"})
            if (const Kernels* table = kernels_named(name)) return table;
        return kernels_named("generic");
    }();
    return *chosen;
}

}  // namespace fastspade::cpu
