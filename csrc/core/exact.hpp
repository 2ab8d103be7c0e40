// The exact squared distance of one pixel pair: interpolate both sides in float64 and sum the squared differences
// (SPADE, eq. 3). Every value an engine returns comes from here, so the value does not depend on how it was found.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/buffer.hpp"
#include "core/exact_kernels.hpp"
#include "core/problem.hpp"

namespace fastspade {

// Reads the channels of `count` (at most 4) native pixels of every view of a group into out[i * channels + c].
void read_vectors(const LevelGroup& group, Side side, int64_t image, const int64_t (*at)[2], int count, float* out);

// Finest-grid pixels of one image, and how many exact distances fall into them.
struct Span {
    int64_t image, first, last, wanted;
};

// One level's native features under spans of finest-grid pixels, one vector after another: reading scattered vectors out of
// channel-major features is slow.
class NativeRows {
  public:
    // Leaves out spans that so few distances fall into that laying them out would not pay.
    void cover(const LevelGroup& group, Side side, int64_t fine_width, const std::vector<Span>& spans);
    // The work of filling is cut into independent pieces.
    int64_t pieces() const { return pieces_; }
    void fill(int64_t piece);

    bool holds(int64_t span) const { return parts_[static_cast<size_t>(span)].pixels > 0; }
    const float* vector(int64_t span, int64_t y, int64_t x) const { return data_.data() + offset_of(span, y, x); }

    // What a span of a whole image takes.
    static int64_t image_bytes(const LevelGroup& group, Side side);

  private:
    struct Part {
        int64_t image = 0, first_row = 0, first_column = 0, pixels = 0, first_pixel = 0, first_piece = 0;
    };
    int64_t offset_of(int64_t span, int64_t y, int64_t x) const {
        const Part& part = parts_[static_cast<size_t>(span)];
        return (part.first_pixel + (y - part.first_row) * width_ + x - part.first_column) * channels_;
    }

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
    ExactDistance(const Problem& problem, const std::vector<LevelGroup>& groups);

    // The pixel that distances are taken from, and one of them.
    void set_query(int64_t image, int64_t pixel);
    double to(int64_t image, int64_t pixel);
    // A gallery pixel's descriptor, from rows of each level; both zeros as the positive one.
    void mix_gallery(int64_t image, int64_t pixel, const std::vector<NativeRows>& rows, std::vector<double>& out);

    // Adds one level to many distances: the same bits as one by one, but a level's features stay in the cache. Pairs of one
    // query should stand together. The query's rows have one span.
    void add_level(size_t g, int64_t query_image, ExactPair* first, ExactPair* last, const NativeRows& query_rows,
                   const NativeRows& gallery_rows);

  private:
    Mixing mixing_of(size_t g, Side side) const { return side == Side::query ? mixing_[g].first : mixing_[g].second; }
    Mixture mixture(size_t g, Side side, int64_t image, int64_t pixel, const NativeRows* rows, int64_t span);
    void mix_level(size_t g, Side side, int64_t image, int64_t pixel, const NativeRows* rows, double* out);
    double level(size_t g, int64_t image, int64_t pixel, const NativeRows* rows, int64_t span, const double* query);

    const std::vector<LevelGroup>& groups_;
    std::vector<std::pair<Mixing, Mixing>> mixing_;  // [group]: the query's, the gallery's
    const int64_t query_width_, gallery_width_;
    std::vector<double> query_;
    std::vector<float> taps_;  // up to four native vectors side by side
};

}  // namespace fastspade
