// The search kernels, which take long to compile: each kind in an object file of its own (kernels.cpp), so that a planted fault
// compiles only what it is in.
#pragma once

#include "cuda/search.cuh"
#include "cuda/search_sm90.cuh"

#define FASTSPADE_SM80(external, Operand)                                                    \
    external template void search_kernel<Operand, 4, step_channels>(const SearchParameters); \
    external template void search_kernel<Operand, 2, step_channels>(const SearchParameters); \
    external template void search_kernel<Operand, 1, step_channels>(const SearchParameters); \
    external template void search_kernel<Operand, 4, short_step>(const SearchParameters);    \
    external template void search_kernel<Operand, 2, short_step>(const SearchParameters);    \
    external template void search_kernel<Operand, 1, short_step>(const SearchParameters);
#define FASTSPADE_SM90(external, Operand)                                                           \
    external template void search_sm90_kernel<Operand, 4>(FASTSPADE_BY_REFERENCE Sm90Parameters p); \
    external template void search_sm90_kernel<Operand, 3>(FASTSPADE_BY_REFERENCE Sm90Parameters p);
