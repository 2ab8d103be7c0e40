// A block of query pixels, laid out, and what is known of their nearest neighbours while the gallery's chunks pass.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/candidates.hpp"
#include "cpu/quantised.hpp"
#include "cpu/region.hpp"

namespace fastspade::cpu {

struct QueryBlock {
    explicit QueryBlock(const Setting& setting) : setting(setting), region(setting, Side::query) {}

    // Takes over pixels [first, last) of an image, with nothing known of them. rows: the finest vectors as rows too.
    void start(ThreadTeam& team, int64_t image, int64_t first, int64_t last, bool rows);
    // A query's error bound grows with the largest gallery norm met so far; limits are widened to match.
    void widen_limits(const Region& chunk);

    int64_t pixels() const { return region.pixels(); }
    int64_t tiles() const { return (region.pixels() + setting.kernels.lanes - 1) / setting.kernels.lanes; }

    // Which pairs a window (Problem::row_radius, column_radius) leaves; all of them without one. The chunk's pixels in rows near
    // the queries [first, last), the gallery's columns near them, and whether a query reaches a gallery pixel.
    Range near(int64_t first, int64_t last, const Region& chunk) const;
    Range columns_near(int64_t first, int64_t last) const;
    bool reaches(int64_t query, int64_t gallery_pixel) const;

    const Setting& setting;
    const int64_t capacity = candidate_capacity(setting.problem.kappa);  // of a candidate row
    Region region;
    Quantised numbers;
    // By position, whole tiles: the limits, and the fine norms less what rounding may do to bounds on the finest level.
    Buffer<float> limit, lowered_norm;
    CandidateTable candidates;  // a row for each position
    bool may_overflow = false;  // float32's range: then a least value would hide what is not a number

  private:
    std::vector<float> largest_ = std::vector<float>(setting.groups.size());  // [group] largest gallery norm bound met
};

}  // namespace fastspade::cpu
