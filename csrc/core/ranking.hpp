// Candidates in the order of the answer: by exact distance as it is returned, rounded to float32, ties by the lower flat
// index. Because the answer holds all that its order depends on, answers over parts of a gallery merge to the whole's.
// Until it is written a distance is kept times `unit`, a power of two that brings the features near one: squares of features
// as small as 1e-22 keep their digits, and those of 1e20 stay finite.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/candidates.hpp"
#include "core/problem.hpp"

namespace fastspade {

struct Answer {
    float distance;
    int64_t flat;  // image * pixels an image + pixel

    bool operator<(const Answer& other) const {
        return distance < other.distance || (distance == other.distance && flat < other.flat);
    }
};

struct Ranked : Answer {
    Candidate candidate;
};

// Keeps the kappa nearest of a row that ties have crowded; rank(candidate) gives its Ranked.
template <class Rank>
void keep_nearest(CandidateRow& row, int64_t kappa, Rank&& rank) {
    std::vector<Ranked> ranked;
    ranked.reserve(static_cast<size_t>(row.count));
    for (int64_t i = 0; i < row.count; ++i) ranked.push_back(rank(row.items[i]));
    std::sort(ranked.begin(), ranked.end());
    row.count = std::min(row.count, kappa);
    for (int64_t i = 0; i < row.count; ++i) row.items[i] = ranked[static_cast<size_t>(i)].candidate;
}

// Writes the kappa nearest to the outputs' row `at`.
inline void write_nearest(std::vector<Answer>& answers, const Problem& problem, double unit, int64_t at) {
    std::partial_sort(answers.begin(), answers.begin() + problem.kappa, answers.end());
    for (int64_t i = 0; i < problem.kappa; ++i) {
        problem.distances[at * problem.kappa + i] = static_cast<float>(static_cast<double>(answers[static_cast<size_t>(i)].distance) / unit);
        problem.indices[at * problem.kappa + i] = answers[static_cast<size_t>(i)].flat;
    }
}

}  // namespace fastspade
