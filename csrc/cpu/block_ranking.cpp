#include "cpu/block_ranking.hpp"

#include <algorithm>

namespace fastspade::cpu {

namespace {

constexpr int64_t native_bytes = 8 << 20;  // of a level's native features at a time, for exact distances

}  // namespace

// Several chunks of the gallery at a time, so that a query's mixture serves many pairs, and a level at a time, so that the native
// features fit into a core's own cache.
BlockRanking::BlockRanking(const Problem& problem, const std::vector<LevelGroup>& groups, ThreadTeam& team,
                           std::vector<ExactDistance>& exact, int64_t chunk_step)
    : problem_(problem),
      groups_(groups),
      team_(team),
      exact_(exact),
      gallery_pixels_(problem.gallery[0].pixels()),
      chunk_step_(chunk_step),
      chunks_an_image_((gallery_pixels_ + chunk_step - 1) / chunk_step),
      chunks_(problem.gallery_count * chunks_an_image_),
      query_native_(groups.size()),
      answers_(static_cast<size_t>(team.size())) {
    int64_t widest = 1;
    for (const LevelGroup& group : groups)
        widest = std::max(widest, NativeRows::image_bytes(group, Side::gallery) / chunks_an_image_);
    together_ = std::clamp<int64_t>(native_bytes / widest, 1, chunks_);
}

int64_t BlockRanking::rank(QueryBlock& block, int64_t image) {
    const int64_t count = block.pixels(), first = block.region.first_pixel();
    team_.run(count, [&](int64_t q, int) { block.candidates.rows[static_cast<size_t>(q)].compact(); });
    sort_entries(block);
    distances_.reserve(count * block.capacity);
    for (size_t g = 0; g < groups_.size(); ++g) {
        query_native_[g].cover(groups_[g], Side::query, problem_.query[0].width(),
                               {{image, first, first + count, start_.back()}});
        team_.run(query_native_[g].pieces(), [&](int64_t piece, int) { query_native_[g].fill(piece); });
    }
    for (size_t batch = 0; batch + 1 < start_.size(); ++batch) measure_batch(block, image, static_cast<int64_t>(batch));
    write_answers(block, image);
    return start_.back();
}

void BlockRanking::sort_entries(const QueryBlock& block) {
    found_.assign(static_cast<size_t>(chunks_), 0);
    start_.assign(static_cast<size_t>((chunks_ + together_ - 1) / together_) + 1, 0);
    for (const CandidateRow& row : block.candidates.rows)
        for (int64_t i = 0; i < row.count; ++i) {
            const int64_t chunk = chunk_of(row.items[i]);
            ++found_[static_cast<size_t>(chunk)];
            ++start_[static_cast<size_t>(chunk / together_) + 1];
        }
    for (size_t b = 1; b < start_.size(); ++b) start_[b] += start_[b - 1];
    entries_.resize(static_cast<size_t>(start_.back()));
    std::vector<int64_t> next(start_.begin(), start_.end() - 1);
    for (size_t q = 0; q < block.candidates.rows.size(); ++q)
        for (int64_t i = 0; i < block.candidates.rows[q].count; ++i) {
            const int64_t batch = chunk_of(block.candidates.rows[q].items[i]) / together_;
            entries_[static_cast<size_t>(next[static_cast<size_t>(batch)]++)] = {static_cast<int32_t>(q),
                                                                                 static_cast<int32_t>(i)};
        }
}

void BlockRanking::measure_batch(const QueryBlock& block, int64_t image, int64_t batch) {
    const Entry* const entries = entries_.data() + start_[static_cast<size_t>(batch)];
    const int64_t size = start_[static_cast<size_t>(batch) + 1] - start_[static_cast<size_t>(batch)];
    if (size == 0) return;
    const int64_t first_chunk = batch * together_;
    std::vector<Span> spans;
    for (int64_t chunk = first_chunk; chunk < std::min(first_chunk + together_, chunks_); ++chunk) {
        const int64_t begin = chunk % chunks_an_image_ * chunk_step_;
        spans.push_back({gallery_image(problem_, image, chunk / chunks_an_image_), begin,
                         std::min(begin + chunk_step_, gallery_pixels_), found_[static_cast<size_t>(chunk)]});
    }
    pairs_.resize(static_cast<size_t>(size));
    // Pieces long enough for a level's features to be used again while they are in the cache.
    const int64_t piece = std::clamp<int64_t>((size + 2 * team_.size() - 1) / (2 * team_.size()), 64, 4096);
    auto by_pieces = [&](auto&& work) {
        team_.run((size + piece - 1) / piece, [&](int64_t p, int thread) {
            if (thread == 0) poll(problem_);  // only the calling thread may talk to the caller's interpreter
            work(p * piece, std::min(size, (p + 1) * piece), exact_[static_cast<size_t>(thread)]);
        });
    };
    by_pieces([&](int64_t begin, int64_t end, ExactDistance&) {
        for (int64_t e = begin; e < end; ++e) {
            const Candidate& candidate = block.candidates.rows[static_cast<size_t>(entries[e].query)].items[entries[e].item];
            pairs_[static_cast<size_t>(e)] = {block.region.pixel_at(entries[e].query),
                                              gallery_image(problem_, image, candidate.slot), candidate.pixel,
                                              chunk_of(candidate) - first_chunk, 0.0};
        }
    });
    for (size_t g = 0; g < groups_.size(); ++g) {
        gallery_native_.cover(groups_[g], Side::gallery, problem_.gallery[0].width(), spans);
        team_.run(gallery_native_.pieces(), [&](int64_t p, int) { gallery_native_.fill(p); });
        by_pieces([&](int64_t begin, int64_t end, ExactDistance& exact) {
            exact.add_level(g, image, pairs_.data() + begin, pairs_.data() + end, query_native_[g], gallery_native_);
        });
    }
    by_pieces([&](int64_t begin, int64_t end, ExactDistance&) {
        for (int64_t e = begin; e < end; ++e)
            distances_[entries[e].query * block.capacity + entries[e].item] =
                rounded_distance(pairs_[static_cast<size_t>(e)].distance);
    });
}

void BlockRanking::write_answers(const QueryBlock& block, int64_t image) {
    const int64_t query_pixels = problem_.query[0].pixels();
    team_.run(block.pixels(), [&](int64_t q, int thread) {
        const CandidateRow& row = block.candidates.rows[static_cast<size_t>(q)];
        std::vector<Answer>& answers = answers_[static_cast<size_t>(thread)];
        answers.clear();
        for (int64_t i = 0; i < row.count; ++i)
            answers.push_back({distances_[q * block.capacity + i],
                               gallery_image(problem_, image, row.items[i].slot) * gallery_pixels_ + row.items[i].pixel});
        write_nearest(answers, problem_, image * query_pixels + block.region.pixel_at(q));
    });
}

}  // namespace fastspade::cpu
