// Interpolating Gram matrices: over the query's pixels, then over the gallery's columns and rows, with bounds on cells first.
#pragma once

#include "cpu/kernels_vector.inl"

namespace fastspade::cpu {
namespace {

void interpolate_lanes(const float* gram, int64_t stride, const LaneTaps* taps, int64_t first, int64_t last, const float* bias,
                       float* out) {
    constexpr int64_t together = 128;
    alignas(64) float stage[W][together];
    for (int64_t begin = first; begin < last; begin += together) {
        const int64_t length = last - begin < together ? last - begin : together;
        for (int v = 0; v < V; ++v) {
            for (int i = 0; i < W; ++i) {
                const LaneTaps& lane = taps[v * W + i];
                const float* const from = gram + begin;
                const float *a = from + lane.row[0] * stride, *b = from + lane.row[1] * stride, *c = from + lane.row[2] * stride,
                            *d = from + lane.row[3] * stride;
                const vec wa = splat(lane.weight[0]), wb = splat(lane.weight[1]), wc = splat(lane.weight[2]),
                          wd = splat(lane.weight[3]), base = splat(bias[v * W + i]);
                if (lane.weight[1] == 0.0f && lane.weight[2] == 0.0f && lane.weight[3] == 0.0f)
                    for (int64_t k = 0; k < length; k += W) store(stage[i] + k, load(a + k) * wa + base);
                else
                    for (int64_t k = 0; k < length; k += W)
                        store(stage[i] + k, (load(a + k) * wa + base) + load(b + k) * wb + load(c + k) * wc + load(d + k) * wd);
            }
            for (int64_t k = 0; k < length; k += W) {
                vec block[W];
                for (int i = 0; i < W; ++i) block[i] = load(stage[i] + k);
                transpose(block);
                const int64_t width = length - k < W ? length - k : W;
                float* const to = out + (begin + k) * L + v * W;
                if (width == W)
                    for (int i = 0; i < W; ++i) store(to + i * L, block[i]);
                else
                    for (int64_t i = 0; i < width; ++i) store(to + i * L, block[i]);
            }
        }
    }
}

void patches_left(const NodeRows& level, const float* norm, const float* limit, float* columns, int64_t* begin, int64_t* end) {
    const int64_t length = level.width * L, last = (level.patches[*end - 1].high + 1) * L;
    for (int64_t i = level.patches[*begin].low * L; i < last; i += W) {
        vec least = load(level.nodes + i);
        for (int64_t row = 1; row < level.rows; ++row) {
            const vec here = load(level.nodes + row * length + i);
            least = here < least ? here : least;
        }
        store(columns + i, least);
    }
    int64_t first = *end, past = *end;
    for (int64_t patch = *begin; patch < *end; ++patch) {
        const NodeTap reach = level.patches[patch];
        uint32_t mask = 0;
        for (int v = 0; v < V; ++v) {
            vec least = load(columns + int64_t{reach.low} * L + v * W);
            for (int64_t node = reach.low + 1; node <= reach.high; ++node) {
                const vec here = load(columns + node * L + v * W);
                least = here < least ? here : least;
            }
            mask |= not_above(least + norm[patch], load(limit + v * W));
        }
        if (mask && first == *end) first = patch;
        if (mask) past = patch + 1;
    }
    *begin = first, *end = past;
}

// A node row's value at one column.
FASTSPADE_INLINE vec at_column(const float* nodes, const NodeTap& tap) {
    const vec low = load(nodes + int64_t{tap.low} * L);
    return low + (load(nodes + int64_t{tap.high} * L) - low) * tap.high_weight;
}

void least_of_cells(const float* nodes, const NodeTap* taps, int taps_a_cell, int64_t begin, int64_t end, float* out) {
    with_known(taps_a_cell, [&](auto known) FASTSPADE_INLINE_LAMBDA {
        const int count = known.value ? known.value : taps_a_cell;
        for (int64_t cell = begin; cell < end; ++cell) {
            const NodeTap* const tap = taps + cell * count;
            if (known.value == 2 && tap[0].low == tap[1].low) {  // one step between the same two nodes
                for (int v = 0; v < V; ++v) {
                    const vec low = load(nodes + int64_t{tap[0].low} * L + v * W);
                    const vec step = load(nodes + int64_t{tap[0].high} * L + v * W) - low;
                    const vec one = low + step * tap[0].high_weight, other = low + step * tap[1].high_weight;
                    store(out + cell * L + v * W, other < one ? other : one);
                }
                continue;
            }
            for (int v = 0; v < V; ++v) {
                vec least = at_column(nodes + v * W, tap[0]);
                for (int i = 1; i < count; ++i) {
                    const vec value = at_column(nodes + v * W, tap[i]);
                    least = value < least ? value : least;
                }
                store(out + cell * L + v * W, least);
            }
        }
    });
}

// The rows of some levels in registers; `known` of them, or any number where it is 0.
template <int known, bool from_nodes>
class RowMixer {
  public:
    RowMixer(const RowPair* pairs, int count) : pairs_(pairs), count_(known ? known : count) {
        for (int l = 0; l < known; ++l) own_[l] = pairs[l];
    }
    // norm + the rows mixed, at one column or cell; where `from_nodes`, at a column of rows of nodes.
    FASTSPADE_INLINE void mix(float norm, int64_t at, vec (&value)[V]) const {
        for (int v = 0; v < V; ++v) value[v] = splat(norm);
#pragma GCC unroll 4
        for (int l = 0; l < count_; ++l) {
            const RowPair& pair = known ? own_[l] : pairs_[l];
            if (from_nodes) {
                const NodeTap tap = pair.columns[at];
                for (int v = 0; v < V; ++v) {
                    const vec low = mixed(pair, int64_t{tap.low} * L + v * W), high = mixed(pair, int64_t{tap.high} * L + v * W);
                    value[v] += low + (high - low) * tap.high_weight;
                }
            } else {
                for (int v = 0; v < V; ++v) {
                    value[v] += load(pair.upper + at * L + v * W) * pair.upper_weight;
                    value[v] += load(pair.lower + at * L + v * W) * pair.lower_weight;
                }
            }
        }
    }

  private:
    static FASTSPADE_INLINE vec mixed(const RowPair& pair, int64_t offset) {
        return load(pair.upper + offset) * pair.upper_weight + load(pair.lower + offset) * pair.lower_weight;
    }

    const RowPair* pairs_;
    const int count_;
    RowPair own_[known ? known : 1];
};

int64_t cells_left(const RowPair* pairs, int level_count, const float* norm, int64_t begin, int64_t end, const float* limit,
                   int32_t* list) {
    return with_known(level_count, [&](auto levels) FASTSPADE_INLINE_LAMBDA {
        vec bound[V];
        for (int v = 0; v < V; ++v) bound[v] = load(limit + v * W);
        const RowMixer<levels.value, false> mixer(pairs, level_count);
        int64_t count = 0;
        for (int64_t cell = begin; cell < end; ++cell) {
            vec value[V];
            mixer.mix(norm[cell], cell, value);
            uint32_t mask = 0;
            for (int v = 0; v < V; ++v) mask |= not_above(value[v], bound[v]);
            list[count] = static_cast<int32_t>(cell);  // which cells stay is hard to predict: no branch
            count += mask != 0;
        }
        return count;
    });
}

template <bool from_nodes, bool tracked>
int64_t values_left_with(const RowPair* pairs, int level_count, const float* norm, const int32_t* cells, const int32_t* list,
                         int64_t listed, int32_t first, const float* limit, float* out, float* smallest, int32_t* nearest,
                         int32_t* rows) {
    return with_known(level_count, [&](auto levels) FASTSPADE_INLINE_LAMBDA {
        vec low[V], bound[V];
        veci at[V];
        for (int v = 0; v < V; ++v) {
            bound[v] = load(limit + v * W);
            if (!tracked) continue;
            low[v] = load(smallest + v * W);
            at[v] = *reinterpret_cast<const veci_unaligned*>(nearest + v * W);
        }
        const RowMixer<levels.value, from_nodes> mixer(pairs, level_count);
        int64_t count = 0;
        for (int64_t i = 0; i < listed; ++i) {
            const int32_t end = cells[list[i] + 1];
            for (int32_t x = cells[list[i]]; x < end; ++x) {
                vec value[V];
                mixer.mix(norm[x], x, value);
                const veci here = veci{} + (first + x);
                uint32_t mask = 0;
                for (int v = 0; v < V; ++v) {
                    store(out + int64_t{x} * L + v * W, value[v]);
                    if (tracked) {
                        at[v] = value[v] < low[v] ? here : at[v];
                        low[v] = value[v] < low[v] ? value[v] : low[v];
                    }
                    mask |= not_above(value[v], bound[v]);
                }
                rows[count] = first + x;
                count += mask != 0;
            }
        }
        for (int v = 0; tracked && v < V; ++v) {
            store(smallest + v * W, low[v]);
            *reinterpret_cast<veci_unaligned*>(nearest + v * W) = at[v];
        }
        return count;
    });
}

template <bool from_nodes>
int64_t values_left(const RowPair* pairs, int level_count, const float* norm, const int32_t* cells, const int32_t* list,
                    int64_t listed, int32_t first, const float* limit, float* out, float* smallest, int32_t* nearest,
                    int32_t* rows) {
    return (smallest ? values_left_with<from_nodes, true> : values_left_with<from_nodes, false>)(pairs, level_count, norm, cells,
                                                                                                 list, listed, first, limit, out,
                                                                                                 smallest, nearest, rows);
}

}  // namespace
}  // namespace fastspade::cpu
