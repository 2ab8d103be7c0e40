// The end of a block: exact distances of all candidates left, then each query's kappa nearest go to the output.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/exact.hpp"
#include "core/problem.hpp"
#include "core/ranking.hpp"
#include "cpu/query_block.hpp"
#include "cpu/thread_team.hpp"

namespace fastspade::cpu {

constexpr int64_t native_bytes = 8 << 20;  // of a level's native features at a time, for exact distances

class BlockRanking {
  public:
    // exact: one a thread.
    // Several chunks of the gallery at a time, so that a query's mixture serves many pairs, and a level at a time, so that the
    // native features fit into a core's own cache.
    BlockRanking(const Setting& setting, ThreadTeam& team, std::vector<ExactDistance>& exact, int64_t chunk_step)
        : problem_(setting.problem), groups_(setting.groups), team_(team), exact_(exact), chunk_step_(chunk_step) {
        int64_t widest = 1;
        for (const LevelGroup& group : groups_)
            widest = std::max(widest, NativeRows::image_bytes(group, Side::gallery) / chunks_an_image_);
        together_ = std::clamp<int64_t>(native_bytes / widest, 1, chunks_);
    }

    // Returns how many exact distances that took.
    int64_t rank(QueryBlock& block, int64_t image) {
        const int64_t count = block.pixels(), first = block.region.first_pixel();
        team_.run(count, [&](int64_t q, int) { block.candidates.rows[static_cast<size_t>(q)].compact(); });
        distances_.reserve(count * block.capacity);
        int64_t pairs = 0;
        for (const CandidateRow& row : block.candidates.rows) pairs += row.count;
        for (size_t g = 0; g < groups_.size(); ++g) {
            query_native_[g].cover(groups_[g], Side::query, problem_.query[0].width(), {{image, first, first + count, pairs}});
            team_.run(query_native_[g].pieces(), [&](int64_t piece, int) { query_native_[g].fill(piece); });
        }
        for (int64_t chunk = 0; chunk < chunks_; chunk += together_)
            measure(block, image, chunk, std::min(chunk + together_, chunks_));
        write_answers(block, image);
        return pairs;
    }

  private:
    // The exact distances of the candidates in the chunks [first, last), by query.
    void measure(const QueryBlock& block, int64_t image, int64_t first, int64_t last) {
        // Where a chunk begins, of all slots' pixels one after the other.
        auto start_of = [&](int64_t chunk) {
            return chunk / chunks_an_image_ * gallery_pixels_ + chunk % chunks_an_image_ * chunk_step_;
        };
        const int64_t begin = start_of(first), end = start_of(last);
        std::vector<Span> spans;
        for (int64_t chunk = first; chunk < last; ++chunk) {
            const int64_t pixel = chunk % chunks_an_image_ * chunk_step_;
            spans.push_back({gallery_image(problem_, image, chunk / chunks_an_image_), pixel,
                             std::min(pixel + chunk_step_, gallery_pixels_), 0});
        }
        pairs_.clear();
        for (int64_t q = 0; q < block.pixels(); ++q) {
            const CandidateRow& row = block.candidates.rows[static_cast<size_t>(q)];
            for (int64_t i = 0; i < row.count; ++i) {
                const Candidate& item = row.items[i];
                const int64_t at = item.slot * gallery_pixels_ + item.pixel;
                if (at < begin || at >= end) continue;
                const int64_t span = item.slot * chunks_an_image_ + item.pixel / chunk_step_ - first;
                ++spans[static_cast<size_t>(span)].wanted;
                double& distance = distances_[q * block.capacity + i] = 0.0;
                pairs_.push_back({block.region.pixel_at(q), spans[static_cast<size_t>(span)].image, item.pixel, span, &distance});
            }
        }
        // Pieces long enough for a level's features to be used again while they are in the cache.
        const int64_t size = static_cast<int64_t>(pairs_.size());
        const int64_t piece = std::clamp<int64_t>((size + 2 * team_.size() - 1) / (2 * team_.size()), 64, 4096);
        for (size_t g = 0; g < groups_.size(); ++g) {
            gallery_native_.cover(groups_[g], Side::gallery, problem_.gallery[0].width(), spans);
            team_.run(gallery_native_.pieces(), [&](int64_t p, int) { gallery_native_.fill(p); });
            team_.run((size + piece - 1) / piece, [&](int64_t p, int thread) {
                if (thread == 0) poll(problem_);  // only the calling thread may talk to the caller's interpreter
                exact_[static_cast<size_t>(thread)].add_level(g, image, pairs_.data() + p * piece,
                                                              pairs_.data() + std::min(size, (p + 1) * piece), query_native_[g],
                                                              gallery_native_);
            });
        }
    }

    void write_answers(const QueryBlock& block, int64_t image) {
        const int64_t query_pixels = problem_.query[0].pixels();
        team_.run(block.pixels(), [&](int64_t q, int thread) {
            const CandidateRow& row = block.candidates.rows[static_cast<size_t>(q)];
            std::vector<Answer>& answers = answers_[static_cast<size_t>(thread)];
            answers.clear();
            for (int64_t i = 0; i < row.count; ++i)
                answers.push_back({rounded_distance(distances_[q * block.capacity + i]),
                                   gallery_image(problem_, image, row.items[i].slot) * gallery_pixels_ + row.items[i].pixel});
            write_nearest(answers, problem_, image * query_pixels + block.region.pixel_at(q));
        });
    }

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
