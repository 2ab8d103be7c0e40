// One kind of search kernels, named on the command line: FASTSPADE_KIND is a macro of kernels.hpp, FASTSPADE_OPERAND a type.
#include "kernels.hpp"

namespace fastspade::cuda {

FASTSPADE_KIND(, FASTSPADE_OPERAND)

}  // namespace fastspade::cuda
