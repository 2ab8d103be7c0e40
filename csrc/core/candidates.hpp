// The candidates one query keeps while the gallery streams by.
//
// A screen computes distances with a known error: |screened - true| <= error. A pair can be among the kappa nearest only
// if screened <= (kappa-th smallest screened so far) + 2 * error, so everything up to that limit is kept and the rest is
// gone for good. Where the error is a share e of the true value besides, the factor (1 + e) / (1 - e) joins in. What is
// left at the end is ranked by exact distances (see exact.hpp).
//
// What float32 rounding can do: every screened distance is n(q) + n(r) - 2 <q, r>, each term a sum over one level's C channels in
// runs of `run_length`. With s the interpolated norms of the native vectors (an upper bound on the norm of the interpolated
// vector, by the triangle inequality), each level's error is at most u * (run_length + C / run_length + slack) * (s(q) + s(r))^2,
// the standard bound for blocked summation (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). `slack` covers
// the centring, the interpolation weights, and the handful of additions at the end, and that distances which round to the same
// float32 are ties.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/buffer.hpp"

namespace fastspade {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr int run_length = 128;

inline double rounding_factor(int64_t channels) {
    constexpr double unit = 0x1p-24;
    constexpr double slack = 42.0;
    const double run = static_cast<double>(std::min<int64_t>(channels, run_length));
    const double runs = static_cast<double>((channels + run_length - 1) / run_length);
    return unit * (run + runs + slack);
}

struct Candidate {
    float screened;  // squared distance in the screen's scaled units
    int32_t slot;    // position in this query's list of gallery images
    int64_t pixel;   // pixel within the gallery image
};

// One row of a fixed-capacity buffer that several rows share; `limit` may only fall while `error` is unchanged.
struct CandidateRow {
    Candidate* items = nullptr;
    float* nearest = nullptr;  // room for kappa: the smallest screened distances so far, a heap with the largest on top
    int64_t count = 0;
    int64_t known = 0;  // how many of them there are
    float kth = infinity;
    float error = 0.0f;
    float factor = 1.0f;

    float limit() const { return factor * kth + 2.0f * error; }

    // Adds a candidate; there must be room. A NaN (an overflow in the screen) is kept but lowers no limit.
    void add(const Candidate& candidate, int64_t kappa) {
        items[count++] = candidate;
        const float screened = candidate.screened;
        if (known < kappa) {
            if (!(screened == screened)) return;
            nearest[known++] = screened;
            std::push_heap(nearest, nearest + known);
            if (known == kappa) kth = nearest[0];
        } else if (screened < kth) {
            int64_t hole = 0;  // sinks from the top until what comes in is no smaller than all below
            for (int64_t below; (below = 2 * hole + 1) < kappa; hole = below) {
                if (below + 1 < kappa && nearest[below + 1] > nearest[below]) ++below;
                if (!(nearest[below] > screened)) break;
                nearest[hole] = nearest[below];
            }
            nearest[hole] = screened;
            kth = nearest[0];
        }
    }

    // Drops what can no longer win. Called when the row is full and at the end.
    void compact() {
        const float bound = limit();
        int64_t kept = 0;
        for (int64_t i = 0; i < count; ++i)
            if (!(items[i].screened > bound)) items[kept++] = items[i];
        count = kept;
    }
};

// Room for kappa and enough beyond it that compacting is rare; not more, because limits fall when rows are compacted.
inline int64_t candidate_capacity(int64_t kappa) { return kappa + (kappa < 32 ? 16 : kappa / 2); }

// Rows of one capacity in common buffers.
struct CandidateTable {
    std::vector<CandidateRow> rows;

    // So many rows, empty.
    void start(int64_t count, int64_t kappa) {
        rows.assign(static_cast<size_t>(count), CandidateRow{});
        const int64_t capacity = candidate_capacity(kappa);
        items_.reserve(count * capacity);
        nearest_.reserve(count * kappa);
        for (int64_t q = 0; q < count; ++q) {
            rows[static_cast<size_t>(q)].items = items_.data() + q * capacity;
            rows[static_cast<size_t>(q)].nearest = nearest_.data() + q * kappa;
        }
    }

  private:
    Buffer<Candidate> items_;
    Buffer<float> nearest_;
};

}  // namespace fastspade
