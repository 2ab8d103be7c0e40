// Which pairs a window (Problem::row_radius, column_radius) leaves; all of them without one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "core/problem.hpp"
#include "cpu/region.hpp"

namespace fastspade::cpu {

class Window {
  public:
    Window(const Problem& problem, const std::vector<LevelGroup>& groups) : problem_(problem), width_(problem.query[0].width()) {
        if (active()) find_near_rows(groups);
    }

    bool active() const { return windowed(problem_); }

    bool holds(int64_t query_pixel, int64_t gallery_pixel) const {
        return !active() || (std::abs(query_pixel / width_ - gallery_pixel / width_) <= problem_.row_radius &&
                             std::abs(query_pixel % width_ - gallery_pixel % width_) <= problem_.column_radius);
    }
    // The chunk's pixels in rows near the query positions [first, last).
    Range near(const Region& queries, int64_t first, int64_t last, const Region& chunk) const {
        if (!active()) return {0, chunk.pixels()};
        const Range rows = queries.rows_of(first, last);
        return {std::max<int64_t>(0, (rows.begin - problem_.row_radius) * width_ - chunk.first_pixel()),
                std::min(chunk.pixels(), (rows.end + problem_.row_radius) * width_ - chunk.first_pixel())};
    }
    // The gallery's columns near them.
    Range columns_near(const Region& queries, int64_t first, int64_t last) const {
        const Range columns = queries.columns_of(first, last);
        return {std::max<int64_t>(0, columns.begin - problem_.column_radius),
                std::min(width_, columns.end + problem_.column_radius)};
    }
    // A coarse level's query rows that meet one of its gallery rows in a pair of the window.
    Range query_rows(size_t group, int64_t gallery_row) const { return near_rows_[group][static_cast<size_t>(gallery_row)]; }

  private:
    void find_near_rows(const std::vector<LevelGroup>& groups) {
        const int64_t height = problem_.query[0].height();
        for (const LevelGroup& group : groups) {
            std::vector<Range> near(static_cast<size_t>(group.gallery[0].height()), Range{group.query[0].height(), 0});
            for (int64_t y = 0; y < height; ++y)
                for (int64_t other = std::max<int64_t>(0, y - problem_.row_radius);
                     other <= std::min(height - 1, y + problem_.row_radius); ++other) {
                    const Tap mine = group.query_y[static_cast<size_t>(y)], theirs = group.gallery_y[static_cast<size_t>(other)];
                    for (int32_t row : {theirs.low, theirs.high}) {
                        Range& rows = near[static_cast<size_t>(row)];
                        rows = {std::min<int64_t>(rows.begin, mine.low), std::max<int64_t>(rows.end, mine.high + 1)};
                    }
                }
            near_rows_.push_back(std::move(near));
        }
    }

    const Problem& problem_;
    const int64_t width_;
    std::vector<std::vector<Range>> near_rows_;  // [group][gallery row]
};

}  // namespace fastspade::cpu
