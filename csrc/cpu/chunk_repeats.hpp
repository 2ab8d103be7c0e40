// Which pixels of the chunk at hand repeat earlier ones' descriptor, bit for bit: flat backgrounds make thousands. Of equal
// descriptors only the first kappa can be among the answers, because ties go to the lower index. They are looked for only once
// ties crowd some query's candidates, by whichever thread meets that first.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <unordered_map>
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
    void drop(CandidateRow& row, int32_t slot, ExactDistance& exact) {
        find(exact);
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
    void find(ExactDistance& exact) {
        std::lock_guard<std::mutex> locked(lock_);
        if (known_.load(std::memory_order_relaxed)) return;
        const int64_t first = chunk_.first_pixel(), last = first + chunk_.pixels();
        std::vector<NativeRows> rows(groups_.size());
        for (size_t g = 0; g < groups_.size(); ++g) {
            rows[g].cover(groups_[g], Side::gallery, problem_.gallery[0].width(), {{chunk_.image(), first, last, last - first}});
            for (int64_t piece = 0; piece < rows[g].pieces(); ++piece) rows[g].fill(piece);
        }
        struct Known {
            int64_t pixel;   // the first that has a descriptor
            int32_t pixels;  // how many have it
        };
        std::unordered_map<size_t, Known> seen;  // by hash
        std::vector<double> descriptor, other;
        ranks_.clear();
        for (int64_t pixel = first; pixel < last; ++pixel) {
            exact.mix_gallery(chunk_.image(), pixel, rows, descriptor);
            const std::string_view bytes(reinterpret_cast<const char*>(descriptor.data()), descriptor.size() * sizeof(double));
            for (size_t key = std::hash<std::string_view>{}(bytes);;
                 ++key) {  // the next key where other descriptors have this one
                const auto [known, added] = seen.try_emplace(key, Known{pixel, 0});
                if (!added) exact.mix_gallery(chunk_.image(), known->second.pixel, rows, other);
                if (!added && descriptor != other) continue;
                ranks_.push_back(known->second.pixels++);
                break;
            }
        }
        known_.store(ranks_.data(), std::memory_order_release);
    }

    const Problem& problem_;
    const std::vector<LevelGroup>& groups_;
    const Region& chunk_;
    std::atomic<const int32_t*> known_{nullptr};  // ranks_ once they are found
    std::vector<int32_t> ranks_;                  // how many earlier pixels of the chunk have a pixel's descriptor
    std::mutex lock_;
};

}  // namespace fastspade::cpu
