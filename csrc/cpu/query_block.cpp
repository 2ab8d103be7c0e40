#include "cpu/query_block.hpp"

#include <algorithm>
#include <limits>

#include "core/rounding.hpp"

namespace fastspade::cpu {

QueryBlock::QueryBlock(const Problem& problem, const std::vector<LevelGroup>& groups, const Centring& centring,
                       const Projection& projection, const Kernels& kernels)
    : problem(problem),
      groups(groups),
      kernels(kernels),
      capacity(candidate_capacity(problem.kappa)),
      region(groups, centring, projection, kernels, Side::query),
      largest_(groups.size()) {}

void QueryBlock::start(ThreadTeam& team, int64_t image, int64_t first, int64_t last, bool fine_rows) {
    region.cover(image, first, last);
    region.pack(team, kernels.lanes, fine_rows, kernels.rows);
    numbers.clear();
    const int64_t count = pixels(), padded = tiles() * kernels.lanes;
    candidates.start(count, problem.kappa);
    std::fill_n(lowered_norm.reserve(padded), padded, 0.0f);
    std::fill_n(limit.reserve(padded), count, infinity);
    std::fill(limit.data() + count, limit.data() + padded, -infinity);
    std::fill(largest_.begin(), largest_.end(), -1.0f);
    may_overflow = false;
}

void QueryBlock::widen_limits(const Region& chunk, double slack) {
    bool grown = false;
    for (size_t g = 0; g < groups.size(); ++g) {
        grown |= chunk.largest_norm_bound(g) > largest_[g];
        largest_[g] = std::max(largest_[g], chunk.largest_norm_bound(g));
    }
    if (!grown) return;
    for (int64_t q = 0; q < pixels(); ++q) {
        double error = double{std::numeric_limits<float>::denorm_min()};
        for (size_t g = 0; g < groups.size(); ++g) {
            const double reach = static_cast<double>(region.norm_bound(g)[q]) + static_cast<double>(largest_[g]);
            error += rounding_factor(groups[g].channels) * reach * reach;
        }
        CandidateRow& row = candidates.rows[static_cast<size_t>(q)];
        row.error = static_cast<float>(error * 1.001);
        may_overflow |= !(error < 1e30);
        const double fine = static_cast<double>(region.norm_bound(0)[q]) + static_cast<double>(largest_[0]);
        lowered_norm[q] = static_cast<float>(static_cast<double>(region.fine_norm()[q]) - slack * fine * fine);
        limit[q] = row.limit();
    }
}

}  // namespace fastspade::cpu
