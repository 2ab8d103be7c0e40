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

namespace fastspade::cpu {

class GramMatrices {
  public:
    explicit GramMatrices(const Setting& setting) : groups_(setting.groups), kernels_(setting.kernels) {}

    // A new block: where its pixels read each level.
    void plan_queries(const QueryBlock& block);
    // Before panels() are asked for: interpolates the block's native vectors, unless that was done.
    void mix_queries(ThreadTeam& team, const QueryBlock& block);
    // coarsest_alone: the others are multiplied where a tile needs them, which coarsest_alone() then tells.
    void multiply(ThreadTeam& team, const QueryBlock& block, const Region& chunk, bool coarsest_alone);

    bool coarsest_alone() const { return coarsest_alone_; }
    // [query coarse pixel][gallery coarse pixel], rows `stride` apart.
    const float* data(size_t group) const { return matrix_[group].data(); }
    int64_t stride(size_t group) const { return stride_[group]; }
    // -2 times the interpolated vectors of all but the coarsest level, in lane panels.
    const float* panels(size_t group) const { return panels_[group].data(); }
    // By position, whole tiles.
    const LaneTaps* taps(size_t group) const { return taps_[group].data(); }

  private:
    const std::vector<LevelGroup>& groups_;
    const Kernels& kernels_;
    std::vector<Buffer<float>> matrix_{groups_.size()}, panels_{groups_.size()};  // [group]
    Buffer<float> native_;
    bool mixed_ = false, coarsest_alone_ = false;
    std::vector<int64_t> stride_ = std::vector<int64_t>(groups_.size());
    std::vector<std::vector<LaneTaps>> taps_{groups_.size()};
};

}  // namespace fastspade::cpu
