// The kernels of one instruction set: compiled once for each, which gives the sizes of kernels_vector.inl, the table's name in
// FASTSPADE_SET, and in FASTSPADE_INTEGERS what pays: nothing (0), int8 (1), int16 as well (2).

// GCC's own AVX-512 header sets off these warnings (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if FASTSPADE_INTEGERS
#include "cpu/kernels_integer.inl"
#endif
#include "cpu/kernels_interpolation.inl"
#include "cpu/kernels_product.inl"
#include "cpu/kernels_rows.inl"

#define FASTSPADE_TEXT_OF(name) #name
#define FASTSPADE_TEXT(name) FASTSPADE_TEXT_OF(name)
#define FASTSPADE_TABLE_OF(name) name##_kernels
#define FASTSPADE_TABLE(name) FASTSPADE_TABLE_OF(name)

namespace fastspade::cpu {

const Kernels& FASTSPADE_TABLE(FASTSPADE_SET)() {
    static constexpr Kernels table{
        .name = FASTSPADE_TEXT(FASTSPADE_SET),
        .lanes = L,
        .rows = N,
        .product = product,
        .vector_products = {vector_products<1>, vector_products<L>},
        .refine = {refine<8>, refine<16>},
        .refined_rows = {refined_rows<8>, refined_rows<16>},
        .panel_hits = panel_hits,
        .interpolate_lanes = interpolate_lanes,
        .patches_left = patches_left,
        .least_of_cells = least_of_cells,
        .cells_left = cells_left,
        .values_left = {values_left<false>, values_left<true>},
        .scan = scan,
        .count_lanes = count_lanes,
        .dot = dot,
        .near_rows = near_rows,
        .pack_lanes = pack<L>,
        .pack_rows = pack<N>,
        .centre_row = centre_row,
        .rows_of = rows_of,
        .neighbour_products = neighbour_products,
#if FASTSPADE_INTEGERS
        .integer_hits = {integer_hits<1>, FASTSPADE_INTEGERS == 2 ? integer_hits<2> : nullptr},
        .round_row = {round_row<1>, round_row<2>},
#endif
    };
    return table;
}

}  // namespace fastspade::cpu
