// Which pixels of the chunk at hand repeat an earlier one's descriptor so often that they cannot be answers: looked for only once
// ties crowd some query's candidates, by whichever thread meets that first.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "core/candidates.hpp"
#include "core/duplicates.hpp"
#include "core/problem.hpp"
#include "cpu/region.hpp"

namespace fastspade::cpu {

class ChunkRepeats {
  public:
    ChunkRepeats(const Problem& problem, const std::vector<LevelGroup>& groups, const Region& chunk)
        : problem_(problem), groups_(groups), chunk_(chunk) {}

    // A new chunk, of which nothing is known.
    void forget() { known_.store(nullptr, std::memory_order_release); }
    bool hold(int64_t chunk_pixel) const {
        const int32_t* const ranks = known_.load(std::memory_order_acquire);
        return ranks && ranks[chunk_pixel] >= problem_.kappa;
    }
    // Removes repeats that came from the chunk at hand from a row; earlier chunks' candidates stay.
    void drop(CandidateRow& row, int32_t slot) {
        find();
        int64_t kept = 0;
        for (int64_t i = 0; i < row.count; ++i) {
            const Candidate& item = row.items[i];
            const int64_t pixel = item.pixel - chunk_.first_pixel();
            const bool here = item.slot == slot && pixel >= 0 && pixel < chunk_.pixels();
            if (!here || !hold(pixel)) row.items[kept++] = item;
        }
        row.count = kept;
    }

  private:
    void find() {
        std::lock_guard<std::mutex> locked(lock_);
        if (known_.load(std::memory_order_relaxed)) return;
        ranks_ = duplicate_ranks(groups_, chunk_.image(), chunk_.first_pixel(), chunk_.first_pixel() + chunk_.pixels(),
                                 problem_.gallery[0].width());
        known_.store(ranks_.data(), std::memory_order_release);
    }

    const Problem& problem_;
    const std::vector<LevelGroup>& groups_;
    const Region& chunk_;
    std::atomic<const int32_t*> known_{nullptr};  // ranks_ once they are found
    std::vector<int32_t> ranks_;
    std::mutex lock_;
};

}  // namespace fastspade::cpu
