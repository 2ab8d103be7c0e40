#include "cpu/kernels.hpp"

namespace fastspade::cpu {
namespace {
constexpr int W = 4, V = 4, N = 6;
}
}  // namespace fastspade::cpu

#define FASTSPADE_INTEGERS 0
#include "cpu/kernels_simd.inl"

namespace fastspade::cpu {

const Kernels& neon_kernels() {
    static constexpr Kernels kernels = table("neon");
    return kernels;
}

}  // namespace fastspade::cpu
