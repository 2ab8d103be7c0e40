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
    // is all banks or, of 32 channels, half of them. Rows eight apart are permuted alike, and piece 2 * k + h lies where piece h
    // does, k << 5 exclusive-or'ed.
    static FASTSPADE_DEVICE int place(int row, int piece) {
        const int swizzle = pieces == 8 ? row & 7 : (row >> 1) & 3;
        return row * row_bytes + ((piece ^ swizzle) << 4);
    }

    // Starts the copies of one step: rows [0, valid) of each side, `stride` elements apart, and their next `channels`; rows
    // beyond are zeros, channels beyond are not multiplied.
    static FASTSPADE_DEVICE void load(char* stage, const uint16_t* query, int query_valid, const uint16_t* gallery,
                                      int gallery_valid, int stride, int channels, int thread) {
        const int piece = thread % pieces, first = thread / pieces;
        if (piece * 8 >= channels) return;
        const int from_first = first * stride + piece * 8;
        const auto copy = [&](char* side, const uint16_t* from, int count, int valid_rows) {
#pragma unroll
            for (int i = 0; i < (count + rows_at_once - 1) / rows_at_once; ++i) {
                const int row = first + rows_at_once * i;
                if (count < rows_at_once && row >= count) continue;
                const bool valid = row < valid_rows;
                copy_async(side + place(first, piece) + rows_at_once * i * row_bytes,
                           from + (valid ? from_first + rows_at_once * i * stride : 0), valid);
            }
        };
        copy(stage, query, rows, query_valid);
        copy(stage + query_bytes, gallery, tile_columns, gallery_valid);
    }

    // Multiplies one step's channels, of which there may be fewer than StepChannels.
    template <class Operand>
    FASTSPADE_DEVICE void multiply_step(const char* stage, int channels, int warp_row, int warp_column, int lane) {
        const int query = place(warp_row + (lane & 15), lane >> 4);
        const int gallery = query_bytes + place(warp_column + (lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1);
#pragma unroll
        for (int k = 0; k < StepChannels / 16; ++k) {
            if (k * 16 >= channels) break;
            uint32_t a[RowTiles][4], b[2][4];
#pragma unroll
            for (int i = 0; i < RowTiles; ++i) load_matrices(a[i], stage + (query ^ k << 5) + 16 * i * row_bytes);
#pragma unroll
            for (int j = 0; j < 2; ++j) load_matrices(b[j], stage + (gallery ^ k << 5) + 16 * j * row_bytes);
#pragma unroll
            for (int i = 0; i < RowTiles; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    multiply(Operand{}, value[i][j], a[i], b[j >> 1][(j & 1) * 2], b[j >> 1][(j & 1) * 2 + 1]);
        }
    }
};

}  // namespace fastspade::cuda
