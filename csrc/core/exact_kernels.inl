// The kernels of core/exact_kernels.hpp, written once. The including file gives FASTSPADE_CLONES and `load`, which widens
// eight floats.

namespace fastspade {
namespace {

// A mixture unpacked, so that a loop over it reads nothing but channels. Both forms round alike. It steps from one vector
// towards the next instead of adding up weighted ones: equal vectors then mix to exactly themselves, so that descriptors
// which are equal in truth tie to the last bit.
struct Taps {
    const float *a, *b, *c, *d;
    double down, right;

    explicit Taps(const Mixture& m)
        : a(m.tap[0]), b(m.tap[1]), c(m.tap[2]), d(m.tap[3]), down(m.down), right(m.right) {}
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

FASTSPADE_CLONES
void mix(const Mixture& mixture, int64_t channels, double* out) {
    const Taps taps(mixture);
    int64_t i = 0;
    for (; i + exact_lanes <= channels; i += exact_lanes) store(out + i, taps.vector(i));
    for (; i < channels; ++i) out[i] = taps.at(i);
}

FASTSPADE_CLONES
void widen(const float* vector, int64_t channels, double* out) {
    for (int64_t i = 0; i < channels; ++i) out[i] = static_cast<double>(vector[i]);
}

FASTSPADE_CLONES
void add_mixed(const Mixture& mixture, const double* query, int64_t channels, double* sum) {
    const Taps taps(mixture);
    wide local = load(sum);
    int64_t i = 0;
    for (; i + exact_lanes <= channels; i += exact_lanes) {
        const wide difference = load(query + i) - taps.vector(i);
        local += difference * difference;
    }
    for (int k = 0; i < channels; ++i, ++k) {
        const double difference = query[i] - taps.at(i);
        local[k] += difference * difference;
    }
    store(sum, local);
}

FASTSPADE_CLONES
void add_plain(const float* vector, const double* query, int64_t channels, double* sum) {
    wide local = load(sum);
    int64_t i = 0;
    for (; i + exact_lanes <= channels; i += exact_lanes) {
        const wide difference = load(query + i) - load(vector + i);
        local += difference * difference;
    }
    for (int k = 0; i < channels; ++i, ++k) {
        const double difference = query[i] - static_cast<double>(vector[i]);
        local[k] += difference * difference;
    }
    store(sum, local);
}

}  // namespace
}  // namespace fastspade
