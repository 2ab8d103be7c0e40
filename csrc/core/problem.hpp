// One search, as every engine receives it, and the form the engines work with: levels grouped by resolution.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/upsampling.hpp"
#include "core/tensor_view.hpp"

namespace fastspade {

struct Problem {
    std::vector<TensorView> query;           // levels, finest first: (B, C_l, H_l, W_l)
    std::vector<TensorView> gallery;         // same channels; its grid may differ from the query's
    const int64_t* gallery_index = nullptr;  // (B, K), or null: every query image against gallery images 0 .. K-1
    int64_t gallery_count = 0;               // K
    int64_t kappa = 1;
    // Where they are not negative, only pairs so many rows and columns of the finest grid apart; the grids must be equal. Where a
    // query has fewer than kappa such pairs, the rest of its answers are infinity and -1.
    int64_t row_radius = -1, column_radius = -1;
    Upsample upsample = Upsample::bilinear;
    float* distances = nullptr;  // (B, H_1 * W_1, kappa)
    int64_t* indices = nullptr;  // (B, H_1 * W_1, kappa)
    int threads = 1;
    bool prune = true;                  // false: evaluate every pair (for tests and measurements)
    std::function<bool()> interrupted;  // polled between pieces of work; true stops the search
};

// What the search did: pairs in all; pairs whose finest level had to be looked at, and of these, those bounded in
// int8 and in int16 first; pairs ranked by exact distances.
struct Statistics {
    int64_t pairs = 0;
    int64_t fine_pairs = 0;
    int64_t int8_pairs = 0, int16_pairs = 0;
    int64_t exact_pairs = 0;
};

inline bool windowed(const Problem& problem) { return problem.row_radius >= 0; }

struct Interrupted : std::exception {
    const char* what() const noexcept override { return "interrupted"; }
};

// Stops the search where its caller wants it stopped.
inline void poll(const Problem& problem) {
    if (problem.interrupted && problem.interrupted()) throw Interrupted();
}

// The gallery image at a slot of a query image's list.
inline int64_t gallery_image(const Problem& problem, int64_t query_image, int64_t slot) {
    return problem.gallery_index ? problem.gallery_index[query_image * problem.gallery_count + slot] : slot;
}

struct NonFinite : std::runtime_error {
    NonFinite(const char* side, int64_t level, int64_t image)
        : std::runtime_error(std::string(side) + "[" + std::to_string(level) + "] holds NaN or infinite values in image " +
                             std::to_string(image) + "; features must be finite") {}
};

// One axis of a level as seen from the finest grid. The finest level's own axes are not stored: a gallery of a million
// vectors is an axis of a million positions.
class AxisTaps {
  public:
    AxisTaps() = default;
    AxisTaps(int64_t source, int64_t target, Upsample mode) : size_(static_cast<size_t>(target)) {
        for (int64_t i = 0; source != target && i < target; ++i) taps_.push_back(axis_tap(i, source, target, mode));
    }

    size_t size() const { return size_; }
    // Whether any position's tap meets a condition; the finest level's own positions have no weights to speak of.
    template <class Condition>
    bool any(Condition&& condition) const {
        return std::any_of(taps_.begin(), taps_.end(), condition);
    }
    Tap operator[](size_t i) const { return taps_.empty() ? Tap{static_cast<int32_t>(i), static_cast<int32_t>(i)} : taps_[i]; }

  private:
    size_t size_ = 0;
    std::vector<Tap> taps_;
};

enum class Side { query, gallery };

// The levels that share one resolution, treated as one level with their channels side by side.
struct LevelGroup {
    std::vector<int64_t> levels;  // positions in the pyramid
    std::vector<TensorView> query, gallery;
    int64_t channels = 0;
    AxisTaps query_y, query_x, gallery_y, gallery_x;  // from the finest grid into this one

    bool finest() const { return levels[0] == 0; }
    const std::vector<TensorView>& views(Side side) const { return side == Side::query ? query : gallery; }
    const AxisTaps& taps_y(Side side) const { return side == Side::query ? query_y : gallery_y; }
    const AxisTaps& taps_x(Side side) const { return side == Side::query ? query_x : gallery_x; }
};

inline std::vector<LevelGroup> group_levels(const Problem& problem) {
    std::vector<LevelGroup> groups;
    const TensorView &fine_query = problem.query[0], &fine_gallery = problem.gallery[0];
    for (size_t l = 0; l < problem.query.size(); ++l) {
        const TensorView &query = problem.query[l], &gallery = problem.gallery[l];
        const bool fits = !groups.empty() && groups.back().query[0].height() == query.height() &&
                          groups.back().query[0].width() == query.width() &&
                          groups.back().gallery[0].height() == gallery.height() &&
                          groups.back().gallery[0].width() == gallery.width();
        if (!fits) {
            LevelGroup group;
            group.query_y = AxisTaps(query.height(), fine_query.height(), problem.upsample);
            group.query_x = AxisTaps(query.width(), fine_query.width(), problem.upsample);
            group.gallery_y = AxisTaps(gallery.height(), fine_gallery.height(), problem.upsample);
            group.gallery_x = AxisTaps(gallery.width(), fine_gallery.width(), problem.upsample);
            groups.push_back(std::move(group));
        }
        groups.back().levels.push_back(static_cast<int64_t>(l));
        groups.back().query.push_back(query);
        groups.back().gallery.push_back(gallery);
        groups.back().channels += query.channels();
    }
    return groups;
}

}  // namespace fastspade
