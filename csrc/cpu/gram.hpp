// The coarse levels' inner products of a block with a chunk, each level's at its own resolution, and how query pixels read them.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/problem.hpp"
#include "cpu/kernels.hpp"
#include "cpu/query_block.hpp"
#include "cpu/region.hpp"
#include "cpu/thread_team.hpp"
#include "cpu/window.hpp"

namespace fastspade::cpu {

class GramMatrices {
  public:
    GramMatrices(const std::vector<LevelGroup>& groups, const Kernels& kernels);

    // A new block: where its pixels read each level.
    void plan_queries(const QueryBlock& block);
    void multiply(ThreadTeam& team, const QueryBlock& block, const Region& chunk, const Window& window);

    // [query coarse pixel][gallery coarse pixel], rows `stride` apart.
    const float* data(size_t group) const { return matrix_[group].data(); }
    int64_t stride(size_t group) const { return stride_[group]; }
    // By position, whole tiles.
    const LaneTaps* taps(size_t group) const { return taps_[group].data(); }

  private:
    const std::vector<LevelGroup>& groups_;
    const Kernels& kernels_;
    std::vector<Buffer<float>> matrix_;
    std::vector<int64_t> stride_;
    std::vector<std::vector<LaneTaps>> taps_;
};

}  // namespace fastspade::cpu
