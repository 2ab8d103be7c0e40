#include <cstdint>

#define W 16
#define V 2
#define N 14
#include "cpu/kernels_simd.inl"

namespace fastspade::cpu {

const Kernels& avx512_kernels() {
    static constexpr Kernels kernels = table("avx512");
    return kernels;
}

}  // namespace fastspade::cpu
