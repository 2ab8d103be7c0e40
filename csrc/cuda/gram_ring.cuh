// The coarse levels' Gram values on chip: a ring of gallery columns in 16-bit floats, written tile by tile and read back
// interpolated. One ring per coarse group; column = coarse pixel modulo the ring's length.
//
// A column holds its rows in the order in which threads own them (lane group, then row tile, then half), so that a thread
// reads or writes all its rows of one column at once. Columns are rotated against each other so that the four neighbouring
// columns that a warp touches at a time lie in different banks.
#pragma once

#include "cuda/device.cuh"
#include "cuda/parameters.hpp"

namespace fastspade::cuda {

template <int RowTiles>
struct GramRing {
    static constexpr int column_bytes = 32 * RowTiles * 2;
    static constexpr int unit_bytes = RowTiles * 4;  // a thread's 2 * RowTiles values

    // Where a column's unit 0 lies, counted in units of shared memory, of which there are fewer than 2^16; that exclusive-or'ed
    // with a unit's number is where the unit lies. Numbers are 8 * (warp's row of tiles, 0 or 1) + lane group. Rings lie after
    // stages, so their offsets are multiples of column_bytes.
    static FASTSPADE_DEVICE int place(int ring_offset, int column) {
        const int swizzle = RowTiles == 4 ? (column & 3) << 1 : RowTiles == 2 ? (column & 3) << 2 : ((column >> 1) & 1) << 3;
        return ring_offset / unit_bytes + (column * (column_bytes / unit_bytes) | swizzle);
    }

    static FASTSPADE_DEVICE void write(char* shared, int at, const float (&values)[2 * RowTiles]) {
        auto* const to = reinterpret_cast<uint32_t*>(shared + at * unit_bytes);
        uint32_t packed[RowTiles];
#pragma unroll
        for (int i = 0; i < RowTiles; ++i) packed[i] = pack_halves(values[2 * i], values[2 * i + 1]);
        store_words(to, packed);
    }

    static FASTSPADE_DEVICE void add(const char* shared, int at, float weight, float (&sum)[2 * RowTiles]) {
        uint32_t packed[RowTiles];
        load_words(reinterpret_cast<const uint32_t*>(shared + at * unit_bytes), packed);
#pragma unroll
        for (int i = 0; i < RowTiles; ++i) {
            float low, high;
            unpack_halves(packed[i], low, high);
            sum[2 * i] += weight * low;
            sum[2 * i + 1] += weight * high;
        }
    }

  private:
    struct alignas(unit_bytes) Unit {
        uint32_t word[RowTiles];
    };
    static FASTSPADE_DEVICE void store_words(uint32_t* to, const uint32_t (&words)[RowTiles]) {
        Unit unit;
#pragma unroll
        for (int i = 0; i < RowTiles; ++i) unit.word[i] = words[i];
        *reinterpret_cast<Unit*>(to) = unit;
    }
    static FASTSPADE_DEVICE void load_words(const uint32_t* from, uint32_t (&words)[RowTiles]) {
        const Unit unit = *reinterpret_cast<const Unit*>(from);
#pragma unroll
        for (int i = 0; i < RowTiles; ++i) words[i] = unit.word[i];
    }
};

}  // namespace fastspade::cuda
