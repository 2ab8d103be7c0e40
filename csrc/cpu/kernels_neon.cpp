#include <cstdint>

#define W 4
#define V 4
#define N 6
#define INTEGERS 0
#include "cpu/kernels_simd.inl"

namespace fastspade::cpu {

const Kernels& neon_kernels() {
    static constexpr Kernels kernels = table("neon");
    return kernels;
}

}  // namespace fastspade::cpu
