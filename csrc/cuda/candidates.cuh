// Candidates as 64-bit keys that order by (distance, place), and one warp's selection of the smallest.
//
// Keys are distinct, because places are, so "the n smallest" is one set whatever order they arrived in: that makes every
// result the same from run to run.
#pragma once

#include "cuda/device.cuh"

namespace fastspade::cuda {

constexpr uint64_t no_candidate = ~0ull;

// An order-preserving map from floats to unsigned integers; NaN comes first, so that it is never lost.
FASTSPADE_DEVICE uint32_t ordered_bits(float value) {
    const uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0u;
    return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}
FASTSPADE_DEVICE float from_ordered_bits(uint32_t ordered) {
    if (ordered == 0u) return bits_float(0x7fc00000u);
    return bits_float((ordered & 0x80000000u) ? ordered & 0x7fffffffu : ~ordered);
}

FASTSPADE_DEVICE uint64_t make_key(float value, uint32_t place) {
    return static_cast<uint64_t>(ordered_bits(value)) << 32 | place;
}
FASTSPADE_DEVICE float key_value(uint64_t key) { return from_ordered_bits(static_cast<uint32_t>(key >> 32)); }
FASTSPADE_DEVICE uint32_t key_place(uint64_t key) { return static_cast<uint32_t>(key); }

// How many of the first `count` keys are smaller than `key`.
FASTSPADE_DEVICE int rank_among(const uint64_t* keys, int count, uint64_t key) {
    int rank = 0;
    for (int i = 0; i < count; ++i) rank += keys[i] < key;
    return rank;
}

// The `keep`-th smallest of `count` keys (keep <= count), found bit by bit: no scratch memory, any length.
FASTSPADE_DEVICE uint64_t select_key(const uint64_t* keys, int count, int keep, int lane) {
    uint64_t prefix = 0;
    int wanted = keep;
    for (int bit = 63; bit >= 0; --bit) {
        // Among keys that agree with the prefix above this bit, how many have it clear?
        int clear = 0;
        for (int first = 0; first < count; first += 32) {
            const int i = first + lane;
            const bool hit = i < count && (keys[i] >> bit) == (prefix >> bit);
            clear += count_bits(warp_ballot(hit));
        }
        if (wanted > clear) {
            wanted -= clear;
            prefix |= 1ull << bit;
        }
    }
    return prefix;
}

// Moves the `keep` smallest of `count` distinct keys to the front, in no particular order, and returns the largest of
// them. Called by one warp; with fewer than `keep` keys nothing happens and no_candidate is returned.
FASTSPADE_DEVICE uint64_t keep_smallest(uint64_t* keys, int count, int keep, int lane) {
    if (count < keep) return no_candidate;
    warp_barrier();
    const uint64_t last = select_key(keys, count, keep, lane);
    int kept = 0;
    for (int first = 0; first < count; first += 32) {
        const int i = first + lane;
        const uint64_t key = i < count ? keys[i] : no_candidate;
        const bool stays = i < count && key <= last;
        const uint32_t stayers = warp_ballot(stays);
        warp_barrier();  // between reading this stretch and writing at or before it
        if (stays) keys[kept + count_bits(stayers & ((1u << lane) - 1u))] = key;
        kept += count_bits(stayers);
        warp_barrier();
    }
    return last;
}

// The same for short lists, and leaves them sorted: every lane ranks its own keys, count * count / 32 comparisons.
constexpr int short_list = 256;

template <int KeysPerLane = short_list / 32>
FASTSPADE_DEVICE uint64_t keep_smallest_short(uint64_t* keys, int count, int keep, int lane) {
    warp_barrier();
    uint64_t own[KeysPerLane];
    int rank[KeysPerLane];
    uint64_t last = no_candidate;
#pragma unroll
    for (int j = 0; j < KeysPerLane; ++j) {
        const int i = lane + 32 * j;
        rank[j] = keep;
        if (32 * j < count) {
            own[j] = i < count ? keys[i] : no_candidate;
            if (i < count) rank[j] = rank_among(keys, count, own[j]);
            const uint32_t found = warp_ballot(rank[j] == keep - 1);
            if (found) last = warp_shuffle(own[j], lowest_bit(found));
        }
    }
    warp_barrier();
#pragma unroll
    for (int j = 0; j < KeysPerLane; ++j)
        if (rank[j] < keep) keys[rank[j]] = own[j];
    warp_barrier();
    return last;
}

FASTSPADE_DEVICE uint64_t keep_nearest(uint64_t* keys, int count, int keep, int lane) {
    return count <= short_list ? keep_smallest_short(keys, count, keep, lane) : keep_smallest(keys, count, keep, lane);
}

}  // namespace fastspade::cuda
