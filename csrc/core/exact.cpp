#include "core/exact.hpp"

#include <algorithm>
#include <type_traits>

namespace fastspade {

namespace {

constexpr int64_t piece_pixels = 512;
constexpr int64_t line_pixels = 16;  // a scattered read fetches as many

}  // namespace

// Channels may lie far apart and neighbouring pixels on one cache line: all pixels of a channel are read together.
void read_vectors(const LevelGroup& group, Side side, int64_t image, const int64_t (*at)[2], int count, float* out) {
    for (const TensorView& view : group.views(side)) {
        with_element(view.dtype, [&](auto element) {
            using Element = decltype(element);
            const typename Element::Storage* from[4];
            for (int i = 0; i < count; ++i)
                from[i] = static_cast<const typename Element::Storage*>(view.data) + view.offset(image, 0, at[i][0], at[i][1]);
            const int64_t step = view.stride[1], channels = view.channels();
            for (int64_t c = 0; c < channels; ++c)
                for (int i = 0; i < count; ++i) out[i * group.channels + c] = Element::load(from[i][c * step]);
        });
        out += view.channels();
    }
}

int64_t NativeRows::image_bytes(const LevelGroup& group, Side side) {
    return group.views(side)[0].pixels() * group.channels * static_cast<int64_t>(sizeof(float));
}

void NativeRows::cover(const LevelGroup& group, Side side, int64_t fine_width, const std::vector<Span>& spans) {
    group_ = &group, side_ = side;
    width_ = group.views(side)[0].width(), channels_ = group.channels, pieces_ = 0;
    parts_.clear();
    int64_t pixels = 0;
    for (const Span& span : spans) {
        Part part;
        part.image = span.image;
        if (group.finest()) {  // exactly the span, which need not be whole rows
            part.first_row = span.first / fine_width;
            part.first_column = span.first % fine_width;
            part.pixels = span.last - span.first;
        } else {
            part.first_row = group.taps_y(side)[static_cast<size_t>(span.first / fine_width)].low;
            part.pixels =
                (group.taps_y(side)[static_cast<size_t>((span.last - 1) / fine_width)].high + 1 - part.first_row) * width_;
        }
        if (span.wanted * line_pixels < part.pixels) part.pixels = 0;
        part.first_pixel = pixels, part.first_piece = pieces_;
        pixels += part.pixels;
        pieces_ += (part.pixels + piece_pixels - 1) / piece_pixels;
        parts_.push_back(part);
    }
    data_.reserve(pixels * channels_);
}

void NativeRows::fill(int64_t piece) {
    size_t p = parts_.size() - 1;
    while (parts_[p].first_piece > piece) --p;
    const Part& part = parts_[p];
    const int64_t begin = (piece - part.first_piece) * piece_pixels, end = std::min(part.pixels, begin + piece_pixels);
    float* out = data_.data() + (part.first_pixel + begin) * channels_;
    const int64_t origin = part.first_row * width_ + part.first_column;
    constexpr int64_t block = 16;  // channels read side by side, so that writes stay together
    for (const TensorView& view : group_->views(side_)) {
        with_element(view.dtype, [&](auto element) {
            using Element = decltype(element);
            const auto* base = static_cast<const typename Element::Storage*>(view.data);
            const int64_t step = view.stride[1];
            for (int64_t c0 = 0; c0 < view.channels(); c0 += block) {
                const int64_t count = std::min(block, view.channels() - c0);
                float* to = out + c0;
                if (std::is_same_v<Element, Float32> && view.pixel_step() == 1) {
                    const float* from = reinterpret_cast<const float*>(base) + view.offset(part.image, c0, 0, 0) + origin + begin;
                    transpose(from, step, count, end - begin, to, channels_);
                    continue;
                }
                for (int64_t i = origin + begin; i < origin + end; ++i, to += channels_) {
                    const auto* from = base + view.offset(part.image, c0, i / width_, i % width_);
                    for (int64_t c = 0; c < count; ++c) to[c] = Element::load(from[c * step]);
                }
            }
        });
        out += view.channels();
    }
}

Mixture ExactDistance::mixture(size_t g, Side side, int64_t image, int64_t pixel, const NativeRows* rows, int64_t span) {
    const LevelGroup& group = groups_[g];
    const int64_t width = side == Side::query ? query_width_ : gallery_width_;
    const Tap y = group.taps_y(side)[static_cast<size_t>(pixel / width)],
              x = group.taps_x(side)[static_cast<size_t>(pixel % width)];
    const int count = mixing_of(g, side) == Mixing::none ? 1 : 4;
    const int64_t at[4][2] = {{y.low, x.low}, {y.low, x.high}, {y.high, x.low}, {y.high, x.high}};
    Mixture m{{}, y.high_weight, x.high_weight};
    if (!rows) read_vectors(group, side, image, at, count, taps_.data());
    for (int i = 0; i < count; ++i) m.tap[i] = rows ? rows->vector(span, at[i][0], at[i][1]) : taps_.data() + i * group.channels;
    return m;
}

ExactDistance::ExactDistance(const Problem& problem, const std::vector<LevelGroup>& groups)
    : groups_(groups), query_width_(problem.query[0].width()), gallery_width_(problem.gallery[0].width()) {
    int64_t channels = 0, widest = 0;
    for (const LevelGroup& group : groups) {
        channels += group.channels;
        widest = std::max(widest, group.channels);
        mixing_.push_back({mixing(group.query_y, group.query_x), mixing(group.gallery_y, group.gallery_x)});
    }
    query_.resize(static_cast<size_t>(channels));
    taps_.resize(static_cast<size_t>(4 * widest));
}

void ExactDistance::mix_level(size_t g, Side side, int64_t image, int64_t pixel, const NativeRows* rows, double* out) {
    mix(mixture(g, side, image, pixel, rows, 0), mixing_of(g, side), groups_[g].channels, out);
}

void ExactDistance::mix_gallery(int64_t image, int64_t pixel, const std::vector<NativeRows>& rows, std::vector<double>& out) {
    out.resize(query_.size());
    double* level = out.data();
    for (size_t g = 0; g < groups_.size(); level += groups_[g++].channels)
        mix_level(g, Side::gallery, image, pixel, &rows[g], level);
    for (double& value : out) value += 0.0;
}

// One level's part of a distance.
double ExactDistance::level(size_t g, int64_t image, int64_t pixel, const NativeRows* rows, int64_t span, const double* query) {
    return squared_distance(mixture(g, Side::gallery, image, pixel, rows, span), mixing_of(g, Side::gallery), query,
                            groups_[g].channels);
}

void ExactDistance::set_query(int64_t image, int64_t pixel) {
    double* out = query_.data();
    for (size_t g = 0; g < groups_.size(); out += groups_[g++].channels) mix_level(g, Side::query, image, pixel, nullptr, out);
}

double ExactDistance::to(int64_t image, int64_t pixel) {
    double distance = 0.0;
    const double* query = query_.data();
    for (size_t g = 0; g < groups_.size(); query += groups_[g++].channels) distance += level(g, image, pixel, nullptr, 0, query);
    return distance;
}

void ExactDistance::add_level(size_t g, int64_t query_image, ExactPair* first, ExactPair* last, const NativeRows& query_rows,
                              const NativeRows& gallery_rows) {
    const NativeRows* const rows = query_rows.holds(0) ? &query_rows : nullptr;
    int64_t at = -1;
    for (ExactPair* pair = first; pair != last; ++pair) {
        if (pair->query != at) mix_level(g, Side::query, query_image, pair->query, rows, query_.data());
        at = pair->query;
        *pair->distance += level(g, pair->image, pair->pixel, gallery_rows.holds(pair->span) ? &gallery_rows : nullptr,
                                 pair->span, query_.data());
    }
}

}  // namespace fastspade
