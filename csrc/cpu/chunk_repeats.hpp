// Which pixels of the chunk at hand repeat earlier ones' descriptor, bit for bit: flat backgrounds make thousands. Of equal
// descriptors only the first kappa can be among the answers, because ties go to the lower index. They are looked for only once
// ties crowd some query's candidates, by whichever thread meets that first.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "core/candidates.hpp"
#include "core/exact.hpp"
#include "core/problem.hpp"
#include "cpu/region.hpp"

namespace fastspade::cpu {

class ChunkRepeats {
  public:
    ChunkRepeats(const Setting& setting, const Region& chunk)
        : problem_(setting.problem), groups_(setting.groups), chunk_(chunk) {}

    // A new chunk, of which nothing is known.
    void forget() { known_.store(nullptr, std::memory_order_release); }
    bool hold(int64_t chunk_pixel) const {
        const int32_t* const ranks = known_.load(std::memory_order_acquire);
        return ranks && ranks[chunk_pixel] >= problem_.kappa;
    }
    // Removes repeats that came from the chunk at hand from a row; earlier chunks' candidates stay.
    void drop(CandidateRow& row, int32_t slot, ExactDistance& exact);

  private:
    void find(ExactDistance& exact);

    const Problem& problem_;
    const std::vector<LevelGroup>& groups_;
    const Region& chunk_;
    std::atomic<const int32_t*> known_{nullptr};  // ranks_ once they are found
    std::vector<int32_t> ranks_;                  // how many earlier pixels of the chunk have a pixel's descriptor
    std::mutex lock_;
};

}  // namespace fastspade::cpu
