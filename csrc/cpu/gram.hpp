// The coarse levels' inner products of a block with a chunk, each level's at its own resolution, and how query pixels read them.
#pragma once

#include <algorithm>
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
    // The Gram matrices enter the distance with a factor of -2.
    void plan_queries(const QueryBlock& block) {
        mixed_ = false;
        const Region& queries = block.region;
        const int64_t width = groups_[0].query[0].width();
        for (size_t g = 1; g < groups_.size(); ++g) {
            taps_[g].clear();
            for (int64_t i = 0; i < block.tiles() * kernels_.lanes; ++i) {
                const int64_t flat = queries.pixel_at(std::min(i, queries.pixels() - 1));
                const Tap y = groups_[g].query_y[static_cast<size_t>(flat / width)];
                const Tap x = groups_[g].query_x[static_cast<size_t>(flat % width)];
                LaneTaps taps;
                for (int t = 0; t < 4; ++t) {
                    const int64_t row = (t < 2 ? y.low : y.high) - queries.coarse(g).first_row;
                    taps.row[t] = static_cast<int32_t>(row * queries.coarse(g).width + (t % 2 ? x.high : x.low));
                    taps.weight[t] = static_cast<float>(-2.0 * (t < 2 ? y.low_weight : y.high_weight) *
                                                        (t % 2 ? x.high_weight : x.low_weight));
                }
                taps_[g].push_back(taps);
            }
        }
    }

    // Before panels() are asked for: interpolates the block's native vectors, unless that was done.
    void mix_queries(ThreadTeam& team, const QueryBlock& block) {
        if (mixed_) return;
        mixed_ = true;
        const Region& queries = block.region;
        for (size_t g = 1; g + 1 < groups_.size(); ++g) {
            // Native vectors one after the other, from row panels.
            const int64_t channels = groups_[g].channels, stride = Region::padded(channels, max_rows), rows = kernels_.rows;
            const int64_t lanes = kernels_.lanes;
            float* const native = native_.reserve(queries.coarse(g).pixels * stride);
            for (int64_t i = 0; i < queries.coarse(g).pixels; ++i)
                for (int64_t c = 0; c < channels; ++c)
                    native[i * stride + c] = queries.coarse(g).panels.data()[(i / rows * channels + c) * rows + i % rows];
            float* const out = panels_[g].reserve(block.tiles() * lanes * channels);
            team.run(block.tiles(), [&](int64_t tile, int) {
                const float zeros[max_lanes] = {};
                kernels_.interpolate_lanes(native, stride, taps(g) + tile * lanes, 0, channels, zeros,
                                           out + tile * lanes * channels);
            });
        }
    }

    // coarsest_alone: the others are multiplied where a tile needs them, which coarsest_alone() then tells.
    void multiply(ThreadTeam& team, const QueryBlock& block, const Region& chunk, bool coarsest_alone) {
        const Region& queries = block.region;
        const int64_t lanes = kernels_.lanes;
        coarsest_alone_ = coarsest_alone;
        for (size_t g = coarsest_alone ? groups_.size() - 1 : 1; g < groups_.size(); ++g) {
            const int64_t channels = groups_[g].channels;
            stride_[g] = Region::padded(chunk.coarse(g).pixels, lanes);
            float* const matrix = matrix_[g].reserve(Region::padded(queries.coarse(g).pixels, kernels_.rows) * stride_[g] + 64);
            team.run(stride_[g] / lanes, [&](int64_t panel, int) {
                for (int64_t q = 0; q < queries.coarse(g).pixels; q += kernels_.rows)
                    kernels_.product(chunk.coarse(g).panels.data() + panel * channels * lanes,
                                     queries.coarse(g).panels.data() + q * channels, channels,
                                     matrix + q * stride_[g] + panel * lanes, stride_[g]);
            });
        }
    }

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
