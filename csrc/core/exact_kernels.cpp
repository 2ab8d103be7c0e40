#include "core/exact_kernels.hpp"

#define FASTSPADE_INLINE inline __attribute__((always_inline))

// Compiled for several instruction sets; the loader picks the best at start-up. Sanitizers are not ready yet when it does, and
// Clang refuses vectors that a clone hands to a function which is none.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define FASTSPADE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FASTSPADE_CLONES
#endif

namespace fastspade {
namespace {

// Eight doubles or floats as one value, spelt out as vectors: left to itself, GCC 12 gathers the lanes one by one.
typedef double wide __attribute__((vector_size(8 * exact_lanes)));
typedef double wide_unaligned __attribute__((vector_size(8 * exact_lanes), aligned(8), may_alias));

typedef float narrow __attribute__((vector_size(4 * exact_lanes)));
typedef int32_t lane_order __attribute__((vector_size(4 * exact_lanes)));
typedef float narrow_unaligned __attribute__((vector_size(4 * exact_lanes), aligned(4), may_alias));

FASTSPADE_INLINE narrow load(const float* p) { return *reinterpret_cast<const narrow_unaligned*>(p); }
FASTSPADE_INLINE void store(float* p, narrow value) { *reinterpret_cast<narrow_unaligned*>(p) = value; }

// One channel, or eight.
template <class Value>
Value read(const float* p);
template <>
FASTSPADE_INLINE double read<double>(const float* p) {
    return static_cast<double>(*p);
}
template <>
FASTSPADE_INLINE wide read<wide>(const float* p) {
    return __builtin_convertvector(load(p), wide);
}

#if defined(__clang__)
#define FASTSPADE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FASTSPADE_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, lane_order{__VA_ARGS__})
#endif

// Mixtures unpacked, so that a loop over them reads nothing but channels. This one is a native vector itself.
struct Plain {
    const float* a;

    explicit Plain(const Mixture& m) : a(m.tap[0]) {}
    template <class Value>
    FASTSPADE_INLINE Value at(int64_t i) const {
        return read<Value>(a + i);
    }
};

// Both forms of mixing round each channel alike, and mix equal vectors to exactly themselves, so that descriptors which are equal
// in truth tie to the last bit: this one because it steps from one vector towards the next,
struct Steps {
    const float *a, *b, *c, *d;
    double down, right;

    explicit Steps(const Mixture& m) : a(m.tap[0]), b(m.tap[1]), c(m.tap[2]), d(m.tap[3]), down(m.down), right(m.right) {}
    template <class Value>
    FASTSPADE_INLINE Value at(int64_t i) const {
        const Value from = read<Value>(a + i), below = read<Value>(c + i);
        const Value top = from + right * (read<Value>(b + i) - from), bottom = below + right * (read<Value>(d + i) - below);
        return top + down * (bottom - top);
    }
};

// this one because the products are exact.
struct Weights {
    const float *a, *b, *c, *d;
    double wa, wb, wc, wd;

    explicit Weights(const Mixture& m) : a(m.tap[0]), b(m.tap[1]), c(m.tap[2]), d(m.tap[3]) {
        wa = (1.0 - m.down) * (1.0 - m.right), wb = (1.0 - m.down) * m.right;
        wc = m.down * (1.0 - m.right), wd = m.down * m.right;
    }
    template <class Value>
    FASTSPADE_INLINE Value at(int64_t i) const {
        return ((wa * read<Value>(a + i) + wb * read<Value>(b + i)) + wc * read<Value>(c + i)) + wd * read<Value>(d + i);
    }
};

template <class Taps>
FASTSPADE_INLINE void mix_with(const Taps& taps, int64_t channels, double* out) {
    int64_t i = 0;
    for (; i + exact_lanes <= channels; i += exact_lanes) *reinterpret_cast<wide_unaligned*>(out + i) = taps.template at<wide>(i);
    for (; i < channels; ++i) out[i] = taps.template at<double>(i);
}

template <class Taps>
FASTSPADE_INLINE double squared_distance_with(const Taps& taps, const double* query, int64_t channels) {
    wide sum = {};
    int64_t i = 0;
    for (; i + exact_lanes <= channels; i += exact_lanes) {
        const wide difference = *reinterpret_cast<const wide_unaligned*>(query + i) - taps.template at<wide>(i);
        sum += difference * difference;
    }
    for (int k = 0; i < channels; ++i, ++k) {
        const double difference = query[i] - taps.template at<double>(i);
        sum[k] += difference * difference;
    }
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// Eight by eight at a time, by three rounds of interleaving rows half a matrix apart.
FASTSPADE_INLINE void transpose_block(const float* from, int64_t step, float* out, int64_t out_step) {
    narrow row[8], next[8];
    for (int i = 0; i < 8; ++i) row[i] = load(from + i * step);
    for (int round = 0; round < 3; ++round) {
        for (int i = 0; i < 4; ++i) {
            next[2 * i] = FASTSPADE_SHUFFLE(row[i], row[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
            next[2 * i + 1] = FASTSPADE_SHUFFLE(row[i], row[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
        }
        for (int i = 0; i < 8; ++i) row[i] = next[i];
    }
    for (int i = 0; i < 8; ++i) store(out + i * out_step, row[i]);
}

}  // namespace

FASTSPADE_CLONES
void mix(const Mixture& mixture, Mixing mixing, int64_t channels, double* out) {
    if (mixing == Mixing::none) return mix_with(Plain(mixture), channels, out);
    if (mixing == Mixing::steps) return mix_with(Steps(mixture), channels, out);
    mix_with(Weights(mixture), channels, out);
}

FASTSPADE_CLONES
double squared_distance(const Mixture& mixture, Mixing mixing, const double* query, int64_t channels) {
    if (mixing == Mixing::none) return squared_distance_with(Plain(mixture), query, channels);
    if (mixing == Mixing::steps) return squared_distance_with(Steps(mixture), query, channels);
    return squared_distance_with(Weights(mixture), query, channels);
}

FASTSPADE_CLONES
void transpose(const float* from, int64_t step, int64_t channels, int64_t count, float* out, int64_t out_step) {
    const int64_t whole = channels / 8 * 8;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int64_t c = 0; c < whole; c += 8) transpose_block(from + c * step + i, step, out + i * out_step + c, out_step);
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t k = c < whole ? i : 0; k < count; ++k) out[k * out_step + c] = from[c * step + k];
}

}  // namespace fastspade
