// The exact squared distance of one pixel pair: interpolate both sides in float64 and sum the squared differences
// (SPADE, eq. 3). Every value an engine returns comes from here, so the value does not depend on how it was found.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/buffer.hpp"
#include "core/exact_kernels.hpp"
#include "core/problem.hpp"

namespace fastspade {

constexpr int64_t piece_pixels = 512;
constexpr int64_t line_pixels = 16;  // a scattered read fetches as many

// Reads the channels of `count` (at most 4) native pixels of every view of a group into out[i * channels + c].
// Channels may lie far apart and neighbouring pixels on one cache line: all pixels of a channel are read together.
inline void read_vectors(const LevelGroup& group, Side side, int64_t image, const int64_t (*at)[2], int count, float* out) {
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

// Finest-grid pixels of one image, and how many exact distances fall into them.
struct Span {
    int64_t image, first, last, wanted;
};

// One level's native features under spans of finest-grid pixels, one vector after another: reading scattered vectors out of
// channel-major features is slow.
class NativeRows {
  public:
    // Leaves out spans that so few distances fall into that laying them out would not pay.
    void cover(const LevelGroup& group, Side side, int64_t fine_width, const std::vector<Span>& spans) {
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

    // The work of filling is cut into independent pieces.
    int64_t pieces() const { return pieces_; }
    void fill(int64_t piece) {
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
                        const float* from =
                            reinterpret_cast<const float*>(base) + view.offset(part.image, c0, 0, 0) + origin + begin;
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

    bool holds(int64_t span) const { return parts_[static_cast<size_t>(span)].pixels > 0; }
    const float* vector(int64_t span, int64_t y, int64_t x) const {
        const Part& part = parts_[static_cast<size_t>(span)];
        return data_.data() + (part.first_pixel + (y - part.first_row) * width_ + x - part.first_column) * channels_;
    }

    // What a span of a whole image takes.
    static int64_t image_bytes(const LevelGroup& group, Side side) {
        return group.views(side)[0].pixels() * group.channels * static_cast<int64_t>(sizeof(float));
    }

  private:
    struct Part {
        int64_t image = 0, first_row = 0, first_column = 0, pixels = 0, first_pixel = 0, first_piece = 0;
    };
    const LevelGroup* group_ = nullptr;
    Side side_ = Side::query;
    int64_t width_ = 0, channels_ = 0, pieces_ = 0;
    std::vector<Part> parts_;
    Buffer<float> data_;
};

// Two pixels on the finest grid, the span of the gallery's NativeRows, and where the answer goes.
struct ExactPair {
    int64_t query, image, pixel, span;
    double* distance;
};

class ExactDistance {
  public:
    ExactDistance(const Problem& problem, const std::vector<LevelGroup>& groups)
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

    // The pixel that distances are taken from, and one of them.
    void set_query(int64_t image, int64_t pixel) {
        double* out = query_.data();
        for (size_t g = 0; g < groups_.size(); out += groups_[g++].channels)
            mix_level(g, Side::query, image, pixel, nullptr, out);
    }

    double to(int64_t image, int64_t pixel) {
        double distance = 0.0;
        const double* query = query_.data();
        for (size_t g = 0; g < groups_.size(); query += groups_[g++].channels)
            distance += level(g, image, pixel, nullptr, 0, query);
        return distance;
    }

    // A gallery pixel's descriptor, from rows of each level; both zeros as the positive one.
    void mix_gallery(int64_t image, int64_t pixel, const std::vector<NativeRows>& rows, std::vector<double>& out) {
        out.resize(query_.size());
        double* level = out.data();
        for (size_t g = 0; g < groups_.size(); level += groups_[g++].channels)
            mix_level(g, Side::gallery, image, pixel, &rows[g], level);
        for (double& value : out) value += 0.0;
    }

    // Adds one level to many distances: the same bits as one by one, but a level's features stay in the cache. Pairs of one
    // query should stand together. The query's rows have one span.
    void add_level(size_t g, int64_t query_image, ExactPair* first, ExactPair* last, const NativeRows& query_rows,
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

  private:
    Mixing mixing_of(size_t g, Side side) const { return side == Side::query ? mixing_[g].first : mixing_[g].second; }
    Mixture mixture(size_t g, Side side, int64_t image, int64_t pixel, const NativeRows* rows, int64_t span) {
        const LevelGroup& group = groups_[g];
        const int64_t width = side == Side::query ? query_width_ : gallery_width_;
        const Tap y = group.taps_y(side)[static_cast<size_t>(pixel / width)],
                  x = group.taps_x(side)[static_cast<size_t>(pixel % width)];
        const int count = mixing_of(g, side) == Mixing::none ? 1 : 4;
        const int64_t at[4][2] = {{y.low, x.low}, {y.low, x.high}, {y.high, x.low}, {y.high, x.high}};
        Mixture m{{}, y.high_weight, x.high_weight};
        if (!rows) read_vectors(group, side, image, at, count, taps_.data());
        for (int i = 0; i < count; ++i)
            m.tap[i] = rows ? rows->vector(span, at[i][0], at[i][1]) : taps_.data() + i * group.channels;
        return m;
    }

    void mix_level(size_t g, Side side, int64_t image, int64_t pixel, const NativeRows* rows, double* out) {
        mix(mixture(g, side, image, pixel, rows, 0), mixing_of(g, side), groups_[g].channels, out);
    }

    // One level's part of a distance.
    double level(size_t g, int64_t image, int64_t pixel, const NativeRows* rows, int64_t span, const double* query) {
        return squared_distance(mixture(g, Side::gallery, image, pixel, rows, span), mixing_of(g, Side::gallery), query,
                                groups_[g].channels);
    }

    const std::vector<LevelGroup>& groups_;
    std::vector<std::pair<Mixing, Mixing>> mixing_;  // [group]: the query's, the gallery's
    const int64_t query_width_, gallery_width_;
    std::vector<double> query_;
    std::vector<float> taps_;  // up to four native vectors side by side
};

}  // namespace fastspade
