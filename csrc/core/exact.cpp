#include "core/exact.hpp"

#include <algorithm>
#include <type_traits>


namespace fastspade {

namespace {

constexpr int64_t piece_pixels = 512;
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

double total(const double* sum) {
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
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
                if (std::is_same_v<Element, Float32> && uniform == 1) {
                    exact_kernels().transpose(reinterpret_cast<const float*>(base) + view.offset(image_, c0, 0, 0) + origin + begin,
                                              step, count, end - begin, to, rows.channels);
                } else if (uniform) {
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
    Mixture m{{}, y.high_weight, x.high_weight};
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
    : kernels_(exact_kernels()), groups_(groups), query_width_(problem.query[0].width()), gallery_width_(problem.gallery[0].width()) {
    int64_t channels = 0, widest = 0;
    for (const LevelGroup& group : groups) {
        channels += group.channels;
        widest = std::max(widest, group.channels);
    }
    query_.resize(static_cast<size_t>(channels));
    taps_.resize(static_cast<size_t>(4 * widest));
}

void ExactDistance::mix_query(size_t g, int64_t image, int64_t pixel, const NativeRows* rows, double* out) {
    const LevelGroup& group = groups_[g];
    const Tap ty = tap_y(group, Side::query, pixel / query_width_), tx = tap_x(group, Side::query, pixel % query_width_);
    const Mixture m = mixture(group, Side::query, g, image, ty, tx, rows);
    if (ty.high_weight == 0.0 && tx.high_weight == 0.0)
        kernels_.widen(m.tap[0], group.channels, out);
    else
        kernels_.mix(m, group.channels, out);
}

void ExactDistance::add_group(size_t g, int64_t image, int64_t pixel, const NativeRows* rows, const double* query, double* sum) {
    const LevelGroup& group = groups_[g];
    const Tap ty = tap_y(group, Side::gallery, pixel / gallery_width_), tx = tap_x(group, Side::gallery, pixel % gallery_width_);
    const Mixture m = mixture(group, Side::gallery, g, image, ty, tx, rows);
    if (ty.high_weight == 0.0 && tx.high_weight == 0.0)
        kernels_.add_plain(m.tap[0], query, group.channels, sum);
    else
        kernels_.add_mixed(m, query, group.channels, sum);
}

void ExactDistance::set_query(int64_t image, int64_t pixel) {
    double* out = query_.data();
    for (size_t g = 0; g < groups_.size(); out += groups_[g++].channels) mix_query(g, image, pixel, nullptr, out);
}

double ExactDistance::to(int64_t image, int64_t pixel) {
    double sum[exact_lanes] = {};
    const double* query = query_.data();
    for (size_t g = 0; g < groups_.size(); query += groups_[g++].channels) add_group(g, image, pixel, nullptr, query, sum);
    return total(sum);
}

void ExactDistance::between(int64_t query_image, int64_t gallery_image, std::vector<ExactPair>& pairs,
                            const NativeRows* query_rows, const NativeRows* gallery_rows) {
    sums_.assign(pairs.size() * exact_lanes, 0.0);
    for (size_t g = 0; g < groups_.size(); ++g) {
        int64_t at = -1;
        for (size_t i = 0; i < pairs.size(); ++i) {
            if (pairs[i].query != at) mix_query(g, query_image, pairs[i].query, query_rows, query_.data());
            at = pairs[i].query;
            add_group(g, gallery_image, pairs[i].gallery, gallery_rows, query_.data(), sums_.data() + i * exact_lanes);
        }
    }
    for (size_t i = 0; i < pairs.size(); ++i) pairs[i].distance = total(sums_.data() + i * exact_lanes);
}

}  // namespace fastspade
