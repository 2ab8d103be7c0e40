// The kernels of core/exact_kernels.hpp, written once. The including file gives FASTSPADE_CLONES; `widened`, eight
// floats as doubles; and `add_exact`, c + a * b where a * b needs no rounding.

namespace fastspade {
namespace {

FASTSPADE_INLINE wide load(const float* p) { return widened(load_narrow(p)); }

FASTSPADE_INLINE double total(wide sum) {
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// Mixtures unpacked, so that a loop over them reads nothing but channels. Both forms of each round alike, and both mix equal
// vectors to exactly themselves, so that descriptors which are equal in truth tie to the last bit: this one because it steps
// from one vector towards the next,
struct Steps {
    const float *a, *b, *c, *d;
    double down, right;

    explicit Steps(const Mixture& m) : a(m.tap[0]), b(m.tap[1]), c(m.tap[2]), d(m.tap[3]), down(m.down), right(m.right) {}
    FASTSPADE_INLINE wide vector(int64_t i) const {
        const wide from = load(a + i), below = load(c + i);
        const wide top = from + right * (load(b + i) - from), bottom = below + right * (load(d + i) - below);
        return top + down * (bottom - top);
    }
    FASTSPADE_INLINE double at(int64_t i) const {
        const double from = static_cast<double>(a[i]), below = static_cast<double>(c[i]);
        const double top = from + right * (static_cast<double>(b[i]) - from);
        const double bottom = below + right * (static_cast<double>(d[i]) - below);
        return top + down * (bottom - top);
    }
};

// this one because the products are exact.
struct Weights {
    const float *a, *b, *c, *d;
    double wa, wb, wc, wd;

    explicit Weights(const Mixture& m)
        : a(m.tap[0]),
          b(m.tap[1]),
          c(m.tap[2]),
          d(m.tap[3]),
          wa((1.0 - m.down) * (1.0 - m.right)),
          wb((1.0 - m.down) * m.right),
          wc(m.down * (1.0 - m.right)),
          wd(m.down * m.right) {}
    FASTSPADE_INLINE wide vector(int64_t i) const {
        return add_exact(wd, load(d + i), add_exact(wc, load(c + i), add_exact(wb, load(b + i), wa * load(a + i))));
    }
    FASTSPADE_INLINE double at(int64_t i) const {
        return ((wa * static_cast<double>(a[i]) + wb * static_cast<double>(b[i])) + wc * static_cast<double>(c[i])) +
               wd * static_cast<double>(d[i]);
    }
};

template <class Taps>
FASTSPADE_INLINE void mix_all(const Mixture& mixture, int64_t channels, double* out) {
    const Taps taps(mixture);
    int64_t i = 0;
    for (; i + exact_lanes <= channels; i += exact_lanes) store(out + i, taps.vector(i));
    for (; i < channels; ++i) out[i] = taps.at(i);
}

template <class Taps>
FASTSPADE_INLINE double from_mixture(const Mixture& mixture, const double* query, int64_t channels) {
    const Taps taps(mixture);
    wide sum = {};
    int64_t i = 0;
    for (; i + exact_lanes <= channels; i += exact_lanes) {
        const wide difference = load(query + i) - taps.vector(i);
        sum += difference * difference;
    }
    for (int k = 0; i < channels; ++i, ++k) {
        const double difference = query[i] - taps.at(i);
        sum[k] += difference * difference;
    }
    return total(sum);
}

FASTSPADE_CLONES
void mix_by_steps(const Mixture& mixture, int64_t channels, double* out) { mix_all<Steps>(mixture, channels, out); }
FASTSPADE_CLONES
void mix_by_weights(const Mixture& mixture, int64_t channels, double* out) { mix_all<Weights>(mixture, channels, out); }

FASTSPADE_CLONES
double from_mixed_by_steps(const Mixture& mixture, const double* query, int64_t channels) {
    return from_mixture<Steps>(mixture, query, channels);
}
FASTSPADE_CLONES
double from_mixed_by_weights(const Mixture& mixture, const double* query, int64_t channels) {
    return from_mixture<Weights>(mixture, query, channels);
}

FASTSPADE_CLONES
void widen(const float* vector, int64_t channels, double* out) {
    for (int64_t i = 0; i < channels; ++i) out[i] = static_cast<double>(vector[i]);
}

FASTSPADE_CLONES
double from_plain(const float* vector, const double* query, int64_t channels) {
    wide sum = {};
    int64_t i = 0;
    for (; i + exact_lanes <= channels; i += exact_lanes) {
        const wide difference = load(query + i) - load(vector + i);
        sum += difference * difference;
    }
    for (int k = 0; i < channels; ++i, ++k) {
        const double difference = query[i] - static_cast<double>(vector[i]);
        sum[k] += difference * difference;
    }
    return total(sum);
}

// Eight by eight at a time: pairs of rows, then pairs of pairs, then halves change places.
FASTSPADE_INLINE void transpose_block(const float* from, int64_t step, float* out, int64_t out_step) {
    narrow row[8], pair[8], four[8];
    for (int i = 0; i < 8; ++i) row[i] = load_narrow(from + i * step);
    for (int i = 0; i < 8; i += 2) {
        pair[i] = FASTSPADE_SHUFFLE(row[i], row[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        pair[i + 1] = FASTSPADE_SHUFFLE(row[i], row[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; ++k) {
            four[i + 2 * k] = FASTSPADE_SHUFFLE(pair[i + k], pair[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            four[i + 2 * k + 1] = FASTSPADE_SHUFFLE(pair[i + k], pair[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; ++i) {
        store(out + i * out_step, FASTSPADE_SHUFFLE(four[i], four[i + 4], 0, 1, 2, 3, 8, 9, 10, 11));
        store(out + (i + 4) * out_step, FASTSPADE_SHUFFLE(four[i], four[i + 4], 4, 5, 6, 7, 12, 13, 14, 15));
    }
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

constexpr ExactKernels exact_table{
    {mix_by_steps, mix_by_weights}, widen, {from_mixed_by_steps, from_mixed_by_weights}, from_plain, transpose};

}  // namespace
}  // namespace fastspade
