// The end of a block: exact distances of all candidates left, then each query's kappa nearest go to the output.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/exact.hpp"
#include "core/problem.hpp"
#include "core/ranking.hpp"
#include "cpu/query_block.hpp"
#include "cpu/thread_team.hpp"

namespace fastspade::cpu {

class BlockRanking {
  public:
    // exact: one a thread.
    BlockRanking(const Setting& setting, ThreadTeam& team, std::vector<ExactDistance>& exact, int64_t chunk_step);

    // Returns how many exact distances that took.
    int64_t rank(QueryBlock& block, int64_t image);

  private:
    void measure(const QueryBlock& block, int64_t image, int64_t first, int64_t last);
    void write_answers(const QueryBlock& block, int64_t image);

    const Problem& problem_;
    const std::vector<LevelGroup>& groups_;
    ThreadTeam& team_;
    std::vector<ExactDistance>& exact_;
    const int64_t gallery_pixels_ = problem_.gallery[0].pixels(), chunk_step_;
    const int64_t chunks_an_image_ = (gallery_pixels_ + chunk_step_ - 1) / chunk_step_;
    const int64_t chunks_ = problem_.gallery_count * chunks_an_image_;
    int64_t together_ = 1;                                  // chunks measured at a time
    Buffer<double> distances_;                              // exact, beside the block's candidates
    std::vector<NativeRows> query_native_{groups_.size()};  // [group]
    NativeRows gallery_native_;
    std::vector<ExactPair> pairs_;
    std::vector<std::vector<Answer>> answers_{static_cast<size_t>(team_.size())};  // one query's, one a thread
};

}  // namespace fastspade::cpu
