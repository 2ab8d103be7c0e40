// Keeping candidates while chunks pass, and ranking what is left by exact distances.
#include <algorithm>
#include <vector>

#include "core/duplicates.hpp"
#include "core/ranking.hpp"
#include "cpu/search_state.hpp"

namespace fastspade::cpu {

namespace {

constexpr int64_t native_bytes = 8 << 20;  // of a level's native features at a time, for exact distances

}  // namespace

void Search::add(int64_t query, const Candidate& candidate, float* limit, Scratch& scratch) {
    CandidateRow& row = rows_[static_cast<size_t>(query)];
    if (candidate.screened > row.limit()) return;  // the limit fell since the pair was found
    if (const int64_t pixel = candidate.pixel - chunk_.first_pixel(); repeats(pixel) || !in_window(query, pixel)) return;
    row.add(candidate, problem_.kappa);
    if (row.count == capacity_) {
        row.compact();
        // Many pairs closer together than the screen can tell. Most often they repeat one descriptor; what is left
        // after dropping repeats, only exact distances thin out.
        if (row.count > capacity_ - 8) {
            if (!windowed(problem_)) {  // within a window the first of equal pixels need not be there
                find_duplicates();
                drop_repeats(row, candidate.slot);
            }
            if (row.count > capacity_ - 8) rank_exactly(query, scratch);
        }
    }
    *limit = row.limit();
}

void Search::find_duplicates() {
    std::lock_guard<std::mutex> hold(duplicates_lock_);
    if (duplicates_.load(std::memory_order_relaxed)) return;
    duplicate_ranks_ = duplicate_ranks(groups_, chunk_.image(), chunk_.first_pixel(), chunk_.first_pixel() + chunk_.pixels(),
                                       problem_.gallery[0].width());
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
    scratch.exact->set_query(block_image_, queries_.pixel_at(query));
    scratch.exact_pairs += row.count;
    keep_nearest(row, problem_.kappa, [&](const Candidate& candidate) {
        const int64_t image = gallery_image(candidate.slot);
        return Ranked{{rounded_distance(scratch.exact->to(image, candidate.pixel)), image * gallery_pixels_ + candidate.pixel},
                      candidate};
    });
}

// The end of a block: exact distances of all candidates left, then each query's kappa nearest go to the output.
void Search::rank_block() {
    const int64_t count = queries_.pixels(), first = queries_.first_pixel();
    const int64_t query_width = problem_.query[0].width(), gallery_width = problem_.gallery[0].width();
    team_.run(count, [&](int64_t q, int) { rows_[static_cast<size_t>(q)].compact(); });

    // Several chunks of the gallery at a time, so that a query's mixture serves many pairs, and a level at a time, so that
    // the native features fit into a core's own cache.
    const int64_t chunks_an_image = (gallery_pixels_ + chunk_step_ - 1) / chunk_step_;
    const int64_t chunks = problem_.gallery_count * chunks_an_image;
    int64_t widest = 1;
    for (const LevelGroup& group : groups_)
        widest = std::max(widest, NativeRows::image_bytes(group, Side::gallery) / chunks_an_image);
    const int64_t together = std::clamp<int64_t>(native_bytes / widest, 1, chunks);

    // Candidates by the batch of chunks they lie in, then by query.
    struct Entry {
        int32_t query, item;
    };
    auto chunk_of = [&](const Candidate& candidate) { return candidate.slot * chunks_an_image + candidate.pixel / chunk_step_; };
    std::vector<int64_t> found(static_cast<size_t>(chunks), 0),
        start(static_cast<size_t>((chunks + together - 1) / together) + 1, 0);
    for (const CandidateRow& row : rows_)
        for (int64_t i = 0; i < row.count; ++i) {
            const int64_t chunk = chunk_of(row.items[i]);
            ++found[static_cast<size_t>(chunk)];
            ++start[static_cast<size_t>(chunk / together) + 1];
        }
    for (size_t b = 1; b < start.size(); ++b) start[b] += start[b - 1];
    std::vector<Entry> entries(static_cast<size_t>(start.back()));
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t q = 0; q < count; ++q)
        for (int64_t i = 0; i < rows_[static_cast<size_t>(q)].count; ++i) {
            const int64_t batch = chunk_of(rows_[static_cast<size_t>(q)].items[i]) / together;
            entries[static_cast<size_t>(next[static_cast<size_t>(batch)]++)] = {static_cast<int32_t>(q), static_cast<int32_t>(i)};
        }
    distances_.reserve(count * capacity_);

    query_native_.resize(groups_.size());
    for (size_t g = 0; g < groups_.size(); ++g) {
        query_native_[g].place(groups_[g], Side::query, query_width, {{block_image_, first, first + count, start.back()}});
        team_.run(query_native_[g].pieces(), [&](int64_t piece, int) { query_native_[g].fill(piece); });
    }
    std::vector<ExactPair> pairs;
    std::vector<Span> spans;
    for (size_t b = 0; b + 1 < start.size(); ++b) {
        const Entry* const batch = entries.data() + start[b];
        const int64_t size = start[b + 1] - start[b], first_chunk = static_cast<int64_t>(b) * together;
        if (size == 0) continue;
        spans.clear();
        for (int64_t i = 0; i < std::min(together, chunks - first_chunk); ++i) {
            const int64_t chunk = first_chunk + i, begin = chunk % chunks_an_image * chunk_step_;
            const int64_t end = std::min(begin + chunk_step_, gallery_pixels_);
            spans.push_back({gallery_image(chunk / chunks_an_image), begin, end, found[static_cast<size_t>(chunk)]});
        }
        pairs.resize(static_cast<size_t>(size));
        // Pieces long enough for a level's features to be used again while they are in the cache.
        const int64_t piece = std::clamp<int64_t>((size + 2 * team_.size() - 1) / (2 * team_.size()), 64, 4096);
        auto by_pieces = [&](auto&& work) {
            team_.run((size + piece - 1) / piece, [&](int64_t p, int thread) {
                if (thread == 0) poll();  // only the calling thread may talk to the caller's interpreter
                work(p * piece, std::min(size, (p + 1) * piece), scratch_[static_cast<size_t>(thread)]);
            });
        };
        by_pieces([&](int64_t begin, int64_t end, Scratch& scratch) {
            for (int64_t e = begin; e < end; ++e) {
                const Candidate& candidate = rows_[static_cast<size_t>(batch[e].query)].items[batch[e].item];
                pairs[static_cast<size_t>(e)] = {queries_.pixel_at(batch[e].query), gallery_image(candidate.slot),
                                                 candidate.pixel, chunk_of(candidate) - first_chunk, 0.0};
            }
            scratch.exact_pairs += end - begin;
        });
        for (size_t g = 0; g < groups_.size(); ++g) {
            gallery_native_.place(groups_[g], Side::gallery, gallery_width, spans);
            team_.run(gallery_native_.pieces(), [&](int64_t p, int) { gallery_native_.fill(p); });
            by_pieces([&](int64_t begin, int64_t end, Scratch& scratch) {
                scratch.exact->add_level(g, block_image_, pairs.data() + begin, pairs.data() + end, query_native_[g],
                                         gallery_native_);
            });
        }
        by_pieces([&](int64_t begin, int64_t end, Scratch&) {
            for (int64_t e = begin; e < end; ++e)
                distances_[batch[e].query * capacity_ + batch[e].item] = rounded_distance(pairs[static_cast<size_t>(e)].distance);
        });
    }
    team_.run(count, [&](int64_t q, int thread) {
        const CandidateRow& row = rows_[static_cast<size_t>(q)];
        std::vector<Answer>& answers = scratch_[static_cast<size_t>(thread)].answers;
        answers.clear();
        for (int64_t i = 0; i < row.count; ++i)
            answers.push_back(
                {distances_[q * capacity_ + i], gallery_image(row.items[i].slot) * gallery_pixels_ + row.items[i].pixel});
        write_nearest(answers, problem_, block_image_ * query_pixels_ + queries_.pixel_at(q));
    });
}

}  // namespace fastspade::cpu
