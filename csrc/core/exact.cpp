#include "core/exact.hpp"

#include <algorithm>

#include "core/clones.hpp"

namespace fastspade {

namespace {

constexpr int64_t piece_pixels = 512;
constexpr int lanes = 8;

// The file is built without contraction into fused multiply-adds and sums in eight fixed lanes, so every instruction set
// gives the same bits. The lanes are spelt out as vectors: left to itself, GCC 12 gathers them one by one.
typedef double wide __attribute__((vector_size(8 * lanes)));
typedef float narrow __attribute__((vector_size(4 * lanes)));
typedef double wide_unaligned __attribute__((vector_size(8 * lanes), aligned(8), may_alias));
typedef float narrow_unaligned __attribute__((vector_size(4 * lanes), aligned(4), may_alias));

#define FASTSPADE_INLINE inline __attribute__((always_inline))

FASTSPADE_INLINE wide load(const float* p) {
    return __builtin_convertvector(static_cast<narrow>(*reinterpret_cast<const narrow_unaligned*>(p)), wide);
}
FASTSPADE_INLINE wide load(const double* p) { return *reinterpret_cast<const wide_unaligned*>(p); }

// A mixture unpacked, so that a loop over it reads nothing but channels. Both forms round alike.
struct Taps {
    const float *a, *b, *c, *d;
    double wa, wb, wc, wd;

    explicit Taps(const Mixture& m)
        : a(m.tap[0]), b(m.tap[1]), c(m.tap[2]), d(m.tap[3]), wa(m.weight[0]), wb(m.weight[1]), wc(m.weight[2]),
          wd(m.weight[3]) {}
    FASTSPADE_INLINE wide vector(int64_t i) const {
        return (wa * load(a + i) + wb * load(b + i)) + (wc * load(c + i) + wd * load(d + i));
    }
    FASTSPADE_INLINE double at(int64_t i) const {
        return (wa * static_cast<double>(a[i]) + wb * static_cast<double>(b[i])) +
               (wc * static_cast<double>(c[i]) + wd * static_cast<double>(d[i]));
    }
};

FASTSPADE_CLONES
void mix(const Mixture& mixture, int64_t channels, double* out) {
    const Taps taps(mixture);
    int64_t i = 0;
    for (; i + lanes <= channels; i += lanes) *reinterpret_cast<wide_unaligned*>(out + i) = taps.vector(i);
    for (; i < channels; ++i) out[i] = taps.at(i);
}

FASTSPADE_CLONES
void widen(const float* a, int64_t channels, double* out) {
    for (int64_t i = 0; i < channels; ++i) out[i] = static_cast<double>(a[i]);
}

FASTSPADE_CLONES
void add_mixed(const Mixture& mixture, const double* query, int64_t channels, double* sum) {
    const Taps taps(mixture);
    wide local = load(sum);
    int64_t i = 0;
    for (; i + lanes <= channels; i += lanes) {
        const wide difference = load(query + i) - taps.vector(i);
        local += difference * difference;
    }
    for (int k = 0; i < channels; ++i, ++k) {
        const double difference = query[i] - taps.at(i);
        local[k] += difference * difference;
    }
    *reinterpret_cast<wide_unaligned*>(sum) = local;
}

FASTSPADE_CLONES
void add_plain(const float* a, const double* query, int64_t channels, double* sum) {
    wide local = load(sum);
    int64_t i = 0;
    for (; i + lanes <= channels; i += lanes) {
        const wide difference = load(query + i) - load(a + i);
        local += difference * difference;
    }
    for (int k = 0; i < channels; ++i, ++k) {
        const double difference = query[i] - static_cast<double>(a[i]);
        local[k] += difference * difference;
    }
    *reinterpret_cast<wide_unaligned*>(sum) = local;
}

// Reads one pixel's channels of every view of a group.
void read_vector(const std::vector<TensorView>& views, int64_t image, int64_t y, int64_t x, float* out) {
    for (const TensorView& view : views) {
        with_element(view.dtype, [&](auto element) {
            using Element = decltype(element);
            const auto* from = static_cast<const typename Element::Storage*>(view.data) + view.offset(image, 0, y, x);
            const int64_t step = view.stride[1], channels = view.channels();
            for (int64_t c = 0; c < channels; ++c) out[c] = Element::load(from[c * step]);
        });
        out += view.channels();
    }
}

}  // namespace

void NativeRows::place(const std::vector<LevelGroup>& groups, Side side, int64_t image, int64_t first, int64_t last) {
    groups_ = &groups, side_ = side, image_ = image, pieces_ = 0;
    if (rows_.size() != groups.size()) {
        rows_.clear();
        for (size_t g = 0; g < groups.size(); ++g) rows_.emplace_back();
    }
    const int64_t fine_width = views_of(groups[0], side)[0].width();
    for (size_t g = 0; g < groups.size(); ++g) {
        Rows& rows = rows_[g];
        rows.width = views_of(groups[g], side)[0].width();
        rows.channels = groups[g].channels;
        rows.first_column = 0;
        if (g == 0) {  // exactly the range, which need not be whole rows
            rows.first_row = first / fine_width;
            rows.first_column = first % fine_width;
            rows.pixels = last - first;
        } else {
            rows.first_row = tap_y(groups[g], side, first / fine_width).low;
            rows.pixels = (tap_y(groups[g], side, (last - 1) / fine_width).high + 1 - rows.first_row) * rows.width;
        }
        rows.data.reserve(rows.pixels * rows.channels);
        rows.first_piece = pieces_;
        pieces_ += (rows.pixels + piece_pixels - 1) / piece_pixels;
    }
}

int64_t NativeRows::pieces() const { return pieces_; }

void NativeRows::fill(int64_t piece) {
    size_t g = rows_.size() - 1;
    while (rows_[g].first_piece > piece) --g;
    Rows& rows = rows_[g];
    const int64_t begin = (piece - rows.first_piece) * piece_pixels, end = std::min(rows.pixels, begin + piece_pixels);
    const int64_t origin = rows.first_row * rows.width + rows.first_column;
    constexpr int64_t block = 16;  // channels read side by side, so that writes stay together
    int64_t channel_base = 0;
    for (const TensorView& view : views_of((*groups_)[g], side_)) {
        with_element(view.dtype, [&](auto element) {
            using Element = decltype(element);
            const auto* base = static_cast<const typename Element::Storage*>(view.data);
            const int64_t step = view.stride[1], uniform = view.pixel_step();
            for (int64_t c0 = 0; c0 < view.channels(); c0 += block) {
                const int64_t count = std::min(block, view.channels() - c0);
                float* to = rows.data.data() + begin * rows.channels + channel_base + c0;
                auto read = [&](const auto* from) {
                    for (int64_t c = 0; c < count; ++c) to[c] = Element::load(from[c * step]);
                    to += rows.channels;
                };
                if (uniform) {
                    const auto* from = base + view.offset(image_, c0, 0, 0) + (origin + begin) * uniform;
                    for (int64_t i = begin; i < end; ++i, from += uniform) read(from);
                } else {
                    for (int64_t i = begin; i < end; ++i)
                        read(base + view.offset(image_, c0, (origin + i) / rows.width, (origin + i) % rows.width));
                }
            }
        });
        channel_base += view.channels();
    }
}

Mixture ExactDistance::mixture(const LevelGroup& group, Side side, size_t g, int64_t image, const Tap& y, const Tap& x,
                               const NativeRows* rows) {
    Mixture m{{}, {y.low_weight * x.low_weight, y.low_weight * x.high_weight, y.high_weight * x.low_weight,
                   y.high_weight * x.high_weight}};
    if (rows) {
        m.tap[0] = rows->vector(g, y.low, x.low);
        m.tap[1] = rows->vector(g, y.low, x.high);
        m.tap[2] = rows->vector(g, y.high, x.low);
        m.tap[3] = rows->vector(g, y.high, x.high);
        return m;
    }
    const std::vector<TensorView>& views = views_of(group, side);
    float* out = taps_.data();
    auto another = [&](int64_t at_y, int64_t at_x) {
        float* const here = out;
        read_vector(views, image, at_y, at_x, here);
        out += group.channels;
        return here;
    };
    m.tap[0] = another(y.low, x.low);
    m.tap[1] = x.high != x.low ? another(y.low, x.high) : m.tap[0];
    m.tap[2] = y.high != y.low ? another(y.high, x.low) : m.tap[0];
    m.tap[3] = y.high == y.low ? m.tap[1] : x.high != x.low ? another(y.high, x.high) : m.tap[2];
    return m;
}

ExactDistance::ExactDistance(const Problem& problem, const std::vector<LevelGroup>& groups)
    : groups_(groups), query_width_(problem.query[0].width()), gallery_width_(problem.gallery[0].width()) {
    int64_t channels = 0, widest = 0;
    for (const LevelGroup& group : groups) {
        channels += group.channels;
        widest = std::max(widest, group.channels);
    }
    query_.resize(static_cast<size_t>(channels));
    taps_.resize(static_cast<size_t>(4 * widest));
}

void ExactDistance::set_query(int64_t image, int64_t pixel, const NativeRows* rows) {
    double* out = query_.data();
    const int64_t y = pixel / query_width_, x = pixel % query_width_;
    for (size_t g = 0; g < groups_.size(); ++g) {
        const LevelGroup& group = groups_[g];
        const Tap &ty = tap_y(group, Side::query, y), &tx = tap_x(group, Side::query, x);
        const Mixture m = mixture(group, Side::query, g, image, ty, tx, rows);
        if (ty.high_weight == 0.0 && tx.high_weight == 0.0)
            widen(m.tap[0], group.channels, out);
        else
            mix(m, group.channels, out);
        out += group.channels;
    }
}

double ExactDistance::to(int64_t image, int64_t pixel, const NativeRows* rows) {
    double sum[lanes] = {};
    const double* query = query_.data();
    const int64_t y = pixel / gallery_width_, x = pixel % gallery_width_;
    for (size_t g = 0; g < groups_.size(); ++g) {
        const LevelGroup& group = groups_[g];
        const Tap &ty = tap_y(group, Side::gallery, y), &tx = tap_x(group, Side::gallery, x);
        const Mixture m = mixture(group, Side::gallery, g, image, ty, tx, rows);
        if (ty.high_weight == 0.0 && tx.high_weight == 0.0)
            add_plain(m.tap[0], query, group.channels, sum);
        else
            add_mixed(m, query, group.channels, sum);
        query += group.channels;
    }
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

}  // namespace fastspade
