// The exact squared distance of one pixel pair: interpolate both sides in float64 and sum the squared differences
// (SPADE, eq. 3). Every value an engine returns comes from here, so the value does not depend on how it was found.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/exact_kernels.hpp"
#include "core/problem.hpp"

namespace fastspade {

enum class Side { query, gallery };

inline const std::vector<TensorView>& views_of(const LevelGroup& group, Side side) {
    return side == Side::query ? group.query : group.gallery;
}
inline Tap tap_y(const LevelGroup& group, Side side, int64_t y) {
    return (side == Side::query ? group.query_y : group.gallery_y)[static_cast<size_t>(y)];
}
inline Tap tap_x(const LevelGroup& group, Side side, int64_t x) {
    return (side == Side::query ? group.query_x : group.gallery_x)[static_cast<size_t>(x)];
}

// The native features under a range of finest-grid pixels of one image, one vector after another: worth making where
// many exact distances fall into the range.
class NativeRows {
  public:
    void place(const std::vector<LevelGroup>& groups, Side side, int64_t image, int64_t first, int64_t last);
    // The work of filling is cut into independent pieces.
    int64_t pieces() const;
    void fill(int64_t piece);

    const float* vector(size_t group, int64_t y, int64_t x) const {
        const Rows& rows = rows_[group];
        return rows.data.data() + ((y - rows.first_row) * rows.width + x - rows.first_column) * rows.channels;
    }

  private:
    struct Rows {
        int64_t first_row = 0, first_column = 0, width = 0, pixels = 0, channels = 0, first_piece = 0;
        Buffer<float> data;
    };
    const std::vector<LevelGroup>* groups_ = nullptr;
    Side side_ = Side::query;
    int64_t image_ = 0, pieces_ = 0;
    std::vector<Rows> rows_;
};

// Two pixels on the finest grid, and the answer.
struct ExactPair {
    int64_t query, gallery;
    double distance;
};

class ExactDistance {
  public:
    ExactDistance(const Problem& problem, const std::vector<LevelGroup>& groups);

    // The pixel that distances are taken from, and one of them.
    void set_query(int64_t image, int64_t pixel);
    double to(int64_t image, int64_t pixel);

    // Fills in many distances between two images: the same bits as one by one, but level by level, so that a level's
    // features stay in the cache. Pairs of one query should stand together. Features are read from `rows` where given.
    void between(int64_t query_image, int64_t gallery_image, std::vector<ExactPair>& pairs, const NativeRows* query_rows,
                 const NativeRows* gallery_rows);

  private:
    Mixture mixture(const LevelGroup& group, Side side, size_t g, int64_t image, const Tap& y, const Tap& x,
                    const NativeRows* rows);
    void mix_query(size_t g, int64_t image, int64_t pixel, const NativeRows* rows, double* out);
    void add_group(size_t g, int64_t image, int64_t pixel, const NativeRows* rows, const double* query, double* sum);

    const ExactKernels& kernels_;
    const std::vector<LevelGroup>& groups_;
    const int64_t query_width_, gallery_width_;
    std::vector<double> query_;
    std::vector<double> sums_;  // [pair][exact_lanes]
    std::vector<float> taps_;   // up to four native vectors side by side
};

}  // namespace fastspade
