// Candidates in the order of the answer: by exact distance as it is returned, rounded to float32, ties by the lower flat
// index. Because the answer holds all that its order depends on, answers over parts of a gallery merge to the whole's.
// Only float32's digits count, not its range: squares of features as small as 1e-22 keep their order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/candidates.hpp"
#include "core/exact.hpp"

namespace fastspade {

// Rounded to float32's 24 digits, ties to even, with float64's range.
inline double rounded_distance(double distance) {
    uint64_t bits;
    std::memcpy(&bits, &distance, sizeof(bits));
    bits = (bits + 0x0fffffffu + ((bits >> 29) & 1)) & ~uint64_t{0x1fffffff};
    std::memcpy(&distance, &bits, sizeof(bits));
    return distance;
}

struct Answer {
    double distance;  // rounded
    int64_t flat;     // image * pixels an image + pixel

    bool operator<(const Answer& other) const {
        return distance < other.distance || (distance == other.distance && flat < other.flat);
    }
};

struct Ranked : Answer {
    Candidate candidate;
};

// A candidate of the query that `exact` is set to.
inline Ranked rank(const Candidate& candidate, const Problem& problem, int64_t query_image, ExactDistance& exact) {
    const int64_t image = gallery_image(problem, query_image, candidate.slot);
    const int64_t flat = image * problem.gallery[0].pixels() + candidate.pixel;
    return {{rounded_distance(exact.to(image, candidate.pixel)), flat}, candidate};
}

// Keeps the kappa nearest of a query's row that ties have crowded.
inline void keep_nearest(CandidateRow& row, const Problem& problem, int64_t query_image, int64_t query_pixel,
                         ExactDistance& exact) {
    exact.set_query(query_image, query_pixel);
    std::vector<Ranked> ranked;
    for (int64_t i = 0; i < row.count; ++i) ranked.push_back(rank(row.items[i], problem, query_image, exact));
    std::sort(ranked.begin(), ranked.end());
    row.count = std::min(row.count, problem.kappa);
    for (int64_t i = 0; i < row.count; ++i) row.items[i] = ranked[static_cast<size_t>(i)].candidate;
}

// Writes the kappa nearest to the outputs' row `at`.
inline void write_nearest(std::vector<Answer>& answers, const Problem& problem, int64_t at) {
    if (static_cast<int64_t>(answers.size()) < problem.kappa)
        answers.resize(static_cast<size_t>(problem.kappa), Answer{std::numeric_limits<double>::infinity(), -1});
    std::partial_sort(answers.begin(), answers.begin() + problem.kappa, answers.end());
    for (int64_t i = 0; i < problem.kappa; ++i) {
        problem.distances[at * problem.kappa + i] = static_cast<float>(answers[static_cast<size_t>(i)].distance);
        problem.indices[at * problem.kappa + i] = answers[static_cast<size_t>(i)].flat;
    }
}

}  // namespace fastspade
