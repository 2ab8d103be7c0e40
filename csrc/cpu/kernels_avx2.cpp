#include "cpu/kernels.hpp"

namespace fastspade::cpu {
namespace {
constexpr int W = 8, V = 2, N = 6;
}
}  // namespace fastspade::cpu

#define FASTSPADE_INTEGERS 0
#include "cpu/kernels_simd.inl"

namespace fastspade::cpu {

const Kernels& avx2_kernels() {
    static constexpr Kernels kernels = table("avx2");
    return kernels;
}

}  // namespace fastspade::cpu
