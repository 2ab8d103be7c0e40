// Keeping candidates while chunks pass, and ranking what is left by exact distances.
#include <algorithm>
#include <vector>

#include "core/duplicates.hpp"
#include "core/ranking.hpp"
#include "cpu/search_state.hpp"

namespace fastspade::cpu {

void Search::add(int64_t query, const Candidate& candidate, float* limit, Scratch& scratch) {
    CandidateRow& row = rows_[static_cast<size_t>(query)];
    if (candidate.screened > row.limit()) return;  // the limit fell since the pair was found
    if (repeats(candidate.pixel - chunk_.first_pixel())) return;
    row.add(candidate, problem_.kappa);
    if (row.count == capacity_) {
        row.compact();
        // Many pairs closer together than the screen can tell. Most often they repeat one descriptor; what is left
        // after dropping repeats, only exact distances thin out.
        if (row.count > capacity_ - 8) {
            find_duplicates();
            drop_repeats(row, candidate.slot);
            if (row.count > capacity_ - 8) rank_exactly(query, scratch);
        }
    }
    *limit = row.limit();
}

void Search::find_duplicates() {
    std::lock_guard<std::mutex> hold(duplicates_lock_);
    if (duplicates_.load(std::memory_order_relaxed)) return;
    duplicate_ranks_ = duplicate_ranks(groups_, chunk_.image(), chunk_.first_pixel(),
                                       chunk_.first_pixel() + chunk_.pixels(), problem_.gallery[0].width());
    duplicates_.store(duplicate_ranks_.data(), std::memory_order_release);
}

// Removes the repeats that came from the chunk at hand; earlier chunks' candidates stay.
void Search::drop_repeats(CandidateRow& row, int32_t slot) const {
    int64_t kept = 0;
    for (int64_t i = 0; i < row.count; ++i) {
        const Candidate& item = row.items[i];
        const int64_t pixel = item.pixel - chunk_.first_pixel();
        const bool here = item.slot == slot && pixel >= 0 && pixel < chunk_.pixels();
        if (!here || !repeats(pixel)) row.items[kept++] = item;
    }
    row.count = kept;
}

// Keeps the kappa nearest of an overfull row by (exact distance, flat index).
void Search::rank_exactly(int64_t query, Scratch& scratch) {
    CandidateRow& row = rows_[static_cast<size_t>(query)];
    scratch.exact->set_query(block_image_, queries_.first_pixel() + query);
    scratch.exact_pairs += row.count;
    keep_nearest(row, problem_.kappa, [&](const Candidate& candidate) {
        const int64_t image = gallery_image(candidate.slot);
        return Ranked{static_cast<float>(scratch.exact->to(image, candidate.pixel)), image * gallery_pixels_ + candidate.pixel, candidate};
    });
}

// The end of a block: exact distances of all candidates left, then each query's kappa nearest go to the output.
void Search::rank_block() {
    const int64_t count = queries_.pixels(), first = queries_.first_pixel();
    team_.run(count, [&](int64_t q, int) { rows_[static_cast<size_t>(q)].compact(); });

    // Candidates by the gallery chunk they lie in, then by query: each chunk is visited once.
    struct Entry {
        int32_t query, item;
        int64_t pixel;
    };
    const int64_t chunks_an_image = (gallery_pixels_ + chunk_step_ - 1) / chunk_step_;
    std::vector<int64_t> start(static_cast<size_t>(problem_.gallery_count * chunks_an_image) + 1, 0);
    auto chunk_of = [&](const Candidate& candidate) {
        return static_cast<size_t>(candidate.slot * chunks_an_image + candidate.pixel / chunk_step_);
    };
    for (int64_t q = 0; q < count; ++q)
        for (int64_t i = 0; i < rows_[static_cast<size_t>(q)].count; ++i)
            ++start[chunk_of(rows_[static_cast<size_t>(q)].items[i]) + 1];
    for (size_t c = 1; c < start.size(); ++c) start[c] += start[c - 1];
    std::vector<Entry> entries(static_cast<size_t>(start.back()));
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t q = 0; q < count; ++q)
        for (int64_t i = 0; i < rows_[static_cast<size_t>(q)].count; ++i) {
            const Candidate& candidate = rows_[static_cast<size_t>(q)].items[i];
            entries[static_cast<size_t>(next[chunk_of(candidate)]++)] = {static_cast<int32_t>(q), static_cast<int32_t>(i),
                                                                         candidate.pixel};
        }
    distances_.reserve(count * capacity_);

    // Reading scattered vectors out of channel-major features is slow, and so is laying them out anew for a few.
    const NativeRows* query_rows = nullptr;
    if (start.back() > 2 * count) {
        query_native_.place(groups_, Side::query, block_image_, first, first + count);
        team_.run(query_native_.pieces(), [&](int64_t piece, int) { query_native_.fill(piece); });
        query_rows = &query_native_;
    }
    for (size_t c = 0; c + 1 < start.size(); ++c) {
        const int64_t found = start[c + 1] - start[c];
        if (found == 0) continue;
        const int64_t image = gallery_image(static_cast<int64_t>(c) / chunks_an_image);
        const int64_t begin = static_cast<int64_t>(c) % chunks_an_image * chunk_step_;
        const int64_t end = std::min(begin + chunk_step_, gallery_pixels_);
        const NativeRows* rows = nullptr;
        if (found * 8 > end - begin) {
            gallery_native_.place(groups_, Side::gallery, image, begin, end);
            team_.run(gallery_native_.pieces(), [&](int64_t piece, int) { gallery_native_.fill(piece); });
            rows = &gallery_native_;
        }
        // Pieces long enough for a level's features to be used again while they are in the cache.
        const int64_t piece = std::clamp<int64_t>((found + 2 * team_.size() - 1) / (2 * team_.size()), 64, 2048);
        team_.run((found + piece - 1) / piece, [&](int64_t p, int thread) {
            if (thread == 0) poll();  // only the calling thread may talk to the caller's interpreter
            Scratch& scratch = scratch_[static_cast<size_t>(thread)];
            const int64_t begin = start[c] + p * piece, end = std::min(start[c + 1], begin + piece);
            scratch.pairs.clear();
            for (int64_t e = begin; e < end; ++e)
                scratch.pairs.push_back({first + entries[static_cast<size_t>(e)].query, entries[static_cast<size_t>(e)].pixel, 0.0});
            scratch.exact->between(block_image_, image, scratch.pairs, query_rows, rows);
            for (int64_t e = begin; e < end; ++e) {
                const Entry& entry = entries[static_cast<size_t>(e)];
                distances_[entry.query * capacity_ + entry.item] =
                    static_cast<float>(scratch.pairs[static_cast<size_t>(e - begin)].distance);
            }
            scratch.exact_pairs += end - begin;
        });
    }
    team_.run(count, [&](int64_t q, int) {
        const CandidateRow& row = rows_[static_cast<size_t>(q)];
        std::vector<Ranked> ranked(static_cast<size_t>(row.count));
        for (int64_t i = 0; i < row.count; ++i)
            ranked[static_cast<size_t>(i)] = {distances_[q * capacity_ + i],
                                              gallery_image(row.items[i].slot) * gallery_pixels_ + row.items[i].pixel,
                                              row.items[i]};
        write_nearest(ranked, problem_, block_image_ * query_pixels_ + first + q);
    });
}

}  // namespace fastspade::cpu
