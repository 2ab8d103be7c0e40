// Search for a handful of query vectors: bound by reading the gallery once, so nothing is laid out anew.
#include "cpu/search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/buffer.hpp"
#include "core/candidates.hpp"
#include "core/exact.hpp"
#include "core/ranking.hpp"
#include "cpu/kernels.hpp"
#include "cpu/thread_team.hpp"

namespace fastspade::cpu {

namespace {

constexpr int64_t candidate_bytes = 12 << 20;
constexpr int64_t most_channels = 1 << 16;  // keeps the share of rounding far below one
constexpr int64_t part_bytes = 1 << 20;     // of gallery an item of work
constexpr int64_t rows_at_once = 32;        // limits are brought up to date between

class FewQueries {
  public:
    explicit FewQueries(const Problem& problem) : problem_(problem), team_(problem.threads) {
        std::fill_n(queries_.reserve(padded_count_ * stride_), padded_count_ * stride_, 0.0f);
        for (int64_t q = 0; q < count_; ++q) {
            if (!finite_at(query_, 0, q)) throw NonFinite("query", 0, 0);
            std::copy_n(static_cast<const float*>(query_.data) + q * query_.pixel_step(), channels_,
                        queries_.data() + q * stride_);
        }
        // Each of the sum's roundings is a share of a sum of positive terms, so the error is a share of the value: no
        // centring is needed. Squares too small for float32 lose at most its smallest step each. Distances that round to the
        // same float32 are ties, which widens the limit once more.
        const double share = static_cast<double>(channels_ + 16) * 0x1p-24;
        for (int thread = 0; thread < team_.size(); ++thread) {
            State& state = states_.emplace_back(State{ExactDistance(problem_, groups_)});
            state.candidates.start(count_, problem_.kappa);
            state.limit.assign(static_cast<size_t>(padded_count_), -infinity);
            std::fill_n(state.limit.begin(), count_, infinity);
            state.hits.resize(static_cast<size_t>(rows_at_once * padded_count_));
            for (CandidateRow& row : state.candidates.rows) {
                row.factor = static_cast<float>((1.0 + share) / (1.0 - share) * (1.0 + 0x1p-21));
                row.error = static_cast<float>(2 * channels_) * std::numeric_limits<float>::denorm_min();
            }
        }
    }

    Statistics run() {
        const int64_t step = std::clamp<int64_t>(part_bytes / (4 * channels_), 1, pixels_);
        const int64_t parts = (pixels_ + step - 1) / step;
        team_.run(parts * problem_.gallery_count, [&](int64_t item, int thread) {
            if (thread == 0) poll(problem_);  // only the calling thread may talk to the caller's interpreter
            const int64_t begin = item % parts * step;
            search_part(item / parts, begin, std::min(pixels_, begin + step), states_[static_cast<size_t>(thread)]);
        });

        Statistics statistics;
        statistics.pairs = statistics.fine_pairs = count_ * pixels_ * problem_.gallery_count;
        std::vector<Answer> answers;
        for (int64_t q = 0; q < count_; ++q) {
            poll(problem_);
            auto row_of = [&](const State& state) -> const CandidateRow& {
                return state.candidates.rows[static_cast<size_t>(q)];
            };
            float limit = infinity;
            for (const State& state : states_) limit = std::min(limit, row_of(state).limit());
            states_[0].exact.set_query(0, q);
            answers.clear();
            for (const State& state : states_)
                for (const Candidate* item = row_of(state).items; item < row_of(state).items + row_of(state).count; ++item)
                    if (!(item->screened > limit)) answers.push_back(rank(*item, problem_, 0, states_[0].exact));
            statistics.exact_pairs += static_cast<int64_t>(answers.size());
            write_nearest(answers, problem_, q);
        }
        for (const State& state : states_) statistics.exact_pairs += state.exact_pairs;
        return statistics;
    }

  private:
    struct State {  // one a thread: the best of the parts it took
        ExactDistance exact;
        CandidateTable candidates{};
        std::vector<float> limit{};
        std::vector<Hit> hits{};
        int64_t exact_pairs = 0;
    };

    void search_part(int64_t slot, int64_t begin, int64_t end, State& state) {
        const int64_t image = gallery_image(problem_, 0, slot), step = gallery_.pixel_step();
        const float* const base = static_cast<const float*>(gallery_.data) + gallery_.offset(image, 0, 0, 0);
        for (int64_t first = begin; first < end; first += rows_at_once) {
            const float* const rows = base + first * step;
            const int64_t found = kernels_.near_rows(rows, step, std::min(rows_at_once, end - first), channels_, queries_.data(),
                                                     padded_count_, stride_, state.limit.data(), state.hits.data());
            for (int64_t h = 0; h < found; ++h) {
                const Hit& hit = state.hits[static_cast<size_t>(h)];
                if (!std::isfinite(hit.value) && !finite_at(gallery_, image, first + hit.row))
                    throw NonFinite("gallery", 0, image);
                if (hit.lane < count_) add(hit.lane, {hit.value, static_cast<int32_t>(slot), first + hit.row}, state);
            }
        }
    }

    void add(int64_t query, const Candidate& candidate, State& state) {
        CandidateRow& row = state.candidates.rows[static_cast<size_t>(query)];
        if (candidate.screened > row.limit()) return;  // the limit fell since the pair was found
        row.add(candidate, problem_.kappa);
        if (row.count == capacity_) {
            row.compact();
            if (row.count > capacity_ - 8) {  // more ties than the screen can tell apart
                state.exact_pairs += row.count;
                keep_nearest(row, problem_, 0, query, state.exact);
            }
        }
        state.limit[static_cast<size_t>(query)] = row.limit();
    }

    const Problem& problem_;
    const Kernels& kernels_ = kernels();
    const std::vector<LevelGroup> groups_ = group_levels(problem_);
    const TensorView &query_ = problem_.query[0], &gallery_ = problem_.gallery[0];
    const int64_t count_ = query_.pixels(), padded_count_ = (count_ + 3) / 4 * 4, pixels_ = gallery_.pixels();
    const int64_t channels_ = query_.channels(), stride_ = (channels_ + 15) / 16 * 16;
    const int64_t capacity_ = candidate_capacity(problem_.kappa);
    ThreadTeam team_;
    Buffer<float> queries_;  // [query][stride_], zero padded
    std::vector<State> states_;
};
}  // namespace

bool suits_few_queries(const Problem& problem) {
    const TensorView &query = problem.query[0], &gallery = problem.gallery[0];
    if (problem.query.size() != 1 || query.images() != 1 || query.channels() > most_channels || !query.holds_vectors() ||
        !gallery.holds_vectors())
        return false;
    // search() shares out tiles of `lanes` queries; this way shares out the gallery, at a list a thread and query.
    const int64_t bytes =
        query.pixels() * problem.threads * candidate_capacity(problem.kappa) * static_cast<int64_t>(sizeof(Candidate));
    return query.pixels() <= kernels().lanes * std::max(1, problem.threads / 2) && bytes <= candidate_bytes;
}

Statistics search_few_queries(const Problem& problem) { return FewQueries(problem).run(); }

}  // namespace fastspade::cpu
