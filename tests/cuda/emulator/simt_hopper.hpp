// The emulated machine's sm_90 part: gives csrc/cuda/device_sm90.cuh's names a meaning on the host.
//
// What works on its own there, bulk tensor copies and warpgroup products, happens here as early or as late as the seed says:
//   seed 0: copies land when nothing else can go on, products are carried out at their wait
//   seed 1: both at once
//   others: drawn, copies in any order
// Products read their operands when they are carried out, so a stage refilled too soon, or results read too soon, show.
#pragma once

#include "cuda/tensor_map.hpp"
#include "simt.hpp"

#define FASTSPADE_BY_REFERENCE const

namespace fastspade::emulate {

using cuda::TensorBox;
using cuda::TensorMap;

// What the driver's encoder does; throws where that would refuse.
TensorMap encode_tensor_map(const TensorBox& box);

uint32_t shared_address(const void* pointer);
void mbarrier_init(uint64_t* barrier, uint32_t arrivals);
void mbarrier_init_fence();
void mbarrier_arrive(uint64_t* barrier, uint32_t bytes);
void mbarrier_wait(uint64_t* barrier, uint32_t parity);
void tensor_load(void* shared, const TensorMap& map, uint64_t* barrier, int dimensions, const int32_t (&corner)[4]);
bool group_rendezvous(int id, int threads, bool voting, bool predicate);
void product_wait(int pending);

}  // namespace fastspade::emulate

namespace fastspade::cuda {

inline char* shared_memory_of_boxes() { return emulate::shared_memory(); }

inline void mbarrier_init(uint64_t* barrier, uint32_t arrivals) { emulate::mbarrier_init(barrier, arrivals); }
inline void mbarrier_init_fence() { emulate::mbarrier_init_fence(); }
inline void mbarrier_arrive(uint64_t* barrier) { emulate::mbarrier_arrive(barrier, 0); }
inline void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) { emulate::mbarrier_arrive(barrier, bytes); }
inline void mbarrier_wait(uint64_t* barrier, uint32_t parity) { emulate::mbarrier_wait(barrier, parity); }

inline void tensor_load(void* shared, const TensorMap& map, uint64_t* barrier, int32_t x, int32_t y) {
    emulate::tensor_load(shared, map, barrier, 2, {x, y, 0, 0});
}
inline void tensor_load(void* shared, const TensorMap& map, uint64_t* barrier, int32_t x, int32_t y, int32_t z, int32_t w) {
    emulate::tensor_load(shared, map, barrier, 4, {x, y, z, w});
}
inline void tensor_map_prefetch(const TensorMap&) {}

inline void group_barrier(int id, int threads) { emulate::group_rendezvous(id, threads, false, false); }
inline bool group_any(int id, int threads, bool predicate) { return emulate::group_rendezvous(id, threads, true, predicate); }

template <int Registers>
void registers_grow() {
    static_assert(Registers % 8 == 0 && Registers >= 24 && Registers <= 256);
    emulate::warp_rendezvous(emulate::Collective::set_registers);
}
template <int Registers>
void registers_shrink() {
    registers_grow<Registers>();
}

inline uint64_t operand_descriptor(const void* shared, int group_stride) {
    return 1ull << 62 | 1ull << 16 | static_cast<uint64_t>(group_stride >> 4) << 32 |
           ((emulate::shared_address(shared) & 0x3ffffu) >> 4);
}
constexpr uint64_t operand_next_channels = 32 >> 4;

inline void product_fence() { emulate::warp_rendezvous(emulate::Collective::product_fence); }
inline void product_commit() { emulate::warp_rendezvous(emulate::Collective::product_commit); }
template <int Pending>
void product_wait() {
    emulate::product_wait(Pending);
}
template <int Count>
void product_pin(float (&)[Count]) {}

// Two accumulators per column of the result.
template <int Count>
void multiply_async(emulate::Collective kind, float (&d)[Count], uint64_t a, uint64_t b, bool accumulate) {
    static_assert(Count == 64 || Count == 48);  // what device_sm90.cuh has
    emulate::Slot& slot = emulate::own_slot();
    slot.accumulators = d;
    slot.left = a;
    slot.right = b;
    slot.lane = 2 * Count;
    slot.value = accumulate;
    emulate::warp_rendezvous(kind);
}
template <int Count>
void multiply_async(HalfOperand, float (&d)[Count], uint64_t a, uint64_t b, bool accumulate) {
    multiply_async(emulate::Collective::product_half, d, a, b, accumulate);
}
template <int Count>
void multiply_async(BFloat16Operand, float (&d)[Count], uint64_t a, uint64_t b, bool accumulate) {
    multiply_async(emulate::Collective::product_bfloat16, d, a, b, accumulate);
}

}  // namespace fastspade::cuda
