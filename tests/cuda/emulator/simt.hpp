// A small SIMT machine on the host: it gives csrc/cuda/device.cuh's names a meaning, so that kernels run unchanged, one
// fibre per thread, blocks one after another.
//
// A fibre runs until it must wait for others: at a barrier of its block or at a collective of its warp. What the hardware
// leaves open depends on a seed: which block, warp and lane goes first, and when an asynchronous copy lands.
//   seed 0: ascending order; copies land as late as their wait allows, which shows a forgotten wait
//   seed 1: descending order; copies land as soon as they are issued, which shows a buffer refilled while still read
//   others: every order and every landing drawn
// A forgotten barrier or wait so gives a wrong result under some seed. Shared memory starts out as NaNs; every collective
// checks alignment and bounds of the shared addresses it is given, and writes past the end are found after the block.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define FASTSPADE_KERNEL(threads, blocks) __attribute__((weak)) void  // as inline, but compiled where it is wanted alone
#define FASTSPADE_DEVICE inline

namespace fastspade::emulate {

enum class Collective {
    none,
    barrier,
    ballot,
    shuffle,
    shuffle_xor,
    load_matrices,
    multiply_half,
    multiply_bfloat16,
    product_half,
    product_bfloat16,
    product_fence,
    product_commit,
    product_wait,
    set_registers
};

// What a lane brings to a collective of its warp, and takes away.
struct Slot {
    uint64_t value = 0;
    int lane = 0;                   // shuffle: source lane or mask; product: columns
    const void* address = nullptr;  // load_matrices: this lane's row
    uint32_t words[6] = {};         // fragments
    float* accumulators = nullptr;
    uint64_t left = 0, right = 0;  // operand descriptors
};

int thread_index();
int block_index();
int block_count();
int block_threads();
char* shared_memory();

bool block_rendezvous(bool voting, bool predicate);
Slot& own_slot();
void warp_rendezvous(Collective kind);

void copy_async(void* shared, const void* global, bool valid);
void copy_commit();
void copy_wait(int pending);

// Runs `body` as a grid; throws what a kernel throws, and std::runtime_error where the machine would hang or misbehave.
void run_grid(const std::function<void()>& body, int64_t blocks, int threads, size_t shared_bytes, uint64_t seed);

}  // namespace fastspade::emulate

namespace fastspade::cuda {

inline int thread_index() { return emulate::thread_index(); }
inline int block_index() { return emulate::block_index(); }
inline int block_count() { return emulate::block_count(); }
inline int block_threads() { return emulate::block_threads(); }
inline char* shared_memory() { return emulate::shared_memory(); }

inline void block_barrier() { emulate::block_rendezvous(false, false); }
inline bool block_any(bool predicate) { return emulate::block_rendezvous(true, predicate); }
inline void warp_barrier() { emulate::warp_rendezvous(emulate::Collective::barrier); }

inline uint32_t warp_ballot(bool predicate) {
    emulate::own_slot().value = predicate;
    emulate::warp_rendezvous(emulate::Collective::ballot);
    return static_cast<uint32_t>(emulate::own_slot().value);
}
template <class Value>
Value exchanged(Value value, int lane, emulate::Collective kind) {
    static_assert(sizeof(Value) <= 8);
    emulate::Slot& slot = emulate::own_slot();
    slot.value = 0;
    std::memcpy(&slot.value, &value, sizeof(Value));
    slot.lane = lane;
    emulate::warp_rendezvous(kind);
    std::memcpy(&value, &slot.value, sizeof(Value));
    return value;
}
template <class Value>
Value warp_shuffle(Value value, int lane) {
    return exchanged(value, lane, emulate::Collective::shuffle);
}
template <class Value>
Value warp_shuffle_xor(Value value, int mask) {
    return exchanged(value, mask, emulate::Collective::shuffle_xor);
}

// Fibres share one host thread and switch only at collectives, so plain operations are atomic.
inline int atomic_add(int* address, int value) {
    const int old = *address;
    *address += value;
    return old;
}
inline void atomic_add(int64_t* address, int64_t value) { *address += value; }
inline uint32_t atomic_min(uint32_t* address, uint32_t value) {
    const uint32_t old = *address;
    if (value < old) *address = value;
    return old;
}
inline uint32_t atomic_max(uint32_t* address, uint32_t value) {
    const uint32_t old = *address;
    if (value > old) *address = value;
    return old;
}
inline int load_volatile(const int* address) { return *address; }
inline uint32_t load_volatile(const uint32_t* address) { return *address; }

inline uint32_t float_bits(float value) { return std::bit_cast<uint32_t>(value); }
inline float bits_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline int count_bits(uint32_t bits) { return std::popcount(bits); }
inline int lowest_bit(uint32_t bits) { return bits == 0u ? -1 : std::countr_zero(bits); }

inline uint32_t load_bits(const void* global, bool wide, bool narrow) {
    uint32_t word = 0;
    uint16_t half = 0;
    if (wide) std::memcpy(&word, global, 4);
    if (narrow) std::memcpy(&half, global, 2);
    return wide ? word : half;
}

// The host's compiler is told not to fuse (emulated_engine.py).
inline double rounded_sum(double a, double b) { return a + b; }
inline double rounded_product(double a, double b) { return a * b; }
inline uint64_t double_bits(double value) { return std::bit_cast<uint64_t>(value); }

inline uint16_t float_to_half(float value) { return std::bit_cast<uint16_t>(static_cast<_Float16>(value)); }
inline float half_to_float(uint16_t bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
inline uint16_t float_to_bfloat16(float value) {
    const uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline float bfloat16_to_float(uint16_t bits) { return bits_float(static_cast<uint32_t>(bits) << 16); }
inline uint32_t pack_halves(float low, float high) {
    return static_cast<uint32_t>(float_to_half(high)) << 16 | float_to_half(low);
}
inline void unpack_halves(uint32_t pair, float& low, float& high) {
    low = half_to_float(static_cast<uint16_t>(pair));
    high = half_to_float(static_cast<uint16_t>(pair >> 16));
}

inline void copy_async(void* shared, const void* global, bool valid) { emulate::copy_async(shared, global, valid); }
inline void copy_commit() { emulate::copy_commit(); }
template <int Pending>
void copy_wait() {
    emulate::copy_wait(Pending);
}

inline void load_matrices(uint32_t (&fragment)[4], const void* shared_row) {
    emulate::Slot& slot = emulate::own_slot();
    slot.address = shared_row;
    emulate::warp_rendezvous(emulate::Collective::load_matrices);
    std::memcpy(fragment, slot.words, sizeof(fragment));
}

struct HalfOperand {};
struct BFloat16Operand {};

inline void multiply_fragments(emulate::Collective kind, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulate::Slot& slot = emulate::own_slot();
    std::memcpy(slot.words, a, sizeof(a));
    slot.words[4] = b0;
    slot.words[5] = b1;
    slot.accumulators = d;
    emulate::warp_rendezvous(kind);
}
inline void multiply(HalfOperand, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_fragments(emulate::Collective::multiply_half, d, a, b0, b1);
}
inline void multiply(BFloat16Operand, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_fragments(emulate::Collective::multiply_bfloat16, d, a, b0, b1);
}

}  // namespace fastspade::cuda
