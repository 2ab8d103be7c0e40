// One tile of a Gram matrix on tensor cores: operands staged in shared memory by asynchronous copies, swizzled so that
// neither the copies nor the fragment loads conflict, multiplied into registers.
//
// Eight warps as two by four; a warp holds 16 * RowTiles rows by 32 columns. RowTiles = 1, 2, 4 gives tiles of 32, 64 or
// 128 query rows. A step has 64 channels or, where shared memory is short, 32.
#pragma once

#include "cuda/device.cuh"
#include "cuda/parameters.hpp"

namespace fastspade::cuda {

template <int RowTiles, int StepChannels>
struct Tile {
    static constexpr int rows = 32 * RowTiles;
    static constexpr int row_bytes = StepChannels * 2, pieces = row_bytes / 16, rows_at_once = search_threads / pieces;
    static_assert(pieces == 8 || pieces == 4);
    static constexpr int query_bytes = rows * row_bytes;
    static constexpr int stage_bytes = query_bytes + tile_columns * row_bytes;

    // Accumulators: [row tile][column tile][fragment element], as the m16n8 fragment lays them out.
    float value[RowTiles][4][4];

    FASTSPADE_DEVICE void clear() {
#pragma unroll
        for (int i = 0; i < RowTiles; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int k = 0; k < 4; ++k) value[i][j][k] = 0.0f;
    }

    // Sixteen-byte pieces of a row are permuted by its low bits, so that one piece of eight rows fills every bank once: a row
    // is all banks or, of 32 channels, half of them.
    static FASTSPADE_DEVICE int place(int row, int piece) {
        const int turn = pieces == 8 ? row & 7 : (row >> 1) & 3;
        return row * row_bytes + ((piece ^ turn) << 4);
    }

    // Starts the copies of one step: rows [0, valid) of each side, `stride` elements apart, and their next `channels`; rows and
    // channels beyond are zeros.
    static FASTSPADE_DEVICE void load(char* stage, const uint16_t* query, int query_valid, const uint16_t* gallery,
                                      int gallery_valid, int stride, int channels, int thread) {
        const int piece = thread % pieces;
        if (piece * 8 >= channels) query_valid = gallery_valid = 0;
#pragma unroll
        for (int i = 0; i < (rows + rows_at_once - 1) / rows_at_once; ++i) {
            const int row = thread / pieces + rows_at_once * i;
            if (rows < rows_at_once && row >= rows) continue;
            const bool valid = row < query_valid;
            copy_async(stage + place(row, piece), query + static_cast<int64_t>(valid ? row : 0) * stride + piece * 8, valid);
        }
#pragma unroll
        for (int i = 0; i < tile_columns / rows_at_once; ++i) {
            const int row = thread / pieces + rows_at_once * i;
            const bool valid = row < gallery_valid;
            copy_async(stage + query_bytes + place(row, piece),
                       gallery + static_cast<int64_t>(valid ? row : 0) * stride + piece * 8, valid);
        }
    }

    // Multiplies one step's channels.
    template <class Operand>
    FASTSPADE_DEVICE void multiply_step(const char* stage, int warp_row, int warp_column, int lane) {
        const char* const gallery = stage + query_bytes;
#pragma unroll
        for (int k = 0; k < StepChannels / 16; ++k) {
            uint32_t a[RowTiles][4], b[2][4];
#pragma unroll
            for (int i = 0; i < RowTiles; ++i)
                load_matrices(a[i], stage + place(warp_row + 16 * i + (lane & 15), 2 * k + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < 2; ++j)
                load_matrices(b[j],
                              gallery + place(warp_column + 16 * j + (lane & 7) + ((lane >> 4) << 3), 2 * k + ((lane >> 3) & 1)));
#pragma unroll
            for (int i = 0; i < RowTiles; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    multiply(Operand{}, value[i][j], a[i], b[j >> 1][(j & 1) * 2], b[j >> 1][(j & 1) * 2 + 1]);
        }
    }
};

}  // namespace fastspade::cuda
