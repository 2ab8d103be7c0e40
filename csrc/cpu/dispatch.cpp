// Picks the kernel table when the engine is first used.
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "cpu/kernels.hpp"

namespace fastspade::cpu {

const Kernels* kernels_named(const char* name) {
    if (!std::strcmp(name, "generic")) return &generic_kernels();
    if (!std::strcmp(name, "generic_integer")) return &generic_integer_kernels();
#if defined(FASTSPADE_X86)
    if (!std::strcmp(name, "avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2_kernels();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    if (!std::strcmp(name, "avx512") && avx512) return &avx512_kernels();
    if (!std::strcmp(name, "avx512_vnni") && avx512 && __builtin_cpu_supports("avx512vnni")) return &avx512_vnni_kernels();
#endif
#if defined(FASTSPADE_NEON)
    if (!std::strcmp(name, "neon")) return &neon_kernels();
#endif
    return nullptr;
}

const Kernels& kernels() {
    static const Kernels* const chosen = [] {
        if (const char* wanted = std::getenv("FASTSPADE_SIMD"))
            if (const Kernels* table = kernels_named(wanted)) return table;
        for (const char* name : {"avx512_vnni", "avx512", "avx2", "neon"})
            if (const Kernels* table = kernels_named(name)) return table;
        return &generic_kernels();
    }();
    return *chosen;
}

}  // namespace fastspade::cpu
