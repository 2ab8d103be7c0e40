// A block of query pixels, laid out, and what is known of their nearest neighbours while the gallery's chunks pass.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/candidates.hpp"
#include "core/problem.hpp"
#include "cpu/kernels.hpp"
#include "cpu/quantised.hpp"
#include "cpu/region.hpp"

namespace fastspade::cpu {

struct QueryBlock {
    QueryBlock(const Problem& problem, const std::vector<LevelGroup>& groups, const Centring& centring,
               const Projection& projection, const Kernels& kernels);

    // Takes over pixels [first, last) of an image, with nothing known of them. rows: the finest vectors as rows too.
    void start(ThreadTeam& team, int64_t image, int64_t first, int64_t last, bool rows);
    // A query's error bound grows with the largest gallery norm met so far; limits are widened to match.
    void widen_limits(const Region& chunk, double slack);

    int64_t pixels() const { return region.pixels(); }
    int64_t tiles() const { return (region.pixels() + kernels.lanes - 1) / kernels.lanes; }

    const Problem& problem;
    const std::vector<LevelGroup>& groups;
    const Kernels& kernels;
    const int64_t capacity;  // of a candidate row
    Region region;
    Quantised numbers;
    // By position, whole tiles: the limits, and the fine norms less what rounding may do to bounds on the finest level.
    Buffer<float> limit, lowered_norm;
    CandidateTable candidates;  // a row for each position
    bool may_overflow = false;  // float32's range: then a least value would hide what is not a number

  private:
    std::vector<float> largest_;  // [group] largest gallery norm bound met
};

}  // namespace fastspade::cpu
